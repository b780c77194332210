"""Writes a grid of images as one PNG, or as an animated GIF."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from vdm.io.atomic import atomic_path

_SEPARATOR_WIDTH = 2  # pixels of the picture
_SEPARATOR_GREY = 255
_LEGIBLE = 48  # pixels; smaller images are enlarged to at least this size


def save_grid(
    path: str | Path,
    codes: ArrayLike,
    num_codes: int,
    columns: int | None = None,
    scale: int | None = None,
) -> None:
    """Writes images to a PNG in a grid, row by row, with thin white lines between them.

    Args:
        path: the PNG file, replaced atomically.
        codes: integers in 0 ... num_codes - 1, [N, H, W, C], C = 1 (grey) or 3 (RGB).
        num_codes: code 0 is drawn black, num_codes - 1 white.
        columns: images per row; None for a square grid.
        scale: each pixel becomes scale x scale; None enlarges images to at least 48 pixels.

    Raises:
        ValueError: the codes have another shape, no image, or values outside 0 ... num_codes - 1.
    """
    from PIL import Image  # not needed by --help

    codes = np.asarray(codes)
    _check(codes, num_codes)
    picture = _grid(codes, num_codes, columns, scale)
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")


def save_animation(
    path: str | Path,
    codes: ArrayLike,
    num_codes: int,
    columns: int | None = None,
    seconds: float = 3.0,
) -> None:
    """Writes a grid of moving images to a GIF that repeats and holds its last frame for a second.

    Args:
        path: the GIF file, replaced atomically.
        codes: integers in 0 ... num_codes - 1, [frames, N, H, W, C], C = 1 (grey) or 3 (RGB).
        num_codes, columns: as in `save_grid`.
        seconds: duration of one repetition, without holding the last frame.

    Raises:
        ValueError: the codes have another shape, no frame, or values outside 0 ... num_codes - 1.
    """
    from PIL import Image

    codes = np.asarray(codes)
    if codes.ndim != 5 or codes.shape[0] == 0:
        raise ValueError(f"frames of shape {codes.shape}; must be [F > 0, N > 0, H, W, 1 or 3]")
    for frame in codes:
        _check(frame, num_codes)
    first, *others = (Image.fromarray(_grid(frame, num_codes, columns, None)) for frame in codes)
    durations = [max(20, round(1000 * seconds / len(codes)))] * len(codes)
    durations[-1] += 1000  # milliseconds
    with atomic_path(path) as temporary:
        first.save(
            temporary, "GIF", save_all=True, append_images=others, duration=durations, loop=0
        )


def _check(codes: np.ndarray, num_codes: int) -> None:
    if codes.ndim != 4 or codes.shape[0] == 0 or codes.shape[-1] not in (1, 3):
        raise ValueError(f"images of shape {codes.shape}; must be [N > 0, H, W, 1 or 3]")
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"images of {codes.dtype}; codes are integers, 0 ... {num_codes - 1}")
    if num_codes < 2 or codes.min() < 0 or codes.max() >= num_codes:
        raise ValueError(
            f"codes from {codes.min()} to {codes.max()}; {num_codes} codes must be from 0 to "
            f"{num_codes - 1}"
        )


def _grid(codes: np.ndarray, num_codes: int, columns: int | None, scale: int | None) -> np.ndarray:
    """The grid as one picture, uint8 [height, width] or [height, width, 3]."""
    num, height, width, channels = codes.shape
    columns = min(num, columns or math.ceil(math.sqrt(num)))
    rows = math.ceil(num / columns)
    scale = scale or math.ceil(_LEGIBLE / max(height, width))

    # int64 first, as 255 * code in uint8 would wrap around.
    levels = np.round(codes.astype(np.int64) * (255 / (num_codes - 1))).astype(np.uint8)
    levels = levels.repeat(scale, axis=1).repeat(scale, axis=2)  # nearest neighbour
    step_y, step_x = height * scale + _SEPARATOR_WIDTH, width * scale + _SEPARATOR_WIDTH
    picture = np.full(
        (rows * step_y + _SEPARATOR_WIDTH, columns * step_x + _SEPARATOR_WIDTH, channels),
        _SEPARATOR_GREY,
        np.uint8,
    )
    for index, image in enumerate(levels):
        y = (index // columns) * step_y + _SEPARATOR_WIDTH
        x = (index % columns) * step_x + _SEPARATOR_WIDTH
        picture[y : y + height * scale, x : x + width * scale] = image
    return picture[:, :, 0] if channels == 1 else picture
