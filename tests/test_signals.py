"""Signals and kills: how the program ends, and what it leaves behind."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.command_line import call, command
from tests.faults.program import start, wait_for_step
from vdm import main as program
from vdm.devices import processes
from vdm.io.checkpoints import Checkpoints
from vdm.io.metrics_log import read_metrics
from vdm.runs import states, train
from vdm.runs.run import open_run
from vdm.training import loop
from vdm.training.metrics import NonFiniteError

pytestmark = pytest.mark.usefixtures("at_home")


ROOT = Path(__file__).parent.parent


def run_code(code, *arguments, stdin=None):
    """Runs a program that imports vdm.main, and returns its finished process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=ROOT, stdin=stdin, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture
def second_of_two(monkeypatch):
    """Makes this process look like the second of two; its end raises SystemExit."""
    monkeypatch.setattr(processes, "has_joined", lambda: True)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(processes, "leave", sys.exit)


def test_one_of_several_processes_ends_with_its_traceback(
    second_of_two, monkeypatch, capsys, tmp_path
):
    def fail(*_):
        raise KeyError("a bug " + "x" * 400)

    mistake = [*command(tmp_path, schedule__name="monotne"), "--debug"]
    with pytest.raises(SystemExit, match="2"):
        call(mistake, capsys)
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert "did you mean 'monotone'" in err.splitlines()[-1]
    monkeypatch.setattr(train, "train", fail)
    with pytest.raises(SystemExit, match="1"):
        call(command(tmp_path), capsys)
    err = capsys.readouterr().err
    assert "in fail\n" in err
    assert "another process of this run has ended" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "status"),
    [(loop.Interrupted("stopped at step 3", 15), 143), (NonFiniteError("loss is nan"), 1)],
)
def test_of_several_processes_the_first_says_how_a_run_ended(
    error, status, monkeypatch, capsys, tmp_path
):
    def fail(*_):
        raise error

    monkeypatch.setattr(train, "train", fail)
    code, out, err = call(command(tmp_path), capsys)
    assert code == status
    assert str(error) in out + err
    monkeypatch.setattr(processes, "is_first", lambda: False)
    assert call(command(tmp_path), capsys) == (status, "", "")


def final_state(config, workdir):
    run = open_run(config, workdir)
    step, state = run.checkpoints.restore(states.abstract_state(run))
    return step, jax.device_get(state)


@pytest.mark.slow
def test_three_kills_leave_the_same_parameters_to_the_last_bit(make_tiny_config, tmp_path):
    options = {"train__num_steps": 160, "train__save_every": 20, "train__log_every": 5}
    # In a process of its own, as the killed ones: this one has eight devices, and rounds otherwise.
    undisturbed = start(command(tmp_path / "whole", **options))
    assert undisturbed.wait() == 0, undisturbed.communicate()
    rng = random.Random(0)
    for earliest in (20, 60, 100):
        process = start(command(tmp_path / "killed", **options))
        wait_for_step(tmp_path / "killed", process, earliest)
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it had not come to its end
    assert start(command(tmp_path / "killed", **options)).wait() == 0
    config = make_tiny_config(eval__draws=1, train__num_steps=160)
    (step, state), (killed_step, killed_state) = (
        final_state(config, tmp_path / name) for name in ("whole", "killed")
    )
    assert step == killed_step == 160
    jax.tree.map(np.testing.assert_array_equal, state, killed_state)
    lines = read_metrics(tmp_path / "killed")
    steps = [line["step"] for line in lines if "train/bpd" in line]
    assert steps == list(range(5, 161, 5))


@pytest.mark.parametrize("swallow", ["except Exception", "__del__"])
def test_sigterm_ends_the_program_also_where_its_exception_is_swallowed(swallow):
    code = """
        import signal, sys, time
        from vdm import main

        class Callback:
            def __del__(self):
                signal.raise_signal(signal.SIGTERM)

        def run(options, given):
            if sys.argv[-1] == "__del__":
                Callback()
            else:
                try:
                    signal.raise_signal(signal.SIGTERM)
                except Exception:
                    pass
            time.sleep(600)

        main.GRACE_SECS, main.run, main.parse = 1, run, lambda argv: None
        sys.exit(main.main(sys.argv))
    """
    result = run_code(code, swallow)
    assert result.returncode == 128 + signal.SIGTERM, result.stderr
    assert result.stdout == f"{program._stopped()}\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_program_also_inside_one_long_call(signum):
    code = f"""
        import hashlib, os, signal, sys, threading
        from vdm import main

        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background

        def run(options, given):  # no bytecode and no handler for long, as in a compilation
            threading.Timer(0.3, os.kill, (os.getpid(), {signum.value})).start()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

        main.GRACE_SECS, main.run, main.parse = 0.5, run, lambda argv: None
        sys.exit(main.main(sys.argv))
    """
    result = run_code(code, "train")
    assert result.returncode == 128 + signum, result.stderr
    assert result.stdout == f"{program._stopped()}\n"


def test_the_end_of_a_forked_process_is_not_that_of_the_program():
    code = """
        import os, signal, sys, time
        from vdm import main

        def run(options, given):
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                try:
                    os.write(writer, b"!")
                    time.sleep(600)
                finally:
                    os._exit(3)
            os.read(reader, 1)
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            time.sleep(1)
            return 7

        main.GRACE_SECS, main.run, main.parse = 0.1, run, lambda argv: None
        sys.exit(main.main(sys.argv))
    """
    result = run_code(code, "train")
    assert (result.returncode, result.stdout) == (7, "")


def test_the_program_does_not_wait_for_a_forked_process():
    code = """
        import os, sys
        from vdm import main

        def run(options, given):
            if not os.fork():
                os.closerange(1, 3)
                sys.stdin.read()
                os._exit(0)
            return 7

        main.run, main.parse = run, lambda argv: None
        sys.exit(main.main(sys.argv))
    """
    reader, writer = os.pipe()  # the child lives on until this is closed
    try:
        result = run_code(code, "train", stdin=reader)
    finally:
        os.close(writer)
        os.close(reader)
    assert result.returncode == 7


def test_a_training_that_saves_is_given_its_time():
    code = """
        import signal, sys, time
        from vdm import main
        from vdm.io.signals import stop_signals

        def run(options, given):
            with stop_signals() as signals:
                signal.raise_signal(signal.SIGTERM)
                time.sleep(1.5)
                print("saved", signals)
                return 7

        main.GRACE_SECS, main.run, main.parse = 0.1, run, lambda argv: None
        sys.exit(main.main(sys.argv))
    """
    result = run_code(code, "train")
    assert (result.returncode, result.stdout) == (7, f"saved [{signal.SIGTERM.value}]\n")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_where_and_the_run_goes_on(signum, capsys, tmp_path):
    process = start(command(tmp_path, train__num_steps=100_000, train__log_every=5))
    wait_for_step(tmp_path, process, 10)
    process.send_signal(signum)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 128 + signum
    assert err == ""
    steps = Checkpoints(tmp_path / "checkpoints").steps()
    assert f"saved in {tmp_path}/checkpoints/{steps[-1]}" in out
    status, out, _ = call(command(tmp_path, train__num_steps=steps[-1] + 2), capsys)
    assert status == 0
    assert f"resuming {tmp_path} at step {steps[-1]}" in out
