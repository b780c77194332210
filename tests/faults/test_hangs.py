"""When a run hangs, the watchdog prints where, and the run continues when it can.

Tested elsewhere: what the watchdog writes and when (tests/io/test_watchdog.py), the phases of the
loop (tests/runs/test_train.py, test_fit_names_the_phase_in_which_it_hangs).
"""

import re

import pytest

from tests.faults.program import command

USERS = """
import time
import jax
import jax.numpy as jnp
import numpy as np
from vdm.data import sources
from vdm.diffusion.likelihood import Discretised

class Slow(np.ndarray):
    '''Examples whose 30th batch takes 5 seconds to gather.'''
    calls = 0

    def __getitem__(self, index):
        if isinstance(index, np.ndarray) and len(index) == 32:
            Slow.calls += 1
            if Slow.calls == 30:
                time.sleep(5)
        return np.asarray(super().__getitem__(index))

def slow_digits(data_dir, holdout):
    source = sources.digits(data_dir, holdout)

    def load(name):
        split = source.load(name)
        return sources.Split(split.name, split.examples.view(Slow), split.labels)

    import dataclasses
    return dataclasses.replace(source, load=load)

class Hang(Discretised):
    '''The devices call the host at every step; the 30th call takes 5 seconds.'''
    calls = []

    def encode(self, data):
        def wait():
            self.calls.append(0)
            if len(self.calls) == 30:
                time.sleep(5)
            return np.float32(0.0)

        zero = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32))
        return super().encode(data) + zero
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "phase", "function"),
    [
        ({"data__name": "users:slow_digits"}, "waiting for the data of step 30", "__getitem__"),
        (
            {"likelihood__name": "users:Hang"},
            r"step \d+ on the devices, or one from \d+ on",
            "wait",
        ),
    ],
)
def test_a_hang_is_reported_and_outlasted(call_with_module, tmp_path, changes, phase, function):
    changes = {"train__num_steps": 40, "train__eval_every": 0} | changes
    arguments = command(tmp_path / "run", train__watchdog_secs=2, **changes)
    status, out, err = call_with_module(USERS, arguments)
    assert status == 0, err
    assert re.search(rf"^watchdog: \d+ s without progress: {phase};", err, re.MULTILINE)
    assert re.search(rf'File ".*users.py", line \d+ in {function}', err)
    assert "step 40/40" in out
