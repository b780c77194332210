"""A small MNIST and CIFAR-10 in their original files, and a check of the sets made of them."""

import dataclasses
import functools
import gzip
import hashlib
import io
import tarfile

import numpy as np

from vdm.data import image_sets
from vdm.data.records import read_records

NUM_TRAIN, NUM_TEST = 30, 12


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes(), mtime=0)


@functools.cache
def little_mnist():
    """The four files of a small MNIST, and its images and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_TRAIN + NUM_TEST, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, NUM_TRAIN + NUM_TEST, dtype=np.uint8)
    train, test = slice(NUM_TRAIN), slice(NUM_TRAIN, None)
    files = {
        "train-images-idx3-ubyte.gz": idx(images[train]),
        "train-labels-idx1-ubyte.gz": idx(labels[train]),
        "t10k-images-idx3-ubyte.gz": idx(images[test]),
        "t10k-labels-idx1-ubyte.gz": idx(labels[test]),
    }
    return files, images[..., None], labels


def cifar10_members():
    """The .bin files of a small CIFAR-10, their checksums, and its images and labels."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (NUM_TRAIN + NUM_TEST, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, NUM_TRAIN + NUM_TEST, dtype=np.uint8)
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    rows = np.concatenate([labels[:, None], planes], axis=1)
    parts = [*np.split(rows[:NUM_TRAIN], 5), rows[NUM_TRAIN:]]
    members = {
        name: part.tobytes() for name, part in zip(image_sets.CIFAR10_SHA1, parts, strict=True)
    }
    sums = {name: hashlib.sha1(content).hexdigest() for name, content in members.items()}
    facts = image_sets.SETS["cifar10"]
    read = functools.partial(image_sets.read_cifar10, sums=sums)
    return members, dataclasses.replace(facts, read=read), images, labels


def archive_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def tfds_order(split, count):
    """The order in which TFDS stores the records of keys 0 ... count - 1: by a hash of the key."""
    from tensorflow_datasets.core.hashing import Hasher

    hasher = Hasher(split)
    return sorted(range(count), key=hasher.hash_key)


def assert_is_the_set(data_dir, name, version, images, labels):
    start = 0
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        found, found_labels = read_records(data_dir, name, version, split, images.shape[1:])
        order = [start + place for place in tfds_order(split, count)]
        np.testing.assert_array_equal(found, images[order])
        np.testing.assert_array_equal(found_labels, labels[order])
        start += count
