"""Python programs in processes of their own, for claims about a process."""

import ctypes
import multiprocessing
import os
import runpy
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_python(
    script: str, *arguments: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a script that finds `vdm` and `tests`, and returns the finished process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # orbax waits 600 s for a folder that cannot be made
    )


class Program:
    """`python -m vdm.main` in a process of its own, with the methods of `subprocess.Popen`.

    A start costs the imports, five seconds, so the process is forked from one that has them done
    and has started no JAX backend (`tests.preloaded`). Unlike that of a program, its exit calls no
    function of `atexit`. environment: the whole one, with the JAX_ variables of this process.
    """

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.preloaded"])
        self._folder = tempfile.TemporaryDirectory()
        self._texts = [Path(self._folder.name) / name for name in ("out", "err")]
        self._process = context.Process(
            target=_run_program, args=(list(arguments), environment, *self._texts)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the number of a signal; None while the process runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Returns `returncode`."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end and returns the exit status; `subprocess.TimeoutExpired` if it does not
        come."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("vdm.main", timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end and returns stdout and stderr."""
        self.wait(timeout)
        out, err = (text.read_text() for text in self._texts)
        return out, err

    def send_signal(self, signum: int) -> None:
        """Sends a signal if the process still runs."""
        if self.returncode is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run_program(arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    for file, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    _obey_file_modes()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it may be another one in this environment
    sys.argv = ["vdm.main", *arguments]
    runpy.run_module("vdm.main", run_name="__main__", alter_sys=True)


def _obey_file_modes() -> None:
    """Gives up the two capabilities that let root write to read-only files: CAP_DAC_OVERRIDE and
    CAP_DAC_READ_SEARCH, bits 1 and 2 of the effective, permitted and inheritable ones."""
    with suppress(OSError, AttributeError):
        header, sets = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
        libc = ctypes.CDLL(None)
        libc.capget(header, sets)
        first, rest = struct.unpack("3I", sets[:12]), sets[12:]
        libc.capset(header, struct.pack("3I", *(bits & ~0b110 for bits in first)) + rest)
