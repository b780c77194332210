"""What general-purpose codecs make of the same images: each by itself, and all in one mosaic."""

import importlib
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image


def mosaic(images: np.ndarray) -> np.ndarray:
    """[N, H, W, C] side by side in rows, as square as can be, filled up with zeros."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count * height / width))
    rows = math.ceil(count / columns)
    filled = np.zeros((rows * columns, height, width, channels), images.dtype)
    filled[:count] = images
    grid = filled.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def by_pillow(kind: str, **settings: object) -> Callable[[np.ndarray], int]:
    """Bytes of an image [H, W, C] in that format; what is decoded is compared."""

    def size(image: np.ndarray) -> int:
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        if kind == "WEBP" and pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=-1)  # it knows colours alone
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **settings)
        assert (np.asarray(Image.open(file)) == pixels).all(), kind
        return file.getbuffer().nbytes

    return size


def by_zstd(image: np.ndarray) -> int:
    """Bytes of the codes, row by row."""
    zstandard = importlib.import_module("zstandard")
    return len(zstandard.ZstdCompressor(level=22).compress(image.tobytes()))


CODECS: dict[str, tuple[str, Callable[[np.ndarray], int]]] = {
    "PNG": ("PIL", by_pillow("PNG", optimize=True)),
    "WebP": ("PIL", by_pillow("WEBP", lossless=True, quality=100, method=6)),
    "JPEG-XL": ("pillow_jxl", by_pillow("JXL", lossless=True, effort=9)),
    "zstd": ("zstandard", by_zstd),
}
"""Name -> the package, and bytes of an image [H, W, C], each at its most thorough setting."""


def measure(images: np.ndarray) -> dict[str, dict[str, float]]:
    """Codec -> bits/dim of uint8 images [N, H, W, C]: "bpd_each" by itself, "bpd_mosaic" in one.
    Without those whose package is missing (pip install 'vdm[codecs]')."""
    found = {}
    whole = mosaic(images)
    for name, (package, size) in CODECS.items():
        try:
            importlib.import_module(package)
        except ImportError:
            continue
        found[name] = {
            "bpd_each": 8 * sum(map(size, images)) / images.size,
            "bpd_mosaic": 8 * size(whole) / images.size,
        }
    return found
