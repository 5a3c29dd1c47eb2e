"""Networks written by hand, for laws of any network; and the comparison of two."""

from torch import nn

from equilib.equivariance import run_model


def same_function(a, b, images, tolerance=1e-12):
    expected, actual = run_model(a, images), run_model(b, images)
    assert (expected - actual).abs().max() <= tolerance * expected.abs().max()


class Written(nn.Module):
    """A network with a forward in words."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.words = forward

    def forward(self, x):
        return self.words(self, x)


def conv(inputs, outputs, kernel=1, **options):
    return nn.Conv2d(inputs, outputs, kernel, **options)
