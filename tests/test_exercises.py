"""Self-checks of the exercises: they pass what is right, the folded solutions too, and say what is wrong."""

from functools import partial

import nbformat
import numpy as np
import pytest
import torch
from test_notebooks import SAVED

from equilib import exercises


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
            lambda f, g: f.unflatten(1, (-1, g)).mean((2, 3, 4)),
            lambda f, g: f.mean((1, 2, 3))[:, None].expand(-1, f.shape[1] // g) ** 2,
            lambda f, g: f.unflatten(1, (-1, g)).amax((0, 2, 3, 4)).expand(len(f), -1),
            lambda f, g: f.unflatten(1, (-1, 4)).amax((2, 3, 4)),
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
        [
            lambda a, x, w, y, z: round(a * x * w / y) + z,
            lambda a, x, w, y, z: min(max(round(a * x * w / y), 0), 255),
            lambda a, x, w, y, z: min(max(a * x * w / y + z, 0), 255),
            lambda a, x, w, y, z: min(max(int(a * x * w / y) + z, 0), 255),
        ],
    ),
    exercises.check_orbits: (
        lambda n: [[s + k * n // 4 for k in range(4)] for s in range(n // 4)],
        [lambda n: [list(range(n))], lambda n: [[s + k for k in range(4)] for s in range(0, n, 4)]],
    ),
}


def turned_field(field, r):
    return torch.rot90(field, r, (-2, -1)).unflatten(1, (-1, 4)).roll(r, 2).flatten(1, 2)


def commutes_at(turns, network, action, picture):
    field = network(picture)
    return all(torch.allclose(network(torch.rot90(picture, r, (-2, -1))), action(field, r), atol=1e-5) for r in turns)


commutes_always = partial(commutes_at, range(4))


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
            *(partial(commutes_at, turns) for turns in ([1], [2], [3], [1, 3], [1, 2])),
        ],
    ),
    exercises.check_field_norm: (
        normalized_fields,
        [
            lambda f, g: normalized_fields(f, 1),
            lambda f, g: normalized_fields(f, f.shape[1]),
            lambda f, g: f - f.mean(),
            lambda f, g: normalized_fields(f, g) / 2,
            lambda f, g: torch.nn.functional.group_norm(f, f.shape[1] // g),
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


@pytest.mark.parametrize(
    "check, answer",
    [
        (exercises.check_invariant, lambda f, g: f.unflatten(1, (-1, g)).amax((2, 3, 4))),
        (exercises.check_invariant, lambda f, g: f.unflatten(1, (-1, g)).square().mean((2, 3, 4))),
        (exercises.check_depthwise, lambda *given: phases(*given).real.flatten(0, 1)[:, None].float()),
        (exercises.check_eight_settings, np.array([1, 0, 1, 0, 1, 1, 0, 1])),
        (exercises.check_why_twelve, "b."),
        (exercises.check_crop, " C) "),
        (exercises.check_requantize, lambda a, x, w, y, z: np.clip(np.rint(a * x * w / y) + z, 0, 255)),
    ],
)
def test_other_right_answers_are_right(capsys, check, answer):
    assert check(answer), capsys.readouterr().out
