"""The train step: the gradient of a batch, the update of the parameters and of their average."""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import optax
from jax.sharding import Mesh

from vdm.devices import sharding
from vdm.diffusion.interning import kept
from vdm.models.interface import has_noise_levels
from vdm.models.latent_variable import AnyModel
from vdm.training import schedule_objectives
from vdm.training.gradient import (
    Batch,
    Metrics,
    Objective,
    make_gradient,
    make_plain_gradient,
)
from vdm.training.microbatches import Microbatches
from vdm.training.optim import Averaging, ema_update
from vdm.training.state import TrainState
from vdm.typing import PRNGKey, PyTree

StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A compiled step, (state, batch) -> (state, metrics), with the other arrays that it reads.

    function: `jax.jit` of (state, batch, *arrays). They are arguments because an array that a
    function closes over is read back from the device when the function is lowered, which the
    transfer guard of the loop forbids on an accelerator.
    """

    function: Any
    arrays: tuple[PyTree, ...]

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Takes one step. The state is donated: the arrays passed in are gone after the call."""
        return self.function(state, batch, *self.arrays)

    def lower(self, state: TrainState, batch: Batch) -> Any:
        """Returns the lowered function, like `lower` of `jax.jit`."""
        return self.function.lower(state, batch, *self.arrays)


def make_train_step(
    model: AnyModel,
    optimizer: optax.GradientTransformation,
    run_key: PRNGKey,
    objective: Objective,
    averaging: Averaging,
    accumulate: int = 1,
    mesh: Mesh | None = None,
) -> TrainStep:
    """Returns the compiled step. Randomness is fold_in(run_key, step), so a resumed run repeats the
    draws of an uninterrupted one.

    objective: ignored by a model without a noise schedule. averaging: of the parameters.
    accumulate: the number of microbatches that a batch is divided into. mesh: needed for
    microbatches on several devices, and where devices share the arrays of the state; these arrays
    are gathered for the network, and updated where they live.
    """
    function = _compiled_step(model, optimizer, objective, averaging, accumulate, mesh)
    return TrainStep(function, (sharding.put_everywhere(run_key, mesh),))


@kept  # compiled once for the runs that differ in seed and data alone
def _compiled_step(
    model: AnyModel,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    averaging: Averaging,
    accumulate: int,
    mesh: Mesh | None,
) -> Any:
    microbatches = Microbatches(accumulate, mesh)
    if has_noise_levels(model):
        gradient = make_gradient(model, objective, microbatches)
    else:
        gradient = make_plain_gradient(model, microbatches)

    def train_step(state: TrainState, batch: Batch, run_key: PRNGKey) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(run_key, state.step)
        grads, metrics, estimate = gradient(sharding.gather(state.params, mesh), batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        if has_noise_levels(model) and estimate is not None:
            schedule = schedule_objectives.updated(
                objective.train_schedule, model.schedule, state.params["schedule"],
                params["schedule"], estimate,
            )  # fmt: skip
            params = params | {"schedule": schedule}
        # A parameter of another shape or dtype would make the next step compile again.
        chex.assert_trees_all_equal_shapes_and_dtypes(params, state.params)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            ema_params=ema_update(
                state.ema_params, params, state.step, averaging.rate, averaging.warmup
            ),
            opt_state=opt_state,
        )
        metrics |= {"grad_norm": optax.tree.norm(grads)}
        return sharding.split(new_state, mesh), sharding.gather(metrics, mesh)

    return jax.jit(train_step, donate_argnums=0)
