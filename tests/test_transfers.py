"""No compiled loop reads an array back from a device when it is first called.

On an accelerator that is an error inside the transfer guard; on the CPU, where reads are free, the
guard is silent, so the reads are counted.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vdm.devices import sharding
from vdm.devices.keys import root_key
from vdm.diffusion.likelihood import Gaussian
from vdm.evaluation.bits_per_dim import make_evaluate_batch
from vdm.io.checkpoints import Checkpoints
from vdm.models.classifier import NoisyClassifier
from vdm.nn.classifiers import Perceptron
from vdm.runs import states
from vdm.runs.run import build_run
from vdm.training import step
from vdm.training.classifier_step import make_classifier_step
from vdm.training.loop import Plan, take_steps
from vdm.training.state import TrainState, init_state


@pytest.fixture
def reads(monkeypatch):
    """The dtypes and shapes of the arrays that are read from a device, not from a host copy."""
    step._compiled_step.cache_clear()  # another test may have called this run's step already
    array_type = type(jnp.zeros(()))
    value, found = array_type._value, []

    def spy(array):
        if array._npy_value is None:
            found.append((array.dtype, array.shape))
        return value.__get__(array)

    monkeypatch.setattr(array_type, "_value", property(spy))
    return found


def first_calls(reads, function, *arguments):
    """The reads that happen in the first call, which lowers and compiles, inside the guard."""
    return call_and_reads(reads, function, *arguments)[1]


def call_and_reads(reads, function, *arguments):
    """(what the first call returns, the reads)."""
    jax.block_until_ready(arguments)
    reads.clear()
    with jax.transfer_guard("disallow"):
        result = jax.block_until_ready(function(*arguments))
    return result, list(reads)


def test_the_spy_sees_arrays_that_a_function_closes_over(reads):
    closed_over = root_key(3)
    assert first_calls(reads, jax.jit(lambda x: jax.random.fold_in(closed_over, x)), jnp.int32(1))


@pytest.mark.parametrize(
    "changes",
    [
        {},  # schedule.train = "variance"
        {
            "train__accumulate": 2, "weighting__name": "min_snr", "train__prng_impl": "rbg",
            "schedule__train": "bound", "model__class_conditional": True,
            "model__label_dropout": 0.1,
        },
        {
            "train__num_devices": 8, "train__fsdp": 4, "schedule__name": "tabulated",
            "schedule__train": "adaptive",
        },
    ],
    ids=["plain", "microbatches, weighting, rbg and labels", "fsdp and adaptive schedule"],
)  # fmt: skip
def test_the_first_step_reads_nothing(reads, make_tiny_config, changes):
    run = build_run(make_tiny_config(**changes), "unused")
    split, state = run.source.load("train"), states.initial_state(run)
    batch = {"examples": split.examples[:32], "labels": split.labels[:32]}
    batch = sharding.put_batch(batch, run.mesh)
    (_, metrics), found = call_and_reads(reads, run.train_step(), state, batch)
    assert found == []
    assert np.isfinite(metrics["bpd"])


def test_the_first_step_of_a_classifier_reads_nothing(reads):
    classifier = NoisyClassifier(Perceptron(num_classes=3, width=8), (2,), 3)
    optimizer, mesh = optax.sgd(1e-2), sharding.build_mesh(2)
    initial = jax.jit(lambda: init_state(classifier, optimizer, root_key(0)))()
    state = sharding.put_everywhere(initial, mesh)
    ends = jnp.float32(-5.0), jnp.float32(5.0)
    train_step = make_classifier_step(classifier, Gaussian(), ends, optimizer, root_key(1), mesh)
    batch = {"examples": np.zeros((4, 2), np.float32), "labels": np.zeros(4, np.int32)}
    assert first_calls(reads, train_step, state, sharding.put_batch(batch, mesh)) == []


@pytest.mark.parametrize("bound", ["elbo", "iw-2"])  # diffrax makes and reads constants
def test_the_first_batch_of_an_evaluation_reads_nothing(reads, make_tiny_config, bound):
    config = make_tiny_config(eval__bound=bound, eval__num_steps=2 if bound == "iw-2" else 0)
    run = build_run(config, "unused")
    params = states.chosen(run, states.initial_state(run))
    columns = {
        "examples": run.source.load("test").examples[:8],
        "labels": np.zeros(8, np.int32),
        "index": np.arange(8, dtype=np.int32),
    }
    batch = sharding.put_whole_batch(columns, run.mesh)
    evaluate_batch = make_evaluate_batch(run.model, run.estimator, 8, 2)
    key, draw = sharding.put_everywhere((root_key(0), jnp.int32(0)), run.mesh)
    assert first_calls(reads, evaluate_batch, params, batch, key, draw) == []


def test_the_first_step_of_a_training_may_read_what_a_component_closes_over(reads, monkeypatch):
    """The step is lowered in its first call, which reads that array, so this call is unguarded."""
    guards, guard = [], jax.transfer_guard

    def noted(level):
        guards.append((level, len(reads)))
        return guard(level)

    closed_over = jax.block_until_ready(jax.random.normal(root_key(0), (3,)))

    @jax.jit
    def take_step(state, batch):
        state = dataclasses.replace(state, step=state.step + 1)
        return state, {"bpd": jnp.sum(closed_over) + jnp.sum(batch["examples"])}

    plan = Plan(
        name="train", step=take_step, num_steps=3, batch_size=4, save_every=3,
        log=lambda step, scalars: "", save=lambda step, state: None,
        checkpoints=Checkpoints("nowhere"), watchdog_secs=0,
    )  # fmt: skip
    mesh, params = sharding.build_mesh(1), {"a": jnp.ones(1)}
    batch = sharding.put_batch({"examples": np.ones(4, np.float32)}, mesh)
    state = TrainState(step=jnp.int32(0), params=params, ema_params=params, opt_state=())
    state = sharding.put_everywhere(state, mesh)
    monkeypatch.setattr(jax, "transfer_guard", noted)
    state = take_steps(plan, state, itertools.repeat(batch))
    assert int(state.step) == 3
    levels, (first, second, third) = zip(*guards, strict=True)
    assert levels == ("allow", "disallow", "disallow")
    assert (np.dtype("float32"), (3,)) in reads[first:second]
    assert second == third
