"""The mesh, and the placement of the arrays of a state on it."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vdm.devices import sharding
from vdm.diffusion.likelihood import Discretised
from vdm.models.vdm import VDM
from vdm.nn.mlp import MLP
from vdm.nn.schedules import Monotone
from vdm.runs import states, train
from vdm.runs.run import open_run
from vdm.training import optim
from vdm.training.gradient import Objective
from vdm.training.optim import Averaging
from vdm.training.state import init_state
from vdm.training.step import make_train_step


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((3, 3, 64, 128), (None, None, None, "fsdp")),
        ((3, 3, 128, 64), (None, None, "fsdp")),
        ((64, 64), (None, "fsdp")),
        ((1024, 3), ("fsdp",)),
        ((514, 8), (None, "fsdp")),  # 4 does not divide the larger axis
        ((30, 30, 30), ()),
        ((4, 255), ()),  # below MIN_SPLIT
        ((4, 256), (None, "fsdp")),
        ((), ()),
    ],
)
def test_the_largest_axis_that_divides_is_split(shape, spec):
    mesh = sharding.build_mesh(8, 4)
    assert mesh.shape == {"data": 2, "fsdp": 4}
    assert sharding.split_array(shape, mesh).spec == PartitionSpec(*spec)
    assert sharding.split_array(shape, sharding.build_mesh(8)).spec == PartitionSpec()


def test_a_batch_is_split_over_all_devices_and_must_divide():
    mesh = sharding.build_mesh(8, 4)
    rows = np.arange(16, dtype=np.int32)
    for put in (sharding.put_batch, sharding.put_whole_batch):
        batch = put({"rows": rows}, mesh)["rows"]
        np.testing.assert_array_equal(sharding.fetch(batch), rows)
        shards = sorted(batch.addressable_shards, key=lambda shard: shard.device.id)
        np.testing.assert_array_equal([s.data for s in shards], rows.reshape(8, 2))
    sharding.check_batch(64, mesh, 4)
    with pytest.raises(ValueError, match=r"batch_size = 48 .* 8 devices times .* = 4: take 64"):
        sharding.check_batch(48, mesh, 4)
    with pytest.raises(ValueError, match=r"batch_size = 12 .* 8 devices: take 16, .*num_devices=1"):
        sharding.check_batch(12, mesh)
    with pytest.raises(ValueError, match=r"= 12 .* times .* = 4: take 32, or .*num_devices=1$"):
        sharding.check_batch(12, mesh, 4)  # one microbatch does not divide either
    with pytest.raises(ValueError, match=r"= 13 .* times train.accumulate = 4: take 32$"):
        sharding.check_batch(13, mesh, 4)
    with pytest.raises(ValueError, match=r"^classifier.batch_size = 12 "):
        sharding.check_batch(12, mesh, field="classifier.batch_size")
    with pytest.raises(ValueError, match=r"train.fsdp = 3 does not divide the 8 devices"):
        sharding.build_mesh(8, 3)


@dataclass(frozen=True)
class Device:
    id: int
    process_index: int


def test_the_devices_of_a_process_are_neighbours_in_the_order_of_processes(monkeypatch):
    devices = [Device(i, process) for i, process in enumerate((1, 0, 1, 0))]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    mesh = sharding.build_mesh(0, 2)
    assert [[device.id for device in row] for row in mesh.devices] == [[1, 3], [0, 2]]


MODEL = VDM(
    schedule=Monotone(-8.0, 5.0, hidden_features=1024),
    network=MLP(num_codes=17, width=64, num_blocks=1),
    likelihood=Discretised(17),
    dims=(6,),
)
BATCH = {"examples": np.asarray(jax.random.randint(jax.random.key(0), (16, 6), 0, 17), np.uint8)}


@functools.cache  # one device gives the numbers that all others are compared with
def after_a_step(num_devices, fsdp, accumulate=1, optimizer=None):
    """A step with the variance objective: (state before, state after, metrics)."""
    mesh = sharding.build_mesh(num_devices, fsdp)
    optimizer = optimizer or optim.sgd(10, learning_rate=0.1)

    def init(key):
        # away from the zeros of the last layer, so that no gradient vanishes
        params = jax.tree.map(lambda x: x + 0.02, MODEL.init(key))
        return init_state(MODEL, optimizer, key, params)

    shapes = jax.eval_shape(init, jax.random.key(1))
    places = sharding.split_state(shapes, mesh)
    state = jax.jit(init, out_shardings=places)(jax.random.key(1))
    # Copies, because the step cannot take over the memory of an array that NumPy views.
    start = jax.tree.map(np.array, state)
    step = make_train_step(
        MODEL, optimizer, jax.random.key(5), Objective(0, "variance"), Averaging(0.9, True),
        accumulate, mesh,
    )  # fmt: skip
    compiled = step.lower(state, sharding.put_batch(BATCH, mesh)).compile()
    before = state
    # One executable takes its own output: the shardings and types stay.
    for _ in range(2):
        before = state
        with jax.transfer_guard("disallow"):
            state, metrics = compiled(state, sharding.put_batch(BATCH, mesh), *step.arrays)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(places), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
    assert all(m.is_fully_replicated for m in metrics.values())
    return start, state, jax.device_get(metrics)


def moved(start, state):
    return np.concatenate(
        [
            np.ravel(np.asarray(new) - old)
            for new, old in zip(
                jax.tree.leaves(state.params), jax.tree.leaves(start.params), strict=True
            )
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("num_devices", "fsdp"), [(4, 2), (8, 4), (8, 8)])
def test_shared_arrays_give_the_same_steps(num_devices, fsdp):
    start, whole, of_whole = after_a_step(1, 1)
    start_2, shared, of_shared = after_a_step(num_devices, fsdp)
    jax.tree.map(np.testing.assert_array_equal, start, start_2)
    for name, value in of_whole.items():
        np.testing.assert_allclose(of_shared[name], value, rtol=1e-5)
    steps, other = moved(start, whole), moved(start, shared)
    assert np.linalg.norm(steps - other) < 1e-5 * np.linalg.norm(steps)
    kernel = shared.params["network"]["conditioning"]["dense_1"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // fsdp


@pytest.mark.slow
def test_the_optimiser_and_the_ema_lie_where_their_parameters_do():
    _, state, _ = after_a_step(4, 2, 2, optim.adamw(10))
    places = {leaf.shape: leaf.sharding for leaf in jax.tree.leaves(state.params)}
    others = [*jax.tree.leaves(state.ema_params), *jax.tree.leaves(state.opt_state)]
    assert sum(not leaf.sharding.is_fully_replicated for leaf in others) >= 9
    for leaf in others:
        if leaf.shape in places:
            assert leaf.sharding.is_equivalent_to(places[leaf.shape], leaf.ndim)


@pytest.mark.slow
def test_a_checkpoint_resumes_on_other_devices_and_in_other_shares(make_tiny_config, tmp_path):
    def config(**changes):
        # The schedule's layer is large enough to be split.
        return make_tiny_config(
            schedule__kwargs__hidden_features=1024, train__num_steps=4, train__save_every=2,
            train__eval_every=0, eval__draws=1, **changes,
        )  # fmt: skip

    workdir = tmp_path / "run"
    run = open_run(config(train__num_devices=8, train__fsdp=4), workdir)
    train.train(run)  # and evaluates and samples
    step, saved = run.checkpoints.restore(states.abstract_state(run))
    assert sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(saved)) >= 6
    for num_devices, fsdp in ((2, 2), (1, 1), (8, 8)):
        other = open_run(config(train__num_devices=num_devices, train__fsdp=fsdp), workdir)
        restored = states.first_state(other, None)
        assert int(restored.step) == step == 4
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(saved))
        params = states.trained_params(other)[1]
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(params))
    longer = config(train__num_devices=2, train__fsdp=2, train__accumulate=2)
    longer.train.num_steps = 6
    train.train(open_run(longer, workdir))
    assert open_run(longer, workdir).checkpoints.steps()[-1] == 6


def test_gathering_and_splitting_change_no_value(monkeypatch):
    mesh = sharding.build_mesh(4, 4)
    tree = {"a": jnp.arange(2048.0).reshape(32, 64), "b": jnp.arange(3.0)}
    there = jax.jit(lambda x: sharding.split(x, mesh))(tree)
    assert there["a"].addressable_shards[0].data.shape == (32, 16)
    back = sharding.gather(there, mesh)
    assert all(leaf.is_fully_replicated for leaf in back.values())
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    monkeypatch.delattr(jax.lax, "with_sharding_constraint")  # the second time nothing is traced
    sharding.gather(there, sharding.build_mesh(4, 4))
    one = sharding.build_mesh(4)
    assert sharding.gather(tree, one) is sharding.split(tree, one) is tree
