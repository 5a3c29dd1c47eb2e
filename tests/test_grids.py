import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from equilib.grids import Window, nearest_exact_sizes, repairing_paddings, trace_stages


def symmetric_filter_and_image(kernel, size):
    """A random filter that quarter turns leave as it is, so that only the sampling can break equivariance."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 1, kernel, kernel, generator=generator, dtype=torch.float64)
    weight = sum(torch.rot90(weight, k, (-2, -1)) for k in range(4))
    x = torch.randn(1, 1, size, size, generator=generator, dtype=torch.float64)
    return weight, x


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
    weight, x = symmetric_filter_and_image(kernel, size)

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


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(6, 16),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
)
def test_the_rule_with_one_sided_padding(size, kernel, stride, before, after):
    """The remainder must be after - before; tried on a convolution whose every window sees pixels."""
    before, after = min(before, kernel - 1), min(after, kernel - 1)
    window = Window(kernel, stride, before, 1, after)
    if window.span(size) < 0:
        return
    weight, x = symmetric_filter_and_image(kernel, size)

    def convolve(image):
        return F.conv2d(F.pad(image, (before, after, before, after)), weight, None, stride)

    y = convolve(x)
    commutes = torch.allclose(torch.rot90(y, 1, (-2, -1)), convolve(torch.rot90(x, 1, (-2, -1))), atol=1e-12)
    assert commutes == window.exact(size)
    centres = window.centres(size)
    assert window.exact(size) == (sorted(size - 1 - c for c in centres) == centres), "exact means symmetric centres"


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(4, 14),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
def test_sampled_pixels_are_those_with_a_gradient(size, kernel, stride, padding, dilation):
    window = Window(kernel, stride, padding, dilation)
    if window.span(size) < 0:
        return
    x = torch.zeros(1, 1, size, requires_grad=True)
    F.conv1d(x, torch.ones(1, 1, kernel), None, stride, padding, dilation).sum().backward()
    assert window.sampled(size) == torch.nonzero(x.grad[0, 0]).flatten().tolist()
    assert len(window.centres(size)) == window.output_size(size)


def test_repairing_paddings_repair_and_nothing_else_does():
    window = Window(3, 2)
    for size in (8, 9):
        repairs = repairing_paddings(size, window)
        for before in range(3):
            for after in range(3):
                assert Window(3, 2, before, 1, after).exact(size) == ((before, after) in repairs)
    assert repairing_paddings(9, window)[0] == (0, 0)


def test_explanations_name_numbers():
    broken, one_sided = trace_stages(96, [("stem", Window(3, 2, 1)), ("next", Window(3, 2, 0, 1, 1))])
    assert "stem: (96 + 2*1" in broken.explain() and "left over at the far side" in broken.explain()
    assert "after minus before is 1" in one_sided.explain() and "not symmetric" in one_sided.explain()


@pytest.mark.parametrize(
    "arguments, word", [((0,), "kernel"), ((3, 0), "stride"), ((3, 1, -1), "padding"), ((3, 1, 0, 0), "dilation")]
)
def test_impossible_windows_are_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        Window(*arguments)


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_centres_are_the_means_of_what_each_window_reads(dilation):
    """Every window by itself, padding included: its centre is the middle of its taps."""
    window = Window(3, 2, 1, dilation)
    starts = range(-1, -1 + 2 * window.output_size(15), 2)
    means = [sum(start + dilation * tap for tap in range(3)) / 3 for start in starts]
    assert window.centres(15) == pytest.approx(means)


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(4, 20),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
)
def test_exact_means_symmetric_centres_with_dilation_too(size, kernel, stride, padding, dilation):
    window = Window(kernel, stride, padding, dilation)
    if window.span(size) < 0:
        return
    centres = window.centres(size)
    assert window.exact(size) == (sorted(size - 1 - c for c in centres) == centres)
    assert all(-padding <= c - dilation * (kernel - 1) / 2 for c in centres), "no window starts before the padding"
    assert all(c + dilation * (kernel - 1) / 2 <= size - 1 + padding for c in centres), "none ends behind it"


@pytest.mark.parametrize("dilation", [1, 2])
def test_repairs_reach_as_far_as_the_dilated_kernel(dilation):
    window = Window(3, 3, 0, dilation)
    reach = 2 * dilation
    for size in (12, 13, 14):
        expected = [
            (before, after)
            for before in range(reach + 1)
            for after in range(reach + 1)
            if Window(3, 3, before, dilation, after).exact(size)
        ]
        repairs = repairing_paddings(size, window)
        assert sorted(repairs) == expected and [sum(p) for p in repairs] == sorted(sum(p) for p in repairs)


@pytest.mark.parametrize("before, after", [(-1, 0), (0, -1), (-1, -1)])
def test_negative_padding_on_either_side_is_refused(before, after):
    with pytest.raises(ValueError, match="padding.* must be a whole number, at least 0"):
        Window(3, 1, before, 1, after)
