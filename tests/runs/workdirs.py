"""States and unfinished copies of workdirs."""

import shutil

import jax
import numpy as np

from vdm.io.metrics_log import read_metrics
from vdm.runs import states
from vdm.runs.run import open_run


def state_of(config, workdir):
    """(step, state) of the newest checkpoint."""
    run = open_run(config, workdir)
    step, state = run.checkpoints.restore(states.abstract_state(run))
    return step, jax.device_get(state)


def assert_same_state(config, workdir, other):
    (step, state), (other_step, other_state) = (state_of(config, w) for w in (workdir, other))
    assert step == other_step
    jax.tree.map(np.testing.assert_array_equal, state, other_state)


def interrupted_copy(finished_run, workdir, last_step):
    """A copy of the finished run as a kill after `last_step` would have left it."""
    shutil.copytree(finished_run, workdir, dirs_exist_ok=True)
    (workdir / "eval.json").unlink()
    for folder in (workdir / "checkpoints").iterdir():
        if int(folder.name) > last_step:
            shutil.rmtree(folder)
    return workdir


def rows_of_evaluations(workdir):
    return [line for line in read_metrics(workdir) if "eval/bpd" in line]
