"""Sliders over :mod:`equilib.figures`: each function takes plain things and returns one widget.

Every widget starts at a teaching default.  Its PNG goes into the notebook beside the live view, so that a reader without
a kernel (on a code host, or in a printed page) sees it.
"""

from equilib.widgets.device import hashed_answers
from equilib.widgets.dfq import bit_widths, blended_scales, deequalized, equalized_ranges
from equilib.widgets.explorer import Explorer, values_of
from equilib.widgets.fields import one_layer_networks, turning_field
from equilib.widgets.filters import aliases, cutoff_errors, steered_filter
from equilib.widgets.grids import plan, sampling
from equilib.widgets.mobilenet import rotate_patch
