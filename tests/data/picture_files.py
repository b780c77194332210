"""Single pictures of noise, a check that one is refused, and what its message says to do."""

import re

import numpy as np
import PIL
import pytest
from PIL import Image

from vdm.compression.image_files import read_images
from vdm.data import pictures

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 4, 3), np.uint8)
GREY = RGB[..., 0]


def saved(path, image, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **kwargs)
    return path


def refused(path, *says, shape=(6, 4, 3)):
    """Checks that a data set and compression refuse a picture; returns the message."""
    for read in (
        lambda: pictures.decode([path], shape, 0),
        lambda: pictures.shape_of(path, 0),
        lambda: read_images(path.parent),
    ):
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            read()
        assert "\n" not in str(caught.value)
        for text in says:
            assert text in str(caught.value)
    return str(caught.value)


def follow(message, path):
    """Applies the remedy in a message to a picture."""
    way = re.search(r"\(with PIL, ([^ ]*)\)", message)[1]
    with Image.open(path) as image:
        image.load()
        remedied = eval(way, {"image": image, "PIL": PIL})
    path.unlink()
    return saved(path.with_suffix(".png"), remedied)
