"""Advice for messages about arrays that do not hold codes, or probably not the intended ones.

In a remedy, x stands for the array. Each expression is chosen by the numbers found in the array.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from vdm.data.pictures import MOST_LEVELS, as_levels

_PART = 2**22  # numbers of a memory-mapped array that are read at a time


def describe(array: np.ndarray) -> str:
    """What an array holds, such as "float64 of shape (64, 8, 8, 1), from 0.0 to 0.98"."""
    numbers = _range(array)
    between = "" if numbers is None else f", from {numbers[0]} to {numbers[1]}"
    return f"{array.dtype} of shape {array.shape}{between}"


def to_codes(array: np.ndarray, num_codes: int = 256, fixed: bool = False) -> str:
    """A remedy that converts an array of other numbers to codes 0 ... num_codes - 1.

    Args:
        fixed: num_codes belongs to a trained model, so the remedy must not suggest changing
            data.kwargs.num_codes.
    """
    numbers, top = _range(array), num_codes - 1
    if numbers is None:
        return "save an array of numbers"
    least, most = numbers
    kind = "numpy.uint8" if num_codes <= 256 else "numpy.int64"
    if array.dtype == np.bool_:
        if not fixed:
            return f"x.astype({kind}) makes them 0 and 1, with data.kwargs.num_codes = 2"
        bright = f", {kind}({top} * x) makes them 0 and {top}" if top > 1 else ""
        return f"x.astype({kind}) makes them 0 and 1{bright}"
    if not np.isfinite(least) or not np.isfinite(most):
        return "NaN and infinity are not codes: find out where they come from"
    if array.dtype.kind != "f":
        bits = "" if num_codes == 256 else ", with data.kwargs.num_codes = 256"
        if least >= 0 and most <= 255:
            return f"x.astype(numpy.uint8) leaves the values unchanged{bits if most > top else ''}"
        if least >= -128 and most <= 127:
            return (
                f"(x.astype(numpy.int64) + 128).astype(numpy.uint8) shifts them to 0 ... 255{bits}"
            )
        if least >= 0 and 2**15 <= most < 2**16:
            return f"numpy.rint(x / 257).astype(numpy.uint8) maps 0 ... 65535 to 0 ... 255{bits}"
        return f"scale their range to 0 ... {top}, then round"
    whole, rounded = _is_whole(array), f"numpy.rint(x).astype({kind})"
    # Resizing and single precision may leave numbers slightly outside the range.
    beyond = min(1e-3, 0.4 / top)
    if least >= -beyond and most <= 1 + beyond:
        if top == 1:
            return f"for images in [0, 1], {rounded}"
        two = "" if fixed else " with data.kwargs.num_codes = 2"
        binary = f"; for codes 0 and 1, {rounded}{two}" if whole else ""
        return f"for images in [0, 1], numpy.rint({top} * x).astype({kind}){binary}"
    if least >= -1 - beyond and most <= 1 + beyond:
        return f"for images in [-1, 1], numpy.rint({top / 2:g} * (x + 1)).astype({kind})"
    if least >= -0.4 and most <= top + 0.4 and (whole or most > num_codes / 4):
        return f"for images in [0, {top}], {rounded}"
    if least >= -0.4 and most <= 255.4 and (whole or most > 64) and top < 255:
        same = "" if fixed else f"; to keep them, {rounded} with data.kwargs.num_codes = 256"
        return f"for images in [0, 255], numpy.rint(x * ({top} / 255)).astype({kind}){same}"
    return (
        "undo what normalised them (a mean and a standard deviation?) so that they span 0 ... "
        f"{top}, then round"
    )


def to_labels(array: np.ndarray) -> str:
    """A remedy that converts an array to integer labels [N]; "" if it already holds such labels."""
    if array.ndim == 1 and array.dtype.kind in "iu":
        return ""
    column = array.ndim == 2 and array.shape[1] == 1
    x, flat = (array[:, 0], "x[:, 0]") if column else (array, "x")
    numbers = _range(x)
    if numbers is None or not np.isfinite(numbers).all():
        return "save the numbers of the classes, 0, 1, ..."
    if x.ndim == 2 and ((x == 0) | (x == 1)).all() and (x.sum(axis=1) == 1).all():
        return "x.argmax(axis=1) gives the position of the 1 in each row"
    if x.ndim != 1:
        return "save one number for each example, the number of its class"
    if not _is_whole(x):
        return "the classes have the numbers 0, 1, ...: find out where fractions come from"
    return f"{flat}.astype(numpy.int64) leaves the values unchanged"


def note_channels_first(shape: tuple[int, ...]) -> str:
    """A note when examples of that shape look like images with the channels first, else ""."""
    if len(shape) != 3 or shape[-1] <= 4:
        return ""
    axis = next((axis for axis in (0, 1) if shape[axis] in (1, 3, 4)), None)
    if axis is None:
        return ""
    return (
        f"examples of shape {shape} are read as {shape[0]} x {shape[1]} pixels of {shape[2]} "
        f"channels; if axis {axis + 1} of the array holds the channels, "
        f"numpy.moveaxis(x, {axis + 1}, -1) puts it last"
    )


def note_few_codes(codes: np.ndarray, num_codes: int) -> str:
    """A note when uint8 codes use so few of 0 ... num_codes - 1 that num_codes may be wrong, else
    ""."""
    used = _used(codes, num_codes)
    if used and used[-1] < num_codes // 2:
        return (
            f"the largest code is {used[-1]}, and data.kwargs.num_codes is {num_codes}: if there "
            f"are no others, set it to {max(2, used[-1] + 1)}, as {_BITS}"
        )
    if not used or num_codes < 256:
        return ""
    return (
        f"{len(used)} codes of 256 occur ({_listed(used)}): if there are no others, "
        "numpy.searchsorted(numpy.unique(x), x).astype(numpy.uint8) makes them 0 ... "
        f"{len(used) - 1}, for data.kwargs.num_codes = {len(used)}, as {_BITS}"
    )


def note_few_greys(codes: np.ndarray) -> str:
    """The same note for the greys 0 ... 255 of pictures: data.kwargs.num_codes turns evenly spaced
    greys into codes."""
    used = _used(codes, 256)
    if not used or used[-1] < 128:
        return note_few_codes(codes, 256)
    for num_codes in range(max(2, len(used)), MOST_LEVELS + 1):
        if as_levels(np.array(used), num_codes) is not None:
            return (
                f"{len(used)} greys of 256 occur ({_listed(used)}): if there are no others, set "
                f"data.kwargs.num_codes to {num_codes}, which makes them 0 ... {num_codes - 1}, as "
                f"{_BITS}"
            )
    return (
        f"{len(used)} greys of 256 occur ({_listed(used)}), not evenly spaced: renumbered and "
        f"saved as an array (data.name = 'npy') they would be {len(used)} codes, as {_BITS}"
    )


_BITS = "bits/dim for more codes than the data have cannot be compared with other results"


def _listed(used: list[int]) -> str:
    return ", ".join(map(str, used))


def _used(codes: np.ndarray, num_codes: int) -> list[int]:
    """The codes that occur, if they are few or all lie in the lower half; otherwise an empty list,
    which usually takes only the first part of the array to find out."""
    seen = np.zeros(256, bool)
    for part in _parts(codes):
        seen[part] = True
        if seen[num_codes // 2 :].any() and seen.sum() > MOST_LEVELS:
            return []
    return np.flatnonzero(seen).tolist()


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of an array, flattened, at most about _PART at a time."""
    rows = max(1, _PART // max(1, array[:1].size))
    return (array[start : start + rows].reshape(-1) for start in range(0, len(array), rows))


def _range(array: np.ndarray) -> tuple[Any, Any] | None:
    """The smallest and the largest number; None for an empty array or one of unordered values."""
    if array.dtype.kind not in "buif" or not array.ndim or not array.size:
        return None
    ends = [(part.min(), part.max()) for part in _parts(array)]
    least, most = zip(*ends, strict=True)
    return np.min(least).item(), np.max(most).item()


def _is_whole(array: np.ndarray) -> bool:
    """Whether all numbers are whole."""
    return array.dtype.kind != "f" or all((part == np.rint(part)).all() for part in _parts(array))
