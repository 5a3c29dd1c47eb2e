"""Self-checks of notebook 01."""

from __future__ import annotations

import torch

from equilib.exercises.check import Hint, answered, self_check
from equilib.fields import rotate_field


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@self_check
def check_action(answer) -> str:
    """A function (field (B, F * 4, n, n), r) to the field turned by r quarter turns, regular fields of C4."""
    field = _random(2, 12, 6, 6)
    for r in (1, 3, 2):
        result = answered(answer(field.clone(), r))
        right = rotate_field(field, "C4", r)
        if not isinstance(result, torch.Tensor) or result.shape != right.shape:
            raise Hint(f"Return a tensor of the field's shape, {tuple(right.shape)}.")
        result = result.to(right)
        if torch.allclose(result, right):
            continue
        if torch.allclose(result, torch.rot90(field, r, (-2, -1))):
            raise Hint("The pixels move, the channels stay. Which channel answers to an edge that was turned?")
        if torch.allclose(result, torch.rot90(right, -r, (-2, -1))):
            raise Hint("The channels are shifted, the pixels stay where they were.")
        if torch.allclose(result, torch.rot90(field, r, (-2, -1)).roll(r, 1)):
            raise Hint(
                "There are three fields of four channels. Shift within each field, not over all twelve channels."
            )
        if torch.allclose(result, rotate_field(field, "C4", -r)):
            raise Hint("That is the inverse: positive r turns counter-clockwise and shifts channels upwards.")
        if torch.allclose(rotate_field(field, "C4", -r), torch.rot90(result, -2 * r, (-2, -1))):
            raise Hint("The pixels turn the right way, the channels shift the wrong way: torch.roll by +r.")
        raise Hint(
            f"For r = {r} the result is not the turned field. Turn the last two axes, shift the channels within a field."
        )
    return "Pixels turn, channels shift, each field by itself."


@self_check
def check_commutes(answer) -> str:
    """A function (network, action, picture) to True or False: does turning, then the network, equal the other way round?"""
    filters = _random(1, 1, 3, 3)
    bank = torch.stack([torch.rot90(filters[0], r, (-2, -1)) for r in range(4)])

    def network(x):
        return torch.nn.functional.conv2d(x, bank).relu()

    def wrong_at(turns):
        return lambda field, r: rotate_field(field, "C4", r) if r != turns else field

    picture = _random(1, 1, 9, 9)
    suspects = {
        "the right action": (lambda f, r: rotate_field(f, "C4", r), True),
        "an action that turns pixels but not channels": (lambda f, r: torch.rot90(f, r, (-2, -1)), False),
        "an action that shifts channels but turns no pixels": (lambda f, r: f.roll(r, 1), False),
        **{f"an action that is wrong for {90 * r}° only": (wrong_at(r), False) for r in (3, 2, 1)},
    }
    for words, (action, right) in suspects.items():
        given = answered(answer(network, action, picture))
        if bool(given) is not right:
            raise Hint(
                f"For {words} you say {bool(given)}. Compare network(turned picture) with action(network(picture), r) for all r."
            )
    return "Your test finds an error that the group's own laws cannot: turning pixels alone composes perfectly well."


@self_check
def check_field_norm(answer) -> str:
    """A function (field (B, F * order, n, n), order) to the fields normalized by one mean and one variance each."""

    def by_groups(x, size):
        values = x.unflatten(1, (-1, size))
        variance, mean = torch.var_mean(values, (0, 2, 3, 4), correction=0, keepdim=True)
        return ((values - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)

    for order in (4, 12):
        channels = 3 * order
        spread = torch.linspace(0.5, 2, channels)[:, None, None]
        field = spread * _random(4, channels, 5, 5) + 3 * spread
        result = answered(answer(field.clone(), order))
        right = by_groups(field, order)
        if not isinstance(result, torch.Tensor) or result.shape != right.shape:
            raise Hint(f"Return a tensor of the field's shape, {tuple(right.shape)}.")
        result = result.to(right)
        if torch.allclose(result, right, atol=1e-2):  # with n or n - 1 in the variance, no matter here
            continue
        if torch.allclose(result, by_groups(field, 1), atol=1e-2):
            raise Hint("Each channel is normalized by itself. The channels of a field must share mean and variance.")
        if torch.allclose(result, by_groups(field, channels), atol=1e-2):
            raise Hint("All fields share one mean and one variance. Each field has its own.")
        means = result.unflatten(1, (-1, order)).mean((2, 3, 4))
        if means.abs().max() < 1e-3:
            raise Hint("Each picture is normalized by itself. The pictures of a batch share one mean and one variance.")
        means = means.mean(0)
        if means.abs().max() > 1e-3:
            raise Hint(f"The mean of the first field is {means[0]:.2f}; it must be 0.")
        raise Hint("The means are right, the spreads are not: divide by the root of variance + 1e-5, per field.")
    return "One mean and one variance a field, over the batch, the pixels and the field's channels."
