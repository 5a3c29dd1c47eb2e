"""Sliders of notebook 05: ranges, scales and bits."""

from __future__ import annotations

import ipywidgets
import numpy as np
import torch

from equilib import dfq, figures, int8
from equilib.equivariance import relative_difference, run_model
from equilib.pcam import input_range
from equilib.plain import facts
from equilib.widgets.explorer import Explorer


def equalized_ranges(before, after, *, block: str = "block4") -> Explorer:
    """Pick a block and see the ranges of its layers before and after equalization.

    Args:
        before, after: folded networks (:func:`equilib.dfq.fold_batch_norm`, :func:`equilib.dfq.equalize`).
        block: the teaching default.
    """
    layers: dict[str, list[str]] = {}
    for name, _ in before.named_modules():
        if name.endswith(".conv") and "block" in name:
            layers.setdefault(name.split(".")[1], []).append(name)

    def draw(block: str):
        names = [name for name in layers[block] if not name.endswith("project.conv")]
        ranges = [[dfq.ranges_by_output(net.get_submodule(name)).numpy() for name in names] for net in (before, after)]
        size = facts(before.get_submodule(names[0])).field_size
        return figures.channel_ranges([name.split(".", 1)[1] for name in names], *ranges, size)

    return Explorer(
        draw,
        {"block": ipywidgets.Dropdown(options=list(layers), value=block, description="block")},
        description="The largest weight of each channel in {block}, before and after equalization",
    )


def blended_scales(folded, images, *, layer: str, share: float = 0.0) -> Explorer:
    """Blend between the original scales (0) and the equalized ones (1): weights on their grid, and the output's error.

    Args:
        folded: a folded network.
        images: (B, 3, n, n), normalised; few, since the network runs at each step of the slider.
        layer: whose weights are shown.
        share: the teaching default.
    """
    _, report = dfq.equalize(folded)
    reference = run_model(folded, images)
    ranges = dfq.ranges_by_output(folded.get_submodule(layer))
    weakest = int(torch.where(ranges > 0, ranges, torch.inf).argmin())
    seen = {}

    def at(share):
        if share not in seen:
            blended = dfq.rescale(folded, {pair: scale**share for pair, scale in report.scales.items()})
            error = relative_difference(reference, run_model(int8.quantize(blended, input_range()), images))
            weight = blended.get_submodule(layer).weight.detach()
            seen[share] = (weight, error, relative_difference(reference, run_model(blended, images)))
        return seen[share]

    def draw(share: float):
        weight, error, real = at(round(share, 2))
        note = f"change of the logits, in standard deviations: FP32 {real:.0e}, INT8 {error:.3f}"
        return figures.weights_on_grid(
            weight.numpy(),
            weight.abs().max().item() / 127,
            weight[weakest].flatten().numpy(),
            title=f"{layer.removeprefix('features.')}, {100 * share:.0f} % of the way to equalized scales",
            note=note,
        )

    slider = ipywidgets.FloatSlider(share, min=0, max=1, step=0.1, description="equalized", continuous_update=False)
    return Explorer(
        draw, {"share": slider}, description=f"Weights of {layer} on the INT8 grid, equalized to a share of {{share:g}}"
    )


def deequalized(folded, images, *, spread: float = 2.0, largest: float = 4.0, step: float = 0.5) -> Explorer:
    """Spoil the ranges by random scales: FP32 does not notice, INT8 falls apart, equalization repairs it.

    Each channel has its scale; of an equivariant network each field, whose channels must stay copies of each other.

    Args:
        folded: a folded network.
        images: (B, 3, n, n), normalised; few.
        spread: the teaching default: standard deviation of the logarithm (base 2) of the scales.
        largest, step: of the slider.
    """
    generator = torch.Generator().manual_seed(0)
    first = {pair: folded.get_submodule(pair.first) for pair in dfq.find_pairs(folded) if not pair.through_maximum}
    sizes = {pair: facts(layer).field_size or 1 for pair, layer in first.items()}
    exponents = {
        pair: torch.randn(len(first[pair].weight) // size, generator=generator).repeat_interleave(size)
        for pair, size in sizes.items()
    }
    unit = "field" if max(sizes.values(), default=1) > 1 else "channel"
    reference = run_model(folded, images)
    spreads = [float(value) for value in np.arange(0, largest + step / 2, step)]

    def change(network):
        return max(relative_difference(reference, run_model(network, images)), 1e-8)

    curves: dict[str, list[float]] = {"FP32": [], "INT8": [], "INT8, equalized again": []}
    for value in spreads:
        spoiled = dfq.rescale(folded, {pair: 2 ** (value * exponent) for pair, exponent in exponents.items()})
        curves["FP32"].append(change(spoiled))
        curves["INT8"].append(change(int8.quantize(spoiled, input_range())))
        curves["INT8, equalized again"].append(change(int8.quantize(dfq.equalize(spoiled)[0], input_range())))

    def draw(spread: float):
        values = ", ".join(f"{name} {row[spreads.index(spread)]:.1e}" for name, row in curves.items())
        return figures.curves(
            spreads,
            curves,
            title=f"Logits change by: {values}",
            xlabel="spread of the scales [factors of 2, standard deviation]",
            ylabel="change of logits / std",
            marked=spread,
            log=True,
        )

    slider = ipywidgets.SelectionSlider(options=spreads, value=spread, description="spoil")
    return Explorer(
        draw,
        {"spread": slider},
        description=f"Change of the logits against the spread of random {unit} scales",
    )


def bit_widths(
    accuracies, fp32, *, weight_bits: int = 4, activation_bits: int = 8, quantity: str = "accuracy"
) -> Explorer:
    """Accuracy against the bits of the weights, for chosen bits of the activations.

    Args:
        accuracies: from :func:`equilib.deploy.bit_width_accuracies`.
        fp32: for each network, its accuracy in FP32; empty where the shares are counted against FP32's own answers.
        weight_bits, activation_bits: the teaching default.
        quantity: what the shares are, in words.
    """
    bits = sorted({pair[0] for pair in next(iter(accuracies.values()))})

    def draw(weight_bits: int, activation_bits: int):
        rows = {kind: [100 * row[bit, activation_bits] for bit in bits] for kind, row in accuracies.items()}
        now = ", ".join(f"{kind} {100 * row[weight_bits, activation_bits]:.0f} %" for kind, row in accuracies.items())
        return figures.curves(
            bits,
            rows,
            title=f"{weight_bits}-bit weights, {activation_bits}-bit activations: {now}",
            xlabel="bits of the weights",
            ylabel=f"{quantity} [%]",
            marked=weight_bits,
            references={f"{k}, FP32": 100 * v for k, v in fp32.items()},
        )

    return Explorer(
        draw,
        {
            "weight_bits": ipywidgets.SelectionSlider(options=bits, value=weight_bits, description="weights"),
            "activation_bits": ipywidgets.SelectionSlider(
                options=bits, value=activation_bits, description="activations"
            ),
        },
        description=f"{quantity[0].upper()}{quantity[1:]} against the bits of the weights, with {{activation_bits}}-bit activations",
    )
