"""Checks of user data: whether a model can read these images and labels."""

import numpy as np

from vdm.models.interface import num_codes
from vdm.models.latent_variable import AnyModel


def check_codes(model: AnyModel, images: np.ndarray) -> np.ndarray:
    """Checks user data of shape [N, *dims]: integer codes of any width and byte order, or real
    numbers, which become float32. ValueError for another shape, kind or range."""
    if images.shape[1:] != model.dims or not images.ndim:
        expected = ", ".join(map(str, model.dims))
        raise ValueError(f"images of shape {images.shape}: expected [N, {expected}]")
    largest = num_codes(model) - 1
    if largest < 0:
        if images.dtype.kind not in "iuf":
            raise ValueError(f"images of dtype {images.dtype}: expected real numbers")
        return images.astype(np.float32)
    if not np.issubdtype(images.dtype, np.integer):
        raise ValueError(f"images of dtype {images.dtype}: expected integer codes")
    if images.size and not 0 <= images.min() <= images.max() <= largest:
        raise ValueError(f"codes from {images.min()} to {images.max()}: expected 0 to {largest}")
    return images.astype(images.dtype.newbyteorder("="), copy=False)  # all that JAX accepts


def check_labels(labels: np.ndarray | None, count: int, num_classes: int) -> np.ndarray | None:
    """Checks user labels of shape [count] and returns them as int32; returns None for an
    unconditional model (num_classes = 0). ValueError for another shape, kind or range."""
    if not num_classes:
        return None
    if labels is None:
        raise ValueError(f"this model is conditional on {num_classes} classes: give labels")
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels of shape {labels.shape}: expected {count} integers")
    if count and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}: expected 0 to "
                         f"{num_classes - 1}")  # fmt: skip
    return labels.astype(np.int32)
