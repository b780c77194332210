"""A run tells the user which data were read, which were skipped, and what looks wrong in them."""

import shutil

import numpy as np
import pytest
from PIL import Image

from vdm.runs import evaluate, states, train
from vdm.runs.run import open_run

RNG = np.random.default_rng(0)


class Began(Exception):
    """Raised instead of taking the first step."""


@pytest.fixture
def told(make_tiny_config, tmp_path, monkeypatch, capsys):
    """(name, path, kwargs of the data) -> what a training prints before its first step; with
    mode="eval", what an evaluation prints before its first batch."""

    def begin(*arguments, **kwargs):
        raise Began

    monkeypatch.setattr(train, "fit", begin)
    monkeypatch.setattr(train, "report_evaluation", begin)
    monkeypatch.setattr(evaluate, "report_evaluation", begin)
    monkeypatch.setattr(states, "trained_params", lambda run, init_from: (0, None))

    def tell(name, path, mode="train", **kwargs):
        config = make_tiny_config(model__class_conditional=kwargs.get("labels", False))
        config.data.name, config.data.kwargs.path = name, str(path)
        config.data.kwargs.update(kwargs)
        run = open_run(config, tmp_path / "run")
        with pytest.raises(Began):
            {"train": train.train, "eval": evaluate.evaluate_run}[mode](run)
        return capsys.readouterr().out

    return tell


def test_a_training_and_an_evaluation_tell_of_a_folder(told, tmp_path):
    for label, name in enumerate(("cats", "dogs")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for row in range(12):
            bits = RNG.integers(0, 2, (8, 8), np.uint8) | label
            path = tmp_path / f"set/{name}/{row}.png"
            Image.fromarray(bits * 255).convert("1").save(path)
    for row in range(12):
        shutil.copy(tmp_path / f"set/cats/{row}.png", tmp_path / f"set/cats/copy_{row}.png")
    (tmp_path / "set/phone.heic").write_bytes(b"?")
    path = tmp_path / "set"
    out = told("folder", path, num_test=18)
    assert f"{path}: read 18 pictures for training and 18 for testing; skipped 1 .heic" in out
    assert "of 18 test pictures have exactly the pixels of a training picture" in out
    assert "2 greys of 256 occur (0, 255)" in out
    assert "set data.kwargs.num_codes to 2" in out
    fields = {"num_test": 18, "num_codes": 2, "labels": True, "duplicates": "drop"}
    out = told("folder", path, **fields)
    assert "have the pixels of another one and are dropped" in out
    assert "greys of 256" not in out
    assert "exactly the pixels" not in out
    assert f"{path}: read 18 pictures for training" in told("folder", path, mode="eval", **fields)


def test_a_training_tells_of_arrays(told, tmp_path):
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}.npy", RNG.integers(0, 2, (16, 3, 8, 8), np.uint8))
    out = told("npy", tmp_path)
    assert f"{tmp_path / 'train.npy'}: the largest code is 1, and data.kwargs.num_codes is" in out
    assert "numpy.moveaxis(x, 1, -1)" in out
