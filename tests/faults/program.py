"""Starts the program in its own process, as a user would, with a tiny network on the digits."""

import json
import os
import time
from pathlib import Path
from typing import Any

from tests.faults.training_kills import command
from tests.programs import Program
from vdm.io.metrics_log import read_metrics

NO_END = {"train__num_steps": 100_000, "train__eval_every": 0}


def start(arguments: list[str]) -> Program:
    """Starts `python -m vdm.main` in this environment."""
    return Program(arguments, dict(os.environ))


def run(arguments: list[str]) -> tuple[int, str, str]:
    """(status, stdout, stderr)."""
    process = start(arguments)
    out, err = process.communicate()
    return process.returncode, out, err


def wait_for_step(workdir: Path, process: Program, step: int) -> None:
    """Waits until the log of a running program has reached `step`."""
    while not any(line["step"] >= step for line in read_metrics(workdir)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def evaluation(workdir: Path) -> dict[str, Any]:
    """eval.json without the entries that depend on the time."""
    found = json.loads((workdir / "eval.json").read_text())
    return {key: value for key, value in found.items() if not key.endswith("_secs")}


__all__ = ["NO_END", "command", "evaluation", "run", "start", "wait_for_step"]
