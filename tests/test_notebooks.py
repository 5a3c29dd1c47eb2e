"""The notebooks as they are saved, their widgets over the whole range, and the checker itself."""

import copy
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from equilib import exercises, widgets
from equilib.notebooks import clean, problems

FOLDER = Path(__file__).parent.parent / "notebooks"
SAVED = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_saved_notebooks_have_no_defects(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert problems(notebook) == []


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_a_notebook_links_to_modules_that_exist(path):
    import re

    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", text)
    assert links and all((FOLDER / link).exists() for link in links)


def _spoil(change):
    notebook = nbformat.read(SAVED[0], as_version=4)
    change(notebook, [c for c in notebook.cells if c.cell_type == "code"])
    return notebook


def output(**fields):
    return nbformat.v4.new_output(**fields)


@pytest.mark.parametrize("change, words", [
    (lambda nb, code: nb.metadata.update(widgets={}), "stale widget state"),
    (lambda nb, code: nb.metadata.pop("kernelspec"), "kernelspec"),
    (lambda nb, code: code[3].update(execution_count=99), "execution counts"),
    (lambda nb, code: code[2].outputs.append(output(output_type="stream", name="stderr", text="Warning")), "stderr"),
    (lambda nb, code: code[2].outputs.append(output(output_type="error", ename="E", evalue="", traceback=[])), "ended with E"),
    (lambda nb, code: code[2].outputs.append(output(output_type="stream", name="stdout", text="/home/me/x")), "local path"),
    (lambda nb, code: nb.cells.pop(0), "no section 'Objective'"),
])
def test_the_checker_finds_each_defect(change, words):
    assert any(words in problem for problem in problems(_spoil(change)))


def test_cleaning_keeps_the_picture_and_drops_the_view():
    notebook = nbformat.v4.new_notebook(metadata={"widgets": {"x": 1}, "kernelspec": {"name": "other", "display_name": "Other"}})
    data = {"image/png": "abc", "application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "a patch"}
    notebook.cells = [nbformat.v4.new_code_cell("w", outputs=[output(output_type="display_data", data=data)])]
    cleaned = clean(copy.deepcopy(notebook))
    assert set(cleaned.cells[0].outputs[0].data) == {"image/png", "text/plain"}
    assert "widgets" not in cleaned.metadata and cleaned.metadata.kernelspec.name == "python3"


# --- widgets ---


def two_models():
    def biased(x):
        return torch.stack([x.mean((1, 2, 3)), x[..., :40].mean((1, 2, 3))], 1)

    def fair(x):
        return torch.stack([x.mean((1, 2, 3)), x.square().mean((1, 2, 3))], 1)

    return {"conventional": biased, "equivariant": fair}


def test_the_rotation_widget_over_its_whole_range():
    images = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    explorer = widgets.rotate_patch(images, np.array([0, 1, 0]), two_models(), size=95, angle_step=45)
    pictures = {bytes(explorer.picture.value)}
    for patch in range(3):
        explorer.controls["patch"].value = patch
        for degrees in range(0, 361, 45):
            explorer.controls["degrees"].value = degrees
            pictures.add(bytes(explorer.picture.value))
    assert len(pictures) == 3 * 9  # each setting is another picture, 0 and 360 differ by the line
    assert all(bytes(picture).startswith(b"\x89PNG") for picture in pictures)


def test_a_widget_carries_its_static_picture():
    images = np.zeros((1, 96, 96, 3), np.uint8)
    explorer = widgets.rotate_patch(images, np.array([0]), two_models(), size=95, angle_step=90)
    data, _ = explorer._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain", "application/vnd.jupyter.widget-view+json"}
    assert "rotated" in data["text/plain"]


@pytest.fixture(scope="module")
def folded():
    from equilib import dfq, experiment

    names = {"conventional": "synthetic_conventional_C4_w0.35", "equivariant": "synthetic_equivariant_C4_w0.35"}
    return {kind: dfq.fold_batch_norm(experiment.exported(experiment.shipped_network(name))) for kind, name in names.items()}


def moved(explorer, **values):
    """The picture after setting the controls."""
    for name, value in values.items():
        explorer.controls[name].value = value
    return bytes(explorer.picture.value)


def test_the_range_widget_over_all_blocks(folded):
    from equilib import dfq

    explorer = widgets.equalized_ranges(folded["equivariant"], dfq.equalize(folded["equivariant"])[0])
    blocks = explorer.controls["block"].options
    assert len(blocks) == 17
    assert len({moved(explorer, block=block) for block in blocks}) == 17


def test_the_blending_widget_over_its_range(folded, tissue):
    explorer = widgets.blended_scales(folded["equivariant"], tissue[:4], layer="features.block4.depthwise.conv")
    assert len({moved(explorer, share=step / 10) for step in range(11)}) == 11


def test_the_spoiling_widget_over_its_range(folded, tissue):
    explorer = widgets.deequalized(folded["conventional"], tissue[:4], spread=2.0, largest=4.0, step=2.0)
    pictures = {moved(explorer, spread=spread) for spread in (0.0, 2.0, 4.0)}
    assert len(pictures) == 3
    assert "random channel scales" in explorer.description


def test_the_bit_width_widget_over_its_range():
    bits = (2, 4, 8)
    accuracies = {kind: {(w, a): 0.5 + 0.01 * w + 0.001 * a for w in bits for a in bits} for kind in two_models()}
    explorer = widgets.bit_widths(accuracies, {kind: 0.9 for kind in accuracies}, weight_bits=4, activation_bits=8)
    pictures = {moved(explorer, weight_bits=w, activation_bits=a) for w in bits for a in bits}
    assert len(pictures) == 9


def test_the_hash_widget_tells_identical_from_different():
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    explorer = widgets.hashed_answers(images, two_models(), size=95)
    pictures = {moved(explorer, patch=p, degrees=d) for p in range(2) for d in (0, 90, 180, 270)}
    assert len(pictures) == 8


# --- exercises ---

ANSWERS = {
    exercises.check_input_sizes: ([95, 103], [[96], [95], [95, 103, 111], [97, 95, 103]]),
    exercises.check_pointwise_parameters: (
        lambda i, o, g: i * o // g,
        [lambda i, o, g: i * o, lambda i, o, g: i * o / g**2, lambda i, o, g: i * o // g + 1],
    ),
    exercises.check_invariant: (
        lambda f, g: f.unflatten(1, (-1, g)).amax(2).mean((-2, -1)),
        [
            lambda f, g: f.mean((-2, -1)),
            lambda f, g: f.unflatten(1, (-1, g))[:, :, 0].mean((-2, -1)),
            lambda f, g: torch.zeros(len(f), f.shape[1] // g),
            lambda f, g: f.no_such_method(),
        ],
    ),
}


ANSWERS |= {
    exercises.check_equalizing_scale: (
        lambda r1, r2: (r1 / r2) ** 0.5,
        [lambda r1, r2: (r2 / r1) ** 0.5, lambda r1, r2: r1 / r2, lambda r1, r2: -((r1 / r2) ** 0.5), lambda r1, r2: 1 / 0],
    ),
    exercises.check_absorbed: (
        lambda beta, gamma: max(0.0, beta - 3 * abs(gamma)),
        [lambda b, g: max(0.0, b - 3 * g), lambda b, g: b - 3 * abs(g), lambda b, g: max(0.0, b)],
    ),
    exercises.check_bias_shift: (
        lambda rounded, weight, mean: (rounded - weight) @ mean,
        [lambda r, w, m: (w - r) @ m, lambda r, w, m: r @ m, lambda r, w, m: ((r - w) @ m).sum()],
    ),
    exercises.check_int8_size: (lambda w, b: w + 4 * b, [lambda w, b: w + b, lambda w, b: 4 * (w + b)]),
    exercises.check_requantize: (
        lambda a, x, w, y, z: min(max(round(a * x * w / y) + z, 0), 255),
        [lambda a, x, w, y, z: round(a * x * w / y) + z, lambda a, x, w, y, z: min(max(round(a * x * w / y), 0), 255)],
    ),
    exercises.check_orbits: (
        lambda n: [[s + k * n // 4 for k in range(4)] for s in range(n // 4)],
        [lambda n: [list(range(n))], lambda n: [[s + k for k in range(4)] for s in range(0, n, 4)]],
    ),
}


@pytest.mark.parametrize("check", ANSWERS, ids=lambda check: check.__name__)
def test_self_checks(check, capsys):
    right, wrong = ANSWERS[check]
    assert check(right) and "✅" in capsys.readouterr().out
    for answer in wrong:
        assert not check(answer)
        assert "❌" in capsys.readouterr().out
    for nothing in (None, ..., lambda *arguments: ...)[: 2 if isinstance(right, list) else 3]:
        assert not check(nothing)
        assert "✏️" in capsys.readouterr().out


def solutions(path):
    """(self-check, its argument, folded solution) of every exercise in a notebook."""
    import re

    cells = nbformat.read(path, as_version=4).cells
    for before, cell in zip(cells, cells[1:]):
        folded = re.search(r"<details>.*?```python\n(.*?)```", cell.source, re.S)
        if cell.cell_type == "markdown" and folded:
            check, argument = re.search(r"(check_\w+)\((\w+)\)", before.source).groups()
            yield check, argument, folded[1]


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_folded_solutions_pass_their_self_checks(path, capsys):
    found = list(solutions(path))
    assert len(found) >= 3
    for check, argument, code in found:
        namespace = {}
        exec(code, namespace)
        assert getattr(exercises, check)(namespace[argument]), capsys.readouterr().out
