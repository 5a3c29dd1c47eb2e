"""Controls above one picture."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

import ipywidgets

from equilib import figures


class Explorer(ipywidgets.VBox):
    """Controls above one picture.

    Args:
        draw: keyword values of the controls to a matplotlib Figure.
        controls: name to slider; each starts at its teaching default.
        description: what the picture shows, for readers who cannot see it.
    """

    def __init__(self, draw: Callable, controls: Mapping[str, ipywidgets.Widget], *, description: str):
        self.draw, self.controls, self.description = draw, dict(controls), description
        self.picture = ipywidgets.Image(format="png", value=self._render())
        super().__init__([*self.controls.values(), self.picture])
        for control in self.controls.values():
            control.observe(self._update, names="value")

    def _render(self) -> bytes:
        return figures.png(self.draw(**{name: control.value for name, control in self.controls.items()}))

    def _update(self, _change) -> None:
        self.picture.value = self._render()

    def _repr_mimebundle_(self, **options):
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        data = dict(data) | {"image/png": base64.b64encode(self.picture.value).decode(), "text/plain": self.description}
        return data, metadata
