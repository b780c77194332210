"""What a run records about its data, and a model whose data are gone."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

import vdm
from tests.runs.array_data import SHAPE, codes, write_arrays, write_pictures
from vdm.runs import data as records
from vdm.runs import evaluate, sample, train
from vdm.runs.run import open_run


@pytest.fixture(scope="module")
def trained(make_config, tmp_path_factory):
    """{name of a source: (config, workdir)} of runs whose data were removed; tests must not change
    them."""
    root, runs = tmp_path_factory.mktemp("gone"), {}
    for name, write in (("npy", write_arrays), ("folder", write_pictures)):
        config = make_config(write(root / f"data_{name}"), name)
        train.train(open_run(config, root / name))
        shutil.rmtree(root / f"data_{name}")
        runs[name] = config, root / name
    return runs


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
