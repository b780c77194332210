"""Folders of pictures as users have them, the data source of one, and a check of refusals."""

import re

import numpy as np
import pytest
from PIL import Image

from vdm.data import user_files

RNG = np.random.default_rng(0)


def put(folder, count=4, shape=(8, 8, 3), ending="png"):
    """Writes `count` pictures of noise to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = RNG.integers(0, 256, (count, *shape), np.uint8)
    for row, image in enumerate(codes):
        Image.fromarray(image[..., 0] if shape[-1] == 1 else image).save(folder / f"{row}.{ending}")
    return codes


def source(root, holdout=0, **kwargs):
    kwargs = {"num_test": 2} | kwargs
    return user_files.folder("", holdout, path=str(root), **kwargs)


def rows(split):
    return {image.tobytes() for image in split.examples}


def count(root, **kwargs):
    found = source(root, **kwargs)
    return len(found.load("train").examples) + len(found.load("test").examples)


def refused(make, *says):
    with pytest.raises(ValueError, match=says[0]) as caught:
        make()
    for text in says:
        assert re.search(text, str(caught.value))
    assert "\n" not in str(caught.value)
