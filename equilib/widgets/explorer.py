"""Controls above one picture."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import ipywidgets

from equilib import figures

FRAMES = "application/vnd.equilib.frames+json"
# The protocol of ipywidgets 7 and 8 is the same one, 2.
VIEW = "application/vnd.jupyter.widget-view+json"


class Explorer(ipywidgets.VBox):
    """Controls above one picture.

    Args:
        draw: keyword values of the controls to a matplotlib Figure.
        controls: name to slider; each starts at its teaching default.
        description: what the picture shows, for readers who cannot see it; a format string of the controls' values.
        shown: values of some controls that a page without a kernel offers, where all of them would be too many.
    """

    def __init__(
        self,
        draw: Callable,
        controls: Mapping[str, ipywidgets.Widget],
        *,
        description: str,
        shown: Mapping[str, Sequence] | None = None,
    ):
        self.draw, self.controls, self._template, self.shown = draw, dict(controls), description, dict(shown or {})
        self.picture = ipywidgets.Image(format="png", value=self._render())
        super().__init__([*self.controls.values(), self.picture])
        for control in self.controls.values():
            control.observe(self._update, names="value")

    @property
    def values(self) -> dict:
        """What the controls are set to."""
        return {name: control.value for name, control in self.controls.items()}

    @property
    def description(self) -> str:
        """What the picture shows now."""
        return self._template.format(**self.values)

    def _render(self) -> bytes:
        return figures.png(self.draw(**self.values))

    def _update(self, _change) -> None:
        self.picture.value = self._render()

    def frames(self) -> dict:
        """The pictures for all settings (or those of ``shown``), for pages without a kernel; leaves the controls as they were.

        Returns:
            ``axes``: for each control its ``name``, the ``labels`` of its values and the ``start``ing index.
            ``pictures``: PNG files, the last control's value changing fastest.
        """
        before = self.values
        values = {name: list(self.shown.get(name, values_of(control))) for name, control in self.controls.items()}
        for name, value in before.items():
            if value not in values[name]:
                values[name] = sorted([*values[name], value])
        pictures = []
        try:
            for setting in product(*values.values()):
                for name, value in zip(self.controls, setting):
                    self.controls[name].value = value
                pictures.append(bytes(self.picture.value))
        finally:
            for name, value in before.items():
                self.controls[name].value = value
        axes = [
            {
                "name": control.description,
                "labels": [f"{value:g}" if isinstance(value, float) else str(value) for value in values[name]],
                "start": values[name].index(before[name]),
            }
            for name, control in self.controls.items()
        ]
        return {"axes": axes, "pictures": pictures}

    # By this ipywidgets 7 (which Colab has) shows a widget alone; with None IPython asks for what follows.
    _ipython_display_ = None

    def _repr_mimebundle_(self, **_options):
        data = {
            VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.model_id},
            "image/png": base64.b64encode(self.picture.value).decode(),
            "text/plain": self.description,
        }
        if os.environ.get("EQUILIB_FRAMES"):  # set by equilib.site
            frames = self.frames()
            data[FRAMES] = frames | {"pictures": [base64.b64encode(picture).decode() for picture in frames["pictures"]]}
        return data, {}


def values_of(control: ipywidgets.Widget) -> list:
    """All values of a slider or a choice."""
    if hasattr(control, "options"):
        return [option[1] if isinstance(option, tuple) else option for option in control.options]
    count = round((control.max - control.min) / control.step)
    return [type(control.value)(round(control.min + index * control.step, 9)) for index in range(count + 1)]
