"""What a run keeps of its data: a model whose data are gone, data that were replaced, a test split
that is of no use."""

import json
import os
import re
import shutil
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import vdm
from vdm import main as program
from vdm.data.sources import build_source
from vdm.io.checkpoints import Checkpoints
from vdm.runs import classifier, evaluate, sample, train
from vdm.runs import data as records
from vdm.runs.run import open_run

SHAPE = (8, 8, 1)


def codes(seed, count=48, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def write_arrays(folder, train=0, test=1, labels=None):
    folder.mkdir(parents=True, exist_ok=True)
    for split, seed in (("train", train), ("test", test)):
        np.save(folder / f"{split}.npy", codes(seed))
        np.save(folder / f"{split}_labels.npy", np.arange(48) % 3 + (labels or 0))
    return folder


def write_pictures(folder):
    for split, seed in (("train", 0), ("test", 1)):
        (folder / split).mkdir(parents=True)
        for index, image in enumerate(codes(seed, 16)):
            Image.fromarray(image[..., 0]).save(folder / split / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def make_config(make_tiny_config):
    def make(path, name="npy", **changes):
        return make_tiny_config(
            data__name=name, data__kwargs__path=str(path), train__num_steps=2,
            train__save_every=2, train__eval_every=0, train__num_devices=1, eval__draws=1,
            sample__num_steps=2, **changes,
        )  # fmt: skip

    return make


@pytest.fixture(scope="module")
def trained(make_config, tmp_path_factory):
    """{name of a source: (config, workdir)}, whose data are gone; not to be changed."""
    root, runs = tmp_path_factory.mktemp("gone"), {}
    for name, write in (("npy", write_arrays), ("folder", write_pictures)):
        config = make_config(write(root / f"data_{name}"), name)
        train.train(open_run(config, root / name))
        shutil.rmtree(root / f"data_{name}")
        runs[name] = config, root / name
    return runs


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_training_writes_down_what_its_data_are(finished_run):
    kept = json.loads((finished_run / "data.json").read_text())
    split = open_run(vdm.load(finished_run).run.resolved, finished_run).source.load("train")
    assert kept == {
        "name": "digits", "shape": [8, 8, 1], "num_codes": 17, "num_classes": 10,
        "num_examples": 1500, "fingerprint": split.fingerprint,
        "labels_fingerprint": records.arrays.fingerprint(split.labels),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["npy", "folder"])
def test_a_model_whose_data_are_gone_does_all_that_needs_none(trained, tmp_path, name, capsys):
    config, source = trained[name]
    workdir = shutil.copytree(source, tmp_path / "run")
    model, images = vdm.load(workdir), codes(5, 4)
    assert model.sample(2, num_steps=2).shape == (2, *SHAPE)
    assert np.isfinite(model.bpd(images, draws=1).mean)
    content = model.compress(images, num_steps=2)
    np.testing.assert_array_equal(model.decompress(content), images)
    (workdir / "samples.npz").unlink()
    sample.sample_run(open_run(config, workdir))
    assert (workdir / "samples.npz").is_file()
    sample.sample_run(open_run(config, tmp_path / "new", str(workdir)), str(workdir))
    step_folder = str(workdir / "checkpoints" / "2")
    sample.sample_run(open_run(config, tmp_path / "new", step_folder), step_folder)
    capsys.readouterr()
    for use in (model.split, lambda: evaluate.evaluate_run(open_run(config, workdir))):
        with pytest.raises(ValueError, match=f"data_{name}"):  # where they should be
            use()
    config = ConfigDict(config.to_dict())
    config.train.num_steps = 4
    with pytest.raises(ValueError, match=f"data_{name}"):
        train.train(open_run(config, workdir))


@pytest.mark.parametrize("name", ["npy", "folder"])
def test_the_shape_may_be_stated_where_it_was_read_from_the_data(trained, name):
    config, workdir = trained[name]
    stated = ConfigDict(config.to_dict())
    stated.data.kwargs.shape = SHAPE
    assert open_run(stated, workdir).model.dims == SHAPE
    stated.data.kwargs.shape = (8, 8, 3)
    run = open_run(stated, workdir)  # as it was trained, whatever is stated
    assert run.model.dims == SHAPE
    with pytest.raises(ValueError, match=re.escape("shape (8, 8, 3), not (8, 8, 1)")):
        run.source.load("train")


@pytest.mark.parametrize("name", ["npy", "folder"])
def test_a_workdir_of_an_earlier_version_has_the_shape_of_its_samples(trained, tmp_path, name):
    config, source = trained[name]
    workdir = shutil.copytree(source, tmp_path / "run")
    (workdir / "data.json").unlink()
    assert vdm.load(workdir).sample(2, num_steps=2).shape == (2, *SHAPE)
    (workdir / "samples.npz").unlink()
    with pytest.raises(ValueError, match=r"set data.kwargs.shape to the shape of") as refused:
        vdm.load(workdir)
    assert str(workdir / "config.json") in str(refused.value)
    stated = ConfigDict(config.to_dict())
    stated.data.kwargs.shape = SHAPE  # the remedy, on the command line
    sample.sample_run(open_run(stated, workdir))
    (workdir / "samples.npz").unlink()
    saved = json.loads((workdir / "config.json").read_text())
    saved["data"]["kwargs"]["shape"] = list(SHAPE)  # and in config.json
    (workdir / "config.json").write_text(json.dumps(saved))
    assert vdm.load(workdir).model.dims == SHAPE


@pytest.mark.slow
def test_an_earlier_workdir_of_data_that_are_there_goes_on_and_gets_its_record(
    make_tiny_config, finished_run, tmp_path
):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    kept = (workdir / "data.json").read_text()
    (workdir / "data.json").unlink()
    train.train(open_run(make_tiny_config(train__num_steps=31), workdir))
    assert (workdir / "data.json").read_text() == kept


def test_a_damaged_record_is_one_line(trained, tmp_path):
    workdir = shutil.copytree(trained["npy"][1], tmp_path / "run")
    for content in ("{", "[]", '{"name": "npy"}'):
        (workdir / "data.json").write_text(content)
        with pytest.raises(ValueError, match=f"{re.escape(str(workdir))}/data.json is damaged"):
            vdm.load(workdir)


@pytest.mark.parametrize("within", ["", "checkpoints", "checkpoints/2"])
def test_runs_kept_in_a_folder_named_checkpoints_have_their_records(trained, tmp_path, within):
    config, workdir = trained["npy"]
    origin = shutil.copytree(workdir, tmp_path / "checkpoints" / "run") / within
    assert open_run(config, tmp_path / "new", str(origin)).source.shape == SHAPE


def test_a_file_of_that_name_beside_the_run_is_not_taken_for_its_record(trained, tmp_path):
    config, workdir = trained["npy"]
    for folder in (tmp_path, tmp_path / "runs"):
        folder.mkdir(exist_ok=True)
        (folder / "data.json").write_text("[1]")
    origin = shutil.copytree(workdir, tmp_path / "runs" / "run")
    (origin / "data.json").unlink()
    with pytest.raises(ValueError, match="data_npy"):  # where they should be
        open_run(config, tmp_path / "new", str(origin))


def test_data_of_another_shape_in_their_place_leave_the_model_as_it_is(
    make_config, tmp_path, trained
):
    config, source = trained["npy"]
    workdir = shutil.copytree(source, tmp_path / "run")
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}.npy", codes(0, 8, (16, 16, 1)))
    config = ConfigDict(config.to_dict())
    config.data.kwargs.path, config.train.num_steps = str(tmp_path), 4
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    assert vdm.load(workdir).sample(2, num_steps=2).shape == (2, *SHAPE)
    with pytest.raises(ValueError, match="are not those that it was trained on"):
        train.train(open_run(config, workdir))


@pytest.mark.slow
def test_a_source_of_ones_own_that_is_not_importable_any_more(make_config, tmp_path, monkeypatch):
    (tmp_path / "own_source_of_a_run.py").write_text(
        "from tests.runs.test_data import codes\n"
        "from vdm.data.sources import build_source\n"
        "def own(data_dir, holdout):\n"
        "    return build_source('own', (8, 8, 1), 256, 0, holdout, lambda s: (codes(0), None))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = make_config("", "own_source_of_a_run:own")
    config.data.kwargs = ConfigDict()
    train.train(open_run(config, tmp_path / "run"))
    (tmp_path / "own_source_of_a_run.py").unlink()
    del sys.modules["own_source_of_a_run"]
    model = vdm.load(tmp_path / "run")
    assert model.sample(1, num_steps=2).shape == (1, *SHAPE)
    with pytest.raises(ValueError, match="cannot be imported"):
        model.split()


def test_vectors_whose_data_are_gone_are_sampled_and_plotted_without_them(tmp_path, capsys):
    config = vdm.load_config("configs/toy_swirl.py")
    config.update_from_flattened_dict({
        "network.kwargs.width": 8, "network.kwargs.num_blocks": 1, "train.num_steps": 2,
        "schedule.kwargs.hidden_features": 8, "train.batch_size": 16, "train.save_every": 2,
        "data.kwargs.num_train": 32, "data.kwargs.num_test": 16, "eval.draws": 1,
        "sample.num_images": 8, "sample.num_steps": 2,
    })  # fmt: skip
    train.train(open_run(config, tmp_path / "run"))
    compared = json.loads((tmp_path / "run" / "samples.json").read_text())["quality"]
    assert list(compared) == ["sliced_wasserstein"]
    run = open_run(config, tmp_path / "run")
    gone = records._gone("the points are not there")
    run = train.dataclasses.replace(run, source=train.dataclasses.replace(run.source, load=gone))
    (tmp_path / "run" / "samples.png").unlink()
    capsys.readouterr()
    sample.sample_run(run)
    assert "not compared with the data: the points are not there" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "samples.json").read_text())["quality"] == {}
    assert (tmp_path / "run" / "samples.png").is_file()


# ---- data that were replaced under a run


@pytest.fixture(scope="module")
def ended(make_config, tmp_path_factory):
    """(config of two steps more, workdir, data) of a run with labels that ended at step 2."""
    root = tmp_path_factory.mktemp("ended")
    config = make_config(write_arrays(root / "data"), data__kwargs__num_classes=3)
    train.train(open_run(config, root / "run"))
    config.train.num_steps = 4
    return config, root / "run", root / "data"


@pytest.fixture
def halted(ended, tmp_path):
    """A copy of it, to be changed."""
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


# ---- a test split that is of no use, before the first step


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
    """A source whose split is not what it says, as one of the user's own may be."""

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
    """Points of which the last is none."""
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
    data = write_arrays(tmp_path / "data")
    no_file(data / "test.npy")
    config = make_config(data, data__holdout=8)
    train.train(open_run(config, tmp_path / "run"))  # the test split is not looked at
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["split"] == "holdout"


# ---- two trainings in one workdir


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
