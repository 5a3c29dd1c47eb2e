"""``equilib predict``: what an ONNX file takes and gives is checked first, then patch after patch is answered.

With ``--stride`` or ``--map`` pictures are answered window by window (:mod:`equilib.cli.pictures`).
"""

from __future__ import annotations

import argparse
import csv
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equilib import device, self_test
from equilib.equivariance import run_model
from equilib.hdf5 import PatchFileError
from equilib.images import count_images, cure_of, image_files, passed_over, read_images
from equilib.progress import bar
from equilib.runtimes import DEFAULT, RUNTIMES

_PROBES = 4
# Windows of a picture that are answered at once.
_BATCH = 64


def predict(options: argparse.Namespace, arguments: list[str]) -> int:
    """Print a row of CSV for each patch; files that cannot be read are named at the end, and the exit status is 1."""
    by_window = bool(options.stride or options.map)
    batch = _BATCH if by_window else 1
    model = open_model(options.model, threads=options.threads, batch=batch, runtime=options.runtime)
    if not model.ours:
        print(
            f"equilib: {model.path} carries no self-test: taken for a network that wants PCam's normalization and gives «no "
            "tumour», then «tumour»",
            file=sys.stderr,
        )
    inputs = Inputs(options.images)
    if by_window:
        from equilib.cli.pictures import predict_pictures

        predict_pictures(model, inputs, options)
    else:
        _predict_patches(model, inputs)
    for error in inputs.refused:
        if "--debug" in arguments and isinstance(error, Exception):
            traceback.print_exception(error)
        print(f"equilib: {error}", file=sys.stderr)
    return 1 if inputs.refused else 0


@dataclass
class Inputs:
    """What is to be answered.

    Attributes:
        paths: files and folders.
        refused: a sentence for each that could not be answered.
    """

    paths: list[Path]
    refused: list = field(default_factory=list)

    def files(self) -> Iterator[Path]:
        """All files, those of folders by name."""
        for path in self.paths:
            try:
                yield from image_files(path)
                if others := passed_over(path):
                    self.refused.append(f"{path}: {len(others)} file(s) in it were not read: {cure_of(others)}")
            except PatchFileError as error:
                self.refused.append(error)

    def each(self, read: Callable[[Path], Iterable[tuple[str, Any]]]) -> Iterator[tuple[str, Any]]:
        """Name and image of whatever can be read."""
        for file in self.files():
            try:
                yield from read(file)
            except PatchFileError as error:
                self.refused.append(error)


def _predict_patches(model: Classifier, inputs: Inputs) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "class", "probability_of_tumour"])
    total = sum(map(count_images, Inputs(inputs.paths).files()))
    patches = inputs.each(lambda file: read_images(file, model.size))
    # Rows that appear on a terminal are seen themselves, and a bar would run into them.
    for name, image in bar(patches, total=total, words="predicting", unit="patch", shown=not sys.stdout.isatty()):
        try:
            probabilities = model.probabilities(image)
        except ArithmeticError as error:
            inputs.refused.append(f"{name}: {error}")
            continue
        writer.writerow([name, int(probabilities.argmax()), f"{probabilities[0, 1].item():.4f}"])


@dataclass(frozen=True)
class Classifier:
    """An ONNX model that tells two classes apart.

    Attributes:
        path: the file.
        session: of onnxruntime, or what another runtime gives (:mod:`equilib.runtimes`).
        size: height and width of its input, in pixels.
        normalized: whether it ends in a softmax, so that its outputs are probabilities already.
        batch: how many images it is given at once, at most.
        ours: whether it carries a self-test, as files of ``equilib quantize`` do; of others nobody knows what they expect.
    """

    path: Path
    session: object
    size: int
    normalized: bool = False
    batch: int = 1
    ours: bool = True

    def probabilities(self, images: Tensor) -> Tensor:
        """(1, 3, size, size) normalised to (1, 2); ArithmeticError where the model answers with NaN or infinity."""
        outputs = run_model(self.session, images)
        if not outputs.isfinite().all():
            raise ArithmeticError(f"{self.path} answers with {outputs[0].tolist()}, which are no finite numbers")
        return outputs if self.normalized else outputs.softmax(1)


def open_model(path: str | Path, *, threads: int = 1, batch: int = 1, runtime: str = DEFAULT) -> Classifier:
    """An ONNX file as a classifier of patches, after it has been asked what it takes and tried on random images.

    Args:
        batch: how many it is to be given at once, at most; a file for single patches gets them one by one.
        runtime: one of :data:`equilib.runtimes.RUNTIMES`; what the file takes is read by onnxruntime in any case.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: the runtime is not installed; the message says how to get it.
        ValueError: what it takes or gives is not what a classifier of patches does, or its weights lie elsewhere.
    """
    path = Path(path)
    RUNTIMES[runtime].require()
    if path.suffix.lower() == ".pte":
        raise ValueError(
            f"{path} is a program for ExecuTorch, and predict runs ONNX files: write one with equilib quantize … -o "
            f"{path.with_suffix('.onnx').name}, or load it in Python by equilib.pte.load_pte"
        )
    if path.suffix.lower() in (".pt", ".ckpt"):
        raise ValueError(
            f"{path} is a checkpoint, and predict runs ONNX files: `equilib quantize {path} -o "
            f"{path.with_suffix('.onnx').name}` writes one"
        )
    if path.is_file():
        check_external_data(path)
    # Where another runtime answers, this session is only asked what the file takes.
    session = device.session(path, threads=threads, batch=batch if runtime == DEFAULT else 1)
    ours = self_test.KEY in session.get_modelmeta().custom_metadata_map
    inputs = session.get_inputs()[0]
    fixed, _, height, width = inputs.shape
    if isinstance(fixed, int) and fixed != 1:
        raise ValueError(
            f"{path} takes {fixed} patches at once, no more and no less; export it with a batch that is free"
        )
    if inputs.type != "tensor(float)":
        raise ValueError(
            f"{path} takes {inputs.type}, not float32 (normalised values); export it with equilib quantize"
        )
    if not isinstance(height, int) or not isinstance(width, int):
        raise ValueError(f"{path} does not say the size of its input; export it with equilib quantize")
    if height != width:
        raise ValueError(f"{path} takes {height} x {width} pixels; patches are square")
    outputs = session.get_outputs()
    if len(outputs) != 1 or outputs[0].type != "tensor(float)":
        found = ", ".join(f"{output.name}: {output.type}" for output in outputs)
        raise ValueError(f"{path} is another network: it gives {found}, not one float32 tensor of two logits")
    running = session if runtime == DEFAULT else RUNTIMES[runtime].load(path, threads=threads, batch=batch)
    return _tried(Classifier(path, running, height, batch=1 if fixed == 1 else batch, ours=ours))


def _tried(model: Classifier) -> Classifier:
    """The model after a few random images: it must answer each with two finite numbers."""
    generator = torch.Generator().manual_seed(0)
    answers = []
    for _ in range(_PROBES):
        image = torch.randn(1, 3, model.size, model.size, generator=generator)
        try:
            answers.append(run_model(model.session, image))
        except Exception as error:  # onnxruntime's own exceptions have no common class but this
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{model.path} cannot be run on a patch of {model.size} x {model.size}: {reason}"
            ) from error
        if answers[-1].shape != (1, 2):
            raise ValueError(f"{model.path} is another network: it gives {tuple(answers[-1].shape)}, not two logits")
    outputs = torch.cat(answers)
    if not outputs.isfinite().any():
        raise ValueError(f"{model.path} answers random images with {outputs[0].tolist()}: it is damaged, or overflows")
    # Two logits that happen to be a distribution on every random image are a softmax's.
    normalized = bool((outputs >= 0).all() and torch.allclose(outputs.sum(1), torch.ones(_PROBES), atol=1e-4))
    return replace(model, normalized=normalized)


def check_external_data(path: Path) -> None:
    """Refuse an ONNX file that takes weights from outside its folder, or from a file that is not there."""
    import onnx

    model = self_test.onnx_model(path, weights=False)
    folder = path.resolve().parent
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        name = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        place = (folder / name).resolve()
        if not place.is_relative_to(folder):
            raise ValueError(
                f"{path} takes weights from {name}, outside its folder, and is refused; put them beside it"
            )
        if not place.is_file():
            raise ValueError(f"{path} keeps its weights in {name}, which is missing beside it; copy both files")


def _tensors(message) -> Iterator:
    """All tensors in an ONNX message, those of inner graphs and functions too."""
    from google.protobuf.message import Message
    from onnx import TensorProto

    if isinstance(message, TensorProto):
        yield message
        return
    for entry, value in message.ListFields():
        if entry.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                yield from _tensors(part)
