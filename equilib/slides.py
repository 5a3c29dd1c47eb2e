"""Which slide each patch of PCam comes from, and intervals that know of it.

Patches of one slide resemble each other, so an interval that draws patches one by one is too narrow.  PCam's metadata say
from which slide of Camelyon16 each patch was cut (README of basveeling/pcam, «Download»): one CSV file a split,
``camelyonpatch_level_2_split_{train,valid,test}_meta.csv``, a row a patch in the order of the patches, with the columns
``coord_y``, ``coord_x``, ``tumor_patch``, ``center_tumor_patch`` and ``wsi``, behind a running number without a name.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from equilib.bootstrap import area_under_curve, drawn_slides, interval, slide_areas, slide_means
from equilib.hdf5 import PatchFileError
from equilib.pcam import Patches, split_path

STAGES = ("fp32", "int8")
SLIDE, LABEL = "wsi", "center_tumor_patch"


def meta_path(root: str | Path, split: str) -> Path:
    """The path of the metadata of a split: ``split`` is train, valid or test."""
    return split_path(root, split, "meta").with_suffix(".csv")


def read_slides(root: str | Path, split: str) -> list[str]:
    """The slide of each patch of a split.

    Args:
        root: the folder of PCam's files, metadata and patches.

    Raises:
        PatchFileError: the metadata are missing or no table, lack a column, or are not those of these patches.
    """
    path = meta_path(root, split)
    if not path.is_file():
        raise PatchFileError(
            f"{path} is missing: put PCam's metadata beside its .h5 files; the README of basveeling/pcam says where they are"
        )
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise PatchFileError(f"{path} is no table in text form ({error}): copy PCam's metadata again") from error
    if lacking := [name for name in (LABEL, SLIDE) if name not in columns]:
        raise PatchFileError(
            f"{path} has no column {' and no column '.join(lacking)}; it has {', '.join(columns) or 'none'}"
        )
    labels = Patches(root, split).labels
    if len(rows) != len(labels):
        raise PatchFileError(
            f"{path} has {len(rows)} rows for {len(labels)} patches: it is incomplete or of another split"
        )
    empty = next((number for number, row in enumerate(rows) if not row[SLIDE]), None)
    if empty is not None:
        raise PatchFileError(f"{path} names no slide (column {SLIDE}) for patch {empty}: copy PCam's metadata again")
    # Rows in another order, or of another split, would give each patch a slide that is not its own.
    if [str(row[LABEL]).lower() in ("true", "1", "1.0") for row in rows] != [label == 1 for label in labels]:
        raise PatchFileError(f"{path} has other labels ({LABEL}) than the patches: it is of another split or order")
    if len(slides := [row[SLIDE] for row in rows]) and len(set(slides)) < 2:
        raise PatchFileError(
            f"{path} has all patches of one slide, {slides[0]!r} (column {SLIDE}): intervals by slide need two at least"
        )
    return slides


def by_slide(models: Mapping[str, Mapping], slides: Sequence[str]) -> dict:
    """Accuracy and area under the curve with intervals of 95 % from slides drawn anew, and what the models differ by.

    One training a model: the intervals know of other slides, and nothing of what another seed would give.

    Args:
        models: by name, ``per_patch`` of :func:`equilib.experiment.measure`: labels and logit differences.
        slides: of each patch (:func:`read_slides`).

    Returns:
        JSON-compatible: ``slides``, ``patches``, and under ``intervals`` for each model and stage, and for the second model
        minus the first, (value, low, high) of ``accuracy`` and ``auc``.

    Raises:
        ValueError: there are more or fewer patches than slides' names, or all are of one slide.
    """
    names, slide = np.unique(np.asarray(slides), return_inverse=True)
    drawn = drawn_slides(len(names))
    found = {
        name: {stage: _resampled(patches, stage, slide, drawn) for stage in STAGES} for name, patches in models.items()
    }
    if len(found) == 2:
        first, second = found
        found[f"{second} − {first}"] = {
            stage: {
                key: tuple(b - a for a, b in zip(found[first][stage][key], found[second][stage][key])) for key in KEYS
            }
            for stage in STAGES
        }
    intervals = {
        name: {
            stage: {key: (value, *interval(samples)) for key, (value, samples) in row.items()}
            for stage, row in rows.items()
        }
        for name, rows in found.items()
    }
    return {"slides": len(names), "patches": len(slide), "intervals": intervals}


KEYS = ("accuracy", "auc")


def _resampled(
    patches: Mapping, stage: str, slide: np.ndarray, drawn: np.ndarray
) -> dict[str, tuple[float, np.ndarray]]:
    """For each of KEYS its value and what it is in each resample of the slides."""
    scores, labels = np.asarray(patches[stage]), np.asarray(patches["label"])
    if len(scores) != len(slide):
        raise ValueError(
            f"{len(slide)} patches have their slide, but {len(scores)} an answer: they are of different splits"
        )
    right = (scores > 0) == (labels == 1)
    areas = slide_areas(scores, labels, slide, drawn)
    return {
        "accuracy": (float(right.mean()), slide_means(right, slide, drawn)),
        "auc": (area_under_curve(scores, labels), areas),
    }


def rows(found: Mapping) -> list[dict[str, str]]:
    """The intervals of :func:`by_slide` as a table: accuracies in percent, differences of them in points."""
    table = []
    for name, stages in found["intervals"].items():
        row = {"model": name}
        for stage, figures in stages.items():
            sign = "+" if " − " in name else ""
            for key, scale, form in (("accuracy", 100, ".1f"), ("auc", 1, ".3f")):
                value, low, high = (f"{scale * number:{sign}{form}}" for number in figures[key])
                row[f"{stage.upper()} {'AUC' if key == 'auc' else key}, by slide"] = f"{value} ({low} to {high})"
        table.append(row)
    return table
