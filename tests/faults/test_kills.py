"""A few kills of `make faults`, which makes two hundred.

Tested elsewhere: three kills of the real command line (tests/test_signals.py,
test_three_kills_leave_the_same_parameters_to_the_last_bit), the signals of a person
(test_a_signal_saves_says_where_and_the_run_goes_on), kills of saves alone
(tests/io/test_checkpoint_interruptions.py,
test_sigkill_at_any_moment_loses_no_acknowledged_checkpoint).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.faults.program import command, run, start

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_processes_leave_what_undisturbed_ones_do(tmp_path):
    summary = tmp_path / "kills.json"
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults.kills", "--kills=8", "--seed=7", f"--json={summary}",
         f"--cache={os.environ['JAX_COMPILATION_CACHE_DIR']}"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(summary.read_text())
    assert found["kills"] == 8
    assert (found["lost"], found["wrong"]) == (0, [])
    assert {name: of["kills"] for name, of in found["by_phase"].items()} == {
        "training": 3, "evaluation": 1, "sampling": 1, "compression": 1, "decompression": 1,
        "preparation": 1,
    }  # fmt: skip
    assert found["trainings"] >= 1
    assert found["lost_steps_max"] <= found["save_every"]


def test_the_kills_that_are_kept_lost_nothing():
    found = json.loads((ROOT / "tests" / "faults" / "kills.json").read_text())
    assert found["kills"] == sum(of["kills"] for of in found["by_phase"].values()) >= 40
    for name, of in found["by_phase"].items():
        assert of["kills"] > 0, name
        assert (of["lost"], of["wrong"]) == (0, 0), name


KEPT = {
    "sample": (
        "samples.partial", "samples.npz",
        {"sample__num_images": 400, "sample__batch_size": 2, "sample__num_steps": 10},
    ),
    "eval": (
        "eval.partial", "eval_examples.npz", {"eval__batch_size": 2, "eval__draws": 2},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mode", KEPT)
def test_killed_samples_and_evaluations_are_completed_to_the_same_bits(
    finished_run, tmp_path, mode
):
    partial, written, more = KEPT[mode]
    killed, whole = (shutil.copytree(finished_run, tmp_path / name) for name in ("a", "b"))
    changes = more | {"train__num_steps": 30, "train__save_every": 10, "train__log_every": 10}

    def arguments(workdir):
        return [*command(workdir, **changes), f"--mode={mode}"]

    size, out = 0, ""
    for _ in range(2):
        process, least = start(arguments(killed)), size + 3000
        while size < least:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
            size = (killed / partial).stat().st_size if (killed / partial).exists() else 0
        process.kill()
        out, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL  # it had not come to its end
    assert "resuming the" in out  # the second began where the first was
    for workdir in (killed, whole):
        status, _, err = run(arguments(workdir))
        assert (status, err) == (0, "")
        assert not (workdir / partial).exists()
    ours, theirs = (np.load(workdir / written) for workdir in (killed, whole))
    assert ours.files == theirs.files
    for name in ours.files:
        assert ours[name].tobytes() == theirs[name].tobytes()
