"""Messages about arrays that are not codes, or are probably not what was meant, with remedies.

Expressions in a remedy have x for the array and are right for the numbers that were found in it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from vdm.data.pictures import MOST_LEVELS, as_levels

# So many numbers of a mapped array are in memory at once.
_PART = 2**22


def describe(array: np.ndarray) -> str:
    """ "float64 of shape (64, 8, 8, 1), from 0.0 to 0.98": what an array holds."""
    numbers = _range(array)
    between = "" if numbers is None else f", from {numbers[0]} to {numbers[1]}"
    return f"{array.dtype} of shape {array.shape}{between}"


def to_codes(array: np.ndarray, num_codes: int = 256, fixed: bool = False) -> str:
    """How to make codes 0 ... num_codes - 1 of an array of other numbers.

    fixed: they are those of a trained model; else data.kwargs.num_codes could be another.
    """
    numbers, top = _range(array), num_codes - 1
    if numbers is None:
        return "save an array of numbers"
    least, most = numbers
    kind = "numpy.uint8" if num_codes <= 256 else "numpy.int64"
    if array.dtype == np.bool_:
        if not fixed:
            return f"x.astype({kind}) makes them 0 and 1, with data.kwargs.num_codes = 2"
        bright = f", {kind}({top} * x) 0 and {top}" if top > 1 else ""
        return f"x.astype({kind}) makes them 0 and 1{bright}"
    if not np.isfinite(least) or not np.isfinite(most):
        return "NaN and infinity are no codes: find out where they come from"
    if array.dtype.kind != "f":
        bits = "" if num_codes == 256 else ", with data.kwargs.num_codes = 256"
        if least >= 0 and most <= 255:
            return f"x.astype(numpy.uint8) keeps them as they are{bits if most > top else ''}"
        if least >= -128 and most <= 127:
            return (
                f"(x.astype(numpy.int64) + 128).astype(numpy.uint8) shifts them to 0 ... 255{bits}"
            )
        if least >= 0 and 2**15 <= most < 2**16:
            return f"numpy.rint(x / 257).astype(numpy.uint8) takes 0 ... 65535 to 0 ... 255{bits}"
        return f"scale what range they span to 0 ... {top} and round"
    whole, rounded = _is_whole(array), f"numpy.rint(x).astype({kind})"
    # A little beyond is what resizing and single precision leave.
    beyond = min(1e-3, 0.4 / top)
    if least >= -beyond and most <= 1 + beyond:
        if top == 1:
            return f"of images in [0, 1], {rounded}"
        two = "" if fixed else " with data.kwargs.num_codes = 2"
        binary = f"; for codes 0 and 1, {rounded}{two}" if whole else ""
        return f"of images in [0, 1], numpy.rint({top} * x).astype({kind}){binary}"
    if least >= -1 - beyond and most <= 1 + beyond:
        return f"of images in [-1, 1], numpy.rint({top / 2:g} * (x + 1)).astype({kind})"
    if least >= -0.4 and most <= top + 0.4 and (whole or most > num_codes / 4):
        return f"of images in [0, {top}], {rounded}"
    if least >= -0.4 and most <= 255.4 and (whole or most > 64) and top < 255:
        same = "" if fixed else f"; to keep them, {rounded} with data.kwargs.num_codes = 256"
        return f"of images in [0, 255], numpy.rint(x * ({top} / 255)).astype({kind}){same}"
    return (
        "undo what normalised them (a mean and a standard deviation?), so that they span 0 ... "
        f"{top}, and round"
    )


def to_labels(array: np.ndarray) -> str:
    """How to make integer labels [N] of an array of something else; "" where it is that."""
    if array.ndim == 1 and array.dtype.kind in "iu":
        return ""
    column = array.ndim == 2 and array.shape[1] == 1
    x, flat = (array[:, 0], "x[:, 0]") if column else (array, "x")
    numbers = _range(x)
    if numbers is None or not np.isfinite(numbers).all():
        return "save the numbers of the classes, 0, 1, ..."
    if x.ndim == 2 and ((x == 0) | (x == 1)).all() and (x.sum(axis=1) == 1).all():
        return "x.argmax(axis=1) is the place of the 1 in each row"
    if x.ndim != 1:
        return "save one number for each example, that of its class"
    if not _is_whole(x):
        return "the classes have the numbers 0, 1, ...: find out where fractions come from"
    return f"{flat}.astype(numpy.int64) keeps them as they are"


def of_axes(shape: tuple[int, ...]) -> str:
    """Whether examples of that shape look like images with the channels first; "" if not."""
    if len(shape) != 3 or shape[-1] <= 4:
        return ""
    axis = next((axis for axis in (0, 1) if shape[axis] in (1, 3, 4)), None)
    if axis is None:
        return ""
    return (
        f"examples of shape {shape} are read as {shape[0]} x {shape[1]} pixels of {shape[2]} "
        f"channels; if axis {axis + 1} of the array is that of the channels, "
        f"numpy.moveaxis(x, {axis + 1}, -1) puts it last"
    )


def of_levels(codes: np.ndarray, num_codes: int) -> str:
    """Whether uint8 codes use so few of 0 ... num_codes - 1 that others may be meant; "" if not."""
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


def of_greys(codes: np.ndarray) -> str:
    """The same of the greys 0 ... 255 of pictures, of which data.kwargs.num_codes makes codes."""
    used = _used(codes, 256)
    if not used or used[-1] < 128:
        return of_levels(codes, 256)
    for num_codes in range(max(2, len(used)), MOST_LEVELS + 1):
        if as_levels(np.array(used), num_codes) is not None:
            return (
                f"{len(used)} greys of 256 occur ({_listed(used)}): if there are no others, set "
                f"data.kwargs.num_codes to {num_codes}, which makes them 0 ... {num_codes - 1}, as "
                f"{_BITS}"
            )
    return (
        f"{len(used)} greys of 256 occur ({_listed(used)}), not evenly spaced: as an array of "
        f"their numbers (data.name = 'npy') they could be {len(used)} codes, as {_BITS}"
    )


_BITS = "bits/dim of more codes than there are cannot be compared with those of others"


def _listed(used: list[int]) -> str:
    return ", ".join(map(str, used))


def _used(codes: np.ndarray, num_codes: int) -> list[int]:
    """The codes that occur, if they are few or all in the lower half, else none: as a rule the
    first part of an array shows that."""
    seen = np.zeros(256, bool)
    for part in _parts(codes):
        seen[part] = True
        if seen[num_codes // 2 :].any() and seen.sum() > MOST_LEVELS:
            return []
    return np.flatnonzero(seen).tolist()


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of an array, some at a time."""
    rows = max(1, _PART // max(1, array[:1].size))
    return (array[start : start + rows].reshape(-1) for start in range(0, len(array), rows))


def _range(array: np.ndarray) -> tuple[Any, Any] | None:
    """Least and largest; None where there are no numbers, or none that have an order."""
    if array.dtype.kind not in "buif" or not array.ndim or not array.size:
        return None
    ends = [(part.min(), part.max()) for part in _parts(array)]
    least, most = zip(*ends, strict=True)
    return np.min(least).item(), np.max(most).item()


def _is_whole(array: np.ndarray) -> bool:
    """Whether all numbers are integers."""
    return array.dtype.kind != "f" or all((part == np.rint(part)).all() for part in _parts(array))
