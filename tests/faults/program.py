"""Starts the program in its own process, as a user would, with a tiny network on the digits."""

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults.training_kills import command
from vdm.io.metrics_log import read_metrics

ROOT = Path(__file__).parents[2]
NO_END = {"train__num_steps": 100_000, "train__eval_every": 0}


def start(arguments: list[str], *folders: Path, **environment: str) -> subprocess.Popen[str]:
    """Starts `python -m vdm.main`; `folders` hold the user's own modules."""
    path = os.pathsep.join(map(str, [ROOT, *folders]))
    return subprocess.Popen(
        [sys.executable, "-m", "vdm.main", *arguments],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": path} | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_obey_file_modes,
    )  # fmt: skip


def run(arguments: list[str], *folders: Path) -> tuple[int, str, str]:
    """(status, stdout, stderr)."""
    process = start(arguments, *folders)
    out, err = process.communicate()
    return process.returncode, out, err


def _obey_file_modes() -> None:
    # These two capabilities let root write to read-only files.
    with contextlib.suppress(OSError, AttributeError):
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def wait_for_step(workdir: Path, process: subprocess.Popen[str], step: int) -> None:
    """Waits until the log of a running program has reached `step`."""
    while not any(line["step"] >= step for line in read_metrics(workdir)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def evaluation(workdir: Path) -> dict[str, Any]:
    """eval.json without the entries that depend on the time."""
    found = json.loads((workdir / "eval.json").read_text())
    return {key: value for key, value in found.items() if not key.endswith("_secs")}


__all__ = ["NO_END", "command", "evaluation", "run", "start", "wait_for_step"]
