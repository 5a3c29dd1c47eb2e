"""Self-checks of notebook 03."""

from __future__ import annotations

from equilib.exercises.check import Hint, answered, one_letter, self_check
from equilib.grids import Window, trace_stages

# Size of the grid, and the window.
SETTINGS = (
    (7, Window(3, 2, 1)),
    (8, Window(3, 2, 1)),
    (8, Window(2, 2)),
    (9, Window(2, 2)),
    (9, Window(3, 1, 1)),
    (10, Window(4, 3)),
    (11, Window(5, 3, 2)),
    (9, Window(3, 2, 0, 2)),
)


@self_check
def check_eight_settings(answer) -> str:
    """Eight booleans: is each of SETTINGS exact?"""
    given = [answered(value) for value in answer]
    if any(isinstance(value, str) or value not in (0, 1) for value in given):
        raise Hint("Answer with True and False, without quotes.")
    if len(given) != len(SETTINGS):
        raise Hint(f"Give {len(SETTINGS)} answers, one for each setting; you gave {len(given)}.")
    wrong = [
        index + 1 for index, ((size, window), value) in enumerate(zip(SETTINGS, given)) if window.exact(size) != value
    ]
    if wrong:
        size, window = SETTINGS[wrong[0] - 1]
        raise Hint(
            f"{len(wrong)} of 8 are wrong, the first is number {wrong[0]}: {size} + 2*{window.padding} - "
            f"{window.dilation}*({window.kernel} - 1) - 1 = {window.span(size)}, and the stride is {window.stride}."
        )
    return "All eight. A stride of 1 is always exact, and everything else is arithmetic."


@self_check
def check_resnet_stem(answer) -> str:
    """(input size near 96, padding of the 7x7 convolution, padding of the 3x3 pooling), both with stride 2."""
    given = [answered(value) for value in answer]
    if len(given) != 3 or any(value != int(value) for value in given):
        raise Hint(
            "Give three whole numbers: the input size, the padding of the convolution, the padding of the pooling."
        )
    size, conv, pool = map(int, given)
    if not 90 <= size <= 102:
        raise Hint(f"{size} pixels are too far from 96: stay between 90 and 102.")
    if not (0 <= conv <= 3 and 0 <= pool <= 1):
        raise Hint("Keep the paddings between 0 and half the kernel: 3 and 1.")
    for stage in trace_stages(size, [("the convolution", Window(7, 2, conv)), ("the pooling", Window(3, 2, pool))]):
        if not stage.exact:
            raise Hint(f"It breaks at {stage.explain()}.")
    return "Both strides meet a grid that they can sample symmetrically."


@self_check
def check_five_stages(answer) -> str:
    """All sizes from 60 to 140 that stay exact through five 3x3 convolutions with stride 2 and padding 1."""
    windows = [(f"stage {i}", Window(3, 2, 1)) for i in range(1, 6)]
    right = {n for n in range(60, 141) if all(stage.exact for stage in trace_stages(n, windows))}
    given = {int(answered(n)) for n in answer}
    for n in sorted(given - right):
        if not 60 <= n <= 140:
            raise Hint(f"{n} is not between 60 and 140.")
        broken = next(stage for stage in trace_stages(n, windows) if not stage.exact)
        raise Hint(f"{n} breaks at {broken.name}, where the grid has {broken.size} pixels.")
    if missing := right - given:
        raise Hint(
            f"Yours survive, but {len(missing)} more do too. Follow the rule backwards from the last stage: n becomes 2n - 1."
        )
    return f"{sorted(right)}: n - 1 must be divisible by 32. Both common sizes, 96 and 128, are one pixel off."


@self_check
def check_one_sided(answer) -> str:
    """A function (size, kernel, stride, before, after) to True where the sampling is symmetric."""
    for before, after in ((1, 1), (0, 1), (0, 0), (1, 0), (0, 2)):
        for size in range(7, 13):
            for kernel, stride in ((3, 2), (2, 2), (3, 3), (3, 1)):
                right = Window(kernel, stride, before, 1, after).exact(size)
                given = bool(answered(answer(size, kernel, stride, before, after)))
                if given != right:
                    side = "symmetric" if before == after else "one-sided"
                    raise Hint(
                        f"{size} pixels, kernel {kernel}, stride {stride}, padding ({before}, {after}) ({side}): it is "
                        f"{'exact' if right else 'broken'}. The first centre and the last must be equally far from the middle."
                    )
    return "(n + before + after - (k - 1) - 1) mod s = after - before. A 3x3 window with stride 3 and padding (0, 2) is exact on grids divisible by 3."


@self_check
def check_crop(answer) -> str:
    """One of the letters a to d."""
    hints = {
        "a": "Both give 95 pixels, an odd number. Oddness alone does not decide.",
        "b": "Neither interpolates between angles: both are exact arithmetic on pixels.",
        "d": "A mean of four pixels is no constant: it keeps all the picture's large structures.",
    }
    one_letter(answer, "c", hints)
    return "The crop takes its row and column from one side; the mean treats all four sides alike."
