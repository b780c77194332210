import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdm.data import generated, sources
from vdm.data.sources import Split

ROOT = pathlib.Path(__file__).parents[2]
DIGITS_FOLDER = "digits/1.0.0"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data folder with the digits prepared."""
    folder = str(tmp_path_factory.mktemp("data"))
    sources.digits(folder, 0).load("train")
    return folder


@pytest.fixture(scope="module")
def sklearn_digits():
    from sklearn.datasets import load_digits

    return load_digits()


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


# --- digits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "start", "stop"), [("train", 0, 1500), ("test", 1500, 1797)])
def test_digits_equal_sklearn_in_file_order(data_dir, sklearn_digits, split, start, stop):
    loaded = sources.digits(data_dir, 0).load(split)
    assert loaded.examples.dtype == np.uint8
    assert loaded.labels is not None
    assert loaded.labels.dtype == np.int32
    np.testing.assert_array_equal(loaded.examples[..., 0], sklearn_digits.images[start:stop])
    np.testing.assert_array_equal(loaded.labels, sklearn_digits.target[start:stop])


def test_digits_source_states_what_the_data_are(data_dir):
    source = sources.digits(data_dir, 200)
    loaded = source.load("train")
    assert loaded.examples.shape[1:] == source.shape
    assert loaded.examples.max() == source.num_codes - 1
    assert loaded.labels is not None
    assert set(np.unique(loaded.labels)) == set(range(source.num_classes))
    assert (source.evaluation_split, sources.digits(data_dir, 0).evaluation_split) == (
        "holdout",
        "test",
    )


def test_digits_holdout_is_the_last_of_the_training_split(data_dir, sklearn_digits):
    source = sources.digits(data_dir, 200)
    train, holdout = source.load("train"), source.load("holdout")
    np.testing.assert_array_equal(train.examples[..., 0], sklearn_digits.images[:1300])
    np.testing.assert_array_equal(holdout.examples[..., 0], sklearn_digits.images[1300:1500])
    np.testing.assert_array_equal(holdout.labels, sklearn_digits.target[1300:1500])
    assert len(source.load("test").examples) == 297


def test_digits_fingerprint_is_the_published_one(data_dir):
    # Everybody's bits/dim on the digits are compared under this name.
    assert sources.digits(data_dir, 0).load("test").fingerprint == (
        "sha256:237278884c35a7777d46f924bdc07a9c1eb1d3bfbb58d078fc6c5d1a1713f91b"
    )


def test_load_is_cached_and_read_only(data_dir):
    source = sources.digits(data_dir, 10)
    train = source.load("train")
    assert source.load("train") is train
    assert source.load("holdout").examples.base is train.examples.base  # decoded once
    with pytest.raises(ValueError, match="read-only"):
        train.examples[0] = 0


def test_building_sources_touches_no_disk(tmp_path):
    missing = str(tmp_path / "missing")
    sources.digits(missing, 5)
    sources.tfds_images(missing, 5, dataset="cifar10")
    generated.swirl(missing, 5)
    generated.mixture(missing, 5)
    generated.synthetic(missing, 5, shape=[4, 4, 1], num_codes=17).load("train")
    assert not os.path.exists(missing)


def test_first_load_is_silent_and_needs_no_tensorflow(tmp_path):
    code = """
import json, sys
import vdm.data.sources as sources
light = sorted(sys.modules)
sources.digits(sys.argv[1], 0).load("train")
print(json.dumps({"light": light, "modules": sorted(sys.modules)}))
"""
    result = run_python(code, str(tmp_path))
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)  # nothing else was printed
    for heavy in ("tensorflow_datasets", "sklearn", "jax", "grain", "absl"):
        assert heavy not in report["light"]
    assert "tensorflow_datasets" in report["modules"]
    assert "tensorflow" not in report["modules"]


def test_default_folder_is_the_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("VDM_DATA_DIR", str(tmp_path / "chosen"))
    sources.digits("", 0).load("test")
    assert (tmp_path / "chosen" / DIGITS_FOLDER / "dataset_info.json").is_file()
    monkeypatch.delenv("VDM_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    sources.digits("", 0).load("test")
    assert (tmp_path / "home/.cache/vdm/data" / DIGITS_FOLDER / "dataset_info.json").is_file()


# --- preparation that goes wrong --------------------------------------------------------------


def test_preparation_killed_midway_is_not_taken_for_whole(tmp_path, sklearn_digits):
    code = """
import os, sys
import sklearn.datasets
from vdm.data import digits, sources

class Killed:  # labels that take the process with them while the test split is written
    def __getitem__(self, index):
        return os._exit(9) if index == 1600 else 0

whole = sklearn.datasets.load_digits(return_X_y=True)
pixels = whole[0]
sklearn.datasets.load_digits = lambda **kwargs: (pixels, Killed())
sources.digits(sys.argv[1], 0).load("train")
"""
    assert run_python(code, str(tmp_path)).returncode == 9
    leftovers = os.listdir(tmp_path / "digits")
    assert leftovers
    assert "1.0.0" not in leftovers
    train = sources.digits(str(tmp_path), 0).load("train")
    np.testing.assert_array_equal(train.labels, sklearn_digits.target[:1500])


def test_partial_copy_of_the_set_is_written_again(tmp_path, data_dir):
    partial = tmp_path / DIGITS_FOLDER
    partial.mkdir(parents=True)
    name = "digits-train.array_record-00000-of-00001"
    (partial / name).write_bytes((pathlib.Path(data_dir) / DIGITS_FOLDER / name).read_bytes()[:99])
    fingerprint = sources.digits(str(tmp_path), 0).load("train").fingerprint
    assert fingerprint == sources.digits(data_dir, 0).load("train").fingerprint


def test_second_to_finish_takes_the_files_of_the_first(tmp_path, monkeypatch, data_dir):
    from vdm.data import digits

    generate = digits.Digits._generate_examples

    def overtaken(self, start, stop):
        monkeypatch.undo()
        digits.prepare(tmp_path)  # another process, start to end, in the middle of ours
        yield from generate(self, start, stop)

    monkeypatch.setattr(digits.Digits, "_generate_examples", overtaken)
    fingerprint = sources.digits(str(tmp_path), 0).load("train").fingerprint
    assert fingerprint == sources.digits(data_dir, 0).load("train").fingerprint
    assert os.listdir(tmp_path / "digits") == ["1.0.0"]


@pytest.mark.parametrize("below", ["", "sub/folder"])
def test_unwritable_folder_is_one_line_with_the_remedy(tmp_path, below):
    blocker = tmp_path / "file"  # not permissions: tests may run as root
    blocker.write_text("in the way")
    with pytest.raises(ValueError, match=r"data\.data_dir") as caught:
        sources.digits(str(blocker / below), 0).load("train")
    assert str(blocker) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert blocker.read_text() == "in the way"


def test_damaged_set_is_one_line_naming_the_folder(tmp_path):
    sources.digits(str(tmp_path), 0).load("test")
    folder = tmp_path / DIGITS_FOLDER
    records = folder / "digits-train.array_record-00000-of-00001"
    records.write_bytes(records.read_bytes()[: 1 << 17])
    with pytest.raises(ValueError, match="cannot read split 'train'") as caught:
        sources.digits(str(tmp_path), 0).load("train")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- other TFDS sets --------------------------------------------------------------------------


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


# --- holding out ------------------------------------------------------------------------------


@given(num_train=st.integers(1, 40), holdout=st.integers(0, 45))
def test_holdout_arithmetic(num_train, holdout):
    kwargs = {"shape": (2,), "num_codes": 250, "num_classes": 3, "num_train": num_train}
    whole = generated.synthetic("", 0, **kwargs).load("train")
    source = generated.synthetic("", holdout, **kwargs)
    if holdout >= num_train:
        with pytest.raises(ValueError, match=f"holdout is {holdout}"):
            source.load("train")
        return
    train = source.load("train")
    assert len(train.examples) == num_train - holdout
    assert source.evaluation_split == ("holdout" if holdout else "test")
    parts = [train, source.load("holdout")] if holdout else [train]
    for field in ("examples", "labels"):
        together = np.concatenate([getattr(part, field) for part in parts])
        np.testing.assert_array_equal(together, getattr(whole, field))


def test_holdout_mistakes_are_named():
    source = generated.swirl("", 0)
    with pytest.raises(ValueError, match=r"config\.data\.holdout=N"):
        source.load("holdout")
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        source.load("valid")
    with pytest.raises(ValueError, match="holdout is -1"):
        generated.swirl("", -1)


# --- fingerprints -----------------------------------------------------------------------------


def test_fingerprint_tells_order_shape_and_type():
    codes = np.arange(12, dtype=np.uint8).reshape(6, 2)
    variants = [codes, codes[::-1], codes.reshape(4, 3), codes.view(np.int8), codes[:5]]
    fingerprints = [Split("test", variant, None).fingerprint for variant in variants]
    assert len(set(fingerprints)) == len(variants)
    assert all(f.startswith("sha256:") and len(f) == 71 for f in fingerprints)
    same = dataclasses.replace(Split("test", codes.copy(), np.zeros(6, np.int32)), name="holdout")
    assert same.fingerprint == fingerprints[0]  # of the codes alone


# --- generated data ---------------------------------------------------------------------------


def test_swirl_without_noise_lies_on_the_spiral():
    points = generated.swirl("", 0, noise=0.0).load("train").examples
    assert points.dtype == np.float32
    radius, angle = np.hypot(*points.T), np.arctan2(points[:, 1], points[:, 0])
    assert radius.min() > 1 / 3 - 1e-6
    assert 0.999 < radius.max() < 1 + 1e-6
    turns = (radius * 4.5 * np.pi - angle) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-5)


def test_swirl_noise_has_the_stated_deviation():
    # The same draws with and without noise, so the difference is the noise alone.
    clean, noisy = (generated.swirl("", 0, noise=n).load("train").examples for n in (0.0, 0.1))
    np.testing.assert_allclose((noisy - clean).std(axis=0), 0.1, rtol=0.03)  # 4 standard errors


def test_mixture_has_its_weights_means_and_deviation():
    split = generated.mixture("", 0, num_train=50_000).load("train")
    for k, (mean, weight) in enumerate(
        zip(generated.MIXTURE_MEANS, generated.MIXTURE_WEIGHTS, strict=True)
    ):
        points = split.examples[split.labels == k]
        count = len(points)
        assert abs(count / 50_000 - weight) < 4 * np.sqrt(weight * (1 - weight) / 50_000)
        error = generated.MIXTURE_STD / np.sqrt(count)
        np.testing.assert_allclose(points.mean(axis=0), mean, atol=4 * error)
        np.testing.assert_allclose(points.std(axis=0), generated.MIXTURE_STD, rtol=0.04)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"weights": (0.5, 0.5)}, "means have shape"),
        ({"weights": (0.5, 0.3, 0.3)}, "not a distribution"),
        ({"std": 0.0}, "std is 0.0"),
        ({"num_train": 0}, "num_train is 0"),
    ],
)
def test_mixture_mistakes_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        generated.mixture("", 0, **kwargs)


@pytest.mark.parametrize("constructor", [generated.swirl, generated.mixture])
def test_generated_test_points_do_not_depend_on_the_number_of_training_points(constructor):
    few, many = (constructor("", 0, num_train=n, num_test=50) for n in (10, 100))
    assert few.load("test").fingerprint == many.load("test").fingerprint
    assert few.load("test").fingerprint != many.load("train").fingerprint


@pytest.mark.parametrize("num_codes", [0, 2, 17, 256])
def test_synthetic_fills_its_codes(num_codes):
    source = generated.synthetic("", 0, shape=[8, 8, 2], num_codes=num_codes, num_classes=4)
    split = source.load("train")
    assert split.examples.shape == (1024, 8, 8, 2)
    assert split.labels is not None
    assert set(np.unique(split.labels)) == {0, 1, 2, 3}
    if num_codes:
        assert split.examples.dtype == np.uint8
        assert set(np.unique(split.examples)) == set(range(num_codes))
    else:
        assert split.examples.dtype == np.float32
    unlabelled = generated.synthetic("", 0, shape=(2,), num_codes=0).load("test")
    assert unlabelled.labels is None
    with pytest.raises(ValueError, match="num_codes is 257"):
        generated.synthetic("", 0, shape=(2,), num_codes=257)
