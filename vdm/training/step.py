"""The train step: draw times and noise, the bound, its gradient, the update."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from vdm.devices import sharding
from vdm.diffusion import timesteps
from vdm.diffusion.elbo import (
    Draws,
    ElboTerms,
    Estimate,
    NoiseLevels,
    draw,
    noise_levels,
    to_bpd,
)
from vdm.diffusion.noise import expand
from vdm.diffusion.weightings import Weighting
from vdm.diffusion.weightings import bound as of_bound
from vdm.models.latent_variable import AnyModel, LatentVariableModel
from vdm.models.vdm import VDM
from vdm.training.microbatches import Microbatches
from vdm.training.optim import ema_update
from vdm.training.schedule_objectives import GRADIENTS, BatchEstimate, objective, updated
from vdm.training.state import TrainState
from vdm.typing import NO_LABEL, Params, PRNGKey, PyTree

Batch = dict[str, Array]
Metrics = dict[str, Array]
StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A compiled step, (state, batch) -> (state, metrics), with the arrays that it reads besides.

    function: `jax.jit` of (state, batch, *arrays). They are arguments because an array that a
    function closes over is read back from the device when the function is lowered, which the
    transfer guard of the loop forbids on an accelerator.
    """

    function: Any
    arrays: tuple[PyTree, ...]

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """The state is donated: the arrays passed in are gone after the call."""
        return self.function(state, batch, *self.arrays)

    def lower(self, state: TrainState, batch: Batch) -> Any:
        """The lowered function, as that of `jax.jit`."""
        return self.function.lower(state, batch, *self.arrays)


WHOLE = Microbatches()
"""The batch in one piece."""


class Rows(NamedTuple):
    """What there is for each example of a batch."""

    data: Array
    draws: Draws
    omega_t: Array
    weight: Array
    labels: Array | None
    augmented: Array | None
    multiplier: Array


Means = tuple[Params, tuple[Array, Array]]
"""Gradients for the network, and for omega_0 and omega_1."""

OfRows = tuple[tuple[Array, Array], ElboTerms, Array]
"""Those for (omega_t, weight) of each example, its terms and its loss density, nats."""

MULTIPLIERS = (1e-12, 1e12)
"""Least and largest: a multiplier of 0 could not be divided out again, and one of 1 / 0 times a
weight of 0 is no number."""


def make_gradient(
    model: VDM,
    num_steps: int,
    train_schedule: str = "bound",
    weighting: Weighting = of_bound,
    in_microbatches: Microbatches = WHOLE,
) -> Callable[[Params, Batch, PRNGKey], tuple[Params, Metrics, BatchEstimate]]:
    """(params, batch, key) -> the direction of training, what to log, and what the pass through
    the network told of the batch.

    For the network it is the gradient of the mean bound in bits/dim, its denoising term weighted,
    for the schedule the one of `vdm.training.schedule_objectives`, which knows of no weighting. One
    pass gives both: an example's derivatives in its own levels are its multiplier times those of
    the bound, as no example may depend on another through the network. The multiplier is one for an
    example, at the means of its levels where each dimension has its own. All metrics are of the
    bound but weighted_loss, the weighted denoising term, which only a weighting has.

    In microbatches only the passes through the network are: the draws, the metrics and what the
    schedule learns from are of the whole batch.
    """
    weighted = weighting is not of_bound
    num_dims = math.prod(model.dims)
    schedule_gradient = GRADIENTS[objective(train_schedule, num_steps, model.multivariate)]

    def gradient(
        params: Params, batch: Batch, key: PRNGKey
    ) -> tuple[Params, Metrics, BatchEstimate]:
        data = batch["examples"]
        key_t, key_noise, key_dropout = jax.random.split(key, 3)
        draws = draw(key_noise, timesteps.low_discrepancy(key_t, data.shape[0]), model.latent_dims)
        labels = batch["labels"] if model.num_classes else None
        if labels is not None and model.label_dropout:
            # fold_in(key, i) and split(key, 3)[i] are the same key: 3 is another one
            withheld = jax.random.bernoulli(
                jax.random.fold_in(key, 3), model.label_dropout, labels.shape
            )
            labels = jnp.where(withheld, NO_LABEL, labels)

        def levels_of(schedule: Params) -> NoiseLevels:
            return noise_levels(model.schedule_fn({"schedule": schedule}), draws.t, num_steps)

        levels, pull_back = jax.vjp(levels_of, params["schedule"])
        multiplier = jnp.clip(weighting(levels.omega_mean, levels.weight_mean), *MULTIPLIERS)

        def gradient_of(rows: Rows, key: PRNGKey) -> tuple[Means, OfRows]:
            def loss(network: Params, levels: NoiseLevels) -> tuple[Array, Estimate]:
                estimate = model.elbo_at(
                    params | {"network": network}, rows.data, rows.draws, levels, rows.labels, key,
                    rows.augmented,
                )  # fmt: skip
                terms = estimate.terms
                if weighted:
                    denoising = rows.multiplier * terms.denoising_matching
                    terms = terms._replace(denoising_matching=denoising)
                return jnp.mean(to_bpd(terms.total, num_dims)), estimate

            of_rows = levels._replace(omega_t=rows.omega_t, weight=rows.weight)
            (by_network, by_levels), estimate = jax.grad(loss, argnums=(0, 1), has_aux=True)(
                params["network"], of_rows
            )
            ends = by_levels.omega_0, by_levels.omega_1
            inner = by_levels.omega_t, by_levels.weight
            return (by_network, ends), (inner, estimate.terms, estimate.loss_density)

        augmented = batch["augmented"] if model.augmented_flag else None
        rows = Rows(data, draws, levels.omega_t, levels.weight, labels, augmented, multiplier)
        (by_network, ends), (inner, nats, loss_density) = in_microbatches(
            gradient_of, rows, key_dropout
        )
        if in_microbatches.count > 1:  # of the mean over the batch, not over a microbatch
            inner = jax.tree.map(lambda x: x / in_microbatches.count, inner)
        by_levels = NoiseLevels(*ends, *inner)
        if weighted:
            by_levels = by_levels._replace(
                omega_t=by_levels.omega_t / expand(multiplier, by_levels.omega_t),
                weight=by_levels.weight / expand(multiplier, by_levels.weight),
            )
        terms = ElboTerms(*(to_bpd(term, num_dims) for term in nats))
        seen = BatchEstimate(draws.t, levels, by_levels, terms.denoising_matching, loss_density)
        (by_schedule,) = pull_back(schedule_gradient(seen))
        metrics = _metrics(terms) | {
            # (bits/dim)^2; of a batch of one it is 0, as NaN would stop the training
            "denoising_variance": jnp.var(terms.denoising_matching, ddof=min(1, data.shape[0] - 1)),
            "omega_0": jnp.mean(levels.omega_0),
            "omega_1": jnp.mean(levels.omega_1),
        }
        if weighted:
            metrics["weighted_loss"] = jnp.mean(multiplier * terms.denoising_matching)
        return {"network": by_network, "schedule": by_schedule}, metrics, seen

    return gradient


def make_plain_gradient(
    model: LatentVariableModel, in_microbatches: Microbatches = WHOLE
) -> Callable[[Params, Batch, PRNGKey], tuple[Params, Metrics, None]]:
    """The same for a model without a schedule: the gradient of the mean bound, bits/dim."""
    num_dims = math.prod(model.dims)

    def gradient(params: Params, batch: Batch, key: PRNGKey) -> tuple[Params, Metrics, None]:
        data = batch["examples"]
        key_noise, key_dropout = jax.random.split(key)

        def gradient_of(
            rows: tuple[Array, PRNGKey], key_dropout: PRNGKey
        ) -> tuple[Params, ElboTerms]:
            def loss(params: Params) -> tuple[Array, ElboTerms]:
                nats = model.elbo(params, *rows, key_dropout)
                terms = ElboTerms(*(to_bpd(term, num_dims) for term in nats))
                return jnp.mean(terms.total), terms

            return jax.grad(loss, has_aux=True)(params)

        rows = data, jax.random.split(key_noise, len(data))
        grads, terms = in_microbatches(gradient_of, rows, key_dropout)
        return grads, _metrics(terms), None

    return gradient


def _metrics(terms: ElboTerms) -> Metrics:
    """Means over the batch of terms in bits/dim."""
    return {
        "bpd": jnp.mean(terms.total),
        "bpd_reconstruction": jnp.mean(terms.reconstruction),
        "bpd_prior": jnp.mean(terms.prior_matching),
        "bpd_denoising": jnp.mean(terms.denoising_matching),
    }


def make_train_step(
    model: AnyModel,
    optimizer: optax.GradientTransformation,
    run_key: PRNGKey,
    num_steps: int,
    ema_rate: float,
    ema_warmup: bool,
    train_schedule: str = "bound",
    weighting: Weighting = of_bound,
    accumulate: int = 1,
    mesh: Mesh | None = None,
) -> TrainStep:
    """The compiled step; `num_steps` is the T of the bound trained on (0: continuous time),
    `train_schedule` a name of `vdm.training.schedule_objectives.GRADIENTS`, `weighting` that of the
    network's loss: of no account for a model without a schedule. The batch is gone through in
    `accumulate` microbatches. `mesh` is needed for that on several devices, and where they share
    the arrays of the state: those are gathered for the network, and updated where they live.

    Randomness is fold_in(run_key, step), so a resumed run repeats the draws of the undisturbed one.
    """
    in_microbatches = Microbatches(accumulate, mesh)
    if isinstance(model, VDM):
        gradient = make_gradient(model, num_steps, train_schedule, weighting, in_microbatches)
    else:
        gradient = make_plain_gradient(model, in_microbatches)

    def train_step(state: TrainState, batch: Batch, run_key: PRNGKey) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(run_key, state.step)
        grads, metrics, seen = gradient(sharding.gather(state.params, mesh), batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        if isinstance(model, VDM) and seen is not None:
            old, new = state.params["schedule"], params["schedule"]
            params = params | {"schedule": updated(train_schedule, model.schedule, old, new, seen)}
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            ema_params=ema_update(state.ema_params, params, state.step, ema_rate, ema_warmup),
            opt_state=opt_state,
        )
        metrics |= {"grad_norm": optax.tree.norm(grads)}
        return sharding.split(new_state, mesh), sharding.gather(metrics, mesh)

    run_key = sharding.put_everywhere(run_key, mesh)
    return TrainStep(jax.jit(train_step, donate_argnums=0), (run_key,))
