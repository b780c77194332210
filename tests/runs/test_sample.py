"""Samples of a run: what a killed command resumes from, and what they are compared with."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import vdm
from vdm.evaluation import quality
from vdm.evaluation.features import train_mlp_features
from vdm.io.atomic import save_npz
from vdm.io.journal import Journal
from vdm.runs import sample
from vdm.runs.run import build_run, open_run


class Flat:
    """Features that are the pixels."""

    name = "flat"

    def __call__(self, codes, num_codes):
        return codes.reshape(len(codes), -1) / num_codes


def test_images_are_compared_with_the_first_50000(monkeypatch, tmp_path):
    assert sample.MAX_REAL == 50_000
    monkeypatch.setattr(sample, "MAX_REAL", 30)
    monkeypatch.setattr(sample, "read_features", lambda path: Flat())
    rng = np.random.default_rng(0)
    real = rng.integers(0, 17, (40, 2, 1, 1), dtype=np.uint8)
    samples = rng.integers(0, 17, (20, 2, 1, 1), dtype=np.uint8)
    split = SimpleNamespace(examples=real, fingerprint="sha256:a")
    run = SimpleNamespace(
        source=SimpleNamespace(load=lambda split_name: split, shape=(2, 1, 1), num_codes=17),
        options=SimpleNamespace(sample=SimpleNamespace(features="some.npz", precision_recall=True)),
        resolved={"data": {"data_dir": str(tmp_path)}},
    )
    found = sample.sample_quality(run, samples)
    wanted = quality.compare(Flat()(samples, 17), Flat()(real[:30], 17))
    assert found == {"features": "flat", "num_real": 30} | wanted
    monkeypatch.setattr(Flat, "__call__", lambda self, codes, num_codes: codes.reshape(-1, 2) / 17)
    run.options.sample.precision_recall = False  # and the data's features are in data_dir
    shares = ("precision", "recall")
    assert sample.sample_quality(run, samples) == {
        key: value for key, value in found.items() if key not in shares
    }


SAMPLED = {"sample__num_images": 10, "sample__batch_size": 4}


@pytest.fixture
def workdir(finished_run, tmp_path):
    """A copy of the finished run without its samples."""
    copy = shutil.copytree(finished_run, tmp_path / "run")
    for name in ("samples.npz", "samples.json", "samples.png"):
        (copy / name).unlink()
    return copy


def arrays_of(workdir):
    with np.load(workdir / "samples.npz") as file:
        return {name: file[name] for name in file.files}


def stop_after(monkeypatch, count):
    """Ends the next command after so many parts of its journal."""
    append, appended = Journal.append, []

    def counted(journal, part):
        append(journal, part)
        appended.append(part)
        if len(appended) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", counted)
    return appended


def test_samples_that_were_killed_are_completed_to_the_same_bits(
    make_tiny_config, finished_run, workdir, tmp_path, monkeypatch, capsys
):
    config = make_tiny_config(**SAMPLED, sample__num_frames=2)
    other = shutil.copytree(finished_run, tmp_path / "undisturbed")
    sample.sample_run(open_run(config, other))
    with monkeypatch.context() as patch:
        appended = stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            sample.sample_run(open_run(config, workdir))
        assert not (workdir / "samples.npz").exists()
        sample.sample_run(open_run(config, workdir))
        assert [len(part) for part in appended] == [4, 4, 2]
    assert "samples.partial, 8 images done" in capsys.readouterr().out
    assert not (workdir / "samples.partial").exists()
    for name, array in arrays_of(other).items():
        assert arrays_of(workdir)[name].tobytes() == array.tobytes()
    assert arrays_of(workdir)["samples"].dtype == np.uint8
    for name in ("samples.json", "samples.png"):
        assert (workdir / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"sample__seed": 1},
        {"sample__num_steps": 4},
        {"sample__name": "ddim"},
        {"sample__grid__name": "equal_omegas"},
        {"sample__batch_size": 6},
        {"sample__num_frames": 2},
        {"eval__params": "raw"},
    ],
)
def test_parts_of_other_samples_are_not_taken(
    make_tiny_config, workdir, monkeypatch, capsys, changes
):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            sample.sample_run(open_run(make_tiny_config(**SAMPLED), workdir))
    sample.sample_run(open_run(make_tiny_config(**SAMPLED | changes), workdir))
    assert "dropping 1 finished parts of other samples" in capsys.readouterr().out


def test_two_processes_do_not_sample_into_one_workdir(make_tiny_config, workdir):
    with (
        Journal(workdir / "samples.partial", {}),
        pytest.raises(
            ValueError, match=r"another process is sampling from .*: wait for it, or stop it"
        ),
    ):
        sample.sample_run(open_run(make_tiny_config(), workdir))


def features_of_digits(path, num_codes=17):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 17, (40, 8, 8, 1), dtype=np.uint8)
    return train_mlp_features(
        path, codes, np.arange(40) % 3, num_codes, hidden=(4,), max_epochs=500
    )


@pytest.mark.parametrize("failing", ["of the samples", "of the data"])
def test_a_comparison_that_fails_loses_no_sample(
    make_tiny_config, workdir, tmp_path, monkeypatch, failing
):
    features_of_digits(tmp_path / "features.npz")
    config = make_tiny_config(
        **SAMPLED, sample__features=str(tmp_path / "features.npz"),
        data__data_dir=str(tmp_path / "data"),
    )  # fmt: skip
    name = {"of the samples": "features_in_batches", "of the data": "data_features"}[failing]
    (workdir / "samples.json").write_text("{}")  # of samples before these
    with monkeypatch.context() as patch:

        def fail(*args):
            raise MemoryError

        patch.setattr(sample, name, fail)
        with pytest.raises(MemoryError):
            sample.sample_run(open_run(config, workdir))
    kept = arrays_of(workdir)
    assert kept["samples"].shape == (10, 8, 8, 1)
    assert (workdir / "samples.png").is_file()
    assert not (workdir / "samples.json").exists()
    appended = stop_after(monkeypatch, 1)
    sample.sample_run(open_run(config, workdir))  # draws nothing again
    assert appended == []
    np.testing.assert_array_equal(arrays_of(workdir)["samples"], kept["samples"])
    report = json.loads((workdir / "samples.json").read_text())
    assert report["quality"]["num_real"] == 1500
    assert report["quality"]["features"].startswith("mlp-4@sha256:")
    assert len(list((tmp_path / "data" / "features").iterdir())) == 1


def test_features_that_cannot_take_the_data_stop_a_run_before_it_begins(make_tiny_config, tmp_path):
    path = tmp_path / "features.npz"

    def refused(match, **changes):
        config = make_tiny_config(
            sample__features=str(path), train__num_steps=1, **SAMPLED | changes
        )
        with pytest.raises(ValueError, match=match):
            build_run(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    features_of_digits(path, num_codes=18)
    refused(r"sample\.features: images of 17 codes, .* was trained on 18")
    save_npz(path, weight_0=np.zeros((192, 4)), bias_0=np.zeros(4),
             weight_1=np.zeros((4, 2)), bias_1=np.zeros(2))  # fmt: skip
    refused(r"images of shape \(8, 8, 1\), .* takes 192 numbers each")
    save_npz(path, pictures=np.zeros((2, 8, 8, 1)))
    refused("not the weights of FID's Inception-v3")
    path.write_bytes(b"PK")
    refused(r"not an \.npz of numbers")
    features_of_digits(path)
    refused(r"sample\.num_images = 3: sample\.features compares 4", sample__num_images=3)


def test_a_run_is_loaded_without_the_features_that_its_samples_were_compared_by(
    finished_run, tmp_path
):
    copy = shutil.copytree(finished_run, tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    config["sample"]["features"] = str(tmp_path / "gone.npz")
    (copy / "config.json").write_text(json.dumps(config))
    assert vdm.load(copy).sample(2, num_steps=2).dtype == np.int32
