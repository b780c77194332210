"""A few kills of `make faults`, which makes two hundred.

Tested elsewhere: three kills of the real command line (tests/test_main.py,
test_three_kills_leave_the_same_parameters_to_the_last_bit), the signals of a person
(test_a_signal_saves_says_where_and_the_run_goes_on), kills of saves alone
(tests/io/test_checkpoints.py, test_sigkill_at_any_moment_loses_no_acknowledged_checkpoint).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_processes_leave_what_undisturbed_ones_do(tmp_path):
    summary = tmp_path / "kills.json"
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults.kills", "--kills=8", "--seed=7", f"--json={summary}"],
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
