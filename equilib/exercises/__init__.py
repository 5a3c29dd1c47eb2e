"""Self-checks of the exercises: they say ✅, ❌ with a hint, or ✏️ where nothing is answered yet, and never raise."""

from equilib.exercises.fields import check_action, check_commutes, check_length, check_relu
from equilib.exercises.filters import check_alias, check_basis_size, check_depthwise, check_why_twelve
from equilib.exercises.grids import (
    SETTINGS,
    check_crop,
    check_eight_settings,
    check_five_stages,
    check_one_sided,
    check_resnet_stem,
)
from equilib.exercises.networks import (
    check_absorbed,
    check_bias_shift,
    check_equalizing_scale,
    check_input_sizes,
    check_int8_size,
    check_invariant,
    check_orbits,
    check_pointwise_parameters,
    check_requantize,
)
