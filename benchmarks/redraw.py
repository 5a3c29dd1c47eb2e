"""How long a slider of notebooks 01 to 03 takes to redraw, beside building the same figure anew."""

from __future__ import annotations

import io
from contextlib import contextmanager

import torch
from timing import interleaved

from equilib import figures, widgets
from equilib.fields import tissue_photograph
from equilib.filters import atoms


def explorers() -> dict:
    """Figure's name to a function that makes the widget, as large as in the notebooks."""
    chosen = atoms(9)
    coefficients = torch.randn(len(chosen), dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    networks = widgets.one_layer_networks("C12")
    return {
        "turning_field": lambda: widgets.turning_field(tissue_photograph(95), networks, "C12"),
        "steered_filter": lambda: widgets.steered_filter(chosen, coefficients, 9),
        "cutoff_errors": lambda: widgets.cutoff_errors("C12", 3),
        "aliases": lambda: widgets.aliases(3),
        "sampling": lambda: widgets.sampling(),
        "plan": lambda: widgets.plan(),
    }


@contextmanager
def recorded(name: str):
    """Notes with which arguments the figure is made, and with which values it is updated last."""
    original, seen = getattr(figures, name), {}

    def make(*arguments):
        live = original(*arguments)
        update = live.update
        seen["make"] = lambda: original(*arguments)

        def noted(**values):
            seen["values"] = values
            return update(**values)

        live.update = noted
        return live

    setattr(figures, name, make)
    try:
        yield seen
    finally:
        setattr(figures, name, original)


def redraw(quick: bool) -> list[dict]:
    """Median milliseconds of one tick of a slider, and of a new figure with the same contents."""
    rows = []
    for name, make in explorers().items():
        with recorded(name) as seen:
            explorer = make()
            control = next(iter(explorer.controls.values()))
            ticks = widgets.values_of(control)
            state = {"tick": 0}

            def tick(control=control, ticks=ticks, state=state):
                state["tick"] += 1
                control.value = ticks[state["tick"] % len(ticks)]

            def anew(seen=seen):
                live = seen["make"]()
                live.update(**seen["values"])
                live.figure.savefig(io.BytesIO(), format="png", dpi=100)

            seconds = interleaved({"a tick of the slider": tick, "a new figure": anew}, 1 if quick else 25, words=name)
        ms = {case: 1000 * value for case, value in seconds.items()}
        rows.append({"widget": name, "ms": ms, "ratio": ms["a new figure"] / ms["a tick of the slider"]})
    return rows
