"""How far a model is from equivariance: one measure for every notebook, every test and every table.

The measure compares the output for a rotated input with the (rotated) output for the input, and divides by the standard
deviation of the outputs over patches (each output about its own mean), so that a large constant cannot hide an error.  It works on torch modules, on onnxruntime sessions and on plain functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from equilib.checks import check_count, check_images
from equilib.fields import Group, rotate, rotate_field

Model = nn.Module | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ErrorUnderRotation:
    """The error of a model under one rotation of its input, relative to the spread of its outputs over patches.

    Attributes:
        degrees: the rotation, counter-clockwise.
        rms: root mean square over patches and outputs, in standard deviations of the output; NaN where the outputs are
            the same for all patches (a network that has learnt nothing), so that the error has no unit.
        worst: the largest absolute error, in the same unit.
        flips: share of patches whose class (largest output) changes, between 0 and 1; for logits (B, classes >= 2)
            only, else NaN.
    """

    degrees: float
    rms: float
    worst: float
    flips: float


def run_model(model: Model, images: Tensor, *, batch_size: int = 64) -> Tensor:
    """Outputs for all images, in batches, without gradients.

    Args:
        model: a torch module (run in evaluation mode and left in the mode it was in), an
            ``onnxruntime.InferenceSession`` with one input, or a function from tensor to tensor.
        images: (B, C, H, W), normalised.

    Raises:
        ValueError: no image, or one that holds NaN or infinite values, to which integer kernels have an answer; a single
            image without a batch; no tensor.
    """
    check_images(images)
    check_count("batch_size", batch_size)
    if images.ndim == 3:
        raise ValueError(f"images has shape {tuple(images.shape)}, one image alone; images[None] makes a batch of it")
    chunks = images.split(batch_size)
    if hasattr(model, "get_inputs"):  # an onnxruntime session
        name = model.get_inputs()[0].name
        return torch.cat([torch.from_numpy(model.run(None, {name: _contiguous(chunk)})[0]) for chunk in chunks])
    if not isinstance(model, nn.Module):
        with torch.inference_mode():
            return torch.cat([model(chunk) for chunk in chunks])
    training = model.training
    parameter = next(model.parameters(), images)
    model.eval()
    try:
        with torch.inference_mode():
            return torch.cat([model(chunk.to(parameter)).cpu() for chunk in chunks])
    finally:
        model.train(training)


def _contiguous(chunk: Tensor) -> np.ndarray:
    return np.ascontiguousarray(chunk.numpy(), dtype=np.float32)


def equivariance_error(
    model: Model,
    images: Tensor,
    degrees: float,
    *,
    output_action: Callable[[Tensor], Tensor] | None = None,
    reference: Tensor | None = None,
    batch_size: int = 64,
) -> ErrorUnderRotation:
    """Compare f(g x) with g f(x) for one rotation g.

    Args:
        model: see :func:`run_model`.
        images: (B, C, n, n), normalised and already cropped: all rotations act after the crop.
        degrees: multiples of 90 rotate exactly; other angles are interpolated (bicubic), so their error contains what
            the interpolation costs.  :func:`interpolation_control` measures that part alone.
        output_action: the action of g on the output; by default none, for invariant outputs such as logits.
        reference: f(x), where it is known already.
    """
    reference = run_model(model, images, batch_size=batch_size) if reference is None else reference
    rotated = run_model(model, rotate(images, degrees), batch_size=batch_size)
    expected = reference if output_action is None else output_action(reference)
    return _compare(expected, rotated, degrees)


def interpolation_control(
    model: Model, images: Tensor, degrees: float, *, reference: Tensor | None = None, batch_size: int = 64
) -> ErrorUnderRotation:
    """What interpolation alone costs: rotate there and back again, then compare the outputs.

    The picture ends where it began, so every difference is due to two interpolations, none to orientation.
    """
    reference = run_model(model, images, batch_size=batch_size) if reference is None else reference
    there_and_back = rotate(rotate(images, degrees), -degrees)
    return _compare(reference, run_model(model, there_and_back, batch_size=batch_size), degrees)


def equivariance_sweep(
    model: Model, images: Tensor, angles: Iterable[float], *, batch_size: int = 64
) -> list[ErrorUnderRotation]:
    """:func:`equivariance_error` of invariant outputs for several angles, running the unrotated images once."""
    reference = run_model(model, images, batch_size=batch_size)
    return [equivariance_error(model, images, a, reference=reference, batch_size=batch_size) for a in angles]


def field_errors(
    network: nn.Module, layers: Mapping[str, nn.Module], images: Tensor, group: Group | str, rotation: int
) -> dict[str, float]:
    """The equivariance error of inner fields: rms over images, channels and pixels.

    The unit is the spread of the field over images, about the mean of each channel and pixel.  At angles between the
    quarter turns only the disc is compared, since the corners leave the picture, and the error contains what interpolating
    the picture and the field costs.

    Args:
        network: a plain torch module (:func:`equilib.mobilenet.exported`), run in evaluation mode.
        layers: names to modules inside it whose outputs are regular fields, (B, C, n, n).
        images: (B, 3, n, n), normalised and cropped.
        group, rotation: the rotation, in steps of the group.
    """
    group = Group.parse(group)
    degrees = rotation * group.step
    before, after = layer_outputs(network, layers, images), layer_outputs(network, layers, rotate(images, degrees))
    return {
        name: field_difference(rotate_field(field, group, rotation), after[name], 1.0 if degrees % 90 else None)
        for name, field in before.items()
    }


def layer_outputs(network: nn.Module, layers: Mapping[str, nn.Module], images: Tensor) -> dict[str, Tensor]:
    """What modules inside a network give for images, by the names given to them."""
    seen: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: seen.update({name: output.clone()}))
        for name, module in layers.items()
    ]
    try:
        run_model(network, images, batch_size=len(images))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def field_difference(expected: Tensor, actual: Tensor, radius: float | None = None) -> float:
    """Root-mean-square difference of two fields (B, C, n, n), in the unit of :func:`field_errors`.

    Args:
        radius: compare the centred disc of this share of the largest; by default the whole square.
    """
    size = expected.shape[-1]
    inside = torch.ones(size, size, dtype=torch.bool)
    if radius is not None:
        along = torch.arange(size) - (size - 1) / 2
        inside = along[:, None] ** 2 + along**2 <= (radius * size / 2) ** 2
    return _compare(expected[..., inside].flatten(1), actual[..., inside].flatten(1), 0.0).rms


@dataclass(frozen=True)
class RotationSpread:
    """How much the answer for one patch depends on how the patch lies.

    Attributes:
        angles: the rotations, in degrees, beside 0.
        flips: share of patches and angles whose class differs from that of the unrotated patch.
        std: standard deviation over the angles (0 among them) of a patch's logit difference (second minus first),
            root mean square over patches, in standard deviations of that difference over the unrotated patches.
        flips_by_angle: the share of patches whose class differs, at each angle.
    """

    angles: tuple[float, ...]
    flips: float
    std: float
    flips_by_angle: tuple[float, ...]


def rotation_spread(
    model: Model, images: Tensor, angles: Iterable[float], *, and_back: bool = False, batch_size: int = 64
) -> RotationSpread:
    """:class:`RotationSpread` of a model with two logits.

    Args:
        and_back: rotate there and back again: the control that shows what interpolation alone does.
    """
    angles = tuple(angles)
    images_at = [images] + [rotate(rotate(images, a), -a) if and_back else rotate(images, a) for a in angles]
    logits = torch.stack([run_model(model, turned, batch_size=batch_size).double() for turned in images_at])
    if logits.shape[2:] != (2,):
        raise ValueError(f"two logits a patch are needed, got shape {tuple(logits.shape[1:])}")
    if not logits.isfinite().all():
        raise ValueError("the outputs hold NaN or infinite values, so no spread can be measured")
    if len(images) < 2:
        raise ValueError("at least two images are needed: the spread is relative to that over images")
    difference = logits[..., 1] - logits[..., 0]
    flips = ((difference[1:] > 0) != (difference[0] > 0)).double().mean(1)
    spread = difference.var(0, correction=0).mean().sqrt() / difference[0].std()
    return RotationSpread(angles, flips.mean().item(), spread.item(), tuple(flips.tolist()))


def mean_over_quarter_turns(model: Model) -> Callable[[Tensor], Tensor]:
    """The model averaged over the four rotations of its input: invariant to them, at four times the cost.

    Returns:
        A function from (B, C, n, n) to the mean of the four outputs.
    """

    def averaged(images: Tensor) -> Tensor:
        turned = (torch.rot90(images, turns, (-2, -1)) for turns in range(4))
        return torch.stack([run_model(model, picture, batch_size=len(images)) for picture in turned]).mean(0)

    return averaged


def relative_difference(expected: Tensor, actual: Tensor) -> float:
    """Root-mean-square difference of two outputs, in standard deviations of the first over patches."""
    return _compare(expected, actual, 0.0).rms


def assert_equivariant(
    model: Model,
    images: Tensor,
    degrees: Iterable[float] = (90, 180, 270),
    *,
    tolerance: float = 1e-5,
    output_action: Callable[[Tensor, float], Tensor] | None = None,
) -> None:
    """Raise AssertionError unless the relative error (rms) under every given rotation is within ``tolerance``.

    Args:
        output_action: (output, degrees) to the transformed output; by default outputs are invariant.
    """
    reference = run_model(model, images)
    for angle in degrees:
        action = None if output_action is None else (lambda y, angle=angle: output_action(y, angle))
        error = equivariance_error(model, images, angle, output_action=action, reference=reference)
        if not error.rms <= tolerance:
            raise AssertionError(
                f"not equivariant under {angle:g} degrees: relative error {error.rms:.2e} (worst {error.worst:.2e}), "
                f"tolerance {tolerance:.0e}"
            )


def _compare(expected: Tensor, actual: Tensor, degrees: float) -> ErrorUnderRotation:
    expected, actual = expected.double(), actual.double()
    if expected.shape != actual.shape:
        raise ValueError(f"outputs have different shapes: {tuple(expected.shape)} and {tuple(actual.shape)}")
    if not (torch.isfinite(expected).all() and torch.isfinite(actual).all()):
        raise ValueError("the outputs hold NaN or infinite values, so no error can be measured")
    if len(expected) < 2:
        raise ValueError("at least two images are needed: errors are relative to the spread of the outputs over images")
    # One unit for all outputs: the spread about each output's own mean.
    spread = (expected - expected.mean(0, keepdim=True)).square().mean().sqrt().item()
    # Outputs that are the same for all images have no spread, and an error then no unit: NaN, which no bound accepts.
    difference = (actual - expected) / (spread or float("nan"))
    classes = expected.ndim == 2 and expected.shape[1] > 1
    flips = (expected.argmax(1) != actual.argmax(1)).double().mean().item() if classes else float("nan")
    return ErrorUnderRotation(
        float(degrees), difference.square().mean().sqrt().item(), difference.abs().max().item(), flips
    )
