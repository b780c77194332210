"""NaN or infinity stops the run with status 1 and is never saved; the error names term and step.

Tested elsewhere: the name of the first term (tests/training/test_metrics.py,
test_summarise_names_the_first_term_that_is_not_finite); in tests/runs/test_train.py a learning rate
that diverges (test_a_non_finite_loss_stops_the_run_and_names_term_and_step) and the check of what
is saved (test_parameters_that_are_no_numbers_are_not_saved).
"""

import numpy as np
import pytest

from tests.faults.program import command
from vdm.data.pipeline import train_batches
from vdm.data.sources import digits
from vdm.io.checkpoints import Checkpoints

USERS = """
import jax.numpy as jnp
import optax
from vdm.diffusion.likelihood import Discretised

class Nan(Discretised):
    '''Recognises one batch by a weighted sum of its codes, and turns it into NaN.'''

    def encode(self, data):
        weights = jnp.arange(data.size).reshape(data.shape) % 97
        bad = jnp.sum(data.astype(jnp.int32) * weights) == {total}
        return super().encode(data) + jnp.where(bad, jnp.nan, 0.0)

def overflow(num_steps):
    '''Update number {step} overflows although its gradient is finite.'''
    def update(updates, state, params=None):
        scale = jnp.where(state == {step} - 1, jnp.inf, 1.0)
        return updates, state + 1, scale
    def apply(grads, state, params=None):
        _, new, scale = update(grads, state)
        import jax
        return jax.tree.map(lambda g: -1e-3 * scale * jnp.sign(g), grads), new
    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), apply)
"""


def total_of_batch(step):
    """The weighted sum of the codes in the batch of a step; steps count from 1."""
    batches = train_batches(digits("", 0).load("train"), 32, 0, 0)
    codes = [next(batches)["examples"].ravel().astype(np.int64) for _ in range(60)]
    totals = [int(np.sum(c * (np.arange(c.size) % 97))) for c in codes]
    assert totals.count(totals[step - 1]) == 1
    return totals[step - 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "step", "message"),
    [
        # Between two saves, at a step that is saved, and just after one.
        ({"likelihood__name": "users:Nan"}, 27, "train/bpd_denoising is nan at step 27"),
        ({"likelihood__name": "users:Nan"}, 40, "train/bpd_denoising is nan at step 40"),
        ({"optim__name": "users:overflow"}, 40, "is not finite after step 40"),
        ({"optim__name": "users:overflow"}, 39, "is nan at step 40"),
    ],
)
def test_nothing_that_is_no_number_is_saved(call_with_module, tmp_path, changes, step, message):
    users, workdir = USERS.format(total=total_of_batch(step), step=step), tmp_path / "run"
    arguments = command(workdir, train__save_every=20, train__eval_every=0, **changes)
    for attempt in range(2):  # the same command again says the same
        status, _, err = call_with_module(users, arguments)
        assert status == 1, err
        (line,) = err.splitlines()
        assert message in line, attempt
        assert f"the last good checkpoint is {workdir / 'checkpoints' / '20'}" in line
        assert Checkpoints(workdir / "checkpoints").steps() == [20]
    healthy = command(tmp_path / "new", train__num_steps=2, eval__draws=1)
    status, out, err = call_with_module(users, [*healthy, f"--init_from={workdir}"])
    assert status == 0, err
    assert f"parameters in {workdir / 'checkpoints' / '20'}" in out
