"""Self-checks of the last exercises of notebook 06: from the reader's own layer to the same bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equilib.equivariance import equivariance_error, relative_difference, run_model
from equilib.exercises.check import Hint, answered, self_check

# Rotations of C4, the group of these exercises.
TURNS = 4


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@self_check
def check_turned_copies(answer) -> str:
    """A function (kernels (F, c, k, k)) to the filters (F * 4, c, k, k): each field's four turned copies, side by side."""
    for inputs in (1, 3):
        kernels = _random(3, inputs, 3, 3).requires_grad_()
        right = torch.stack([torch.rot90(kernels, r, (-2, -1)) for r in range(TURNS)], 1).flatten(0, 1)
        result = answered(answer(kernels))
        if not isinstance(result, Tensor) or result.shape != right.shape:
            raise Hint(f"Kernels of shape {tuple(kernels.shape)} give filters of shape {tuple(right.shape)}.")
        if torch.allclose(result, right):
            if not result.requires_grad:
                raise Hint(
                    "The right filters, but cut off from the kernels: a training could not reach them (detach?)."
                )
            continue
        if torch.allclose(result, right.unflatten(0, (3, TURNS)).transpose(0, 1).flatten(0, 1)):
            raise Hint("The copies of one field must be neighbours: field by field, not rotation by rotation.")
        if torch.allclose(result, torch.stack([torch.rot90(kernels, -r, (-2, -1)) for r in range(4)], 1).flatten(0, 1)):
            raise Hint(
                "Your copies turn clockwise; channel r answers to an edge that was turned r times the other way."
            )
        if torch.allclose(result, kernels.repeat_interleave(TURNS, 0)):
            raise Hint("All four copies are the same: turn the r-th by r quarters.")
        raise Hint(
            "Channel r of a field has the field's kernel, turned by r quarters: torch.rot90 over the last two axes."
        )
    return "One kernel a field, four filters: with c = 1 a depthwise filter bank, with c = 3 the layer on the image."


@self_check
def check_field_statistics(answer) -> str:
    """A function (field (B, F * 4, h, w)) to (mean (F,), variance (F,)), over the batch, the pixels and each field."""
    channels = 3 * TURNS
    offset = torch.arange(channels)[:, None, None] / 4.0
    field = (offset + (1 + offset) * _random(5, channels, 6, 6)).requires_grad_()
    values = field.unflatten(1, (-1, TURNS))
    variance, mean = torch.var_mean(values, (0, 2, 3, 4), correction=0)
    result = answered(answer(field))
    if not isinstance(result, (tuple, list)) or len(result) != 2 or not all(isinstance(x, Tensor) for x in result):
        raise Hint("Return two tensors: the means and the variances.")
    shapes = [tuple(part.flatten().shape) for part in result]
    if shapes == [(channels,), (channels,)]:
        raise Hint(
            f"{channels} numbers are one a channel. The {TURNS} channels of a field must share mean and variance."
        )
    if shapes != [(3,), (3,)]:
        raise Hint(f"Three fields have three means and three variances; yours have shapes {shapes[0]} and {shapes[1]}.")
    given = [part.flatten() for part in result]
    if not torch.allclose(given[0], mean, atol=1e-3):
        raise Hint(f"The first field's mean is {mean[0]:.3f}, not {given[0][0]:.3f}.")
    if torch.allclose(given[1].square(), variance, rtol=1e-2):
        raise Hint("That is the standard deviation; the variance is its square.")
    if not torch.allclose(given[1], variance, rtol=1e-2):  # with n or n - 1, no matter here
        raise Hint(
            f"The first field's variance is {variance[0]:.3f}, not {given[1][0]:.3f}. It is taken about the field's mean, "
            "over all its channels; the mean of the channels' variances is less."
        )
    if not all(part.requires_grad for part in given):
        raise Hint("The right numbers, but cut off from the field: training needs their gradients (detach, no_grad?).")
    return "One mean and one variance a field: turning permutes what is summed, and the sums stay."


@self_check
def check_plain_norm(answer) -> str:
    """A function (mean, variance, gamma, beta), each (F,), to an nn.BatchNorm2d over F * 4 channels, for evaluation."""
    mean, gamma, beta = _random(3, 3)
    variance = _random(3).square() + 0.5
    norm = answered(answer(mean, variance, gamma, beta))
    if not isinstance(norm, nn.BatchNorm2d):
        raise Hint(f"Return a torch.nn.BatchNorm2d, not {type(norm).__name__}.")
    if norm.num_features != 3 * TURNS:
        raise Hint(
            f"A device knows of no fields: three fields are {3 * TURNS} channels, yours has {norm.num_features}."
        )
    if norm.training:
        raise Hint("It is in training mode, where it would ignore the statistics: call eval().")
    field = _random(2, 3 * TURNS, 4, 4)

    def by(spread):
        scale = spread(gamma / (variance + 1e-5).sqrt())[:, None, None]
        return (field - spread(mean)[:, None, None]) * scale + spread(beta)[:, None, None]

    with torch.no_grad():
        result = norm(field)
    if torch.allclose(result, by(lambda values: values.repeat(TURNS)), atol=1e-3):
        raise Hint("The numbers of a field go to its four neighbours: repeat_interleave, not repeat.")
    if not torch.allclose(result, by(lambda values: values.repeat_interleave(TURNS)), atol=1e-3):
        raise Hint("Four tensors are to be set: running_mean, running_var, weight (gamma) and bias (beta).")
    return "A device sees an ordinary batch normalization; that its numbers repeat is all that is left of the fields."


@self_check
def check_whole_way(answer) -> str:
    """A function () to a dictionary of what the whole way gives.

    ``losses``: of the training, epoch by epoch.  ``network``: trained.  ``plain``: exported.  ``session``: the INT8 model.
    ``images``: normalised patches (B, 3, n, n) to check on.
    """
    found = answered(answer())
    losses, images = found["losses"], found["images"]
    if not losses[-1] < losses[0]:
        raise Hint(f"The training did not lower the loss: {losses[0]:.3f} at first, {losses[-1]:.3f} at last.")
    logits = {name: run_model(found[name], images) for name in ("network", "plain", "session")}
    change = relative_difference(logits["network"], logits["plain"])
    if not change < 1e-3:
        raise Hint(
            f"The exported network is another function: its logits are off by {change:.2g} standard deviations. "
            "Look at what export() makes of filters and statistics."
        )
    real = equivariance_error(found["plain"], images, 90).rms
    if not real < 1e-3:
        raise Hint(
            f"In FP32 a quarter turn moves the logits by {real:.2g} standard deviations, far more than rounding: "
            "a layer is not equivariant. Which of them treats the four channels of a field differently?"
        )
    for turns in (1, 2, 3):
        other = run_model(found["session"], torch.rot90(images, turns, (-2, -1)))
        same = (other == logits["session"]).all(1).double().mean().item()
        if same < 1:
            raise Hint(
                f"FP32 is invariant but for rounding; yet in INT8 only {100 * same:.0f} % of the patches keep their bits "
                f"at {90 * turns}°. Copies must be equal to the last bit before they are rounded: did you note quarter_turn?"
            )
    agree = (logits["session"].argmax(1) == logits["plain"].argmax(1)).double().mean().item()
    if agree < 0.8:
        raise Hint(
            f"INT8 agrees with FP32 on {100 * agree:.0f} % of the patches only: which step of the way was left out?"
        )
    return (
        f"Your own layer, trained and on integers: the same bits under four turns on {len(images)} of {len(images)} "
        f"patches, the class of FP32 on {100 * agree:.0f} %."
    )
