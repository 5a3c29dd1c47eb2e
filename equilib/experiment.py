"""From patches to the paper's Table 1: train both networks, export, quantize, measure, and write it all down.

One experiment is one JSON file with its configuration, seeds, data, environment and figures; ``results/`` holds those
that ship, and notebooks read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

from equilib import dfq
from equilib.checks import check_labels
from equilib.deploy import LADDER, STEPS, Deployed, deploy, quantization_ladder
from equilib.equivariance import (
    Model,
    equivariance_sweep,
    interpolation_control,
    mean_over_quarter_turns,
    relative_difference,
    rotation_spread,
    run_model,
)
from equilib.mobilenet import KINDS, build, count_costs, count_parameters, estimate_statistics
from equilib.pcam import PUBLISHED_SIZES, SPLITS, Patches, network_inputs
from equilib.progress import bar
from equilib.results import environment, folder_name, writable_target, write_json
from equilib.training import TrainConfig, TrainResult, train

# What is told how many patches a network has answered since the last call, such as the ``update`` of a bar.
Seen = Callable[[int], object]


def predict(model, patches: Patches, size: int, *, batch_size: int = 64, seen: Seen = bool) -> Tensor:
    """Logits (N, classes) of all patches of a split, read and run batch by batch; ``seen`` is told of each batch."""
    parts = []
    for start in range(0, len(patches), batch_size):
        indices = range(start, min(start + batch_size, len(patches)))
        parts.append(run_model(model, network_inputs(patches, indices, size), batch_size=batch_size))
        seen(len(indices))
    return torch.cat(parts)


def identical_under_quarter_turns(
    model, patches: Patches, size: int, *, batch_size: int = 64, seen: Seen = bool
) -> float:
    """The share of patches whose logits are the same, bit for bit, under the rotations by 90, 180 and 270 degrees."""
    same = []
    for start in range(0, len(patches), batch_size):
        images = network_inputs(patches, range(start, min(start + batch_size, len(patches))), size)
        logits = [run_model(model, torch.rot90(images, turns, (-2, -1)), batch_size=batch_size) for turns in range(4)]
        same.append(torch.stack([(logits[0] == other).all(1) for other in logits[1:]]).all(0))
        seen(4 * len(images))
    return torch.cat(same).double().mean().item()


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, area under the ROC curve, cross-entropy and expected calibration error (15 bins) of two-class logits.

    Args:
        logits: (N, 2).
        labels: (N,), 0 or 1; of one class alone there is no area under the curve, and it is NaN.

    Raises:
        ValueError: not two logits a patch, some that are NaN or infinite, or labels that are no classes.
    """
    if logits.ndim != 2 or logits.shape[1] != 2:
        raise ValueError(f"two logits a patch are needed, got shape {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise ValueError("the logits hold NaN or infinite values, which are no answers")
    check_labels(labels, len(logits))
    probability = logits.softmax(1)[:, 1].contiguous()
    return {
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "auc": binary_auroc(probability, labels).item() if len(labels.unique()) > 1 else float("nan"),
        "cross_entropy": nn.functional.cross_entropy(logits, labels).item(),
        "calibration_error": binary_calibration_error(probability, labels, n_bins=15).item(),
    }


def measure(
    result: TrainResult,
    config: TrainConfig,
    onnx: str | Path,
    *,
    angles: Sequence[float] = (30, 60, 90, 180, 270),
    measured: int = 300,
    data: str | Path | None = None,
    further: Mapping[str, Patches] | None = None,
) -> dict:
    """All figures of one trained network, as a JSON-compatible dictionary.

    Args:
        result, config: of the training.
        onnx: where to write the INT8 model.
        angles: of the equivariance errors, in degrees; multiples of 90 are exact rotations, at the others the
            interpolation control is measured too.
        measured: test patches on which equivariance errors are measured.
        data: folder of the test split, by default the training's.
        further: other patches whose logits are to be kept, by a name for them.

    Returns:
        ``accuracy``: metrics of FP32, of FP32 averaged over the four rotations by 90 degrees at test time, of FP32 after
        equalization and absorption, of naive INT8 (simulated, neither equalized nor absorbed), of simulated and of real
        INT8.  ``equivariance``: for each stage, a list of errors.
        ``logit_change``: relative differences between stages.  ``rotation_spread``: over all multiples of 30 degrees.
        ``int8_identical_under_quarter_turns``: share of test patches with the very same logits.
        ``per_patch``: labels and logit differences, in the order of the test split, for paired comparisons.
        ``further``: the same for the patches of ``further``.  ``ladder``: metrics of each simulated INT8 network of
        :func:`equilib.deploy.quantization_ladder`.  ``range_spread``: of each convolution, the largest range of an output
        channel's weights over the smallest, before and after equalization.  ``seconds`` and ``steps`` of the training.
    """
    test, further, size = Patches(data or config.data, "test"), further or {}, config.network.input_size
    sample = network_inputs(test, range(min(measured, len(test))), size)
    work = answers_needed(len(test), len(sample), len(angles), sum(map(len, further.values())))
    with bar(total=STEPS, words=f"quantizing the {config.kind} network", unit="step") as watched:
        model = deploy(result.network, onnx, step_done=watched.update)
    with bar(total=work, words=f"measuring the {config.kind} network", unit="patch") as watched:
        return _figures(result, config, model, test, sample, angles, further, watched.update)


def answers_needed(test: int, sample: int, angles: int, further: int) -> int:
    """How many patches :func:`measure` has answered, for its bar: the arguments are numbers of patches, and of angles."""
    on_test = len(LADDER) + 5 + 4  # simulated; FP32 and INT8 (:func:`_logits`); the four quarter turns
    on_sample = 5 * (1 + angles) + 3 * (1 + len(AROUND))  # five stages, three spreads
    return test * on_test + sample * on_sample + 2 * further


def _figures(
    result: TrainResult,
    config: TrainConfig,
    model: Deployed,
    test: Patches,
    sample: Tensor,
    angles: Sequence[float],
    further: Mapping[str, Patches],
    seen: Seen,
) -> dict:
    size, labels = config.network.input_size, torch.from_numpy(test.labels)
    rungs = quantization_ladder(model.exported).items()
    ladder = {rung: predict(network, test, size, seen=seen) for rung, network in rungs}
    logits = _logits(model, ladder, test, size, seen)
    kept = ("fp32", "fp32, mean of four rotations", "int8")
    return {
        "config": config.to_dict() | {"data": folder_name(config.data)},
        **_costs(result, model, size),
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "history": list(result.history),
        "accuracy": {stage: classification_metrics(values, labels) for stage, values in logits.items()},
        "logit_change": _logit_change(logits),
        "same_class_int8_and_simulation": _same_class(logits["int8"], logits["int8 simulated"]),
        "int8_identical_under_quarter_turns": identical_under_quarter_turns(model.session, test, size, seen=seen),
        "measured_patches": len(sample),
        "per_patch": _per_patch(labels, {stage: logits[stage] for stage in kept}),
        "further": {
            name: score(model.exported, model.session, patches, size, seen=seen) for name, patches in further.items()
        },
        "ladder": {rung: classification_metrics(values, labels) for rung, values in ladder.items()},
        "range_spread": {"folded": range_spread(model.folded), "equalized": range_spread(model.equalized)},
        "seconds": {name: round(value, 1) for name, value in result.seconds.items()},
        "steps": result.steps,
        "rotation_spread": _rotation_spread(model, sample, seen),
        "equivariance": _equivariance(_stages(model, config, sample), sample, angles, seen),
        "interpolation_control": _interpolation_control(model, sample, angles),
    }


def _logits(model: Deployed, ladder: Mapping[str, Tensor], test: Patches, size: int, seen: Seen) -> dict[str, Tensor]:
    """Logits of the test patches at each stage of deployment; those of simulated INT8 are the ladder's."""

    def answered(network: Model) -> Tensor:
        return predict(network, test, size, seen=seen)

    return {
        "fp32": answered(model.exported),
        "fp32, mean of four rotations": answered(mean_over_quarter_turns(model.exported)),
        "fp32 equalized": answered(model.equalized),
        "fp32 equalized and absorbed": answered(model.absorbed),
        "int8 naive, simulated": ladder["naive"],
        "int8 simulated": ladder["+ absorption"],
        "int8": answered(model.session),
    }


def _stages(model: Deployed, config: TrainConfig, sample: Tensor) -> dict[str, Model]:
    """What equivariance is measured on: from the network before its training to the INT8 file."""
    torch.manual_seed(config.seed)
    return {
        "untrained": estimate_statistics(build(config.kind, config.network), sample[:64]),
        "trained": model.trained,
        "exported": model.exported,
        "equalized": model.equalized,
        "int8": model.session,
    }


def _costs(result: TrainResult, model: Deployed, size: int) -> dict[str, int]:
    return {
        "parameters": count_parameters(result.network),
        "parameters_exported": count_parameters(model.exported),
        "macs": sum(layer.macs for layer in count_costs(model.exported, size)),
        "onnx_bytes": model.onnx.stat().st_size,
    }


def _logit_change(logits: Mapping[str, Tensor]) -> dict[str, float]:
    stages = {"equalized": "fp32 equalized", "absorbed": "fp32 equalized and absorbed", "int8": "int8"}
    return {name: relative_difference(logits["fp32"], logits[stage]) for name, stage in stages.items()}


def _same_class(first: Tensor, second: Tensor) -> float:
    """The share of patches that two models put in the same class."""
    return (first.argmax(1) == second.argmax(1)).double().mean().item()


def _equivariance(
    stages: Mapping[str, Model], sample: Tensor, angles: Sequence[float], seen: Seen
) -> dict[str, list[dict]]:
    found = {}
    for stage, network in stages.items():
        found[stage] = [asdict(error) for error in equivariance_sweep(network, sample, angles)]
        seen(len(sample) * (1 + len(angles)))
    return found


AROUND = range(30, 360, 30)


def _rotation_spread(model: Deployed, sample: Tensor, seen: Seen) -> dict[str, dict]:
    found = {}
    for name, network, and_back in (
        ("fp32", model.exported, False),
        ("int8", model.session, False),
        ("fp32, there and back", model.exported, True),
    ):
        found[name] = asdict(rotation_spread(network, sample, AROUND, and_back=and_back))
        seen(len(sample) * (1 + len(AROUND)))
    return found


def _interpolation_control(model: Deployed, sample: Tensor, angles: Sequence[float]) -> list[dict]:
    """At the angles at which pixels are interpolated."""
    reference = run_model(model.exported, sample)
    between = [angle for angle in angles if angle % 90]
    return [asdict(interpolation_control(model.exported, sample, angle, reference=reference)) for angle in between]


def score(network: nn.Module, session, patches: Patches, size: int, *, seen: Seen = bool) -> dict[str, list]:
    """Labels and logit differences of the patches, in FP32 (the network) and INT8 (the session)."""
    logits = {name: predict(model, patches, size, seen=seen) for name, model in (("fp32", network), ("int8", session))}
    return _per_patch(torch.from_numpy(patches.labels), logits)


def _refuse_other(output: Path) -> None:
    """ValueError where results would take the place of something else, such as the data."""
    if not output.exists() or not output.stat().st_size:
        return
    try:
        kept = json.loads(output.read_text(encoding="utf-8"))
    except ValueError:  # no text, no JSON
        kept = None
    if not isinstance(kept, dict) or "models" not in kept:
        raise ValueError(f"{output} is there already, and holds no results of `equilib compare`; name another file")


def _check_both_classes(patches: Patches) -> None:
    if len(found := set(patches.labels.tolist())) < 2:
        raise ValueError(
            f"{patches.path} holds patches of one class alone (labels {found.pop()}), on which networks cannot be compared; "
            "take patches with and without tumour"
        )


def _per_patch(labels: Tensor, logits: Mapping[str, Tensor]) -> dict[str, list]:
    differences = {stage: (values[:, 1] - values[:, 0]).tolist() for stage, values in logits.items()}
    return {"label": labels.tolist()} | {stage: [_short(value) for value in row] for stage, row in differences.items()}


def _short(value: float) -> float:
    """Four digits after the point; what lies nearer to 0 keeps its side of it, which is the class."""
    return round(value, 4) or float(f"{value:.1g}")


def range_spread(network: nn.Module) -> dict[str, float]:
    """For each convolution, the largest range of an output channel's weights over the smallest (0 where one is 0)."""
    spreads = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            ranges = dfq.ranges_by_output(layer)
            spreads[name] = (ranges.max() / ranges.min()).item() if ranges.min() > 0 else 0.0
    return spreads


def compare(
    config: TrainConfig,
    runs: str | Path,
    output: str | Path,
    *,
    label: str,
    command: str = "",
    measured: int = 300,
    training_options: dict | None = None,
    stage: Callable[[str], None] | None = None,
) -> dict:
    """Train (or continue) both networks of one configuration, measure them and write ``output`` as JSON.

    Args:
        config: its ``kind`` is ignored.
        runs: folder for the two runs and the INT8 models.
        output: the JSON file; it appears whole or not at all.
        label: what the data is, in words, for tables.
        command: how this was started, to be written down.
        measured: see :func:`measure`.
        training_options: for :func:`equilib.training.train`.
        stage: is told what begins, in words.

    Returns:
        The contents of the file; empty in all processes but the first, which alone measures and writes.
    """
    runs, output = Path(runs), Path(output)
    if measured < 2:
        raise ValueError(
            f"measured must be at least 2, since errors are relative to a spread over patches; got {measured}"
        )
    # What could fail for want of a file or a program fails here, not after hours of training.
    splits = {split: Patches(config.data, split) for split in SPLITS}
    sizes = {split: len(patches) for split, patches in splits.items()}
    _check_both_classes(splits["test"])
    machine = environment()
    output.parent.mkdir(parents=True, exist_ok=True)
    writable_target(output)
    _refuse_other(output)
    configs = {kind: replace(config, kind=kind) for kind in KINDS}
    for kind, ours in configs.items():
        build(kind, ours.network)
    tell = stage if stage and rank_zero_only.rank == 0 else lambda words: None
    if measured > sizes["test"]:
        tell(f"equivariance is measured on all {sizes['test']:,} test patches: there are no {measured:,}")
    results = {}
    for kind, ours in configs.items():
        tell(f"{kind}: training")
        results[kind] = train(ours, runs / kind, **(training_options or {}))
    if rank_zero_only.rank != 0:
        return {}
    models = {}
    for kind, ours in configs.items():
        tell(f"{kind}: to INT8, and measured on {sizes['test']:,} test patches")
        models[kind] = measure(results[kind], ours, runs / f"{kind}_int8.onnx", measured=measured)
    contents = {
        "data": {"label": label} | sizes | _limited(sizes, config),
        "seed": config.seed,
        "command": command,
        "environment": machine,
        "models": models,
    }
    write_json(output, contents)
    return contents


def _limited(sizes: dict[str, int], config: TrainConfig) -> dict[str, int]:
    """How many patches were used of the splits that the configuration limits."""
    limits = {"train": config.train_limit, "valid": config.valid_limit}
    return {split: min(limit, sizes[split]) for split, limit in limits.items() if limit}


def data_label(root: str | Path) -> str:
    """What a folder holds, in words: synthetic tissue, PCam (if all splits have its sizes), or the folder's name."""
    sizes = {split: len(Patches(root, split)) for split in SPLITS}
    name = folder_name(root)
    if name.startswith("tissue-v"):  # as equilib.synthetic names its folders
        return "synthetic tissue"
    return "PCam" if sizes == PUBLISHED_SIZES else name


def table(contents: dict) -> list[dict]:
    """Rows for the table of the four accuracies: one a model, with FP32, INT8 and the errors under rotation.

    Errors are root mean squares in standard deviations of the logits, the largest over the exact rotations
    (multiples of 90 degrees).
    """
    rows = []
    for kind, figures in contents["models"].items():
        exact = {
            stage: max(e["rms"] for e in errors if e["degrees"] % 90 == 0)
            for stage, errors in figures["equivariance"].items()
        }
        accuracy = figures["accuracy"]
        rows.append(
            {
                "model": kind,
                "parameters": figures["parameters"],
                "FP32 accuracy": accuracy["fp32"]["accuracy"],
                "INT8 accuracy": accuracy["int8"]["accuracy"],
                "naive INT8 accuracy": accuracy["int8 naive, simulated"]["accuracy"],
                "FP32 error at 90°": exact["exported"],
                "INT8 error at 90°": exact["int8"],
            }
        )
    return rows
