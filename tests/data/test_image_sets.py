"""MNIST and CIFAR-10 made from their original files are the sets that TFDS makes, in its order."""

import numpy as np
import pytest

from tests.data.little_sets import (
    NUM_TRAIN,
    archive_of,
    assert_is_the_set,
    cifar10_members,
    idx,
    little_mnist,
)
from tests.data.servers import published
from vdm.data import downloads, image_sets, prepare, sources


@pytest.mark.parametrize("name", list(image_sets.SETS))
def test_versions_and_features_are_those_of_tfds(name, tmp_path):
    import tensorflow_datasets as tfds

    facts = image_sets.SETS[name]
    ours = image_sets.build_writer(facts, {}, tmp_path)
    theirs = tfds.builder(name, data_dir=tmp_path)
    assert (ours.name, ours.version) == (theirs.name, theirs.version)
    assert ours.info.features.to_json() == theirs.info.features.to_json()
    assert ours.info.supervised_keys == theirs.info.supervised_keys
    if name != "cifar10":  # TFDS reads its names from the archive
        assert ours.info.features["label"].names == theirs.info.features["label"].names
    assert sources.TFDS_FACTS[name] == (facts.shape, len(facts.classes))


def test_every_set_has_a_name_and_its_files():
    assert prepare.NAMES[1:4] == tuple(image_sets.SETS) == tuple(downloads.ORIGINALS)


def test_mnist_is_prepared_in_the_order_of_tfds(server, tmp_path):
    files, images, labels = little_mnist()
    facts = image_sets.SETS["mnist"]
    image_sets.prepare(facts, tmp_path, None, published(server, files))
    assert_is_the_set(tmp_path, "mnist", "3.0.1", images, labels)
    assert (tmp_path / "downloads/mnist/t10k-labels-idx1-ubyte.gz").is_file()
    source = sources.named_tfds("mnist", str(tmp_path), 5)
    assert (len(source.load("train").examples), source.name) == (NUM_TRAIN - 5, "mnist")


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip"])
def test_a_damaged_gzip_is_one_line(tmp_path, damage):
    content = bytearray(idx(np.zeros(9, np.uint8) + np.arange(9, dtype=np.uint8)))
    content[-9] ^= 255 * (damage == "flipped")
    path = tmp_path / "a.gz"
    path.write_bytes({"cut": content[:-12], "no gzip": b"text"}.get(damage, content))
    with pytest.raises(ValueError, match=r"a\.gz is not a complete \.gz \(.*\): get it again"):
        image_sets._read_idx(path)


@pytest.mark.parametrize("kind", ["download", "archive", "folder of it", "folder of .bin"])
def test_cifar10_is_prepared_from_its_archive_or_its_files(server, tmp_path, kind):
    members, facts, images, labels = cifar10_members()
    content = archive_of(members)
    files = published(server, {"cifar-10-binary.tar.gz": content})
    place = tmp_path / "place"
    place.mkdir()
    if "archive" in kind or kind == "folder of it":
        (place / files[0].name).write_bytes(content)
    for name, part in members.items() if "bin" in kind else ():
        (place / name).write_bytes(part)
    origin = {"download": None, "archive": place / files[0].name}.get(kind, place)
    image_sets.prepare(facts, tmp_path, origin, files)
    assert_is_the_set(tmp_path, "cifar10", "3.0.2", images, labels)
    assert bool(server.starts) == (kind == "download")


def test_another_cifar10_is_refused_in_one_line(server, tmp_path):
    members, facts, _, _ = cifar10_members()
    files = published(server, {"cifar-10-binary.tar.gz": b"no archive"})
    (tmp_path / "test_batch.bin").write_bytes(members["test_batch.bin"])
    for place, message in [
        (tmp_path, "has no data_batch_1.bin, data_batch_2.bin"),
        (tmp_path / "test_batch.bin", "is not an archive of CIFAR-10's binary version"),
        (None, "is not an archive of CIFAR-10's binary version"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            image_sets.prepare(facts, tmp_path, place, files)
        assert "\n" not in str(caught.value)
    for name, part in members.items():
        (tmp_path / name).write_bytes(part[:-1] + b"!" if name == "data_batch_3.bin" else part)
    with pytest.raises(ValueError, match=r"data_batch_3\.bin in .* its SHA-1 differs"):
        image_sets.prepare(facts, tmp_path, tmp_path, files)
    assert not (tmp_path / "cifar10").exists()
