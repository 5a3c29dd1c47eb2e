"""From a trained network to the INT8 file: fold, equalize, absorb, (correct), quantize, export, in this order.

:mod:`equilib.dfq` has the moves, :mod:`equilib.int8` the rounding, :mod:`equilib.device` the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from torch import Tensor, nn

from equilib import device, dfq, int8, pte
from equilib.equivariance import run_model
from equilib.mobilenet import exported
from equilib.pcam import input_range


@dataclass(frozen=True)
class Deployed:
    """One trained network on its way to the device; all networks compute (nearly) the same logits.

    Where a step was left out, its network is the one before it.

    Attributes:
        trained: as it was trained (with e2cnn, if equivariant), in evaluation mode.
        exported: plain torch modules.
        folded: batch normalization folded.
        equalized: ranges equalized.
        absorbed: high biases absorbed.
        corrected: biases corrected; what is quantized.
        simulated: with fake quantizers.
        onnx: the INT8 model, a file; an ExecuTorch program if its name ends in ``.pte``.
        steps: what was done to it, in words.
    """

    trained: nn.Module
    exported: nn.Module
    folded: nn.Module
    equalized: nn.Module
    absorbed: nn.Module
    corrected: nn.Module
    simulated: nn.Module
    onnx: Path
    steps: tuple[str, ...]

    @property
    def session(self):
        """The INT8 model in onnxruntime."""
        return device.session(self.onnx)


def writer(path: str | Path) -> Callable[..., Path]:
    """What writes a plain network to a file of this name: ``(network, path, input_size)``, quantized or not.

    Raises:
        ValueError: the name ends in none of ``.onnx`` (onnxruntime, OpenVINO, browsers) and ``.pte`` (ExecuTorch).
        ModuleNotFoundError: what writes such files is not installed; the message says how to get it.
    """
    ending = Path(path).suffix.lower()
    if ending == ".pte":
        pte.require()
        return pte.export_pte
    if ending != ".onnx":
        words = f"in {ending}" if ending else "without an ending"
        raise ValueError(f"{path} ends {words}; name a file that ends in .onnx, or in .pte for ExecuTorch")
    return device.export_onnx


STEPS = 7  # export, fold, equalize, absorb, correct, round, write


def deploy(
    network: nn.Module,
    path: str | Path,
    *,
    equalize: bool = True,
    per_field: bool = False,
    absorb: bool = True,
    correct: bool = False,
    scheme: int8.Scheme = int8.W8A8,
    step_done: Callable[[], object] = bool,
) -> Deployed:
    """Export, fold, equalize, absorb, quantize (data-free ranges) and write the file; no step needs data.

    Args:
        network: trained, in evaluation mode.
        path: of the file: ONNX, or an ExecuTorch program where it ends in ``.pte`` (:func:`writer`).
        equalize: ranges of weights, across layers (:func:`equilib.dfq.equalize`).
        per_field: equalize with one scale for all channels of a field.
        absorb: high biases into the next layer (:func:`equilib.dfq.absorb_high_bias`).
        correct: take the expected error of rounded weights off the biases (:func:`equilib.dfq.correct_bias`).
        scheme: bits and scales; by default the paper's W8A8, per tensor.
        step_done: called after each of :data:`STEPS` steps, for a bar.

    Raises:
        ValueError: a scheme that cannot be exported (:func:`equilib.device.export_onnx`), or another ending;
            ``per_field`` without ``equalize``.
        ModuleNotFoundError: ExecuTorch is to be written, and is not installed.
    """
    write = writer(path)
    if per_field and not equalize:
        raise ValueError("per_field=True says how to equalize, which equalize=False leaves out; give one of them")
    size = network.config.input_size
    plain = exported(network)
    step_done()
    folded = equalized = dfq.fold_batch_norm(plain)
    step_done()
    steps = []
    if equalize:
        equalized, report = dfq.equalize(folded, per_field=per_field)
        steps.append(f"{len(report.pairs)} pairs equalized")
    step_done()
    absorbed = equalized
    if absorb:
        absorbed, absorption = dfq.absorb_high_bias(equalized)
        moved = sum(int((amount > 0).sum()) for amount in absorption.absorbed.values())
        steps.append(f"biases of {moved} channels absorbed")
    step_done()
    corrected = absorbed
    if correct:
        corrected, correction = dfq.correct_bias(absorbed, lambda layer: int8.rounded_weight(layer, scheme), size)
        steps.append(f"biases of {len(correction.corrected)} layers corrected")
    step_done()
    simulated = int8.quantize(corrected, input_range(), scheme=scheme)
    steps.append(f"{scheme.weight_bits}-bit weights, {scheme.activation_bits}-bit activations")
    step_done()
    onnx = write(simulated, path, size)
    step_done()
    return Deployed(network, plain, folded, equalized, absorbed, corrected, simulated, onnx, tuple(steps))


LADDER = ("naive", "+ equalization", "+ absorption", "+ bias correction", "per channel")


def quantization_ladder(network: nn.Module, *, scheme: int8.Scheme = int8.W8A8) -> dict[str, nn.Module]:
    """Simulated INT8 networks, each rung with one move more; the last one naive, but with a scale per channel.

    Args:
        network: plain, in evaluation mode (:func:`equilib.mobilenet.exported`).
        scheme: bits, and symmetric or not.
    """
    folded = dfq.fold_batch_norm(network)
    equalized, _ = dfq.equalize(folded)
    absorbed, _ = dfq.absorb_high_bias(equalized)
    size = network.config.input_size
    corrected, _ = dfq.correct_bias(absorbed, lambda layer: int8.rounded_weight(layer, scheme), size)
    schemes = [scheme] * 4 + [replace(scheme, per_channel=True)]
    return {
        name: int8.quantize(model, input_range(), scheme=own)
        for name, model, own in zip(LADDER, (folded, equalized, absorbed, corrected, folded), schemes)
    }


def bit_width_accuracies(
    networks: Mapping[str, nn.Module], images: Tensor, labels: Tensor, bits: Sequence[int]
) -> dict[str, dict[tuple[int, int], float]]:
    """Accuracy of equalized networks for all pairs of weight and activation bits (simulated, per tensor).

    Args:
        networks: name to plain network.
        images, labels: normalised patches and their classes.

    Returns:
        For each network, (weight bits, activation bits) to accuracy between 0 and 1.
    """
    result = {}
    for name, network in networks.items():
        equalized, _ = dfq.equalize(dfq.fold_batch_norm(network))
        result[name] = {}
        for pair in product(bits, bits):
            model = int8.quantize(equalized, input_range(), scheme=int8.Scheme(*pair))
            result[name][pair] = (run_model(model, images).argmax(1) == labels).double().mean().item()
    return result
