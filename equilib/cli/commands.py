"""What ``equilib train``, ``compare``, ``quantize`` and ``doctor`` do with their options; each returns the exit status."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from equilib.budget import BUDGETS, current_budget
from equilib.cli.options import given
from equilib.cli.parser import DENSENET, NETWORK, PRESET, RECIPE, SCHEME, TRAINER, TRAINING
from equilib.progress import bar
from equilib.results import markdown_table, writable_target, write_json
from equilib.runs import ARCHITECTURES, CURVES, TrainConfig
from equilib.variant import DEFAULT_FAMILY


def train(options: argparse.Namespace, arguments: list[str]) -> int:
    """Train one network, or continue its run."""
    from equilib import training

    config = _config(options, options.kind)
    result = training.train(config, options.folder, **_machine(options))
    print(
        f"lowest validation loss in epoch {result.best_epoch}: {result.checkpoint}; curves: {options.folder / CURVES}"
    )
    return 0


def compare(options: argparse.Namespace, arguments: list[str]) -> int:
    """Train both networks, measure them and print the table."""
    from equilib import experiment, slides

    config = _config(options, "equivariant")
    # Asked for before hours of training.
    of_patches = slides.read_slides(config.data, "test") if options.by_slide else None
    contents = experiment.compare(
        config,
        options.folder,
        options.output,
        label=options.label or experiment.data_label(config.data),
        command=without_paths(arguments),
        training_options=_machine(options),
        stage=lambda words: print(words, flush=True),
        **given(options, ["measured"]),
    )
    if contents:  # only the first of several processes measures
        print(markdown_table(experiment.table(contents)))
        if of_patches:
            found = slides.by_slide({kind: one["per_patch"] for kind, one in contents["models"].items()}, of_patches)
            write_json(options.output, contents | {"by_slide": found})
            print(
                f"\nIn brackets 95 %, from {found['slides']} slides drawn anew; what another seed would give it does not know.\n"
            )
            print(markdown_table(slides.rows(found)))
        print(f"results: {options.output}; networks and INT8 models: {options.folder}")
    return 0


def quantize(options: argparse.Namespace, arguments: list[str]) -> int:
    """Write the ONNX file or the ExecuTorch program of a checkpoint."""
    from equilib import deploy, int8
    from equilib.mobilenet import exported
    from equilib.runs import load_network

    output = writable_target(options.output)
    if output.exists() and options.checkpoint.exists() and output.samefile(options.checkpoint):
        raise ValueError(f"{output} is the checkpoint itself, which would be lost; name another file with -o")
    write = deploy.writer(output)
    recipe, scheme = given(options, RECIPE), given(options, SCHEME)
    network, _ = load_network(options.checkpoint)
    if options.fp32:
        if recipe or scheme:
            words = ", ".join(
                f"--{'no-' * (value is False)}{name.replace('_', '-')}" for name, value in (recipe | scheme).items()
            )
            raise ValueError(f"--fp32 rounds nothing, so it does not go with {words}")
        path, steps = write(exported(network), output, network.config.input_size), ("FP32",)
    else:
        with bar(total=deploy.STEPS, words="quantizing", unit="step") as watched:
            scheme = int8.Scheme(**scheme)
            made = deploy.deploy(network, output, **recipe, scheme=scheme, step_done=watched.update)
        path, steps = made.onnx, made.steps
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB; {', '.join(steps)}")
    return 0


def doctor(options: argparse.Namespace, arguments: list[str]) -> int:
    """Print the report on this machine; 1 if something in it is wrong."""
    from equilib.doctor import Fault, as_text, report

    lines = report(options.data)
    print(as_text(lines))
    wrong = [name for name, value in lines if isinstance(value, Fault)]
    if wrong:
        print(f"equilib: wrong here: {', '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))


def without_paths(arguments: list[str]) -> str:
    """The command as others would type it: the folders of this machine are left out."""
    words = ["equilib"]
    arguments = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for previous, word in zip([""] + arguments, arguments):
        placeholder = {"--data": "DATA", "--folder": "FOLDER", "--output": "OUTPUT"}.get(previous)
        words.append(placeholder or (repr(word) if " " in word else word))
    return " ".join(words)


def _config(options: argparse.Namespace, kind: str) -> TrainConfig:
    """The configuration: the library's defaults, then the preset, then what is given."""
    preset = {name: getattr(BUDGETS[options.preset], name) for name in PRESET} if options.preset else {}
    recipe = {name: value for name, value in preset.items() if name in TRAINING} | given(options, TRAINING)
    network = _network(options, preset)
    config = TrainConfig(kind, network, data=options.data or "", **recipe)  # refused before data is drawn
    if kind == "equivariant" and 90 not in network.symmetry.exact_angles:
        print(
            f"equilib: {network.group} does not contain the rotation by 90°, so a network for it is not invariant to it; "
            "groups that do: C4, C8, C12, D4, …",
            file=sys.stderr,
        )
    return config if options.data else TrainConfig(kind, network, data=_synthetic(), **recipe)


def _network(options: argparse.Namespace, preset: dict):
    """The architecture's configuration; of presets only a MobileNetV2 takes what they say of the network."""
    of = ARCHITECTURES[options.family]
    asked = given(options, (*NETWORK, *DENSENET))
    foreign = [f"--{name.replace('_', '-')}" for name in asked if name not in {value.name for value in fields(of)}]
    if foreign:
        raise ValueError(
            f"{', '.join(foreign)}: a network of --family {options.family} has no such value; leave it out"
        )
    if options.family == DEFAULT_FAMILY:
        asked = {name: value for name, value in preset.items() if name in NETWORK} | asked
    return of(**asked)


def _machine(options: argparse.Namespace) -> dict:
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    return dict(
        progress=not options.no_progress,
        print_epochs=True,
        curves=True,
        workers=options.workers,
        compile=options.compile,
        **given(options, TRAINER),
    )


def _synthetic() -> Path:
    from equilib.synthetic import ensure_dataset

    return ensure_dataset(current_budget().sizes)
