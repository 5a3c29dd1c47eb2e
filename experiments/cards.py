"""The tables of the cards: results/model_card.md for the shipped networks, results/data_card.md for the synthetic tissue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import runs

from equilib import study, study_tables
from equilib.results import markdown_table, read_results, shipped_int8
from equilib.stains import Slide
from equilib.tissue import SPLITS, draw_patch, draw_slide

DRAWN = 100
"""Training patches, the first ones, that the data card is measured on."""

FREQUENCIES = (4, 8, 16, 32)
"""Cycles per 96 px at which the power spectrum is shown; the first is the unit."""


def shipped() -> dict[str, dict]:
    """The networks that come with the project, and how each was made."""
    return read_results(runs.RESULTS / "checkpoints.json")


def files_table() -> str:
    """What each shipped network was made from, and by which command."""
    return markdown_table(
        [
            {
                "network": f"`{name}`",
                "files": " and ".join(
                    kind for key, kind in (("sha256", ".pt"), ("int8 sha256", ".onnx (INT8)")) if key in entry
                ),
                "trained on": entry["data"],
                "made by": f"`{today(entry['made by'])}`",
                "best epoch": str(entry["best epoch"]),
            }
            for name, entry in shipped().items()
        ]
    )


def today(command: str) -> str:
    """A command of the day of a training, as it is written now: benchmarks/grid.py became experiments/grid.py train."""
    return command.replace("python benchmarks/grid.py ", "python experiments/grid.py train ")


def networks_table(every: Sequence[study.Run]) -> str:
    """The figures of each shipped network that was trained on real patches, of its own run; over seeds, those of ``every``."""
    rows = []
    for name, entry in shipped().items():
        if not name.startswith("pcam_"):
            continue
        run = study.shipped_run(name)
        figures = run.figures
        between = [
            flips
            for angle, flips in zip(*(figures["rotation_spread"]["int8"][key] for key in ("angles", "flips_by_angle")))
            if angle % 90
        ]
        rows.append(
            {
                "network": f"`{name}`",
                "parameters": f"{figures['parameters']:,}",
                "MACs [millions]": f"{figures['macs'] / 1e6:.0f}",
                "INT8 file [bytes]": f"{shipped_int8(name).stat().st_size:,}"
                if "int8 sha256" in entry
                else "not shipped",
                "FP32 [%]": with_interval(study.accuracy([run])),
                "INT8 [%]": with_interval(study.accuracy([run], "int8")),
                "AUC, FP32": f"{figures['accuracy']['fp32']['auc']:.3f}",
                "flips between quarter turns, INT8": f"{100 * np.mean(between):.0f} %",
                "INT8 identical at quarter turns": f"{100 * figures['int8_identical_under_quarter_turns']:.1f} %",
                "its kind over seeds, FP32 [%]": over_seeds(run, every),
            }
        )
    return markdown_table(rows)


def chosen_model() -> str:
    """Which of the INT8 models to take, in a sentence or two; the rule is :func:`equilib.study.chosen_model`'s."""
    models = study.shipped_models()
    name = study.chosen_model()
    right, area = (models[name].figures["accuracy"]["int8"][metric] for metric in ("accuracy", "auc"))
    own, *others = {models[name].figures["epochs"]: 0} | {run.figures["epochs"]: 0 for run in models.values()}
    epochs = f"; {own} epochs, the others {' or '.join(map(str, others))}" if others else ""
    seeds = study.siblings(study.shipped_runs("grid") + study.shipped_runs("evidence"), models[name])
    kind = f"{len(seeds)} seeds: {study_tables.points(study.accuracy(seeds, 'int8'))}" if len(seeds) > 1 else "one seed"
    return (
        f"{len(models)} INT8 models of networks trained on real patches come with the project, most with weights (`.pt`). "
        f"Take `results/{name}.onnx`, of the lowest validation loss ({100 * right:.1f} % of the test patches right, "
        f"AUC {area:.3f}, in INT8; {kind}{epochs}). The others, and the fastest: notebook 07, section 12."
    )


def with_interval(estimate: study.Estimate) -> str:
    """An accuracy of one run in percent, with its interval over test patches alone."""
    return f"{100 * estimate.mean:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def over_seeds(run: study.Run, every: Sequence[study.Run]) -> str:
    """The accuracy of all of ``every`` that differ in their seed alone: mean ± standard deviation, how many seeds."""
    group = study.siblings(every, run)
    return f"{study_tables.points(study.accuracy(group))}, {len(group)} seed{'s' * (len(group) != 1)}"


def tissue_table() -> str:
    """What the first training patches of the synthetic tissue measure, negative and positive ones."""
    patches = [draw_patch(0, "train", index) for index in range(DRAWN)]
    groups = {
        "negative": [patch for patch in patches if not patch.label],
        "positive": [patch for patch in patches if patch.label],
    }
    rows = {name: measured(group) for name, group in groups.items()}
    return markdown_table(
        [{"measure": key} | {name: row[key] for name, row in rows.items()} for key in next(iter(rows.values()))]
    )


def measured(patches) -> dict[str, str]:
    """Colours, tumour and spectrum of drawn patches, as text."""
    images = np.stack([patch.image for patch in patches]).astype(np.float64) / 255
    spectrum = power(images.mean(-1))
    outside = np.mean([patch.tumour.any() for patch in patches])
    colour = "/".join(f"{value:.2f}" for value in images.mean((0, 1, 2)))
    shown = " / ".join(f"{spectrum[frequency] / spectrum[FREQUENCIES[0]]:.2f}" for frequency in FREQUENCIES[1:])
    return {
        "patches": str(len(patches)),
        "mean colour, R/G/B, 0 to 1": colour,
        "patches with tumour anywhere": f"{outside:.0%}",
        "tumour pixels": f"{np.mean([patch.tumour.mean() for patch in patches]):.0%}",
        f"power at {' / '.join(map(str, FREQUENCIES[1:]))} cycles over that at {FREQUENCIES[0]}": shown,
    }


def power(grey: np.ndarray) -> dict[int, float]:
    """The mean power of pictures (N, size, size) about each of :data:`FREQUENCIES` (cycles per picture), all directions."""
    spectrum = (np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))) ** 2).mean(0)
    size = grey.shape[-1]
    cycles = np.fft.fftfreq(size, 1 / size)
    radius = np.hypot(cycles[:, None], cycles)
    return {about: spectrum[np.abs(radius - about) < max(0.6, 0.08 * about)].mean() for about in FREQUENCIES}


def slides_table() -> str:
    """The slides of each split, and the mean stains of either mode in all of them."""
    slides = {split: [draw_slide(0, split, number) for number in range(count)] for split, count in SPLITS.items()}
    every = [slide for group in slides.values() for slide in group]
    counts = markdown_table(
        [
            {"split": split, "slides": str(len(group))} | {f"mode {mode}": str(_of(group, mode)) for mode in "AB"}
            for split, group in slides.items()
        ]
    )
    stains = markdown_table(
        [
            {"mode": mode}
            | {
                f"{stain}, optical density R/G/B": "/".join(
                    f"{value:.2f}" for value in np.mean([s.stains[number] for s in every if s.mode == mode], axis=0)
                )
                for number, stain in enumerate(("haematoxylin", "eosin"))
            }
            for mode in "AB"
        ]
    )
    return f"{counts}\n\n{stains}"


def _of(slides: list[Slide], mode: str) -> int:
    return sum(slide.mode == mode for slide in slides)
