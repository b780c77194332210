"""File sizes of general-purpose codecs on the same images: each image alone, or all in a mosaic."""

import importlib
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image


def mosaic(images: np.ndarray) -> np.ndarray:
    """Arranges images [N, H, W, C] in a grid, as square as possible, and pads it with zeros."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count * height / width))
    rows = math.ceil(count / columns)
    filled = np.zeros((rows * columns, height, width, channels), images.dtype)
    filled[:count] = images
    grid = filled.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def by_pillow(kind: str, **settings: object) -> Callable[[np.ndarray], int]:
    """Makes a function that gives the size in bytes of an image [H, W, C] in one of Pillow's
    formats. It decodes the file and checks that it gives the image back."""

    def size(image: np.ndarray) -> int:
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        if kind == "WEBP" and pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=-1)  # WebP has only colour images.
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **settings)
        assert (np.asarray(Image.open(file)) == pixels).all(), kind
        return file.getbuffer().nbytes

    return size


def by_zstd(image: np.ndarray) -> int:
    """The size in bytes of the codes of an image, row by row, compressed by zstd."""
    zstandard = importlib.import_module("zstandard")
    return len(zstandard.ZstdCompressor(level=22).compress(image.tobytes()))


CODECS: dict[str, tuple[str, Callable[[np.ndarray], int]]] = {
    "PNG": ("PIL", by_pillow("PNG", optimize=True)),
    "WebP": ("PIL", by_pillow("WEBP", lossless=True, quality=100, method=6)),
    "JPEG-XL": ("pillow_jxl", by_pillow("JXL", lossless=True, effort=9)),
    "zstd": ("zstandard", by_zstd),
}
"""Name of a codec -> its package, and a function from an image [H, W, C] to a size in bytes. Each
codec has its most thorough setting."""


def measure(images: np.ndarray) -> dict[str, dict[str, float]]:
    """The bits/dim of uint8 images [N, H, W, C] by codec: "bpd_each" with each image in its own
    file, "bpd_mosaic" with all in one. Codecs whose package is missing are left out (pip install
    'vdm[codecs]')."""
    rates = {}
    whole = mosaic(images)
    for name, (package, size) in CODECS.items():
        try:
            importlib.import_module(package)
        except ImportError:
            continue
        rates[name] = {
            "bpd_each": 8 * sum(map(size, images)) / images.size,
            "bpd_mosaic": 8 * size(whole) / images.size,
        }
    return rates
