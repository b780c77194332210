"""A workdir has one training at a time, and no lock outlives its holder."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vdm.devices import processes
from vdm.io import lock
from vdm.io.journal import Journal

ROOT = Path(__file__).parents[2]


def hold_in_another_process(folder):
    """A process that holds the lock until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from vdm.io import lock\n"
        "with lock.held(Path(sys.argv[1]), 'training'):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    return process


def kill_a_holder_with_a_forked_worker(folder):
    """The descriptor that keeps the worker alive until it is closed."""
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from vdm.io import lock; from vdm.io.journal import Journal\n"
        "with lock.held(Path(sys.argv[1]), 'training'), Journal(Path(sys.argv[1], 'j'), {}):\n"
        "    if not os.fork():\n"
        "        print('forked', flush=True); sys.stdin.read(); os._exit(0)\n"
        "    time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout.readline() == "forked\n"
    process.kill()
    process.wait()
    return process.stdin


def take(folder):
    with lock.held(folder, "training"):
        pass


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_second_one_is_refused_and_a_killed_one_leaves_no_lock(tmp_path, capsys, signum):
    process = hold_in_another_process(tmp_path / "run")
    try:
        with pytest.raises(ValueError, match="another training is running in") as refused:
            take(tmp_path / "run")
        assert f"(process {process.pid} on {socket.gethostname()} since " in str(refused.value)
        assert "\n" not in str(refused.value)
    finally:
        process.send_signal(signum)
        process.wait()
    take(tmp_path / "run")
    assert capsys.readouterr().out == ""


def test_a_worker_that_outlives_its_killed_parent_holds_no_lock(tmp_path):
    with kill_a_holder_with_a_forked_worker(tmp_path / "run"):
        take(tmp_path / "run")
        with Journal(tmp_path / "run" / "j", {}):
            pass


@pytest.mark.parametrize("then", ["nothing", "another holder"])
def test_a_lock_that_its_holder_removes_meanwhile_is_taken_anew(tmp_path, monkeypatch, then):
    path, others = tmp_path / "run" / "train.lock", []

    def take_late(file, take=lock.take):
        monkeypatch.undo()
        path.unlink()
        path.parent.rmdir()
        if then == "another holder":
            path.parent.mkdir()
            others.append(path.open("ab"))
            assert take(others[0])
        return take(file)

    monkeypatch.setattr(lock, "take", take_late)
    if then == "nothing":
        take(tmp_path / "run")
    else:
        with pytest.raises(ValueError, match="another training is running in"):
            take(tmp_path / "run")
        others[0].close()
    monkeypatch.undo()


def test_threads_of_one_process_exclude_each_other_and_folders_do_not(tmp_path):
    with lock.held(tmp_path, "training"):
        take(tmp_path / "classifier")
        with pytest.raises(ValueError, match=f"process {os.getpid()} "):
            take(tmp_path)
    take(tmp_path)
    assert (tmp_path / "train.lock").read_bytes() == b""


def test_a_new_folder_in_which_nothing_is_written_goes_and_others_stay(tmp_path):
    take(tmp_path / "new")
    assert os.listdir(tmp_path) == []
    with lock.held(tmp_path / "used", "training"):
        (tmp_path / "used" / "file").touch()
    (tmp_path / "empty").mkdir()
    take(tmp_path / "empty")
    assert sorted(os.listdir(tmp_path)) == ["empty", "used"]
    assert (tmp_path / "empty" / "train.lock").read_bytes() == b""


def test_an_error_inside_gives_it_back(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), lock.held(tmp_path, "training"):
            raise KeyboardInterrupt


def test_one_killed_on_another_machine_is_named(tmp_path, capsys):
    (tmp_path / "train.lock").write_text("process 7 on node12 since yesterday\n")
    with lock.held(tmp_path, "training"):
        said = capsys.readouterr().out
    assert "(process 7 on node12 since yesterday) was killed; if it is still running" in said
    assert said.count("\n") == 1
    with lock.held(tmp_path, "training"):
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_used(tmp_path, capsys, monkeypatch, code):
    def refuse(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with lock.held(tmp_path, "training"):
        assert "without locks: do not start a second training in it" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match=str(tmp_path / "run")):
        take(tmp_path / "run")


def test_of_several_processes_the_first_takes_it_and_all_learn_that_it_could_not(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    with lock.held(tmp_path / "run", "training"):
        assert not (tmp_path / "run").exists()
    monkeypatch.setattr(processes, "any_of", lambda value: 1)
    with pytest.raises(ValueError, match="the first process cannot lock"):
        take(tmp_path / "run")
