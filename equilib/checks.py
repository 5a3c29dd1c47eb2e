"""Whether values are what they should be: those of a configuration of their kinds, counts, images; and one line of an error.

Python takes ``"no"`` for true and 2.5 for a number of epochs, and a training finds out hours later, or never.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from functools import lru_cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

WORDS = {bool: "True or False", int: "a whole number", float: "a finite number", str: "a text"}


@lru_cache
def _hints(of: type) -> dict[str, object]:
    return get_type_hints(of)


def check_kinds(config: object) -> None:
    """Refuse a dataclass whose values are not of their kinds; what is in a dataclass of its own is left to that one.

    Raises:
        ValueError: names the first value that is of another kind.
    """
    for name, hint in _hints(type(config)).items():
        value = getattr(config, name)
        kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
        if value is None and len(kinds) < len(get_args(hint)):
            continue
        if get_origin(hint) is tuple:
            wrong = not isinstance(value, (tuple, list)) or not all(_is(entry, kinds[0]) for entry in value)
            words = f"a row, each {WORDS[kinds[0]]}"
        elif kinds[0] in WORDS:
            wrong, words = not _is(value, kinds[0]), WORDS[kinds[0]]
        elif all(map(is_dataclass, kinds)):
            wrong, words = not isinstance(value, tuple(kinds)), "a " + " or ".join(kind.__name__ for kind in kinds)
        else:
            continue
        if wrong:
            raise ValueError(f"{name} must be {words}, got {value!r}")


def check_images(images: Tensor, shape: Sequence[int | str] | None = None) -> None:
    """Refuse what integer kernels have an answer to, and should not: no images, other ones, NaN.

    Args:
        images: (B, C, H, W), normalised.
        shape: (C, H, W) of the network, where it is known; a text stands for any number.

    Raises:
        ValueError: no image, images of another shape, integers, or NaN or infinite values among them.
    """
    if not hasattr(images, "is_floating_point"):
        raise ValueError(f"images must be a torch tensor, got {type(images).__name__}; torch.from_numpy makes one")
    if len(images) == 0:
        raise ValueError("images is empty: at least one image is needed")
    if shape is not None and (
        images.ndim != 1 + len(shape)
        or any(isinstance(n, int) and n != m for n, m in zip(shape, images.shape[1:], strict=True))
    ):
        wanted = ", ".join(map(str, ["B", *shape]))
        raise ValueError(f"images has shape {tuple(images.shape)}, and the network takes ({wanted})")
    if not images.is_floating_point():
        raise ValueError(
            f"images holds {images.dtype}; a network takes normalised real values (equilib.pcam.normalize, network_inputs)"
        )
    if not images.isfinite().all():
        raise ValueError("images holds NaN or infinite values")


def reason_of(error: Exception) -> str:
    """What an error says, in one line: the operator that an exporter lacks, where it names one, else its first words."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line]
    lacking = (
        line for line in lines if re.search(r"No ONNX function|no decomposition|not (found|supported)", line, re.I)
    )
    return next(lacking, next(iter(lines), type(error).__name__))


def check_count(name: str, value: object, least: int = 1) -> None:
    """ValueError, which names the argument, unless this is a whole number and not less than ``least``."""
    if not _is(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}")


def check_whole(name: str, value: object) -> None:
    """ValueError, which names the argument, unless this is a whole number, negative ones and zero included."""
    if not _is(value, int):
        raise ValueError(f"{name} must be a whole number, got {value!r}")


def check_finite_number(name: str, value: object, *, above: float = -math.inf) -> None:
    """ValueError, which names the argument, unless this is a finite number, and larger than ``above``."""
    if not _is(value, float) or isinstance(value, bool) or not value > above:
        raise ValueError(
            f"{name} must be a finite number{'' if above == -math.inf else f' above {above:g}'}, got {value!r}"
        )


def check_switch(name: str, value: object) -> None:
    """ValueError, which names the argument, unless this is True or False."""
    if not _is(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_labels(labels: Tensor | np.ndarray, count: int) -> None:
    """ValueError unless these are ``count`` classes, each 0 or 1."""
    if tuple(labels.shape) != (count,):
        raise ValueError(f"labels has shape {tuple(labels.shape)}, and there are {count} answers")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be 0 or 1, and some are neither")


def _is(value: object, kind: type) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    if kind is float:  # older files have False and True where a share stands now
        return isinstance(value, Real) and math.isfinite(value)
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    return isinstance(value, kind)
