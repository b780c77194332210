"""Training data that were replaced under a run are noticed, refused, and accepted on request."""

import json
import os
import shutil
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import vdm
from tests.runs.array_data import codes, snapshot, write_arrays
from vdm import main as program
from vdm.io.checkpoints import Checkpoints
from vdm.runs import classifier, evaluate, train
from vdm.runs import data as records
from vdm.runs.run import open_run


@pytest.fixture(scope="module")
def ended(make_config, tmp_path_factory):
    """(config with two more steps, workdir, folder of the data) of a labelled run that ended at
    step 2."""
    root = tmp_path_factory.mktemp("ended")
    config = make_config(write_arrays(root / "data"), data__kwargs__num_classes=3)
    train.train(open_run(config, root / "run"))
    config.train.num_steps = 4
    return config, root / "run", root / "data"


@pytest.fixture
def halted(ended, tmp_path):
    """A copy of `ended` that a test may change."""
    workdir, data = (shutil.copytree(f, tmp_path / f.name) for f in ended[1:])
    config = ConfigDict(ended[0].to_dict())
    config.data.kwargs.path = str(data)
    return config, workdir, data


def fingerprint_of(seed):
    return records.arrays.fingerprint(codes(seed))


def test_training_data_that_were_replaced_are_refused_and_accepted_on_request(halted, capsys):
    config, workdir, data = halted
    write_arrays(data, train=7)
    before = snapshot(workdir)
    with pytest.raises(ValueError, match="--accept_new_data") as refused:
        train.train(open_run(config, workdir))
    assert fingerprint_of(0) in str(refused.value)
    assert fingerprint_of(7) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert snapshot(workdir) == before
    capsys.readouterr()
    train.train(open_run(config, workdir), accept_new_data=True)
    assert f"were {fingerprint_of(0)} and are {fingerprint_of(7)}" in capsys.readouterr().out
    kept = json.loads((workdir / "data.json").read_text())
    assert kept["fingerprint"] == fingerprint_of(7)
    (earlier,) = kept["earlier"]
    assert (earlier["fingerprint"], earlier["until_step"]) == (fingerprint_of(0), 2)
    assert Checkpoints(workdir / "checkpoints").steps()[-1] == 4
    run = open_run(config, workdir)  # accepted once, and still on record
    assert records.settle(workdir, run.source, run.source.load("train"), 4, False) == kept
    write_arrays(data, train=0)
    run = open_run(config, workdir)
    with pytest.raises(ValueError, match="since step 4 was trained"):
        records.settle(workdir, run.source, run.source.load("train"), 4, False)
    kept = records.settle(workdir, run.source, run.source.load("train"), 4, True)
    assert [facts["until_step"] for facts in kept["earlier"]] == [2, 4]


@pytest.mark.parametrize("change", ["labels", "order", "one pixel"])
def test_the_least_change_is_noticed(halted, change):
    config, workdir, data = halted
    examples, labels = codes(0), np.arange(48) % 3
    if change == "order":
        examples, labels = examples[::-1], labels[::-1]
    elif change == "labels":
        labels = labels[::-1]
    else:
        examples[5, 3, 3] ^= 1
    np.save(data / "train.npy", examples)
    np.save(data / "train_labels.npy", labels)
    what = "training labels" if change == "labels" else "training data"
    with pytest.raises(ValueError, match=f"the {what} of .* have changed since step 2"):
        train.train(open_run(config, workdir))


def test_the_same_data_elsewhere_and_other_test_data_are_no_change(halted, tmp_path):
    config, workdir, data = halted
    config.data.kwargs.path = str(write_arrays(tmp_path / "elsewhere", test=9))
    shutil.rmtree(data)
    run = open_run(config, workdir)
    kept = json.loads((workdir / "data.json").read_text())
    assert records.settle(workdir, run.source, run.source.load("train"), 2, False) == kept


@pytest.mark.slow
def test_the_classifier_notices_it_too(halted):
    config, workdir, data = halted
    config.classifier.num_steps, config.classifier.batch_size = 2, 8
    classifier.train_classifier(open_run(config, workdir))
    write_arrays(data, train=7)
    config.classifier.num_steps = 4
    before = snapshot(workdir)
    with pytest.raises(ValueError, match=r"of .*/classifier have changed since step 2"):
        classifier.train_classifier(open_run(config, workdir))
    assert snapshot(workdir) == before
    classifier.train_classifier(open_run(config, workdir), accept_new_data=True)
    kept = json.loads((workdir / "classifier" / "data.json").read_text())
    assert kept["earlier"][0]["fingerprint"] == fingerprint_of(0)


def test_the_flag_is_for_trainings_alone(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    arguments = ["vdm.main", "--config=configs/digits.py", f"--workdir={tmp_path}/run"]
    assert program.main([*arguments, "--mode=eval", "--accept_new_data"]) == 2
    assert "--accept_new_data is for --mode=train" in capsys.readouterr().err


def test_a_second_training_is_refused_and_touches_nothing(make_tiny_config, finished_run, tmp_path):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "30")
    config = make_tiny_config()
    with train.lock.held(workdir, "training"):
        before = snapshot(workdir)
        for use in (
            lambda: train.train(open_run(config, workdir)),
            lambda: vdm.train(config, workdir),
        ):
            with pytest.raises(ValueError, match=f"another training is .*process {os.getpid()}"):
                use()
        assert snapshot(workdir) == before
        assert jax.device_count() == 8
        evaluate.evaluate_run(open_run(config, workdir))  # reading is no training
    train.train(open_run(config, workdir))
    assert Checkpoints(workdir / "checkpoints").steps()[-1] == 30


@pytest.mark.slow
def test_a_second_training_of_a_classifier_is_refused_and_touches_nothing(halted):
    config, workdir, _ = halted
    config.classifier.num_steps, config.classifier.batch_size = 2, 8
    with train.lock.held(workdir / "classifier", "training of a classifier"):
        before = snapshot(workdir)
        with pytest.raises(ValueError, match="another training of a classifier is running"):
            classifier.train_classifier(open_run(config, workdir))
        assert snapshot(workdir) == before
    classifier.train_classifier(open_run(config, workdir))
    assert Checkpoints(workdir / "classifier").steps() == [2]
