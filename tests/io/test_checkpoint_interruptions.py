"""A save that is killed, or finds the disk full or its folder gone, harms no other checkpoint."""

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
from typing import Any

import pytest

from tests.io.states import assert_same, make_state, truncate
from tests.programs import ROOT, run_python
from vdm.io import checkpoints
from vdm.io.checkpoints import CheckpointError, Checkpoints


class KilledError(BaseException):
    """Simulates SIGKILL: no code may catch it and clean up."""


@pytest.mark.parametrize("replace", [False, True])
def test_a_kill_between_any_two_steps_of_a_save_costs_at_most_that_save(
    tmp_path, monkeypatch, replace
):
    run = Checkpoints(tmp_path / "run", keep=2)
    for step in (1, 2, 3):
        Checkpoints(run.folder, keep=3).save(step, make_state(step))
    shutil.copytree(run.path(1), run.path(1).with_name("4.removed"))
    # orbax takes most of the time; the next test kills inside it.
    orbax: Any = checkpoints.ocp
    orbax.save(tmp_path / "by_orbax", make_state(3))
    monkeypatch.setattr(orbax, "save", lambda path, _: shutil.copytree(tmp_path / "by_orbax", path))
    if replace:
        truncate(run.path(3))
    else:
        shutil.rmtree(run.path(3))
    shutil.copytree(run.folder, tmp_path / "before")

    # All our own changes on disk go through these functions; call number `fatal` kills.
    calls = fatal = 0

    def deadly(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != fatal:
                return function(*args, **kwargs)
            if function is rmtree and args[0].exists():  # killed half-way through the removal
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
        run.save(3, make_state(3))  # the next save succeeds
        assert sorted(os.listdir(run.folder)) == ["2", "3"]
    assert fatal > 8


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_no_acknowledged_checkpoint(tmp_path):
    script = """
        import sys
        from tests.io.states import make_state
        from vdm.io.checkpoints import Checkpoints
        run = Checkpoints(sys.argv[1])
        step = max(run.steps(), default=0)
        print("ready", flush=True)
        while True:
            step += 1
            run.save(step, make_state(step, width=4096))
            print(step, flush=True)
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    rng = random.Random(0)
    run = Checkpoints(tmp_path)
    acknowledged = 0
    for trial in range(6):
        command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            if trial == 3:  # one save finishes even on the slowest machine
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


@pytest.fixture(scope="module")
def process_with_refused_saves(tmp_path_factory):
    """A finished process, and its folder, in which two saves fail one after the other: below a
    file, which is not a folder for root either; and above a limit on file sizes, which makes the
    kernel refuse the write as a full disk does."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "file").write_text("")
    script = """
        import os, resource, sys, time
        import numpy as np
        from absl import logging
        from tests.io.states import assert_same, make_state
        from vdm.io.checkpoints import CheckpointError, Checkpoints
        from vdm.io.streams import quiet_orbax
        logging.set_verbosity(logging.INFO)  # orbax must be silent all the same
        quiet = quiet_orbax()  # to the end, as in vdm.main
        quiet.__enter__()
        try:
            Checkpoints(sys.argv[1] + "/file/checkpoints").save(1, make_state(1))
        except CheckpointError as error:
            print(error)
        folder = sys.argv[1] + "/full"
        run = Checkpoints(folder)
        run.save(1, make_state(1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        # With many arrays, some are still being written when the first one has failed.
        many = {str(i): np.random.default_rng(i).normal(size=40_000) for i in range(60)}
        try:
            run.save(2, many)
        except CheckpointError as error:
            print(error)
        time.sleep(0.2)
        print(os.listdir(folder))
        assert_same(run.restore(make_state(0))[1], make_state(1))
    """
    done = run_python(script, folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder, done.stdout.splitlines()


def test_disk_full_is_one_line_and_harms_nothing(process_with_refused_saves):
    folder, (_, line, there) = process_with_refused_saves
    assert line.startswith(f"cannot save checkpoint {folder / 'full' / '2'}: File too large; ")
    assert there == "['1']"


def test_a_folder_that_takes_none_is_one_line_and_the_process_ends(process_with_refused_saves):
    _, (line, *_) = process_with_refused_saves
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
