"""The notebooks as they are saved, their widgets over the whole range, and the checker itself."""

import copy
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from equilib import exercises, figures, widgets
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
    assert links and all((FOLDER / link.split("#")[0]).exists() for link in links)


def _spoil(change):
    notebook = nbformat.read(SAVED[0], as_version=4)
    change(notebook, [c for c in notebook.cells if c.cell_type == "code"])
    return notebook


def output(**fields):
    return nbformat.v4.new_output(**fields)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda nb, code: nb.metadata.update(widgets={}), "stale widget state"),
        (lambda nb, code: nb.metadata.pop("kernelspec"), "kernelspec"),
        (lambda nb, code: code[3].update(execution_count=99), "execution counts"),
        (
            lambda nb, code: code[2].outputs.append(output(output_type="stream", name="stderr", text="Warning")),
            "stderr",
        ),
        (
            lambda nb, code: code[2].outputs.append(output(output_type="error", ename="E", evalue="", traceback=[])),
            "ended with E",
        ),
        (
            lambda nb, code: code[2].outputs.append(output(output_type="stream", name="stdout", text="/home/me/x")),
            "local path",
        ),
        (lambda nb, code: nb.cells.pop(0), "no section 'Objective'"),
    ],
)
def test_the_checker_finds_each_defect(change, words):
    assert any(words in problem for problem in problems(_spoil(change)))


def test_cleaning_keeps_the_picture_and_drops_the_view():
    notebook = nbformat.v4.new_notebook(
        metadata={"widgets": {"x": 1}, "kernelspec": {"name": "other", "display_name": "Other"}}
    )
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
    from equilib import dfq
    from equilib.mobilenet import exported
    from equilib.training import shipped_network

    names = {"conventional": "synthetic_conventional_C4_w0.35", "equivariant": "synthetic_equivariant_C4_w0.35"}
    return {kind: dfq.fold_batch_norm(exported(shipped_network(name))) for kind, name in names.items()}


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


def test_the_bit_width_widget_says_what_it_counts():
    shares = {kind: {(b, b): 0.5 for b in (4, 8)} | {(4, 8): 0.5, (8, 4): 0.5} for kind in two_models()}
    explorer = widgets.bit_widths(shares, {}, quantity="patches with the class of FP32")
    assert explorer.description.startswith("Patches with the class of FP32 against the bits")


def test_bars_stand_at_their_step_where_a_network_lacks_one():
    figure = figures.bars(
        {"conventional": {"FP32": 80, "naive": 60}, "equivariant": {"naive": 83}}, title="t", label="l"
    )
    (ax,) = figure.axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["FP32", "naive"]
    middles = {round(bar.get_height()): bar.get_x() + bar.get_width() / 2 for bar in ax.patches}
    assert {height: round(middle) for height, middle in middles.items()} == {80: 0, 60: 1, 83: 1}


def test_the_hash_widget_tells_identical_from_different():
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    explorer = widgets.hashed_answers(images, two_models(), size=95)
    pictures = {moved(explorer, patch=p, degrees=d) for p in range(2) for d in (0, 90, 180, 270)}
    assert len(pictures) == 8


def live_widgets():
    """The sliders of notebooks 01 to 03, small ones."""
    from equilib.fields import tissue_photograph
    from equilib.filters import atoms

    chosen = atoms(5)
    coefficients = torch.randn(len(chosen), dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    return {
        "turning_field": lambda: widgets.turning_field(
            tissue_photograph(33), widgets.one_layer_networks("C4", 5), "C4"
        ),
        "steered_filter": lambda: widgets.steered_filter(chosen, coefficients, 5),
        "cutoff_errors": lambda: widgets.cutoff_errors("C12", 3),
        "aliases": lambda: widgets.aliases(3),
        "sampling": lambda: widgets.sampling(largest=9),
        "plan": lambda: widgets.plan(smallest=94, largest=98),
    }


@pytest.mark.parametrize("name", live_widgets())
def test_live_widgets_over_their_whole_range(name):
    """Every setting draws, and what is drawn depends on the setting alone, not on what was drawn before."""
    from itertools import product

    explorer = live_widgets()[name]()
    controls = explorer.controls
    ranges = [np.arange(c.min, c.max + c.step / 2, c.step).tolist() for c in controls.values()]
    start = bytes(explorer.picture.value)
    pictures = {}
    for values in product(*ranges):
        values = [type(control.value)(value) for control, value in zip(controls.values(), values)]
        pictures[tuple(values)] = moved(explorer, **dict(zip(controls, values)))
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    # 0 and 360 degrees show the same picture under another heading; paddings beyond the kernel are cut.
    assert len(set(pictures.values())) == len(pictures)
    shown = explorer.frames()
    assert len(shown["pictures"]) == np.prod([len(axis["labels"]) for axis in shown["axes"]])
    assert explorer.shown or len(shown["pictures"]) == len(pictures)
    assert len(set(shown["pictures"])) == len(shown["pictures"])
    assert set(shown["pictures"]) <= set(pictures.values()), "pages without a kernel show the same pictures"
    fresh = live_widgets()[name]()
    assert bytes(fresh.picture.value) == start
    last = list(pictures)[-1]
    assert moved(fresh, **dict(zip(controls, last))) == pictures[last]
    assert fresh._repr_mimebundle_()[0]["image/png"] and len(fresh.description) > 30 and "{" not in fresh.description


def test_the_turning_widget_measures_what_it_shows():
    from equilib.fields import tissue_photograph

    explorer = widgets.turning_field(tissue_photograph(33), widgets.one_layer_networks("C4", 5), "C4")
    seen = {}
    original = explorer.draw

    def spy(degrees):
        live = original(degrees)
        seen[degrees] = [
            text.get_text() for ax in live.figure.axes for text in ax.texts if text.get_text().startswith("error")
        ]
        return live

    explorer.draw = spy
    for degrees in (180.0, 270.0, 90.0):
        explorer.controls["degrees"].value = degrees
        equivariant, plain = seen[degrees]
        assert float(equivariant.split()[-1]) < 1e-5 and float(plain.split()[-1]) > 0.1


# --- exercises ---


def raises(*arguments):
    raise RuntimeError("an answer's own error; everywhere else an exception would be the check's")


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
            raises,
        ],
    ),
}


ANSWERS |= {
    exercises.check_equalizing_scale: (
        lambda r1, r2: (r1 / r2) ** 0.5,
        [lambda r1, r2: (r2 / r1) ** 0.5, lambda r1, r2: r1 / r2, lambda r1, r2: -((r1 / r2) ** 0.5), raises],
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


def turned_field(field, r):
    return torch.rot90(field, r, (-2, -1)).unflatten(1, (-1, 4)).roll(r, 2).flatten(1, 2)


def commutes_always(network, action, picture):
    field = network(picture)
    return all(
        torch.allclose(network(torch.rot90(picture, r, (-2, -1))), action(field, r), atol=1e-5) for r in range(4)
    )


def phases(samples, frequencies, coefficients, order, sign=-1):
    angles = 2 * np.pi * torch.arange(order, dtype=torch.float64) / order
    turned = torch.exp(sign * 1j * frequencies * angles[:, None])
    return torch.einsum("fa,ra,ahw->frhw", coefficients, turned, samples)


def normalized_fields(field, order):
    values = field.unflatten(1, (-1, order))
    mean, std = (statistic((0, 2, 3, 4), keepdim=True) for statistic in (values.mean, values.std))
    return ((values - mean) / std).flatten(1, 2)


ANSWERS |= {
    exercises.check_action: (
        turned_field,
        [
            lambda f, r: torch.rot90(f, r, (-2, -1)),
            lambda f, r: torch.rot90(f, r, (-2, -1)).roll(r, 1),
            lambda f, r: f.unflatten(1, (-1, 4)).roll(r, 2).flatten(1, 2),
            lambda f, r: turned_field(f, -r),
            lambda f, r: torch.rot90(f, r, (-2, -1)).unflatten(1, (-1, 4)).roll(-r, 2).flatten(1, 2),
            lambda f, r: f[:, :4],
        ],
    ),
    exercises.check_commutes: (
        commutes_always,
        [
            lambda n, a, p: True,
            lambda n, a, p: torch.allclose(a(a(n(p), 1), 1), a(n(p), 2)),
            lambda n, a, p: torch.allclose(n(torch.rot90(p, 1, (-2, -1))), a(n(p), 1), atol=1e-5),
        ],
    ),
    exercises.check_field_norm: (
        normalized_fields,
        [
            lambda f, g: normalized_fields(f, 1),
            lambda f, g: normalized_fields(f, f.shape[1]),
            lambda f, g: f - f.mean(),
            lambda f, g: normalized_fields(f, g) / 2,
            lambda f, g: f.unflatten(1, (-1, g)),
            raises,
        ],
    ),
    exercises.check_basis_size: (
        lambda limits: sum(1 + 2 * m for m in limits),
        [lambda ls: sum(m + 1 for m in ls), lambda ls: sum(2 * m for m in ls), lambda ls: (2 * len(ls) - 1) ** 2],
    ),
    exercises.check_alias: (
        lambda m, points: m - points,
        [lambda m, p: m, lambda m, p: p - m, lambda m, p: m + 1],
    ),
    exercises.check_depthwise: (
        lambda *given: phases(*given).real.flatten(0, 1)[:, None],
        [
            lambda *given: phases(*given, sign=1).real.flatten(0, 1)[:, None],
            lambda *given: phases(*given).flatten(0, 1)[:, None],
            lambda *given: phases(*given).real.transpose(0, 1).flatten(0, 1)[:, None],
            lambda s, f, c, n: phases(s, 0 * f, c, n).real.flatten(0, 1)[:, None],
            lambda *given: phases(*given).real,
        ],
    ),
    exercises.check_why_twelve: ("b", ["a", "c", "d", "because"]),
    exercises.check_eight_settings: (
        [True, False, True, False, True, True, False, True],
        [[True] * 8, [True, False], [size % 2 == 1 for size, _ in exercises.SETTINGS]],
    ),
    exercises.check_resnet_stem: ((97, 3, 1), [(96, 3, 1), (95, 3, 1), (33, 3, 1), (97, 9, 1), (97, 3), (97.5, 3, 1)]),
    exercises.check_five_stages: ([65, 97, 129], [[96, 128], [97], [97, 161], list(range(61, 141, 2))]),
    exercises.check_one_sided: (
        lambda n, k, s, before, after: (n + before + after - (k - 1) - 1) % s == after - before,
        [
            lambda n, k, s, b, a: (n + b + a - (k - 1) - 1) % s == 0,
            lambda n, k, s, b, a: (n + 2 * b - (k - 1) - 1) % s == 0,
            lambda n, k, s, b, a: (n + b + a - (k - 1) - 1) % s == b - a,
        ],
    ),
    exercises.check_crop: ("c", ["a", "b", "d", "C or so"]),
}


def copies(kernels, sign=1):
    return torch.stack([torch.rot90(kernels, sign * r, (-2, -1)) for r in range(4)], 1).flatten(0, 1)


def statistics(field, size=4):
    values = field.unflatten(1, (-1, size))
    return values.mean((0, 2, 3, 4)), values.var((0, 2, 3, 4))


def plain_norm(*numbers, repeated=lambda number: number.repeat_interleave(4)):
    norm = torch.nn.BatchNorm2d(4 * len(numbers[0]))
    mean, variance, gamma, beta = map(repeated, numbers)
    norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data = mean, variance, gamma, beta
    return norm.eval()


ANSWERS |= {
    exercises.check_turned_copies: (
        copies,
        [
            lambda kernels: copies(kernels, -1),
            lambda kernels: copies(kernels).unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1),
            lambda kernels: kernels.repeat_interleave(4, 0),
            lambda kernels: copies(kernels).detach(),
            lambda kernels: kernels,
            lambda kernels: copies(kernels.transpose(-2, -1)),
            raises,
        ],
    ),
    exercises.check_field_statistics: (
        statistics,
        [
            lambda field: statistics(field, 1),
            lambda field: statistics(field, field.shape[1]),
            lambda field: statistics(field)[0],
            lambda field: (statistics(field)[0], statistics(field)[1].sqrt()),
            lambda field: (statistics(field)[0], statistics(field, 1)[1].unflatten(0, (-1, 4)).mean(1)),
            lambda field: (0 * statistics(field)[0], statistics(field)[1]),
            lambda field: statistics(field.detach()),
        ],
    ),
    exercises.check_plain_norm: (
        plain_norm,
        [
            lambda *numbers: plain_norm(*numbers, repeated=lambda number: number.repeat(4)),
            lambda *numbers: plain_norm(*numbers).train(),
            lambda *numbers: plain_norm(numbers[0], numbers[1].sqrt(), *numbers[2:]),
            lambda *numbers: torch.nn.BatchNorm2d(3).eval(),
            lambda *numbers: torch.nn.Identity(),
        ],
    ),
}


def standard_error(first, second, ddof=1):
    return sum(np.var(side, ddof=ddof) / len(side) for side in (first, second)) ** 0.5


def welch_interval(first, second, quantile, freedom=None):
    parts = [np.var(side, ddof=1) / len(side) for side in (first, second)]
    freedom = freedom or sum(parts) ** 2 / sum(p**2 / (len(s) - 1) for p, s in zip(parts, (first, second)))
    middle, reach = np.mean(first) - np.mean(second), quantile(freedom) * sum(parts) ** 0.5
    return middle - reach, middle + reach


def plan_verdict(test, confirmation):
    if test[1] < 0 or confirmation[1] < 0:
        return "no"
    return "yes" if test[0] > 0 and confirmation[0] > 0 else "not shown"


ANSWERS |= {
    exercises.check_standard_error: (
        standard_error,
        [
            lambda a, b: standard_error(a, b, 0),
            lambda a, b: standard_error(a, a) / 2**0.5 + standard_error(b, b) / 2**0.5,
            lambda a, b: standard_error(a, b) ** 2,
            raises,
        ],
    ),
    exercises.check_welch_interval: (
        welch_interval,
        [
            lambda a, b, q: welch_interval(a, b, lambda freedom: 1.96),
            lambda a, b, q: welch_interval(a, b, q, len(a) + len(b) - 2),
            lambda a, b, q: welch_interval(b, a, q),
            lambda a, b, q: welch_interval(a, b, q)[::-1],
        ],
    ),
    exercises.check_verdict: (
        plan_verdict,
        [
            lambda t, c: "yes" if t[0] > 0 else "not shown",
            lambda t, c: "yes" if t[0] > 0 and c[0] > 0 else "no",
            lambda t, c: "no" if t[1] < 0 and c[1] < 0 else plan_verdict(t, (abs(c[0]), abs(c[1]))),
            lambda t, c: "perhaps",
        ],
    ),
}


@pytest.mark.parametrize("check", ANSWERS, ids=lambda check: check.__name__)
def test_self_checks(check, capsys):
    right, wrong = ANSWERS[check]
    assert check(right) and "✅" in capsys.readouterr().out
    assert len(wrong) >= 3 or check in (exercises.check_int8_size, exercises.check_requantize, exercises.check_orbits)
    for answer in wrong:
        assert not check(answer)
        out = capsys.readouterr().out
        assert "❌" in out and ("Your answer raised" in out) == (answer is raises), out
    if isinstance(right, (list, tuple)):  # the placeholder of the notebook, inside a list
        assert not check(type(right)([...] * len(right)))
        assert "✏️" in capsys.readouterr().out
    for nothing in (None, ..., lambda *arguments: ...)[: 3 if callable(right) else 2]:
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
