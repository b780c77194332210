"""When a training logs, saves and evaluates."""

import pytest

from vdm.io.checkpoints import Checkpoints
from vdm.training.loop import Plan


def plan(**intervals):
    return Plan(
        name="train", step=lambda state, batch: (state, {}), num_steps=12, batch_size=1,
        log=lambda step, scalars: "", save=lambda step, state: None,
        checkpoints=Checkpoints("nowhere"), watchdog_secs=0, **{"save_every": 5} | intervals,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "intervals", "steps"),
    [
        ("saves", {}, [5, 10, 12]),
        ("logs", {"log_every": 4}, [4, 8, 12]),
        ("logs", {}, []),
        ("evaluates", {"eval_every": 4}, [4, 8]),  # the last step has an evaluation of its own
        ("evaluates", {}, []),
    ],
)
def test_a_plan_says_which_steps_are_followed_by_what(kind, intervals, steps):
    asked = getattr(plan(**intervals), kind)
    assert [step for step in range(1, 13) if asked(step)] == steps


def test_nothing_is_evaluated_before_the_first_step():
    assert not plan(eval_every=4).evaluates(0)
