"""Each widget over its whole range, without a browser."""

import numpy as np
import pytest
import torch

from equilib import figures, widgets


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
    explorer = widgets.blended_scales(folded["equivariant"], tissue[:2], layer="features.block4.depthwise.conv")
    assert len({moved(explorer, share=step / 10) for step in range(11)}) == 11


@pytest.mark.parametrize(("kind", "unit"), [("conventional", "channel"), ("equivariant", "field")])
def test_the_spoiling_widget_over_its_range(folded, tissue, kind, unit):
    """A field has one scale: others would leave no rotated copies, which INT8 ties."""
    explorer = widgets.deequalized(folded[kind], tissue[:2], spread=2.0, largest=4.0, step=2.0)
    pictures = {moved(explorer, spread=spread) for spread in (0.0, 2.0, 4.0)}
    assert len(pictures) == 3
    assert f"random {unit} scales" in explorer.description


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


def test_networks_of_any_name_can_be_drawn_and_told_apart():
    """Two trainings of one network, say: beside «conventional» and «equivariant», which keep their styles."""
    names = ("24 epochs", "6 epochs")
    bars = figures.bars({name: {"FP32": 80.0} for name in names}, title="t", label="l").axes[0].patches
    stages = figures.stage_errors({name: {"stem": 1e-3} for name in names}).axes[0].lines
    assert len({bar.get_facecolor() for bar in bars}) == len({bar.get_hatch() for bar in bars}) == 2
    assert len({line.get_color() for line in stages}) == len({line.get_marker() for line in stages}) == 2
    with pytest.raises(ValueError, match="at most 6 networks or curves"):
        figures.bars({str(number): {"FP32": 80.0} for number in range(7)}, title="t", label="l")


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
        "sampling": lambda: widgets.sampling(size=6, largest=7),
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
