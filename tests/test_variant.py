"""A network's identity: labels and file names come from it, and none has to be read back."""

from itertools import product
from pathlib import Path

import pytest

from equilib import study
from equilib.mobilenet import MobileNetConfig
from equilib.results import results_files
from equilib.runs import ARCHITECTURES, TrainConfig
from equilib.variant import ANY_ANGLE, Variant

RESULTS = Path(__file__).parent.parent / "results"


def everything():
    """Variants of all networks that can be built."""
    for group, width, divisor in product(("C1", "C4", "C12", "D4"), (0.35, 1.0), (12, 24)):
        for depthwise, recipe in product(("strict", "grouped"), ("", ANY_ANGLE)):
            yield Variant("conventional", group, depthwise, recipe, width, divisor)
        for depthwise, limit in product(("strict", "fieldwise"), (True, False)):
            if limit or group != "C12":
                yield Variant("equivariant", group, depthwise, "", width, divisor, limit)
                yield Variant("equivariant", group, depthwise, "", width, divisor, limit, antialias=True)
    for group, growth, limit in product(("C4", "D4"), (24, 64), (True, False)):
        for recipe in ("", ANY_ANGLE):
            yield Variant.densenet("conventional", growth, group, recipe=recipe, band_limit=limit)
        yield Variant.densenet("equivariant", growth, group, band_limit=limit)


def test_different_variants_have_different_file_names():
    variants = list(everything())
    assert len({variant.slug for variant in variants}) == len(set(variants)) == len(variants)


def test_labels_tell_networks_of_one_width_and_rounding_apart():
    """Tables have columns for these two.  A conventional network with strict layers is the same whatever group it names."""
    cell = [variant for variant in everything() if (variant.width, variant.divisor) == (0.35, 24)]
    cell = [variant for variant in cell if not variant.conventional or variant.depthwise != "strict"]
    assert len({variant.label for variant in cell}) == len(cell)


def test_a_configuration_gives_the_variant_back():
    for variant in everything():
        turned = 1.0 if variant.recipe or not variant.conventional else 0.0
        network = ARCHITECTURES[variant.family](**variant.architecture)
        config = TrainConfig(variant.kind, network, any_angle=turned)
        assert Variant.of(config.to_dict()) == variant
    with pytest.raises(KeyError, match="divisor"):
        Variant.of({"kind": "equivariant", "network": {"group": "C4", "depthwise": "strict", "width": 1.0}})


def test_two_names_of_one_conventional_network_are_one_variant():
    """It filters channel by channel, whichever form the equivariant one beside it has."""
    variants = {
        Variant.of(TrainConfig("conventional", MobileNetConfig(width=0.35, group="C4", depthwise=form)).to_dict())
        for form in ("strict", "fieldwise")
    }
    assert variants == {Variant("conventional", divisor=4)}


@pytest.mark.parametrize("folder", ["grid", "ablation"])
def test_files_of_runs_are_named_by_their_variant(folder):
    for path in results_files(RESULTS / folder):
        run = study.read_run(path)
        assert path.stem == f"{run.variant.slug}_{run.patches}_seed{run.seed}"


@pytest.mark.parametrize(
    "variant, label, slug",
    [
        (Variant("conventional"), "conventional", "conventional_w0.35"),
        (Variant("equivariant", "C12", width=1.0), "C12", "C12_w1"),
        (Variant("equivariant", "C4", "fieldwise", divisor=24), "C4, field-wise", "C4_fieldwise_w0.35_m24"),
        (Variant("conventional", "C12", "grouped"), "conventional, grouped as C12", "conventional_grouped_C12_w0.35"),
        (Variant("conventional", recipe=ANY_ANGLE), "conventional, any angle", "conventional_any_angle_w0.35"),
        (Variant.densenet("equivariant", 64), "D4 DenseNet, growth 64", "D4_densenet_g64"),
        (
            Variant.densenet("conventional", 24, recipe=ANY_ANGLE),
            "conventional DenseNet, growth 24, any angle",
            "conventional_any_angle_densenet_g24",
        ),
    ],
)
def test_names(variant, label, slug):
    assert (variant.label, variant.slug) == (label, slug)


@pytest.mark.parametrize("wrong", [{"kind": "plain"}, {"depthwise": "dense"}, {"recipe": "none"}, {"family": "resnet"}])
def test_variants_that_are_none(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be one of"):
        Variant(**{"kind": "equivariant"} | wrong)


def test_only_what_shares_its_filters_over_rotations_is_symmetric():
    alone = {"equivariant": {"C1"}, "conventional": {"C1", "C4", "C12", "D4"}}
    for variant in everything():
        assert variant.symmetric == (variant.group not in alone[variant.kind])
