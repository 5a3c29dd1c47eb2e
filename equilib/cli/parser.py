"""The options of the commands."""

from __future__ import annotations

import argparse
from dataclasses import fields
from difflib import get_close_matches
from inspect import signature
from typing import NoReturn

from equilib import __version__
from equilib.budget import BUDGETS
from equilib.cli.allocator import VARIABLE
from equilib.cli.options import add_options, count, named, place, threads, whole
from equilib.densenet import DenseNetConfig
from equilib.deploy import deploy
from equilib.int8 import Scheme
from equilib.mobilenet import MobileNetConfig
from equilib.pcam import LABEL_WINDOW
from equilib.runs import TrainConfig
from equilib.runtimes import DEFAULT, RUNTIMES
from equilib.variant import DEFAULT_FAMILY, FAMILIES

# Not options: PCam has two classes, and the other three have an argument of their own.
NETWORK = tuple(value.name for value in fields(MobileNetConfig) if value.name != "classes")
DENSENET = ("growth",)  # what else a DenseNet has
TRAINING = tuple(value.name for value in fields(TrainConfig) if value.name not in ("kind", "network", "data"))
RECIPE = tuple(name for name in signature(deploy).parameters if name not in ("network", "path", "scheme", "step_done"))
# The other values of a scheme are for simulation: no integer kernel has them.
SCHEME = ("weight_bits",)
USAGE = 2  # the exit status of a command line that cannot be read
# What a budget says of a training.
PRESET = ("width", "group", "epochs", "batch_size", "learning_rate")
TRAINER = ("accelerator", "devices", "num_nodes", "strategy", "precision")


class Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line: the usage of ``equilib train`` alone has twenty-five."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args=None, namespace=None):
        """The parser of a command is asked by this, too: so it is the one that says what it does not know, and what is near."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = get_close_matches(unknown[0].split("=")[0], self._option_string_actions, 1)
            words = f"; do you mean {near[0]}" if near else ""
            self.error(f"{unknown[0]!r} is no option or argument of it{words}")
        return options, unknown


def make_parser() -> argparse.ArgumentParser:
    """The parser; the namespace that it gives names the command in ``command``."""
    parser = Parser(
        prog="equilib",
        description="Train one network, compare both from training to INT8, quantize one, classify with it.",
        epilog="Exit status: 0 done; 1 a file or a value is wrong, or some files could not be answered; 2 the command line "
        "cannot be read; 70 a bug; 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"equilib {__version__}")
    debug = argparse.ArgumentParser(add_help=False)
    for one in (parser, debug):
        one.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show where in the code an error arose"
        )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, words: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=[*parents, debug], allow_abbrev=False, help=words, description=words)

    shared = _training_options()
    train = command("train", "train one network, or continue its run", shared)
    train.add_argument("kind", choices=("conventional", "equivariant"))
    train.add_argument("--folder", type=place, required=True, help="folder of the run; if it exists, the run continues")

    words = "train both networks, quantize them, and write accuracies and errors as JSON"
    compare = command("compare", words, shared)
    _compare_options(compare)

    quantize = command("quantize", "make an INT8 model of a trained network, without data")
    quantize.add_argument("checkpoint", type=place, help="best.ckpt of a run")
    quantize.add_argument("-o", "--output", type=place, required=True, help="the file: .onnx, or .pte for ExecuTorch")
    quantize.add_argument("--fp32", action="store_true", help="export without quantizing")
    add_options(quantize, deploy, RECIPE)
    add_options(quantize, Scheme, SCHEME)

    doctor = command("doctor", "versions, processor, runtimes and data in one screen, to paste into a bug report")
    doctor.add_argument("--data", type=named, default="data/pcam", help="folder with PCam's files (default data/pcam)")

    words = "classify patches, or pictures window by window, with an exported model; prints CSV"
    _add_predict_options(command("predict", words))
    return parser


def _add_predict_options(predict: argparse.ArgumentParser) -> None:
    predict.add_argument("model", type=place, help="an ONNX file of equilib quantize")
    predict.add_argument(
        "images", nargs="+", type=place, help="image files, folders of images, or .h5 files with key x"
    )
    predict.add_argument("--threads", type=threads, default=1, help="of the processor (default 1)")
    predict.add_argument(
        "--runtime", choices=tuple(RUNTIMES), default=DEFAULT, help=f"that runs the file (default {DEFAULT})"
    )
    predict.add_argument(
        "--stride",
        type=count,
        help="for pictures larger than a patch: answer windows that stand so many pixels apart; the CSV names the first row "
        "and column of each, counted from 0",
    )
    predict.add_argument(
        "--map",
        type=place,
        metavar="FOLDER",
        help=f"draw the probability over each picture, as PNG, in this folder; without --stride windows stand about {LABEL_WINDOW} pixels apart, "
        "as the picture's size allows: then the map of the turned picture is the turned map",
    )


def _compare_options(compare: argparse.ArgumentParser) -> None:
    """What ``compare`` has of its own."""
    compare.add_argument(
        "--folder", type=place, required=True, help="folder of both runs; if they exist, they continue"
    )
    compare.add_argument("--output", type=place, required=True, help="the JSON file")
    compare.add_argument("--label", help="what the data is, for tables")
    compare.add_argument(
        "--by-slide",
        action="store_true",
        help="also intervals from slides drawn anew; needs PCam's _meta.csv of the test split beside the .h5 files",
    )
    compare.add_argument(
        "--measured", type=whole, default=argparse.SUPPRESS, help="test patches for equivariance errors (default 300)"
    )


def _training_options() -> argparse.ArgumentParser:
    """What ``train`` and ``compare`` have in common."""
    shared = argparse.ArgumentParser(add_help=False)
    data = shared.add_argument_group("data")
    data.add_argument(
        "--data", type=named, help="folder with PCam's six .h5 files; without it, synthetic tissue is drawn"
    )
    data.add_argument("--workers", type=whole, default=0, help="processes that load data (0: the training process)")
    presets = "; ".join(
        f"{name}: "
        + ", ".join(f"{value} {getattr(budget, value):g}" if value != "group" else budget.group for value in PRESET)
        for name, budget in BUDGETS.items()
    )
    shared.add_argument(
        "--preset",
        choices=tuple(BUDGETS),
        help=f"values to start from, before the options that are given ({presets.replace('_', ' ')})",
    )
    network = shared.add_argument_group("network (defaults are MobileNetV2's; a DenseNet has its own)")
    network.add_argument(
        "--family",
        choices=FAMILIES,
        default=DEFAULT_FAMILY,
        help=f"of architectures (default {DEFAULT_FAMILY}); of the options below, a densenet has --group, --band-limit, "
        "--input-size, --dropout and --growth",
    )
    add_options(network, MobileNetConfig, NETWORK)
    add_options(network, DenseNetConfig, DENSENET)
    add_options(shared.add_argument_group("training"), TrainConfig, TRAINING)
    machine = shared.add_argument_group(
        "machine (options of lightning.Trainer; their defaults are its own)",
        f"On Linux with glibc training starts anew with {VARIABLE} set, which makes a step on a CPU faster; set it yourself, "
        "to nothing too, and it is left alone.",
    )
    machine.add_argument("--accelerator", default=argparse.SUPPRESS, help="cpu, gpu, …")
    machine.add_argument("--devices", type=_devices, default=argparse.SUPPRESS, help="how many, or which")
    machine.add_argument("--num-nodes", type=count, default=argparse.SUPPRESS)
    machine.add_argument(
        "--strategy",
        default=argparse.SUPPRESS,
        help="ddp for several devices, started as `torchrun --nproc-per-node 4 -m equilib train … --devices 4 --strategy ddp` (not measured)",
    )
    machine.add_argument(
        "--precision",
        default=argparse.SUPPRESS,
        help="bf16-mixed saves two fifths of the memory, and a quarter to a half of a step, on a processor with AVX512_BF16 "
        "(benchmarks/README.md; elsewhere not measured); the accuracies on record are all of 32-true",
    )
    machine.add_argument("--compile", action="store_true", help="by torch.compile; on a CPU this is slower, not faster")
    machine.add_argument("--threads", type=threads, help="of torch on the CPU")
    shared.add_argument(
        "--no-progress",
        action="store_true",
        help="a line an epoch and no progress bar, as where the output is no terminal",
    )
    return shared


def _devices(text: str) -> int | str:
    return int(text) if text.isdigit() else text
