"""Small data sets in files of the user's own: random codes of 8 x 8 pictures."""

import numpy as np
from PIL import Image

SHAPE = (8, 8, 1)


def codes(seed, count=48, shape=SHAPE, num_codes=17):
    return np.random.default_rng(seed).integers(0, num_codes, (count, *shape), np.uint8)


def write_arrays(folder, train=0, test=1, labels=None, num_codes=17):
    folder.mkdir(parents=True, exist_ok=True)
    for split, seed in (("train", train), ("test", test)):
        np.save(folder / f"{split}.npy", codes(seed, num_codes=num_codes))
        np.save(folder / f"{split}_labels.npy", np.arange(48) % 3 + (labels or 0))
    return folder


def write_pictures(folder):
    for split, seed in (("train", 0), ("test", 1)):
        (folder / split).mkdir(parents=True)
        for index, image in enumerate(codes(seed, 16)):
            Image.fromarray(image[..., 0]).save(folder / split / f"{index}.png")
    return folder


def snapshot(folder):
    """The content of every file."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
