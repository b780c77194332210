"""Data that cannot be used stop a run before it writes anything."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

import vdm
from tests.runs.array_data import SHAPE, codes, write_arrays
from vdm.data.sources import build_source
from vdm.runs import train
from vdm.runs.run import open_run


def no_file(path):
    path.unlink()


def another_shape(path):
    np.save(path, codes(1, 48, (9, 8, 1)))


def without_channel(path):
    np.save(path, codes(1)[..., 0])


def floats(path):
    np.save(path, codes(1).astype(np.float32))


def empty(path):
    np.save(path, codes(1)[:0])


def cut_short(path):
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    "harm", [no_file, another_shape, without_channel, floats, empty, cut_short]
)
def test_a_test_file_of_no_use_stops_the_run_before_anything_is_written(
    make_config, tmp_path, harm
):
    data = write_arrays(tmp_path / "data")
    harm(data / "test.npy")
    with pytest.raises(ValueError, match=r"test\.npy") as refused:
        train.train(open_run(make_config(data), tmp_path / "run"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


BROKEN = {}


def own(data_dir, holdout, split, kind):
    """A source, as a user may write one, with a split that breaks its own description."""

    def read(name):
        examples, labels = codes(0) % 16, np.arange(48, dtype=np.int32) % 3
        if name == split:
            examples, labels = BROKEN[kind](examples, labels)
        return examples, labels

    return build_source("own", SHAPE, 16, 3, holdout, read)


BROKEN |= {
    "another shape": lambda x, y: (x[:, :7], y),
    "codes out of range": lambda x, y: (x + np.uint8(1), y),
    "floats": lambda x, y: (x / np.float32(16), y),
    "labels out of range": lambda x, y: (x, y + 1),
    "too few labels": lambda x, y: (x, y[:-1]),
    "no labels": lambda x, y: (x, None),
    "nothing": lambda x, y: (x[:0], y[:0]),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_of_ones_own_source_is_checked_before_anything_is_written(
    make_config, tmp_path, split, kind
):
    config = make_config("", f"{__name__}:own", model__class_conditional=True)
    config.data.kwargs = ConfigDict({"split": split, "kind": kind})
    said = f"the {split} split of data set 'own' cannot be used|own has 0 training examples"
    with pytest.raises(ValueError, match=said):
        train.train(open_run(config, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def points(data_dir, holdout):
    """A source whose last test point is not a number."""
    train = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    test = np.append(train, np.float32([[0.0, np.nan]]), axis=0)
    return build_source(
        "points", (2,), 0, 0, holdout, lambda name: (train if name == "train" else test, None)
    )


def test_points_that_are_not_finite_are_refused(tmp_path):
    config = vdm.load_config("configs/toy_swirl.py")
    config.data.name, config.data.kwargs = f"{__name__}:points", ConfigDict()
    with pytest.raises(ValueError, match=r"the test split .* not finite"):
        train.train(open_run(config, tmp_path / "run"))


def test_what_is_held_out_is_checked_where_it_is_evaluated_on(make_config, tmp_path):
    data = write_arrays(tmp_path / "data", num_codes=256)
    no_file(data / "test.npy")
    config = make_config(
        data, data__holdout=8, data__kwargs__num_codes=256, train__num_devices=1
    )  # fmt: skip
    train.train(open_run(config, tmp_path / "run"))  # the test split is not looked at
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["split"] == "holdout"
