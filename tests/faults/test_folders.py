"""Folders that fill up, go away or become read-only under a run.

Tested elsewhere: a full disk under a save (tests/io/test_checkpoint_interruptions.py,
test_disk_full_is_one_line_and_harms_nothing and
test_disk_full_after_orbax_is_done_harms_nothing) and under the log (tests/io/test_metrics_log.py,
test_a_disk_that_takes_half_a_line_is_full), a log that is gone
(test_a_file_that_is_gone_is_not_written_to_in_silence), data that are not there
(tests/data/test_tfds_sets.py).
"""

import os
import shutil
import subprocess

import pytest

from tests.faults.program import NO_END, command, evaluation, run, start, wait_for_step
from vdm.io.checkpoints import Checkpoints

pytestmark = pytest.mark.slow


def steps(workdir):
    return Checkpoints(workdir / "checkpoints").steps()


@pytest.fixture
def small_disk(tmp_path):
    """A mounted file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(file):
    with file.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 4096)
        except OSError:
            pass


def test_a_disk_that_fills_up_stops_the_run_and_room_lets_it_go_on(small_disk):
    workdir = small_disk / "run"
    process = start(command(workdir, **NO_END))
    wait_for_step(workdir, process, 45)
    fill(small_disk / "filler")
    _, err = process.communicate(timeout=600)
    assert process.returncode == 2, err
    (line,) = err.splitlines()
    assert "No space left on device" in line
    assert str(workdir) in line
    kept = steps(workdir)
    assert kept
    fill(small_disk / "more")  # what a save that failed has given back
    status, _, err = run(command(workdir, **NO_END))
    assert status == 2
    assert err.startswith(f"error: No space left on device: {workdir}")
    assert steps(workdir) == kept
    for name in ("filler", "more"):
        (small_disk / name).unlink()
    status, out, _ = run(command(workdir, train__num_steps=kept[-1] + 1, train__eval_every=0))
    assert f"resuming {workdir} at step {kept[-1]}" in out
    assert status == 0


def test_a_workdir_removed_under_a_run_ends_it_and_is_not_half_rebuilt(tmp_path):
    workdir = tmp_path / "run"
    # Without saves, because orbax would create the folder again during one.
    process = start(command(workdir, **NO_END | {"train__save_every": 10**6}))
    wait_for_step(workdir, process, 10)
    workdir.rename(tmp_path / "gone")
    _, err = process.communicate(timeout=600)
    assert process.returncode == 2
    (line,) = err.splitlines()
    assert str(workdir) in line
    assert not (workdir / "metrics.jsonl").exists()
    assert not (workdir / "checkpoints").exists()


def test_a_workdir_that_becomes_read_only_ends_the_run_with_its_checkpoints(tmp_path):
    workdir = tmp_path / "run"
    process = start(command(workdir, **NO_END))
    wait_for_step(workdir, process, 25)
    folders = [workdir, workdir / "checkpoints"]
    for folder in folders:
        folder.chmod(0o555)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 2, err
    (line,) = err.splitlines()
    assert "Permission denied" in line
    assert "checkpoints" in line
    kept = steps(workdir)
    status, _, err = run(command(workdir, **NO_END))
    assert status == 2
    assert err.startswith("error: Permission denied: ")
    assert err.count("\n") == 1
    for folder in folders:
        folder.chmod(0o755)
    status, out, _ = run(command(workdir, train__num_steps=kept[-1] + 1, train__eval_every=0))
    assert status == 0
    assert f"resuming {workdir} at step {kept[-1]}" in out


def test_a_second_training_is_refused_and_goes_on_once_the_first_is_killed(tmp_path):
    workdir = tmp_path / "lr[0.1]"
    process = start(command(workdir, **NO_END))
    wait_for_step(workdir, process, 25)
    events = {path.name for path in workdir.glob("events.*")}
    status, _, err = run(command(workdir, **NO_END))
    assert status == 2
    assert err.startswith(f"error: another training is running in {workdir} (process {process.pid}")
    assert err.count("\n") == 1
    assert {path.name for path in workdir.glob("events.*")} == events
    process.kill()
    process.communicate()
    kept = steps(workdir)[-1]
    status, out, err = run(command(workdir, train__num_steps=kept + 1, train__eval_every=0))
    assert (status, err) == (0, "")
    assert f"resuming {workdir} at step {kept}" in out


def test_data_that_go_away_are_made_again_and_the_run_goes_on(tmp_path):
    data, changes = tmp_path / "data", {"train__num_steps": 60, "train__eval_every": 0}
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    status, _, err = run(command(whole, **changes, data__data_dir=data))
    assert status == 0, err
    process = start(command(workdir, **changes, data__data_dir=data))
    wait_for_step(workdir, process, 25)
    shutil.rmtree(data)  # in the midst of it: both splits were read before the first step
    out, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, ""), out
    (workdir / "samples.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "60")
    assert not data.exists()  # between two starts
    assert run(command(workdir, **changes, data__data_dir=data))[0] == 0
    assert evaluation(workdir) == evaluation(whole)
