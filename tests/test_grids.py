import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from equilib.grids import Window, nearest_exact_sizes, trace_stages


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(5, 20),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
def test_the_rule_is_what_a_symmetric_convolution_does(size, kernel, stride, padding, dilation):
    """(n + 2p - d(k-1) - 1) mod s = 0 if and only if the convolution commutes with torch.rot90."""
    window = Window(kernel, stride, padding, dilation)
    if window.span(size) < 0:
        with pytest.raises(ValueError, match="does not fit"):
            window.output_size(size)
        return
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 1, kernel, kernel, generator=generator, dtype=torch.float64)
    weight = sum(torch.rot90(weight, k, (-2, -1)) for k in range(4))
    x = torch.randn(1, 1, size, size, generator=generator, dtype=torch.float64)

    def convolve(image):
        return F.conv2d(image, weight, None, stride, padding, dilation)

    y = convolve(x)
    assert y.shape[-1] == window.output_size(size)
    commutes = torch.allclose(torch.rot90(y, 1, (-2, -1)), convolve(torch.rot90(x, 1, (-2, -1))), atol=1e-12)
    # With dilation or large strides a window may see padding only, or the very same pixels: the rule is then
    # sufficient; the issue is with grids where every offset matters.
    if window.remainder(size) == 0:
        assert commutes
    elif padding == 0:
        assert not commutes


def test_five_stages_at_95_96_97():
    without = [(f"s{i}", Window(3, 2, 0)) for i in range(4)]
    with_padding = [(f"s{i}", Window(3, 2, 1)) for i in range(4)]
    assert [s.output_size for s in trace_stages(95, without)] == [47, 23, 11, 5]
    assert [s.output_size for s in trace_stages(97, with_padding)] == [49, 25, 13, 7]
    assert all(s.exact for s in trace_stages(95, without)) and all(s.exact for s in trace_stages(97, with_padding))
    assert not trace_stages(96, without)[0].exact and not trace_stages(96, with_padding)[0].exact
    assert nearest_exact_sizes(96, without)[0] == 95
    assert nearest_exact_sizes(96, with_padding)[0] == 97
