"""Self-checks of the exercises: they say ✅, ❌ with a hint, or ✏️ where nothing is answered yet, and never raise."""

from equilib.exercises.device import check_int8_size, check_orbits, check_requantize
from equilib.exercises.dfq import check_absorbed, check_bias_shift, check_equalizing_scale
from equilib.exercises.fields import check_action, check_commutes, check_field_norm
from equilib.exercises.filters import check_alias, check_basis_size, check_depthwise, check_why_twelve
from equilib.exercises.grids import (
    SETTINGS,
    check_crop,
    check_eight_settings,
    check_five_stages,
    check_one_sided,
    check_resnet_stem,
)
from equilib.exercises.mobilenet import check_input_sizes, check_invariant, check_pointwise_parameters
from equilib.exercises.study import check_standard_error, check_verdict, check_welch_interval
from equilib.exercises.whole_way import check_field_statistics, check_plain_norm, check_turned_copies, check_whole_way
