"""Checkpoints below paths that orbax and tensorstore misread, and copies under other names."""

import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from orbax.checkpoint import v1 as ocp

from vdm.devices import processes
from vdm.io import checkpoints, checksums, orbax_paths
from vdm.io.atomic import write_json
from vdm.io.checkpoints import CheckpointError, Checkpoints, restore_params
from vdm.io.step_folder import saved_step

STATE = {"step": jnp.int32(3), "params": {"kernel": jnp.arange(6.0).reshape(2, 3)}}
NAMES = ["lr[0.1]", "a]b[", "lr*", "what?", "back\\slash", "gs:", "{a,b}", "$HOME", "a%20b", "é",
         "line\nbreak", os.fsdecode(b"\xff"), "a b", "~", "#1;&|<>"]  # fmt: skip


def assert_same(found, state):
    jax.tree.map(np.testing.assert_array_equal, found, state)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_checkpoints_below_any_name_are_read_and_rotate(tmp_path, name):
    (tmp_path / name / "run").mkdir(parents=True)
    run = Checkpoints(tmp_path / name / "run" / "checkpoints", keep=2)
    for step in (1, 2, 3):
        run.save(step, STATE | {"step": jnp.int32(step)})
    assert run.steps() == [2, 3]
    assert sorted(os.listdir(run.folder)) == ["2", "3"]  # and nothing beside them
    assert os.listdir(tmp_path) == [name]
    assert_same(run.restore(STATE)[1], STATE)
    assert_same(restore_params(run.path(3), {"params": STATE["params"]})[1]["params"],
                STATE["params"])  # fmt: skip
    moved = shutil.move(tmp_path / name / "run", tmp_path / "plain")
    assert_same(Checkpoints(moved / "checkpoints").restore(STATE)[1], STATE)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=20))
def test_checkpoints_below_a_name_drawn_at_random_are_read(tmp_path, name):
    if name in (".", ".."):
        return
    run = Checkpoints(tmp_path / name)
    run.save(3, STATE)
    assert_same(run.restore(STATE)[1], STATE)


def test_a_pattern_does_not_take_the_parts_of_a_neighbour(tmp_path):
    for name, factor in (("lr1", 1.0), ("lr2", 2.0), ("lr*", 3.0), ("lr?", 4.0)):
        params = jax.tree.map(lambda leaf: leaf * factor, STATE["params"])  # noqa: B023
        Checkpoints(tmp_path / name).save(3, STATE | {"params": params})
    for name, factor in (("lr1", 1.0), ("lr2", 2.0), ("lr*", 3.0), ("lr?", 4.0)):
        _, found = Checkpoints(tmp_path / name).restore(STATE)
        assert_same(found["params"]["kernel"], factor * STATE["params"]["kernel"])


def saved_by_orbax_alone(folder):
    """Saves a checkpoint as older versions did, which gave orbax every path unchanged."""
    ocp.save(str(folder), STATE)
    write_json(folder / checkpoints.LEAVES, checkpoints.describe(STATE))
    checksums.seal(folder)
    return folder


@pytest.mark.parametrize("name", ["lr[0.1]", "[ab]"])
def test_what_was_saved_below_brackets_before_is_read_and_left_as_it_is(tmp_path, name):
    folder = saved_by_orbax_alone(tmp_path / name / "3")
    assert not (folder / "state" / "manifest.ocdbt").exists()  # as the fault left it
    assert_same(Checkpoints(tmp_path / name).restore(STATE)[1], STATE)
    moved = shutil.move(tmp_path / name, tmp_path / "moved")
    run = Checkpoints(moved)
    assert_same(run.restore(STATE)[1], STATE)
    assert saved_step(run.path(3)) == 3
    assert checksums.damage(run.path(3)) is None


def test_what_was_saved_below_a_backslash_before_is_one_line_and_the_one_before_is_used(tmp_path):
    Checkpoints(tmp_path / "back\\slash").save(2, STATE)
    saved_by_orbax_alone(tmp_path / "back\\slash" / "3")  # its arrays are in back/slash/3
    lines = []
    step, found = Checkpoints(tmp_path / "back\\slash").restore(STATE, on_unreadable=lines.append)
    assert step == 2
    assert_same(found, STATE)
    (line,) = lines
    assert "manifest.ocdbt" in line
    assert "\n" not in line


def lose_the_manifest(folder):
    (folder / "state" / "manifest.ocdbt").unlink()
    shutil.rmtree(folder / "state" / "ocdbt.process_0")


def lose_the_arrays(folder):
    shutil.rmtree(folder / "state" / "d")
    shutil.rmtree(folder / "state" / "ocdbt.process_0")


def write_other_numbers(folder):
    shutil.rmtree(folder)
    ocp.save(str(folder), STATE | {"params": {"kernel": -STATE["params"]["kernel"]}})


@pytest.mark.parametrize("harm", [lose_the_manifest, lose_the_arrays, write_other_numbers])
def test_a_save_that_cannot_be_read_back_is_an_error_and_costs_no_older_one(
    tmp_path, monkeypatch, harm
):
    run, save = Checkpoints(tmp_path / "checkpoints", keep=1), ocp.save
    run.save(1, STATE)

    def harmed(path, state):
        save(path, state)
        monkeypatch.setattr(checkpoints.ocp, "save", save)
        harm(tmp_path / "checkpoints" / "2.partial")

    monkeypatch.setattr(checkpoints.ocp, "save", harmed)
    with pytest.raises(CheckpointError, match=r"cannot save checkpoint .*2: .*are intact"):
        run.save(2, STATE)
    assert os.listdir(run.folder) == ["1"]
    assert_same(run.restore(STATE)[1], STATE)
    run.save(2, STATE)
    assert run.steps() == [2]


@pytest.mark.parametrize("name", ["best-model", "20 (copy)", "7", "007", "epoch[3]"])
def test_a_copy_of_a_step_folder_says_its_step_whatever_its_name(tmp_path, name):
    run = Checkpoints(tmp_path / "checkpoints")
    run.save(3, STATE)
    copy = shutil.copytree(run.path(3), tmp_path / "with spaces [and more]" / name)
    folder, found = restore_params(copy, {"params": STATE["params"]})
    assert (folder, saved_step(folder)) == (copy, 3)
    assert_same(found["params"], STATE["params"])


def test_a_state_without_a_step_has_that_of_its_name_or_says_so(tmp_path):
    run = Checkpoints(tmp_path / "checkpoints")
    run.save(3, {"params": STATE["params"]})
    assert saved_step(run.path(3)) == 3
    with pytest.raises(CheckpointError, match="name the folder by its step"):
        saved_step(shutil.copytree(run.path(3), tmp_path / "best"))


def test_a_folder_of_temporary_files_that_orbax_misreads_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "tmp[1]").mkdir()
    monkeypatch.setattr(orbax_paths.tempfile, "gettempdir", lambda: str(tmp_path / "tmp[1]"))
    run = Checkpoints(tmp_path / "lr[0.1]")
    run.save(3, STATE)
    assert_same(run.restore(STATE)[1], STATE)


@pytest.mark.parametrize("name", ["lr[0.1]", "a*", "back\\slash"])
def test_several_processes_are_refused_such_a_path_before_anything_is_written(
    tmp_path, monkeypatch, name
):
    orbax_paths.check_shared(tmp_path / name)
    monkeypatch.setattr(processes, "num_processes", lambda: 2)
    with pytest.raises(ValueError, match=re.escape(f"--workdir={tmp_path / name}: ")):
        orbax_paths.check_shared(tmp_path / name)
    orbax_paths.check_shared(tmp_path / "plain-1.0 (copy)")
