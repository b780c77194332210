"""A training that was stopped or killed resumes to the bits of an undisturbed one."""

import itertools
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.runs.workdirs import assert_same_state, interrupted_copy, rows_of_evaluations
from vdm.data.pipeline import train_batches
from vdm.devices import sharding, waiting
from vdm.evaluation import bits_per_dim
from vdm.io.checkpoints import CheckpointError, Checkpoints
from vdm.io.metrics_log import read_metrics
from vdm.runs import evaluate, states, train
from vdm.runs.run import open_run
from vdm.training import loop


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
        states.save_state(run, 1, state)
        state, _ = steps[second](states.first_state(other, None), two)
        assert ("down_*" in state.params["network"]) == (second == "on")
        states.save_state(other, 2, state)
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
    # Adam's arrays start as zeros, which would hide errors.
    state = jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), states.initial_state(run))
    states.save_state(run, 1, state)
    resumed = states.first_state(run, None)
    jax.tree.map(np.testing.assert_array_equal, resumed, state)
    kernel = resumed.params["network"]["down_*"]["conv_0"]["kernel"]
    assert kernel.shape == (1, 3, 3, 16, 16)
    assert not kernel.sharding.is_fully_replicated
    own = make_tiny_config(network__kwargs__num_blocks=1, network__kwargs__scan="on")
    own.optim.name, own.optim.kwargs = "optax:lamb", {"learning_rate": 1e-3}
    # It has a norm for each array, so that it must see those of each block.
    assert states.stacked_blocks(open_run(own, tmp_path / "own")) == {}


@pytest.mark.slow
def test_more_steps_extend_a_finished_run(make_tiny_config, finished_run, tmp_path, capsys):
    shutil.copytree(finished_run, tmp_path / "run")
    train.train(open_run(make_tiny_config(train__num_steps=40), tmp_path / "run"))
    assert "learning rate that decays" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["step"] == 40


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


@pytest.mark.slow
def test_an_augmented_conditional_run_resumes_to_the_same_bits(make_tiny_config, tmp_path):
    config = make_tiny_config(model__class_conditional=True, data__augmentation__name="images")
    config.train.num_steps, config.train.eval_every, config.eval.draws = 20, 0, 1
    train.train(open_run(config, tmp_path / "straight"))
    interrupted_copy(tmp_path / "straight", tmp_path / "resumed", 10)
    train.train(open_run(config, tmp_path / "resumed"))
    assert_same_state(config, tmp_path / "straight", tmp_path / "resumed")
