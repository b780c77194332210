"""Checkpoints are restored bit for bit, on other devices too, and the newest are kept."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import pytest

from tests.io.states import abstract, assert_same, make_state, spread, truncate
from tests.programs import run_python
from vdm.io import checkpoints, checksums
from vdm.io.checkpoints import CheckpointError, Checkpoints, restore_params


def test_restored_state_is_the_saved_one_bit_for_bit(tmp_path):
    run = Checkpoints(tmp_path / "checkpoints")
    run.save(7, make_state(7))
    step, state = run.restore(abstract(make_state(0)))
    assert step == 7
    assert_same(state, make_state(7))
    assert_same(
        run.restore(make_state(0), 7)[1], make_state(7)
    )  # concrete arrays are accepted as well


def test_relative_folder_is_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Checkpoints("checkpoints").save(1, make_state(1))
    assert_same(Checkpoints(tmp_path / "checkpoints").restore(make_state(0))[1], make_state(1))


@pytest.mark.parametrize(("before", "after"), [(8, 2), (8, 1), (1, 8)])
def test_restore_follows_the_shardings_asked_for(tmp_path, before, after):
    run = Checkpoints(tmp_path)
    run.save(3, spread(make_state(3), before))
    like = spread(make_state(0), after)
    _, state = run.restore(abstract(like))
    assert_same(state, make_state(3))
    for got, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(like), strict=True):
        assert got.sharding.is_equivalent_to(wanted.sharding, got.ndim)


def test_leaf_without_sharding_goes_to_the_first_device(tmp_path):
    run = Checkpoints(tmp_path)
    run.save(3, spread(make_state(3), 8))
    _, state = run.restore(jax.eval_shape(lambda: make_state(0)))
    assert_same(state, make_state(3))
    assert {d for leaf in jax.tree.leaves(state) for d in leaf.devices()} == {jax.devices()[0]}


def test_a_process_with_fewer_devices_restores_and_its_save_comes_back(tmp_path):
    run = Checkpoints(tmp_path)
    run.save(1, spread(make_state(1), 8))
    script = """
        import sys, jax
        from tests.io.states import assert_same, make_state
        from vdm.io.checkpoints import Checkpoints
        assert jax.device_count() == 1
        run = Checkpoints(sys.argv[1])
        assert_same(run.restore(make_state(0))[1], make_state(1))
        run.save(2, make_state(2))
    """
    done = run_python(script, tmp_path, JAX_NUM_CPU_DEVICES="1")
    assert done.returncode == 0, done.stderr
    step, state = run.restore(abstract(spread(make_state(0), 8)))
    assert step == 2
    assert_same(state, make_state(2))


def test_save_keeps_the_newest_and_removes_leftovers(tmp_path):
    for name in ("5.partial", "5.partial.orbax-checkpoint-tmp", "4.removed"):
        (tmp_path / name / "state").mkdir(parents=True)
    (tmp_path / "notes.partial").mkdir()  # not ours, so it must stay
    run = Checkpoints(tmp_path, keep=2)
    assert run.steps() == []
    for step in (5, 9, 10):
        run.save(step, make_state(step))
    assert run.steps() == [9, 10]
    assert sorted(os.listdir(tmp_path)) == ["10", "9", "notes.partial"]


def test_keep_counts_backwards_from_the_step_just_saved(tmp_path):
    run = Checkpoints(tmp_path, keep=1)
    run.save(1000, make_state(1000))
    (tmp_path / "1000" / checksums.CHECKSUMS).unlink()
    run.save(950, make_state(950))  # training resumed from before the damaged one
    assert run.steps() == [950, 1000]
    assert run.restore(make_state(0), on_unreadable=lambda line: None)[0] == 950


def test_saving_a_step_again_keeps_an_intact_one_and_replaces_a_damaged_one(tmp_path):
    run = Checkpoints(tmp_path)
    run.save(1, make_state(1))
    leaves = tmp_path / "1" / checkpoints.LEAVES
    before = leaves.stat().st_mtime_ns
    run.save(1, make_state(1))
    assert leaves.stat().st_mtime_ns == before
    leaves.write_bytes(leaves.read_bytes()[:-9])
    run.save(1, make_state(1))
    assert_same(run.restore(make_state(0), 1)[1], make_state(1))


def test_unknown_step_lists_those_there(tmp_path):
    run = Checkpoints(tmp_path)
    run.save(1, make_state(1))
    run.save(20, make_state(20))
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 3 .* 1, 20$"):
        run.restore(make_state(0), 3)


@pytest.mark.parametrize(
    ("like", "expected"),
    [
        (make_state(0, width=17), r"params/dense/kernel is float32\[8,16\] there"),
        (
            dataclasses.replace(make_state(0), params={"dense": {"kernel": jnp.ones((8, 16))}}),
            r"params/half is bfloat16\[3\] there and absent here",
        ),
        (
            dataclasses.replace(make_state(0), key=jnp.zeros(2, jnp.uint32)),
            r"key is key<fry>\[\] there and uint32\[2\] here",
        ),
    ],
)
def test_another_model_is_an_error_not_a_reason_to_go_back(tmp_path, like, expected):
    run = Checkpoints(tmp_path)
    run.save(1, make_state(1))
    run.save(2, make_state(2))
    lines: list[str] = []
    with pytest.raises(CheckpointError, match=expected) as caught:
        run.restore(like, on_unreadable=lines.append)
    assert lines == []
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["", "checkpoints", "checkpoints/2"])
def test_restore_params_finds_them_and_takes_nothing_else(tmp_path, where):
    run = Checkpoints(tmp_path / "checkpoints")
    run.save(1, make_state(1))
    run.save(2, make_state(2))
    wanted = make_state(2)
    like = abstract({"params": wanted.params, "ema_params": wanted.ema_params})
    folder, got = restore_params(tmp_path / where, like)
    assert folder == run.path(2)
    assert_same(got, {"params": wanted.params, "ema_params": wanted.ema_params})


def test_restore_params_goes_back_unless_a_step_was_named(tmp_path):
    run = Checkpoints(tmp_path / "checkpoints")
    run.save(1, make_state(1))
    run.save(2, make_state(2))
    truncate(run.path(2))
    like = {"params": make_state(0).params}
    lines: list[str] = []
    folder, got = restore_params(tmp_path, like, on_unreadable=lines.append)
    assert folder == run.path(1)
    assert len(lines) == 1
    assert_same(got["params"], make_state(1).params)
    with pytest.raises(CheckpointError, match="unreadable"):
        restore_params(run.path(2), like)


def test_restore_params_of_another_network_names_the_leaf(tmp_path):
    Checkpoints(tmp_path).save(1, make_state(1))
    with pytest.raises(CheckpointError, match=r"params/dense/kernel is float32\[8,16\] there"):
        restore_params(tmp_path, {"params": make_state(0, width=3).params})
    with pytest.raises(CheckpointError, match=r"weights is absent there"):
        restore_params(tmp_path, {"weights": jnp.ones(3)})


def test_restore_params_of_no_checkpoint_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    for name in ("empty", "file", "absent"):
        with pytest.raises(CheckpointError, match=rf"{name} is not a checkpoint: .*workdir"):
            restore_params(tmp_path / name, {"params": jnp.ones(3)})
