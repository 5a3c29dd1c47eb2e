"""Sliders of notebook 03: what a stride samples, and a planner for a whole network."""

from __future__ import annotations

import ipywidgets

from equilib import figures
from equilib.grids import Window, nearest_exact_sizes
from equilib.mobilenet import MobileNetConfig
from equilib.widgets.explorer import Explorer


def sampling(*, size: int = 8, kernel: int = 3, stride: int = 2, padding: int = 1, largest: int = 13) -> Explorer:
    """Choose a window and a grid; see what it samples before and after the picture turns by 90 degrees.

    Args:
        size, kernel, stride, padding: the teaching default.
        largest: grid of the slider, in pixels.
    """
    live = figures.sampling(largest)

    def draw(size: int, kernel: int, stride: int, padding: int):
        window = Window(kernel, stride, min(padding, kernel - 1))  # more padding than that is never read
        words = f"{size} + 2·{window.padding} − ({kernel} − 1) − 1 = {window.span(size)}\n"
        words += f"{window.span(size)} mod {stride} = {window.remainder(size)}\n"
        words += f"output: {window.output_size(size)} × {window.output_size(size)}"
        if window.padding != padding:
            words += f"\n(padding {padding} is cut to {window.padding}: kernel {kernel})"
        return live.update(
            size=size, centres=window.centres(size), read=window.sampled(size), caption=words, exact=window.exact(size)
        )

    def slider(value, low, high, text):
        return ipywidgets.IntSlider(value, low, high, description=text)

    return Explorer(
        draw,
        {
            "size": slider(size, 5, largest, "grid [pixels]"),
            "kernel": slider(kernel, 1, 5, "kernel"),
            "stride": slider(stride, 1, 4, "stride"),
            "padding": slider(padding, 0, 2, "padding"),
        },
        description="Centres that a {kernel} x {kernel} window with stride {stride} and padding {padding} samples on "
        "{size} x {size} pixels, before and after a rotation by 90 degrees",
        shown={"kernel": (2, 3), "stride": (1, 2, 3), "padding": (0, 1)},
    )


def plan(*, size: int = 96, padding: int = 1, smallest: int = 90, largest: int = 102) -> Explorer:
    """Choose the input size of MobileNetV2 and see at which stage rotations by 90° stop being exact.

    Args:
        size, padding: the teaching default; padding is that of the strided layers.
        smallest, largest: of the slider, in pixels.
    """

    def stages(size: int, padding: int):
        return MobileNetConfig(group="C4", input_size=size, strided_padding=padding, allow_inexact=True).stages

    live = figures.plan([stage.name for stage in stages(size, padding)], largest)

    def draw(size: int, padding: int):
        chain = stages(size, padding)
        broken = [stage.name for stage in chain if not stage.exact]
        near = nearest_exact_sizes(size, [(stage.name, stage.window) for stage in chain])[:2]
        title = f"{size} pixels, padding {padding} at strides: "
        title += (
            f"broken at {', '.join(broken)}; the nearest exact sizes are {near}" if broken else "exact from end to end"
        )
        return live.update(sizes=[stage.size for stage in chain], exact=[stage.exact for stage in chain], title=title)

    return Explorer(
        draw,
        {
            "size": ipywidgets.IntSlider(size, smallest, largest, description="input [pixels]"),
            "padding": ipywidgets.IntSlider(padding, 0, 1, description="padding"),
        },
        description="The grid at every stage of MobileNetV2 for an input of {size} pixels and padding {padding} at the strides, broken stages marked",
    )
