"""Shipped files against the answers that their records keep."""

import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
import records  # noqa: E402

from equilib import live, marks, study  # noqa: E402
from equilib.pcam import split_path  # noqa: E402
from equilib.results import markdown_table, read_results  # noqa: E402


def test_the_readme_shows_the_saved_figures():
    saved = read_results(records.SAVED)["machines"]
    assert marks.shown("records", records.README) == markdown_table(records.rows(saved))
    networks = [set(one["networks"]) for one in saved]
    shipped = set(study.shipped_models())
    assert shipped in networks, "one processor at least has answered with all"
    assert all(answered <= shipped for answered in networks), "a network that ships no longer has no row"


@pytest.fixture
def first_patches(tmp_path):
    """The twelve test patches that come with the project, the first of the records, as a test split; and their labels."""
    labels = next(iter(study.shipped_models().values())).figures["per_patch"]["label"][:12]
    left = {0: iter(range(1, 7)), 1: iter(range(1, 7))}
    paths = [live.PAGE / "patches" / f"{('no-tumour', 'tumour')[one]}-{next(left[one])}.png" for one in labels]
    with h5py.File(split_path(tmp_path, "test", "x"), "w") as file:
        file["x"] = np.stack([np.asarray(Image.open(path)) for path in paths])
    with h5py.File(split_path(tmp_path, "test", "y"), "w") as file:
        file["y"] = np.array(labels, np.uint8).reshape(-1, 1, 1, 1)
    return tmp_path


def test_the_records_are_compared_patch_by_patch(first_patches, monkeypatch):
    name = "pcam_C4_strict_20000_epochs6_seed0"
    found = records.answers(name, first_patches)
    assert found["patches"] == 12 and found["identical"] == 1
    plain = records.answers("pcam_conventional_w0.35_20000_seed0", first_patches)
    assert plain["identical"] < 1
    run = study.shipped_run(name)
    moved = [answer + 1 for answer in run.figures["per_patch"]["int8"]]
    other = replace(run, figures=run.figures | {"per_patch": run.figures["per_patch"] | {"int8": moved}})
    monkeypatch.setattr(records.study, "shipped_run", lambda name: other)
    assert records.answers(name, first_patches)["difference"] == pytest.approx(1, abs=0.1)
    machine = {"processor": "a processor", "instructions": "AVX2"}
    saved = [
        {
            "environment": machine,
            "networks": {name: found | {"difference": 4e-5}, "other": found | {"difference": 0.02}},
        }
    ]
    first, second = records.rows(saved)
    assert first["answers"] == "those of the record" and second["answers"] == "off by 0.02"
    assert first["processor"] == "a processor, AVX2" and first["same bits under four turns"] == "100.0 %"


def test_patches_of_another_record_are_refused(first_patches):
    with h5py.File(split_path(first_patches, "test", "y"), "r+") as file:
        file["y"][:] = 1 - file["y"][:]
    with pytest.raises(ValueError, match="holds other test patches than the record of .*: their labels differ"):
        records.answers(next(iter(study.shipped_models())), first_patches)
