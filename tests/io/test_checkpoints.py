"""Checkpoints survive kills, damage, full disks and other machines, or fail with one line."""

import contextlib
import dataclasses
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vdm.io import checkpoints, checksums
from vdm.io.checkpoints import CheckpointError, Checkpoints, restore_params

ROOT = Path(__file__).parents[2]


class Moments(NamedTuple):
    count: jax.Array
    mu: dict[str, jax.Array]
    nu: dict[str, jax.Array]


class Empty(NamedTuple):
    pass


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    params: dict[str, Any]
    ema_params: dict[str, Any]
    opt_state: tuple[Any, ...]
    key: jax.Array


def make_state(step: int, width: int = 16) -> State:
    """A state determined by `step`, with all kinds of leaves and nodes that are used."""
    rng = np.random.default_rng(step)

    def params() -> dict[str, Any]:
        kernel = jnp.asarray(rng.normal(size=(8, width)), jnp.float32)
        return {"dense": {"kernel": kernel}, "half": jnp.ones(3, jnp.bfloat16) * step}

    nan = jax.lax.bitcast_convert_type(jnp.uint32(0x7FC12345), jnp.float32)
    moments = Moments(jnp.int32(step), params(), {"odd": jnp.stack([nan, -0.0 * nan, jnp.inf])})
    return State(
        step=jnp.int32(step),
        params=params(),
        ema_params=params(),
        opt_state=(moments, Empty(), (None, {})),
        key=jax.random.key(step),
    )


def abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state
    )


def bits(leaf: jax.Array) -> bytes:
    data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return np.asarray(data).tobytes()


def assert_same(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        where = jax.tree_util.keystr(path)
        assert (a.dtype, a.shape, bits(a)) == (b.dtype, b.shape, bits(b)), where
        assert not getattr(a, "weak_type", False), where  # keys have none


def spread(state: State, devices: int) -> State:
    """Puts the state on a mesh of `devices`: kernels are split, the rest is on every device."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))

    def place(leaf: jax.Array) -> jax.Array:
        spec = PartitionSpec("data") if leaf.ndim == 2 else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, state)


def run_python(script: str, *args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'io'}", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # orbax waits 600 s for a folder that cannot be made
    )


def test_restored_state_is_the_saved_one_bit_for_bit(tmp_path):
    run = Checkpoints(tmp_path / "checkpoints")
    run.save(7, make_state(7))
    step, state = run.restore(abstract(make_state(0)))
    assert step == 7
    assert_same(state, make_state(7))
    assert_same(run.restore(make_state(0), 7)[1], make_state(7))  # concrete arrays do as well


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
        from test_checkpoints import Checkpoints, assert_same, make_state
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
    (tmp_path / "notes.partial").mkdir()  # somebody else's
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
    run.save(950, make_state(950))  # we went back behind the damaged one
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


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    run = Checkpoints(tmp_path)
    run.save(1, make_state(1))
    rng = random.Random(0)
    files = sorted(p for p in (tmp_path / "1").rglob("*") if p.is_file() and p.stat().st_size)
    assert len(files) > 8
    harmless: list[str] = []
    for file in files:
        content = file.read_bytes()
        for place in {0, 1, len(content) - 1, *(rng.randrange(len(content)) for _ in range(12))}:
            damaged = bytearray(content)
            damaged[place] ^= 1 << rng.randrange(8)
            file.write_bytes(damaged)
            # A changed line break in the checksums, say, does no harm: then the bits must be ours.
            with contextlib.suppress(CheckpointError):
                assert_same(run.restore(make_state(0), 1)[1], make_state(1))
                harmless.append(file.name)
        file.write_bytes(content)
    assert set(harmless) <= {checksums.CHECKSUMS}
    assert_same(run.restore(make_state(0), 1)[1], make_state(1))


def truncate(folder: Path) -> None:
    largest = max(folder.rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    os.truncate(largest, largest.stat().st_size // 2)


def halve_checksums(folder: Path) -> None:
    path = folder / checksums.CHECKSUMS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


@pytest.mark.parametrize(
    "harm",
    [
        truncate,
        halve_checksums,
        lambda folder: (folder / checksums.CHECKSUMS).unlink(),
        lambda folder: (folder / "state" / "manifest.ocdbt").unlink(),
        lambda folder: shutil.rmtree(folder / "state"),
        lambda folder: [shutil.rmtree(folder), folder.mkdir()],
        lambda folder: [shutil.rmtree(folder), folder.write_text("a file")],
    ],
)
def test_damaged_newest_checkpoint_is_named_and_passed_over(tmp_path, harm):
    run = Checkpoints(tmp_path)
    for step in (1, 2):
        run.save(step, make_state(step))
    harm(tmp_path / "2")
    lines: list[str] = []
    step, state = run.restore(make_state(0), on_unreadable=lines.append)
    assert step == 1
    assert_same(state, make_state(1))
    (line,) = lines
    assert str(tmp_path / "2") in line
    assert "\n" not in line
    with pytest.raises(CheckpointError, match="unreadable"):
        run.restore(make_state(0), 2)


def test_files_hidden_by_the_system_do_no_harm(tmp_path):
    run = Checkpoints(tmp_path)
    run.save(1, make_state(1))
    (tmp_path / "1" / ".DS_Store").write_text("")
    assert_same(run.restore(make_state(0), 1)[1], make_state(1))


def test_without_a_readable_checkpoint_the_error_is_one_line(tmp_path):
    run = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        run.restore(make_state(0))
    run.save(1, make_state(1))
    truncate(run.path(1))
    with pytest.raises(CheckpointError, match="none of the 1") as caught:
        run.restore(make_state(0), on_unreadable=lambda line: None)
    assert "\n" not in str(caught.value)


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


class KilledError(BaseException):
    """Simulates SIGKILL: nothing may catch it and clean up."""


@pytest.mark.parametrize("replace", [False, True])
def test_a_kill_between_any_two_steps_of_a_save_costs_at_most_that_save(
    tmp_path, monkeypatch, replace
):
    run = Checkpoints(tmp_path / "run", keep=2)
    for step in (1, 2, 3):
        Checkpoints(run.folder, keep=3).save(step, make_state(step))
    shutil.copytree(run.path(1), run.path(1).with_name("4.removed"))
    # orbax takes most of the time, and kills inside it are the next test's.
    orbax: Any = checkpoints.ocp
    orbax.save(tmp_path / "by_orbax", make_state(3))
    monkeypatch.setattr(orbax, "save", lambda path, _: shutil.copytree(tmp_path / "by_orbax", path))
    if replace:
        truncate(run.path(3))
    else:
        shutil.rmtree(run.path(3))
    shutil.copytree(run.folder, tmp_path / "before")

    # Every change of the disk of our own goes through these; the call number `fatal` kills.
    calls = fatal = 0

    def deadly(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != fatal:
                return function(*args, **kwargs)
            if function is rmtree and args[0].exists():  # in the midst of it
                (args[0] / checkpoints.LEAVES).unlink()
            raise KilledError

        return call

    rmtree = shutil.rmtree
    finished = False
    while not finished:
        fatal += 1
        rmtree(run.folder)
        shutil.copytree(tmp_path / "before", run.folder)
        with monkeypatch.context() as patch:
            calls = 0
            patch.setattr(shutil, "rmtree", deadly(rmtree))
            patch.setattr(Path, "rename", deadly(Path.rename))
            for name in ("sync", "seal", "write_json"):
                patch.setattr(checkpoints, name, deadly(getattr(checkpoints, name)))
            try:
                run.save(3, make_state(3))
                finished = True
            except KilledError:
                pass
        step, state = run.restore(make_state(0), on_unreadable=lambda line: None)
        assert step in (2, 3)
        assert_same(state, make_state(step))
        run.save(3, make_state(3))  # the next attempt finds its way
        assert sorted(os.listdir(run.folder)) == ["2", "3"]
    assert fatal > 8


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_no_acknowledged_checkpoint(tmp_path):
    script = """
        import sys
        from test_checkpoints import Checkpoints, make_state
        run = Checkpoints(sys.argv[1])
        step = max(run.steps(), default=0)
        print("ready", flush=True)
        while True:
            step += 1
            run.save(step, make_state(step, width=4096))
            print(step, flush=True)
    """
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'io'}"}
    rng = random.Random(0)
    run = Checkpoints(tmp_path)
    acknowledged = 0
    for trial in range(6):
        command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            if trial == 3:  # on the slowest machine, one of them comes to save
                acknowledged = int(process.stdout.readline())
            time.sleep(rng.uniform(0.05, 0.6))
            process.send_signal(signal.SIGKILL)
            said = process.stdout.read().split("\n")[:-1]
        acknowledged = max([acknowledged, *map(int, said)])
        if run.steps():
            lines: list[str] = []
            step, state = run.restore(make_state(0, width=4096), on_unreadable=lines.append)
            assert lines == []
            assert step >= acknowledged
            assert_same(state, make_state(step, width=4096))
    assert acknowledged > 0


def test_disk_full_is_one_line_and_harms_nothing(tmp_path):
    # A limit on file sizes makes the kernel refuse the write, as a full disk does.
    script = """
        import os, resource, sys, time
        import numpy as np
        from absl import logging
        from test_checkpoints import CheckpointError, Checkpoints, assert_same, make_state
        from vdm.io.streams import quiet_orbax
        logging.set_verbosity(logging.INFO)  # orbax must be silent all the same
        quiet = quiet_orbax()  # to the end, as in vdm.main
        quiet.__enter__()
        run = Checkpoints(sys.argv[1])
        run.save(1, make_state(1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        # Of many arrays some are still being written when the first of them has failed.
        many = {str(i): np.random.default_rng(i).normal(size=40_000) for i in range(60)}
        try:
            run.save(2, many)
        except CheckpointError as error:
            print(error)
        time.sleep(0.2)
        print(os.listdir(sys.argv[1]))
        assert_same(run.restore(make_state(0))[1], make_state(1))
    """
    done = run_python(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    line, there = done.stdout.splitlines()
    assert line.startswith(f"cannot save checkpoint {tmp_path / '2'}: File too large; ")
    assert there == "['1']"


def test_a_folder_that_takes_none_is_one_line_and_the_process_ends(tmp_path):
    # A file where the folder of checkpoints should be: so it is for root, too.
    (tmp_path / "file").write_text("")
    script = """
        import sys
        from test_checkpoints import CheckpointError, Checkpoints, make_state
        try:
            Checkpoints(sys.argv[1]).save(1, make_state(1))
        except CheckpointError as error:
            print(error)
    """
    done = run_python(script, tmp_path / "file" / "checkpoints")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("cannot save checkpoint")
    assert "Not a directory" in line


def test_a_workdir_that_is_gone_is_not_made_again(tmp_path):
    run = Checkpoints(tmp_path / "run" / "checkpoints")
    run.path(1).parent.parent.mkdir()
    run.save(1, make_state(1))
    (tmp_path / "run").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="the workdir is gone: restore it, then"):
        run.save(2, make_state(2))
    assert os.listdir(tmp_path) == ["gone"]


def test_disk_full_after_orbax_is_done_harms_nothing(tmp_path, monkeypatch):
    run = Checkpoints(tmp_path)
    run.save(1, make_state(1))

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "seal", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            run.save(2, make_state(2))
    assert os.listdir(tmp_path) == ["1"]
    run.save(2, make_state(2))
    assert run.restore(make_state(0))[0] == 2


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
