"""The command ``equilib``: train one network, compare both from training to INT8, quantize one, classify with it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="equilib", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    data = shared.add_argument_group("data")
    data.add_argument("--data", help="folder with PCam's six .h5 files; without it, synthetic tissue is drawn")
    data.add_argument("--train-limit", type=int, help="use only the first N training patches")
    data.add_argument("--valid-limit", type=int, help="use only the first N validation patches")
    data.add_argument("--workers", type=int, default=0, help="processes that load data (0: the training process)")
    network = shared.add_argument_group("network")
    network.add_argument("--width", type=float, default=1.0, help="multiplier of all channel numbers (default 1.0)")
    network.add_argument("--group", default="C12", help="C4, C12, D4 … (default C12)")
    network.add_argument("--divisor", type=int, help="round channels to multiples of it (default: the group's order)")
    network.add_argument(
        "--depthwise",
        choices=("strict", "fieldwise"),
        default="strict",
        help="filter channel by channel, or mix the channels of a field (default strict)",
    )
    network.add_argument("--group-pooling", choices=("mean", "max"), default="mean")
    network.add_argument("--input-size", type=int, default=95, help="pixels that patches are cropped to (default 95)")
    network.add_argument("--strided-padding", type=int, default=0, help="of the layers with a stride (default 0)")
    network.add_argument(
        "--allow-inexact", action="store_true", help="accept grids on which rotations by 90 degrees are not exact"
    )
    training = shared.add_argument_group("training")
    training.add_argument("--epochs", type=int, default=300, help="default 300, the paper's")
    training.add_argument("--batch-size", type=int, default=64, help="per process (default 64)")
    training.add_argument("--learning-rate", type=float, default=1e-3)
    training.add_argument("--weight-decay", type=float, default=0.05)
    training.add_argument(
        "--no-augmentation", action="store_true", help="no random rotations by 90 degrees and reflections"
    )
    training.add_argument(
        "--any-angle",
        type=float,
        nargs="?",
        const=1.0,
        default=0.0,
        metavar="SHARE",
        help="turn all patches, or this share of them, by a random angle",
    )
    training.add_argument(
        "--recalibrate",
        type=int,
        default=0,
        metavar="N",
        help="before each validation, statistics of batch normalization from N training patches without augmentation",
    )
    training.add_argument(
        "--stain", type=float, default=0.0, help="random change of the stains, say 0.1 (default: none)"
    )
    training.add_argument("--dropout", type=float, default=0.2, help="before the classifier (default 0.2)")
    training.add_argument("--seed", type=int, default=0)
    machine = shared.add_argument_group("machine (options of lightning.Trainer)")
    machine.add_argument("--accelerator", default="auto")
    machine.add_argument("--devices", default="auto", help="how many, or which")
    machine.add_argument("--num-nodes", type=int, default=1)
    machine.add_argument("--strategy", default="auto", help="ddp for several devices")
    machine.add_argument("--precision", default="32-true", help="bf16-mixed halves memory on a GPU")
    machine.add_argument("--compile", action="store_true", help="by torch.compile; on a CPU this is slower, not faster")
    machine.add_argument("--threads", type=int, help="of torch on the CPU")
    shared.add_argument("--no-progress", action="store_true", help="a line an epoch instead of a progress bar")

    train = commands.add_parser(
        "train", parents=[shared], allow_abbrev=False, help="train one network, or continue its run"
    )
    train.add_argument("kind", choices=("conventional", "equivariant"))
    train.add_argument("--folder", type=Path, required=True, help="folder of the run; if it exists, the run continues")

    compare = commands.add_parser(
        "compare",
        parents=[shared],
        allow_abbrev=False,
        help="train both networks, quantize them, and write accuracies and errors as JSON",
    )
    compare.add_argument(
        "--folder", type=Path, required=True, help="folder of the two runs; if they exist, they continue"
    )
    compare.add_argument("--output", type=Path, required=True, help="the JSON file")
    compare.add_argument("--label", help="what the data is, for tables")
    compare.add_argument("--measured", type=int, default=300, help="test patches for equivariance errors (default 300)")

    quantize = commands.add_parser(
        "quantize", allow_abbrev=False, help="make an INT8 ONNX model of a trained network, without data"
    )
    quantize.add_argument("checkpoint", type=Path, help="best.ckpt of a run")
    quantize.add_argument("-o", "--output", type=Path, required=True, help="the ONNX file")
    quantize.add_argument("--fp32", action="store_true", help="export without quantizing")
    quantize.add_argument("--tied", action="store_true", help="equalize with one scale for the channels of a field")
    quantize.add_argument("--no-equalization", action="store_true", help="neither equalize nor absorb biases")
    quantize.add_argument(
        "--bias-correction", action="store_true", help="take the expected error of rounded weights off"
    )
    quantize.add_argument(
        "--weight-bits",
        type=int,
        default=8,
        help="7 for x86 processors without VNNI, in runtimes whose kernels saturate there (default 8)",
    )

    predict = commands.add_parser(
        "predict", allow_abbrev=False, help="classify patches with an exported model; prints CSV"
    )
    predict.add_argument("model", type=Path, help="an ONNX file of equilib quantize")
    predict.add_argument("images", nargs="+", type=Path, help="image files, folders of images, or .h5 files with key x")
    predict.add_argument("--threads", type=int, default=1)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options, arguments if arguments is not None else sys.argv[1:])
    except KeyboardInterrupt:
        print("equilib: interrupted; the same command continues after the last finished epoch", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        print(f"equilib: {error}", file=sys.stderr)
        return 1


def _quantize(options: argparse.Namespace) -> int:
    from equilib import device, int8
    from equilib.deploy import deploy
    from equilib.mobilenet import exported
    from equilib.training import load_network

    network, _ = load_network(options.checkpoint)
    if options.fp32:
        path, steps = device.export_onnx(exported(network), options.output, network.config.input_size), ("FP32",)
    else:
        made = deploy(
            network,
            options.output,
            equalize=not options.no_equalization,
            per_field=options.tied,
            absorb=not options.no_equalization,
            correct=options.bias_correction,
            scheme=int8.Scheme(weight_bits=options.weight_bits),
        )
        path, steps = made.onnx, made.steps
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB; {', '.join(steps)}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    import csv

    import torch

    from equilib import device
    from equilib.equivariance import run_model
    from equilib.pcam import read_images

    session = device.session(options.model, threads=options.threads)
    size = session.get_inputs()[0].shape[2]
    if not isinstance(size, int):
        raise ValueError(f"{options.model} does not say the size of its input; export it with equilib quantize")
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "class", "probability_of_tumour"])
    for path in options.images:
        for name, image in read_images(path, size):
            logits = run_model(session, image)
            if logits.shape != (1, 2):
                raise ValueError(f"{options.model} is another network: it gives {tuple(logits.shape)}, not two logits")
            probability = torch.softmax(logits[0], 0)[1].item()
            writer.writerow([name, int(logits.argmax()), f"{probability:.4f}"])
    return 0


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    if options.command == "quantize":
        return _quantize(options)
    if options.command == "predict":
        return _predict(options)
    import torch

    from equilib.mobilenet import MobileNetConfig
    from equilib.training import TrainConfig, train

    if options.threads:
        torch.set_num_threads(options.threads)
    network = MobileNetConfig(
        width=options.width,
        group=options.group,
        divisor=options.divisor,
        depthwise=options.depthwise,
        group_pooling=options.group_pooling,
        dropout=options.dropout,
        input_size=options.input_size,
        strided_padding=options.strided_padding,
        allow_inexact=options.allow_inexact,
    )
    config = TrainConfig(
        getattr(options, "kind", "equivariant"),
        network,
        data=str(options.data or _synthetic()),
        train_limit=options.train_limit,
        valid_limit=options.valid_limit,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        augmentation=not options.no_augmentation,
        any_angle=options.any_angle,
        recalibrate=options.recalibrate,
        stain=options.stain,
        seed=options.seed,
    )
    devices = int(options.devices) if options.devices.isdigit() else options.devices
    training_options = dict(
        progress=not options.no_progress,
        print_epochs=options.no_progress,
        workers=options.workers,
        compile=options.compile,
        accelerator=options.accelerator,
        devices=devices,
        num_nodes=options.num_nodes,
        strategy=options.strategy,
        precision=options.precision,
    )
    if options.command == "train":
        result = train(config, options.folder, **training_options)
        print(f"lowest validation loss in epoch {result.best_epoch}: {result.checkpoint}")
        return 0
    from equilib.experiment import compare, data_label, table
    from equilib.results import markdown_table

    contents = compare(
        config,
        options.folder,
        options.output,
        label=options.label or data_label(config.data),
        command=_without_paths(arguments),
        measured=options.measured,
        training_options=training_options,
    )
    if contents:  # only the first of several processes measures
        print(markdown_table(table(contents)))
    return 0


def _synthetic() -> Path:
    from equilib.budget import current_budget
    from equilib.synthetic import ensure_dataset

    return ensure_dataset(current_budget().sizes)


def _without_paths(arguments: list[str]) -> str:
    """The command as others would type it: the folders of this machine are left out."""
    words = ["equilib"]
    arguments = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for previous, word in zip([""] + arguments, arguments):
        placeholder = {"--data": "DATA", "--folder": "FOLDER", "--output": "OUTPUT"}.get(previous)
        words.append(placeholder or (repr(word) if " " in word else word))
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
