"""How many examples one call takes, and that waiting for it can be interrupted."""

from types import SimpleNamespace

import numpy as np
import pytest

from vdm.devices import sharding
from vdm.devices.waiting import Abandoned, wait
from vdm.diffusion.ode import Solver
from vdm.evaluation.calls import call_size
from vdm.evaluation.estimators import Elbo, ImportanceWeighted, ProbabilityFlow

MODEL = SimpleNamespace(dims=(8, 8, 1))
PARAMS = {"network": np.zeros(250_000)}


def size(batch_size, passes, devices=2, model=MODEL):
    return call_size(model, PARAMS, batch_size, passes, sharding.build_mesh(devices))


def test_a_call_of_many_passes_takes_fewer_examples():
    # 250,000 parameters at 64 pixels are 1.6e7 products a pass: 5e10 are 3124 passes.
    assert size(300, 1) == 300
    assert size(300, 100) == 2 * 31
    assert size(300, 1500) == 4
    assert size(300, 10**6) == 2
    assert size(3, 10**6) == 2
    assert size(64, 1500, model=SimpleNamespace(dims=(64,))) == 64  # no pixels


def test_passes_of_the_estimators():
    assert Elbo(50).passes(64) == 1
    assert ImportanceWeighted(10, 64).passes(64) == 640
    assert ProbabilityFlow("decoder", Solver(50, divergence="exact")).passes(3) == 6 * 50 * 7
    assert ProbabilityFlow("uniform", Solver(0)).passes(64) == 6 * 100 * 5


class Slow:
    """An array that is ready the third time it is asked."""

    def __init__(self):
        self.asked = 0

    def is_ready(self):
        self.asked += 1
        return self.asked > 2


def test_waiting_ends_with_the_work_or_when_told_to_stop():
    slow = Slow()
    wait({"a": slow, "b": Slow()})
    assert slow.asked == 3
    with pytest.raises(Abandoned):
        wait(Slow(), stop=lambda: True)
    ready = Slow()
    ready.asked = 3
    wait(ready, stop=lambda: True)  # a result that is ready is kept
