"""Figures: pure functions, arrays in, a matplotlib Figure out (or a :class:`Live` one, for sliders).

Nothing here trains, reads files or shows anything; a notebook displays what it gets, a widget renders it to PNG.
Colours are Okabe and Ito's, which colour-blind readers can tell apart; the two networks also differ in marker and line.
"""

from equilib.figures.device import Measured, accuracy_against_latency, operator_chain, rotated_answers, tumour_map
from equilib.figures.dfq import channel_ranges, convergence, weights_on_grid
from equilib.figures.fields import (
    arrows_both_ways,
    channel_moves,
    channel_rows,
    channel_values,
    commuting_square,
    matrices,
    pictures,
    turning_field,
)
from equilib.figures.filters import (
    aliases,
    basis_sizes,
    cutoff_errors,
    equal_weights,
    harmonics,
    steered_filter,
    waves_on_ring,
)
from equilib.figures.grids import plan, sampled_points, sampling
from equilib.figures.mobilenet import (
    depthwise_banks,
    label_window,
    layer_costs,
    patch_gallery,
    probability_against_angle,
    stage_errors,
    training_curves,
)
from equilib.figures.study import (
    accuracy_by_angle,
    accuracy_by_parameters,
    against_cost,
    learning_curve,
    rounding_losses,
    steps_between,
)
from equilib.figures.style import GREY, STYLES, Live, bars, curves, png
