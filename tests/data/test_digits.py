"""The digits are scikit-learn's, in file order, even after a preparation that went wrong."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from vdm.data import sources

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
