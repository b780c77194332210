"""Whole runs: the files they leave, resuming, and the faults they must survive."""

import dataclasses
import itertools
import json
import shutil
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from vdm.data.pipeline import train_batches
from vdm.data.sources import Split
from vdm.devices import sharding, waiting
from vdm.evaluation import bits_per_dim, calls
from vdm.evaluation.estimators import Elbo
from vdm.io import interop
from vdm.io.checkpoints import CheckpointError, Checkpoints
from vdm.io.journal import Journal
from vdm.io.metrics_log import MetricsWriter, read_metrics
from vdm.io.watchdog import Watchdog
from vdm.runs import classifier, evaluate, sample, states, train
from vdm.runs import run as run_module
from vdm.runs.run import open_run
from vdm.training import loop
from vdm.training.metrics import NonFiniteError, check_finite


def state_of(config, workdir):
    run = open_run(config, workdir)
    step, state = run.checkpoints.restore(states.abstract_state(run))
    return step, jax.device_get(state)


def assert_same_state(config, workdir, other):
    (step, state), (other_step, other_state) = (state_of(config, w) for w in (workdir, other))
    assert step == other_step
    jax.tree.map(np.testing.assert_array_equal, state, other_state)


def interrupted_copy(finished_run, workdir, last_step):
    """What a kill after `last_step` leaves of the finished run."""
    shutil.copytree(finished_run, workdir, dirs_exist_ok=True)
    (workdir / "eval.json").unlink()
    for folder in (workdir / "checkpoints").iterdir():
        if int(folder.name) > last_step:
            shutil.rmtree(folder)
    return workdir


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


def test_an_evaluation_that_was_killed_goes_on_to_the_same_bits(
    make_tiny_config, finished_run, tmp_path, monkeypatch, capsys
):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    (workdir / "eval_examples.npz").unlink()
    run, append, appended = open_run(make_tiny_config(), workdir), Journal.append, []

    def append_one(journal, part):
        append(journal, part)
        appended.append(part)
        if len(appended) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", append_one)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate_run(run)
    assert (workdir / "eval.partial").exists()
    evaluate.evaluate_run(run)
    assert "1 parts done" in capsys.readouterr().out
    assert len(appended) == 2  # two draws of one batch: the second run computed only one
    assert not (workdir / "eval.partial").exists()
    ours, theirs = (np.load(w / "eval_examples.npz") for w in (workdir, finished_run))
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])
    reports = [json.loads((w / "eval.json").read_text()) for w in (workdir, finished_run)]
    for key in ("bpd", "stderr_images", "stderr_monte_carlo"):
        assert reports[0][key] == reports[1][key]


def test_parts_of_another_evaluation_are_not_taken(make_tiny_config, finished_run, tmp_path):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    run = open_run(make_tiny_config(), workdir)
    step, params = states.trained_params(run)
    split = run.source.load("test")
    identities = []
    for other in (
        make_tiny_config(eval__seed=1),
        make_tiny_config(eval__draws=3),
        make_tiny_config(eval__batch_size=64),
        make_tiny_config(eval__num_steps=4),
        make_tiny_config(eval__params="raw"),
    ):
        changed = open_run(other, workdir)
        identities.append(evaluate._identity(changed, states.trained_params(changed)[1], split))
    fewer = Split("test", split.examples[1:], None)
    identities += [evaluate._identity(run, params, data) for data in (split, fewer)]
    assert step == 30
    assert all(a != b for a, b in itertools.combinations(identities, 2))


@pytest.mark.slow
def test_a_published_checkpoint_is_evaluated_and_trained_on(make_tiny_config, tmp_path, capsys):
    config = make_tiny_config(
        schedule__name="vdm_scalar", model__prediction="eps", network__kwargs__film=False,
        network__kwargs__label_as_scalar=True, network__kwargs__num_groups=4,
        network__kwargs__frequencies=(64.0, 128.0), network__kwargs__num_blocks=1,
        train__num_steps=2,
    )  # fmt: skip
    config.optim.kwargs.warmup_steps = 1
    params = {}
    for field, seed in [("params", 1), ("ema_params", 2)]:
        model = open_run(config, tmp_path / "none").model
        start = model.init(jax.random.key(seed))
        keys = iter(jax.random.split(jax.random.key(seed), 200))
        params[field] = jax.tree.map(
            lambda x: x + 0.02 * jax.random.normal(next(keys), x.shape),  # noqa: B023
            start,
        )
    saved = {field: interop.to_published(jax.device_get(tree)) for field, tree in params.items()}
    file = tmp_path / "checkpoints-0" / "ckpt-3.flax"
    file.parent.mkdir()
    file.write_bytes(serialization.to_bytes({"step": np.int32(700), "opt_state": {}, **saved}))

    run = open_run(config, tmp_path / "evaluated")
    evaluate.evaluate_run(run, str(tmp_path))
    report = json.loads((tmp_path / "evaluated" / "eval.json").read_text())
    split = run.source.load("test")
    expected = bits_per_dim.evaluate(
        run.model, params["ema_params"], split, run.mesh, estimator=Elbo(), draws=2,
        parts=calls.Parts(300),
    ).summary()  # fmt: skip
    assert report["bpd"] == pytest.approx(expected["bpd"], rel=1e-6)
    assert (report["step"], report["params"]) == (700, "ema")
    assert (tmp_path / "evaluated" / "config.json").is_file()

    train.train(open_run(config, tmp_path / "trained"), str(file))
    assert "parameters of step 700 of the published VDM" in capsys.readouterr().out
    _, state = state_of(config, tmp_path / "trained")
    kernel = state.params["network"]["conv_in"]["kernel"]
    moved = np.abs(kernel - params["params"]["network"]["conv_in"]["kernel"]).max()
    assert 0 < moved < 0.02  # a step or two away from where it started

    with pytest.raises(ValueError, match="has checkpoints of its own"):
        evaluate.evaluate_run(open_run(config, tmp_path / "trained"), str(file))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bound", "num_steps", "keys"),
    [("iw-3", 5, {"K"}), ("ode-decoder", 0, {"divergence", "probes", "stderr_hutchinson"})],
)
def test_other_bounds_say_what_they_are(
    make_tiny_config, finished_run, tmp_path, bound, num_steps, keys
):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    elbo = json.loads((workdir / "eval.json").read_text())
    config = make_tiny_config(
        eval__bound=bound, eval__num_steps=num_steps, eval__draws=2, eval__ode__num_steps=4
    )
    evaluate.evaluate_run(open_run(config, workdir))
    report = json.loads((workdir / "eval.json").read_text())
    assert keys <= set(report) - set(elbo)
    assert (report["bound"], report["num_steps"]) == (bound, num_steps)
    assert [report[f"bpd_{t}"] for t in ("reconstruction", "prior", "denoising")] == [None] * 3
    assert report["bpd"] > elbo["bpd"] - 0.5
    assert (elbo["stderr_degrees"], report["stderr_degrees"]) == (1, 297)  # two draws each
    examples = np.load(workdir / "eval_examples.npz")
    assert set(examples) == {"index", "total", "total_of_draws"}
    assert examples["total"].mean() / 64 / np.log(2) == pytest.approx(report["bpd"], rel=1e-9)


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


@pytest.mark.parametrize("last_step", [10, pytest.param(20, marks=pytest.mark.slow)])
def test_a_resumed_run_is_bit_identical(make_tiny_config, finished_run, tmp_path, last_step):
    config = make_tiny_config()
    workdir = interrupted_copy(finished_run, tmp_path / "run", last_step)
    train.train(open_run(config, workdir))
    assert_same_state(config, workdir, finished_run)
    ours, theirs = (json.loads((w / "eval.json").read_text()) for w in (workdir, finished_run))
    assert ours["bpd"] == theirs["bpd"]
    steps = [line["step"] for line in read_metrics(workdir) if "train/bpd" in line]
    assert steps == [10, 20, 30]


def rows_of_evaluations(workdir):
    return [line for line in read_metrics(workdir) if "eval/bpd" in line]


def test_an_evaluation_lost_after_its_checkpoint_is_made_up_for(
    make_tiny_config, finished_run, tmp_path
):
    workdir = interrupted_copy(finished_run, tmp_path / "run", 20)
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(lines[:2]))  # none of step 20's evaluation
    train.train(open_run(make_tiny_config(), workdir))
    assert rows_of_evaluations(workdir) == rows_of_evaluations(finished_run)


@pytest.mark.parametrize("harm", ["absent", "of another step"])
def test_a_run_killed_in_its_samples_draws_them_and_logs_nothing_twice(
    make_tiny_config, finished_run, tmp_path, harm
):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    report = workdir / "samples.json"
    if harm == "absent":  # samples.npz was there already
        report.unlink()
    else:
        report.write_text(report.read_text().replace('"step": 30', '"step": 20'))
    train.train(open_run(make_tiny_config(), workdir))
    assert report.read_text() == (finished_run / "samples.json").read_text()
    assert read_metrics(workdir) == read_metrics(finished_run)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_last_save_stops_the_run(
    make_tiny_config, finished_run, tmp_path, monkeypatch, signum
):
    workdir, save = interrupted_copy(finished_run, tmp_path / "run", 20), Checkpoints.save

    def signalled(self, step, state):
        signal.raise_signal(signum)
        save(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", signalled)
    with pytest.raises(loop.Interrupted, match="stopped at step 30, saved in") as stop:
        train.train(open_run(make_tiny_config(), workdir))
    assert stop.value.signum == signum
    assert Checkpoints(workdir / "checkpoints").steps() == [10, 20, 30]
    assert not (workdir / "eval.json").exists()


def test_a_signal_during_a_save_stops_before_the_evaluation_which_is_made_up_for(
    make_tiny_config, finished_run, tmp_path, monkeypatch
):
    workdir, save = interrupted_copy(finished_run, tmp_path / "run", 10), Checkpoints.save

    def signalled(self, step, state):
        signal.raise_signal(signal.SIGTERM)
        save(self, step, state)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", signalled)
        with pytest.raises(loop.Interrupted, match="stopped at step 20, saved in"):
            train.train(open_run(make_tiny_config(), workdir))
    assert rows_of_evaluations(workdir) == []
    train.train(open_run(make_tiny_config(), workdir))
    assert rows_of_evaluations(workdir) == rows_of_evaluations(finished_run)


@pytest.mark.parametrize("kind", ["between saves", "owed"])
def test_a_signal_in_an_evaluation_ends_it_and_it_is_made_up_for(
    make_tiny_config, finished_run, tmp_path, monkeypatch, kind
):
    config = make_tiny_config(train__save_every=15 if kind == "between saves" else 10)
    workdir = interrupted_copy(finished_run, tmp_path / "run", 20 if kind == "owed" else 10)
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(lines[: 2 if kind == "owed" else 1]))

    def signalled(tree, stop=lambda: False):
        if not stop():
            signal.raise_signal(signal.SIGTERM)
        raise waiting.Abandoned if stop() else AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(bits_per_dim, "wait", signalled)
        with pytest.raises(loop.Interrupted, match="stopped at step 20, saved in"):
            train.train(open_run(config, workdir))
    assert Checkpoints(workdir / "checkpoints").steps()[-1] == 20
    assert rows_of_evaluations(workdir) == []
    train.train(open_run(config, workdir))
    assert rows_of_evaluations(workdir) == rows_of_evaluations(finished_run)


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


@pytest.mark.slow
def test_a_loop_over_blocks_goes_on_with_the_checkpoint_of_a_row_and_back(
    make_tiny_config, tmp_path
):
    def run_of(scan, workdir):
        return open_run(
            make_tiny_config(
                network__kwargs__num_blocks=2, network__kwargs__dropout=0.0,
                network__kwargs__scan=scan, optim__name="sgd", train__fsdp=2,
            ),
            workdir,
        )  # fmt: skip

    steps = {scan: run_of(scan, tmp_path).train_step() for scan in ("on", "off")}
    split = run_of("on", tmp_path).source.load("train")
    ends = []
    for first, second in (("on", "off"), ("off", "on")):
        (tmp_path / first).mkdir()
        run, other = (run_of(scan, tmp_path / first) for scan in (first, second))
        batches = itertools.islice(train_batches(split, 32, 0, 0), 2)
        one, two = (sharding.put_batch(batch, run.mesh) for batch in batches)
        state, _ = steps[first](states.initial_state(run), one)
        assert ("down_*" in state.params["network"]) == (first == "on")
        run.save(1, state)
        state, _ = steps[second](states.first_state(other, None), two)
        assert ("down_*" in state.params["network"]) == (second == "on")
        other.save(2, state)
        ends.append(other.checkpoints.restore(states.abstract_state(other))[1])
        step, params = states.trained_params(run)
        assert (step, "down_1" in params["network"]) == (2, True)
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(params))
    assert {"down_0", "down_1", "up_2"} <= set(ends[0].params["network"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *ends)


@pytest.mark.slow
def test_a_looped_state_is_saved_and_resumed_to_the_bit(make_tiny_config, tmp_path):
    config = make_tiny_config(
        network__kwargs__num_blocks=1, network__kwargs__width=16, network__kwargs__scan="on",
        train__fsdp=2,
    )  # fmt: skip
    run = open_run(config, tmp_path)
    # Away from the zeros of Adam's arrays.
    state = jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), states.initial_state(run))
    run.save(1, state)
    resumed = states.first_state(run, None)
    jax.tree.map(np.testing.assert_array_equal, resumed, state)
    kernel = resumed.params["network"]["down_*"]["conv_0"]["kernel"]
    assert kernel.shape == (1, 3, 3, 16, 16)
    assert not kernel.sharding.is_fully_replicated
    own = make_tiny_config(network__kwargs__num_blocks=1, network__kwargs__scan="on")
    own.optim.name, own.optim.kwargs = "optax:lamb", {"learning_rate": 1e-3}
    # It has a norm for each array, so that it must see those of each block.
    assert open_run(own, tmp_path / "own").loops == {}


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


@pytest.mark.slow
def test_more_steps_extend_a_finished_run(make_tiny_config, finished_run, tmp_path, capsys):
    shutil.copytree(finished_run, tmp_path / "run")
    train.train(open_run(make_tiny_config(train__num_steps=40), tmp_path / "run"))
    assert "learning rate that decays" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["step"] == 40


def test_a_workdir_of_another_config_is_refused(make_tiny_config, finished_run):
    with pytest.raises(ValueError, match=r"network.kwargs.width: here 12, there 8"):
        open_run(make_tiny_config(network__kwargs__width=12), finished_run)
    open_run(make_tiny_config(eval__draws=3, train__log_every=1), finished_run)


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    make_tiny_config, finished_run, tmp_path, capsys
):
    shutil.copytree(finished_run, tmp_path / "run")
    run = open_run(make_tiny_config(), tmp_path / "run")
    largest = max((p for p in run.checkpoints.path(30).rglob("*") if p.is_file()),
                  key=lambda p: p.stat().st_size)  # fmt: skip
    largest.write_bytes(largest.read_bytes()[:-7])
    evaluate.evaluate_run(run)
    printed = capsys.readouterr().out
    assert f"{run.checkpoints.path(30)} is unreadable" in printed
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["step"] == 20
    for step in (10, 20):
        shutil.rmtree(run.checkpoints.path(step))
    with pytest.raises(CheckpointError, match="readable"):
        evaluate.evaluate_run(run)


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


def test_evaluation_can_choose_step_and_parameters(make_tiny_config, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    reports = []
    for step, params in [(10, "ema"), (30, "raw"), (30, "ema")]:
        config = make_tiny_config(eval__step=step, eval__params=params, eval__num_steps=5)
        evaluate.evaluate_run(open_run(config, tmp_path / "run"))
        reports.append(json.loads((tmp_path / "run" / "eval.json").read_text()))
        assert (reports[-1]["step"], reports[-1]["params"]) == (step, params)
        assert reports[-1]["num_steps"] == 5
    assert len({report["bpd"] for report in reports}) == 3
    with pytest.raises(CheckpointError, match="has 10, 20, 30"):
        evaluate.evaluate_run(open_run(make_tiny_config(eval__step=7), tmp_path / "run"))


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
def test_a_classifier_is_trained_resumed_and_guides_samples(make_tiny_config, tmp_path, capsys):
    def run(**changes):
        small = {"model__class_conditional": True, "model__label_dropout": 0.2,
                 "classifier__kwargs__width": 4, "classifier__kwargs__stages": 1,
                 "classifier__num_steps": 20, "classifier__batch_size": 32}  # fmt: skip
        return open_run(make_tiny_config(**small | changes), tmp_path / "run")

    guided = {"sample__guidance__name": "classifier"}
    train.train(run(**guided))  # there is no classifier yet
    assert "no classifier guides these samples" in capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "samples.json").read_text())
    assert report["guidance"]["name"] == "none"
    with pytest.raises(ValueError, match="--mode=classifier"):
        sample.sample_run(run(**guided))

    classifier.train_classifier(run())
    _, straight = run().classifier_checkpoints.restore(classifier.first_state(run()))
    shutil.rmtree(tmp_path / "run" / "classifier" / "20")
    classifier.train_classifier(run())  # from step 10
    _, resumed = run().classifier_checkpoints.restore(classifier.first_state(run()))
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    sample.sample_run(run(**guided, sample__label=7, sample__num_frames=2))
    report = json.loads((tmp_path / "run" / "samples.json").read_text())
    assert report["guidance"]["name"] == "classifier"
    assert report["network_evaluations"] == 3
    arrays = np.load(tmp_path / "run" / "samples.npz")
    np.testing.assert_array_equal(arrays["labels"], [7, 7, 7, 7])
    assert arrays["frames"].shape == (2, 4, 8, 8, 1)
    assert (tmp_path / "run" / "samples.gif").is_file()
    free = {"sample__guidance__name": "classifier_free", "sample__name": "heun"}
    sample.sample_run(run(**free, sample__num_images=6, sample__interpolate=3))
    report = json.loads((tmp_path / "run" / "samples.json").read_text())
    assert report["network_evaluations"] == 3 * 2 * 2
    assert not (tmp_path / "run" / "samples.gif").exists()  # it was of other samples
    # its checkpoints are of one network, whatever a later config says
    assert run(classifier__kwargs__width=9).classifier.network.width == 4
    with pytest.raises(ValueError, match="labels are 0 to 9"):
        run(sample__label=10)


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


@pytest.mark.slow
def test_an_augmented_conditional_run_resumes_to_the_same_bits(make_tiny_config, tmp_path):
    config = make_tiny_config(model__class_conditional=True, data__augmentation__name="images")
    config.train.num_steps, config.train.eval_every, config.eval.draws = 20, 0, 1
    train.train(open_run(config, tmp_path / "straight"))
    interrupted_copy(tmp_path / "straight", tmp_path / "resumed", 10)
    train.train(open_run(config, tmp_path / "resumed"))
    assert_same_state(config, tmp_path / "straight", tmp_path / "resumed")
