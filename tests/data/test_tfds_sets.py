"""Sets that TFDS prepared are read quietly, image by image; a missing one is said at once."""

import numpy as np
import pytest

from vdm.data import sources


@pytest.fixture(scope="module")
def cifar10_like(tmp_path_factory):
    """A folder with a small set prepared as "cifar10" 3.0.2, and its images and labels."""
    import tensorflow_datasets as tfds
    from PIL import Image

    from vdm.data.records import quiet_tfds

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(30) % 10

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "cifar10"
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(32, 32, 3)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(range(20)),
                "test": self._generate_examples(range(20, 30)),
            }

        def _generate_examples(self, rows):
            for row in rows:
                image = Image.fromarray(images[row])  # numpy would be encoded by TensorFlow
                yield row, {"image": image, "label": int(labels[row])}

    folder = tmp_path_factory.mktemp("tfds")
    with quiet_tfds():
        Small(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return str(folder), images, labels


def test_tfds_images_reads_every_image_with_its_label(cifar10_like):
    folder, images, labels = cifar10_like
    source = sources.tfds_images(folder, 0, dataset="cifar10")
    assert (source.shape, source.num_codes, source.num_classes) == ((32, 32, 3), 256, 10)
    for split, rows in (("train", range(20)), ("test", range(20, 30))):
        loaded = source.load(split)
        # TFDS's order is a hash's, so pairs are compared as sets.
        assert loaded.labels is not None
        pairs = zip(loaded.examples, loaded.labels, strict=True)
        assert {(image.tobytes(), int(label)) for image, label in pairs} == {
            (images[row].tobytes(), int(labels[row])) for row in rows
        }
    again = sources.tfds_images(folder, 0, dataset="cifar10", version="3.0.2")
    assert again.load("train").fingerprint == source.load("train").fingerprint


def test_tfds_images_of_another_shape_than_stated_are_refused(cifar10_like):
    source = sources.tfds_images(cifar10_like[0], 0, dataset="cifar10", shape=(28, 28, 1))
    with pytest.raises(ValueError, match=r"shape \(32, 32, 3\), but the source expects"):
        source.load("train")
    with pytest.raises(ValueError, match=r"data\.kwargs\.shape") as caught:
        source.load("test")
    assert "delete" not in str(caught.value)  # nothing is wrong with the files


def test_reading_is_quiet_and_leaves_logging_as_it_was(capfd):
    from absl import logging

    from vdm.data.records import quiet_tfds

    before = logging.get_verbosity()
    with quiet_tfds():
        print("Dataset prepared")
        assert logging.get_verbosity() == logging.ERROR  # no "OpenCV is not installed"
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() == before


def test_unprepared_set_is_answered_at_once_in_one_line(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def unreachable(*args, **kwargs):
        raise AssertionError("TFDS goes to the network when it is asked for a missing set")

    monkeypatch.setattr(tfds, "data_source", unreachable)
    # A folder without dataset_info.json is no set, and neither is a temporary one with it.
    (tmp_path / "cifar10/3.0.2").mkdir(parents=True)
    temporary = tmp_path / "cifar10/incomplete.ABC_3.0.2"
    temporary.mkdir()
    (temporary / "dataset_info.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"'cifar10' is not prepared.*vdm\.data\.prepare cifar10 --data_dir="
    ) as caught:
        sources.tfds_images(str(tmp_path), 0, dataset="cifar10").load("train")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_version_is_the_newest_prepared_or_the_one_asked_for(tmp_path):
    from vdm.data.records import find_version

    for version in ("1.9.0", "1.10.0", "2.0.0"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
    for version in ("1.9.0", "1.10.0"):
        (tmp_path / "mnist" / version / "dataset_info.json").write_text("{}")
    assert find_version(tmp_path, "mnist", "") == "1.10.0"
    assert find_version(tmp_path, "mnist", "1.9.0") == "1.9.0"
    with pytest.raises(
        ValueError, match=r"versions: 1\.9\.0, 1\.10\.0\): set data\.kwargs\.version"
    ) as caught:
        find_version(tmp_path, "mnist", "2.0.0")
    assert "data.prepare" not in str(caught.value)  # which would say that it is there


def test_unknown_tfds_set_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'cifar10'"):
        sources.tfds_images("", 0, dataset="cifar01")
    other = sources.tfds_images("", 0, dataset="svhn_cropped", shape=[32, 32, 3], num_classes=10)
    assert other.shape == (32, 32, 3)
