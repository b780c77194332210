"""Whole trainings with a tiny model: what they write, log, refuse and report."""

import dataclasses
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.runs.workdirs import state_of
from vdm.data.pipeline import train_batches
from vdm.io.checkpoints import CheckpointError
from vdm.io.metrics_log import MetricsWriter, read_metrics
from vdm.io.watchdog import Watchdog
from vdm.runs import evaluate, states, train
from vdm.runs import run as run_module
from vdm.runs.run import open_run
from vdm.training import loop
from vdm.training.metrics import NonFiniteError, check_finite


def test_a_run_leaves_every_file_of_the_interface(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert names >= {
        "config.json", "environment.json", "checkpoints", "metrics.jsonl", "eval.json",
        "eval_examples.npz", "samples.png", "omega.png", "loss_density.png",
    }  # fmt: skip
    assert any(name.startswith("events.out.tfevents.") for name in names)
    report = json.loads((finished_run / "eval.json").read_text())
    assert set(report) == {
        "bpd", "bpd_reconstruction", "bpd_prior", "bpd_denoising", "stderr_images",
        "stderr_monte_carlo", "stderr_degrees", "denoising_variance",
        "bound", "num_steps", "num_examples", "draws_per_example", "split",
        "dataset", "data_fingerprint", "params", "step", "omega_0", "omega_1", "train_secs",
        "train_images", "eval_secs", "seed", "eval_seed", "num_dims", "strata",
        "kernel", "decoder", "grid",
    }  # fmt: skip
    assert (report["num_examples"], report["split"], report["step"]) == (297, "test", 30)
    terms = report["bpd_reconstruction"] + report["bpd_prior"] + report["bpd_denoising"]
    assert report["bpd"] == pytest.approx(terms, rel=1e-6)
    examples = np.load(finished_run / "eval_examples.npz")
    names = ("reconstruction", "prior_matching", "denoising_matching")
    nats = sum(examples[name].mean() for name in names)
    assert nats / 64 / np.log(2) == pytest.approx(report["bpd"], rel=1e-6)
    np.testing.assert_array_equal(examples["index"], np.arange(297))
    environment = json.loads((finished_run / "environment.json").read_text())
    assert environment["versions"]["jax"] == jax.__version__


def test_metrics_have_the_keys_of_the_interface(finished_run):
    lines = read_metrics(finished_run)
    assert [line["step"] for line in lines] == [10, 20, 20, 30, 30]
    assert set(lines[0]) >= {
        "step", "time_secs", "train/bpd", "train/bpd_reconstruction", "train/bpd_prior",
        "train/bpd_denoising", "train/grad_norm", "train/denoising_variance", "train/omega_0",
        "train/omega_1", "images_per_sec",
    }  # fmt: skip
    assert ["eval/bpd" in line for line in lines] == [False, False, True, False, True]
    report = json.loads((finished_run / "eval.json").read_text())
    assert lines[-1]["eval/bpd"] == report["bpd"]
    secs = [line["time_secs"] for line in lines if "time_secs" in line]
    assert secs == sorted(secs)


def test_parameters_that_are_no_numbers_are_not_saved(make_tiny_config, tmp_path, monkeypatch):
    # The gradient of step 10 is finite and its update is not: the bound will say so at step 11.
    config = make_tiny_config(train__num_steps=10)
    run = open_run(config, tmp_path / "run")
    state = states.initial_state(run)
    check_finite(state, 10)
    broken = jax.tree.map(lambda leaf: leaf, state.params)
    bias = broken["network"]["conv_in"]["bias"]
    broken["network"]["conv_in"]["bias"] = bias.at[-1].set(jnp.inf)
    with pytest.raises(
        NonFiniteError, match=r"^params/network/conv_in/bias is not finite after step 10$"
    ):
        check_finite(dataclasses.replace(state, params=broken), 10)
    with pytest.raises(NonFiniteError, match=r"^ema_params/network"):
        check_finite(dataclasses.replace(state, ema_params=broken), 10)

    def make_step(*args):
        def step(state, batch):
            metrics = {"bpd": np.float32(1.0)}
            return dataclasses.replace(state, params=broken), metrics

        return step

    monkeypatch.setattr(run_module, "make_train_step", make_step)
    with pytest.raises(NonFiniteError, match="after step 10"):
        train.fit(run, state, iter([None] * 10), MetricsWriter(run.workdir, 0))
    assert run.checkpoints.steps() == []


def test_fit_names_the_phase_in_which_it_hangs(make_tiny_config, tmp_path, monkeypatch, capfd):
    run = open_run(make_tiny_config(train__num_steps=4, train__save_every=2), tmp_path / "run")
    state, entered, reported = states.initial_state(run), [], threading.Event()

    class Recorder(Watchdog):
        def enter(self, what, long=False):
            entered.append((what, long))
            super().enter(what, long)

        def _report(self, what, passed):
            super()._report(what, passed)
            if what == "waiting for the data of step 3":
                reported.set()

    def make_step(*args):
        def step(state, batch):
            metrics = {name: np.float32(1.0) for name in ("bpd", "grad_norm")}
            return state, metrics

        return step

    def batches():
        yield from (None, None)
        reported.wait()
        yield from (None, None)

    monkeypatch.setattr(run_module, "make_train_step", make_step)
    monkeypatch.setattr(loop, "Watchdog", lambda secs, of: Recorder(0.2, of))
    train.fit(run, state, batches(), MetricsWriter(run.workdir, 0))
    err = capfd.readouterr().err
    assert "s without progress: waiting for the data of step 3;" in err
    assert "in batches" in err
    assert [what for what, long in entered if long] == [
        "step 1 on the devices, the first one, which is compiled", "saving step 2", "saving step 4"
    ]  # fmt: skip
    assert ("step 4 on the devices, or one from 1 on", False) in entered


def test_runs_that_differ_in_seed_and_length_share_the_compiled_step(make_tiny_config, tmp_path):
    def function(**changes):
        return open_run(make_tiny_config(**changes), tmp_path / "run").train_step().function

    first, cosine = function(), {"optim__kwargs__decay": "cosine"}
    assert function(seed=1, train__num_steps=40) is first
    assert function(optim__kwargs__learning_rate=1e-3) is not first
    assert function(**cosine) is function(**cosine, seed=1)
    assert function(**cosine) is not function(**cosine, train__num_steps=40)


def test_a_finished_run_is_left_alone(make_tiny_config, finished_run, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished_run.rglob("*") if p.is_file()}
    train.train(open_run(make_tiny_config(), finished_run))
    assert "finished at step 30" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in finished_run.rglob("*") if p.is_file()} == before


def test_a_workdir_of_another_config_is_refused(make_tiny_config, finished_run):
    with pytest.raises(ValueError, match=r"network.kwargs.width: here 12, there 8"):
        open_run(make_tiny_config(network__kwargs__width=12), finished_run)
    open_run(make_tiny_config(eval__draws=3, train__log_every=1), finished_run)


def test_init_from_takes_the_parameters_of_another_run(make_tiny_config, finished_run, tmp_path):
    config = make_tiny_config(seed=1)
    run = open_run(config, tmp_path / "new")
    state = states.first_state(run, str(finished_run))
    _, trained = state_of(make_tiny_config(), finished_run)
    assert int(state.step) == 0
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), trained.params)
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(state.ema_params), trained.ema_params
    )
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        states.first_state(run, str(tmp_path))
    other = open_run(make_tiny_config(network__kwargs__width=12), tmp_path / "other")
    with pytest.raises(CheckpointError, match="another model"):
        states.first_state(other, str(finished_run))


@pytest.mark.slow
def test_a_non_finite_loss_stops_the_run_and_names_term_and_step(make_tiny_config, tmp_path):
    config = make_tiny_config(
        optim__kwargs__learning_rate=1e30, optim__kwargs__warmup_steps=12, train__log_every=5
    )
    run = open_run(config, tmp_path / "run")
    with pytest.raises(NonFiniteError, match=r"train/\w+ is (nan|inf) at step \d+") as error:
        train.train(run)
    assert run.checkpoints.steps() == []
    step = int(str(error.value).split()[-1])
    assert 1 < step <= 10
    assert not (tmp_path / "run" / "eval.json").exists()


@pytest.mark.slow
def test_holdout_trains_and_evaluates_on_the_rest_of_the_training_split(make_tiny_config, tmp_path):
    config = make_tiny_config(data__holdout=200, train__num_steps=1)
    train.train(open_run(config, tmp_path / "run"))
    report = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert (report["split"], report["num_examples"]) == ("holdout", 200)


@pytest.mark.slow
def test_class_conditional_digits_train_and_sample(make_tiny_config, tmp_path):
    config = make_tiny_config(model__class_conditional=True, train__num_steps=2)
    train.train(open_run(config, tmp_path / "run"))
    assert np.load(tmp_path / "run" / "samples.npz")["samples"].shape == (4, 8, 8, 1)


@pytest.mark.slow
def test_a_weighted_training_says_that_it_is_no_bound(make_tiny_config, tmp_path, capsys):
    config = make_tiny_config(train__num_steps=2, train__log_every=1, weighting__name="sigmoid")
    train.train(open_run(config, tmp_path / "run"))
    assert (
        "the network is trained on the 'sigmoid' weighting of the loss, which is not a bound; "
        "train/bpd and eval/bpd are bounds"
    ) in capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert report["trained_on"] == "sigmoid weighting, not a bound"
    lines = [line for line in read_metrics(tmp_path / "run") if "train/bpd" in line]
    assert all(0 < line["train/weighted_loss"] < line["train/bpd_denoising"] for line in lines)
    evaluate.evaluate_run(open_run(make_tiny_config(), tmp_path / "other"), str(tmp_path / "run"))
    # of parameters from elsewhere this config says nothing
    report = json.loads((tmp_path / "other" / "eval.json").read_text())
    assert "trained_on" not in report
    with pytest.raises(ValueError, match=r"weighting.name: here 'bound', there 'sigmoid'"):
        open_run(make_tiny_config(), tmp_path / "run")


def test_training_sees_augmented_images_with_their_flags_and_labels(
    make_tiny_config, tmp_path, monkeypatch
):
    config = make_tiny_config(model__class_conditional=True, data__augmentation__name="images")
    config.data.augmentation.kwargs.rotations = True
    config.data.augmentation.kwargs.share = 0.5
    seen = []

    def fit(run, state, batches, writer):
        seen.append(next(batches))
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", fit)
    run = open_run(config, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train.train(run)
    batch = jax.device_get(seen[0])
    assert batch.keys() == {"examples", "labels", "augmented"}
    plain = next(train_batches(run.source.load("train"), len(batch["labels"]), 0, 0))
    np.testing.assert_array_equal(batch["labels"], plain["labels"])
    changed = (batch["examples"] != plain["examples"]).any(axis=(1, 2, 3))
    assert changed.any()
    assert not changed[~batch["augmented"]].any()
