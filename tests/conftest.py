import pytest
import torch

from equilib.live.measure import served  # noqa: F401 (for the tests of pages)

# Files that take longest: first, so that none of them runs alone at the end (the target `test` hands out whole files in
# this order).  What each took stands at the end of `make test`.
LONGEST_FIRST = [
    "05_data_free_quantization",
    "04_equivariant_mobilenetv2",
    "test_site",
    "06_int8_on_device",
    "test_live",
    "test_training",
    "test_widgets",
    "test_browser",
    "test_dfq",
    "test_device",
    "test_benchmarks",
    "test_experiment",
    "test_layouts",
    "test_deploy",
    "test_mobilenet",
    "test_package",
    "test_exercises",
    "test_files_and_simulation",
    "test_mutation",
    "test_results",
    "test_synthetic",
    "test_whole_way",
    "test_progress",
    "test_course",
    "test_densenet_int8",
]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tissue():
    """Random images with structure at every scale, (8, 3, 95, 95): enough to excite all filters."""
    generator = torch.Generator().manual_seed(1)
    images = torch.zeros(8, 3, 95, 95)
    for size in (6, 12, 24, 48, 95):
        noise = torch.randn(8, 3, size, size, generator=generator)
        images += torch.nn.functional.interpolate(noise, size=(95, 95), mode="bilinear")
    return images / images.std()


@pytest.fixture
def shallow(monkeypatch):
    """Networks of fewer blocks, of every kind one or two, with their residual sums: a half of the layers to export."""
    from equilib import architecture

    rows = enumerate(architecture.BLOCKS)
    blocks = tuple((expansion, channels, 1 + (row in (1, 2))) for row, (expansion, channels, _) in rows)
    monkeypatch.setattr(architecture, "BLOCKS", blocks)


def randomize(network, images):
    """Give a fresh network the statistics and affine parameters of a trained one: nothing is left at 0 or 1."""
    from equilib.mobilenet import estimate_statistics

    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            if "classifier" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    return estimate_statistics(network, images)


@pytest.fixture(scope="session")
def small():
    from equilib.mobilenet import MobileNetConfig

    return MobileNetConfig(width=0.35, group="C4")


@pytest.fixture(scope="session", params=["conventional", "equivariant", "equivariant, group max"])
def network(request, tissue):
    """Plain networks as equalization gets them, in double precision."""
    from equilib.mobilenet import MobileNetConfig, build, exported

    torch.manual_seed(0)  # :func:`_seed` comes once for each test, this once for all
    pooling = "max" if "max" in request.param else "mean"
    config = MobileNetConfig(width=0.35, group="C4", group_pooling=pooling)
    return exported(randomize(build(request.param.split(",")[0], config), tissue)).double()
