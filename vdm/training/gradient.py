"""The gradient of a train step: draw times and noise, differentiate the bound, turn the schedule.

The network descends the weighted bound, averaged over the batch, in bits per dimension:

    L_w = 1/B sum_i (reconstruction_i + prior_i + m_i l_i) / (D ln 2)
    l_i = 1/2 weight_i ||eps_i - eps_hat(z_i, omega_i)||^2,  m_i = multiplier(omega_i, weight_i)

with the three terms of the bound (VDM, arXiv:2107.00630, Eq. 11; l_i is Eq. 15-17 in continuous
time and Eq. 12-14 for T steps). The multiplier m_i, a constant to the gradient, is a weighting of
`vdm.diffusion.weightings`; L, the bound itself, has m_i = 1.

The schedule never follows the weighting. The bound depends on its parameters s only through its
ends and the noise levels (omega_i, weight_i) of each example, so by the chain rule

    dL/ds = sum_e dL/domega_e domega_e/ds                                         e = 0, 1
          + sum_i (dL/domega_i domega_i/ds + dL/dweight_i dweight_i/ds)           i = 1 ... B.

One pass through the network gives both gradients, because no example may depend on another: only
l_i depends on the levels of example i, and dL_w/d(omega_i, weight_i) divided by m_i is
dL/d(omega_i, weight_i); so with a family's omega_s and context, if only its denoising term reads
them. In continuous time the interior of the schedule changes only the variance of the estimate
(VDM section 5.1 and appendix I.2); `vdm.training.schedule_objectives` then replaces its
dL/d(omega_i, weight_i) by the derivatives of the second moment of l_i, 2 l_i dl_i, and the rest of
the chain rule stays.

The three functions `draw`, `network_gradient` and `schedule_direction` are these steps in order.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from vdm.diffusion import elbo, timesteps, weightings
from vdm.diffusion.elbo import Draws, ElboTerms, Estimate, NoiseLevels, to_bpd
from vdm.diffusion.noise import expand
from vdm.diffusion.weightings import Weighting
from vdm.models.latent_variable import LatentVariableModel
from vdm.models.vdm import VDM
from vdm.training import schedule_objectives
from vdm.training.microbatches import Microbatches
from vdm.training.schedule_objectives import BatchEstimate
from vdm.typing import NO_LABEL, Params, PRNGKey, PyTree

Batch = dict[str, Array]
Metrics = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What the training of a diffusion model minimises.

    num_steps: T of the bound; 0 for continuous time. train_schedule: how the schedule learns, a
    name of `vdm.training.schedule_objectives.GRADIENTS`. weighting: of the network's loss.
    """

    num_steps: int = 0
    train_schedule: str = "bound"
    weighting: Weighting = weightings.bound

    @property
    def is_weighted(self) -> bool:
        """Whether the network's loss differs from the bound."""
        return self.weighting is not weightings.bound


WHOLE = Microbatches()
"""The batch in one piece."""

MULTIPLIERS = (1e-12, 1e12)
"""Least and largest multiplier: 0 could not be divided out again, and 1 / 0 times a weight of 0 is
not a number."""


class Inputs(NamedTuple):
    """Per-example inputs of the network's loss; microbatches divide their leading axis.

    levels: without the ends of the schedule where all examples share them. multiplier: the value of
    the weighting at the means of the levels over the dimensions. labels: NO_LABEL where the label
    is dropped; None for an unconditional model. augmented: None for a model that ignores it.
    """

    data: Shaped[Array, "batch *dims"]
    draws: Draws
    levels: NoiseLevels
    labels: Int[Array, " batch"] | None
    augmented: Bool[Array, " batch"] | None
    multiplier: Float[Array, " batch"]


class Drawn(NamedTuple):
    """Everything that a step draws before it evaluates the network.

    levels: the noise levels at the drawn times. pull_back: their vector-Jacobian product, from a
    gradient with respect to the levels to (the gradient of the schedule's parameters,).
    """

    inputs: Inputs
    levels: NoiseLevels
    pull_back: Callable[[NoiseLevels], tuple[Params]]
    dropout_key: PRNGKey


class NetworkGradient(NamedTuple):
    """Gradients of the mean weighted bound, bits/dim, and the estimate of the bound behind them.

    grad_levels: with respect to the noise levels; example i adds 1/batch of its own derivative.
    terms: of the unweighted bound, bits/dim. loss_density: as in `elbo.Estimate`.
    """

    grad_network: Params
    grad_levels: NoiseLevels
    terms: ElboTerms
    loss_density: Float[Array, " batch"]


def check_batch(batch: Batch, dims: tuple[int, ...]) -> None:
    """Asserts, while the step is traced, that a batch has one size and examples of shape dims."""
    chex.assert_shape(batch["examples"], (None, *dims))
    chex.assert_equal_shape_prefix(list(batch.values()), 1)
    if "labels" in batch:
        chex.assert_type(batch["labels"], int)
    if "augmented" in batch:
        chex.assert_type(batch["augmented"], bool)


def draw(model: VDM, objective: Objective, params: Params, batch: Batch, key: PRNGKey) -> Drawn:
    """Draws times, noise and which labels to drop, and evaluates the schedule at the times."""
    data = batch["examples"]
    key_t, key_noise, dropout_key = jax.random.split(key, 3)
    t = timesteps.low_discrepancy(key_t, data.shape[0])
    draws = elbo.draw(key_noise, t, model.latent_dims, model.needs_u(objective.num_steps))
    labels = batch["labels"] if model.num_classes else None
    if labels is not None and model.label_dropout:
        # fold_in(key, i) and split(key, 3)[i] are the same key: 3 is another one
        dropped = jax.random.bernoulli(
            jax.random.fold_in(key, 3), model.label_dropout, labels.shape
        )
        labels = jnp.where(dropped, NO_LABEL, labels)

    keys = jax.random.split(jax.random.fold_in(key, 4), len(data))

    def levels_of(schedule: Params) -> NoiseLevels:
        return model.levels({"schedule": schedule}, t, objective.num_steps, data, keys)

    levels, pull_back = jax.vjp(levels_of, params["schedule"])
    multiplier = objective.weighting(levels.omega_mean, levels.weight_mean)
    inputs = Inputs(
        data=data,
        draws=draws,
        levels=_split_ends(levels)[1],
        labels=labels,
        augmented=batch["augmented"] if model.augmented_flag else None,
        multiplier=jnp.clip(multiplier, *MULTIPLIERS),
    )
    return Drawn(inputs, levels, pull_back, dropout_key)


Ends = dict[str, Any]
"""omega_0 and omega_1 under their names; empty where each example has its own."""


def _split_ends(levels: NoiseLevels) -> tuple[Ends, NoiseLevels]:
    """Returns the ends that all examples of a batch share, and the levels without these."""
    if levels.omega_0.shape[:1] == levels.omega_t.shape[:1]:
        return {}, levels
    none: Any = None
    ends = {"omega_0": levels.omega_0, "omega_1": levels.omega_1}
    return ends, levels._replace(omega_0=none, omega_1=none)


def network_gradient(
    model: VDM, objective: Objective, params: Params, drawn: Drawn, microbatches: Microbatches
) -> NetworkGradient:
    """Differentiates the mean weighted bound in one pass through the network, by its parameters
    and by the noise levels. The pass is divided into microbatches."""
    num_dims = math.prod(model.dims)
    ends, _ = _split_ends(drawn.levels)

    def loss(
        network: Params, levels: NoiseLevels, inputs: Inputs, key: PRNGKey
    ) -> tuple[Array, Estimate]:
        estimate = model.elbo_at(
            params | {"network": network}, inputs.data, inputs.draws, levels, inputs.labels, key,
            inputs.augmented,
        )  # fmt: skip
        terms = estimate.terms
        if objective.is_weighted:
            denoising = inputs.multiplier * terms.denoising_matching
            terms = terms._replace(denoising_matching=denoising)
        return jnp.mean(to_bpd(terms.total, num_dims)), estimate

    def gradient(inputs: Inputs, key: PRNGKey) -> tuple[PyTree, PyTree]:
        levels = inputs.levels._replace(**ends)
        (grad_network, grad_levels), estimate = jax.grad(loss, argnums=(0, 1), has_aux=True)(
            params["network"], levels, inputs, key
        )
        grad_ends = {name: getattr(grad_levels, name) for name in ends}
        per_example = grad_levels._replace(**dict.fromkeys(ends))
        return (grad_network, grad_ends), (per_example, estimate.terms, estimate.loss_density)

    (grad_network, grad_ends), (per_example, nats, loss_density) = microbatches(
        gradient, drawn.inputs, drawn.dropout_key
    )
    chex.assert_shape([*jax.tree.leaves(nats), loss_density], drawn.inputs.draws.t.shape)
    if microbatches.count > 1:  # the mean is over the batch, not a microbatch
        per_example = jax.tree.map(lambda grad: grad / microbatches.count, per_example)
    terms = jax.tree.map(lambda term: to_bpd(term, num_dims), nats)
    return NetworkGradient(grad_network, per_example._replace(**grad_ends), terms, loss_density)


def schedule_direction(
    objective: Objective,
    gradient_fn: schedule_objectives.Gradient,
    drawn: Drawn,
    network_grad: NetworkGradient,
) -> tuple[Params, BatchEstimate]:
    """Turns the gradient with respect to each example's levels into a direction for the schedule's
    parameters. Also returns the estimate behind it, with the gradient of the unweighted bound."""
    grad_levels = network_grad.grad_levels
    if objective.is_weighted:
        multiplier = drawn.inputs.multiplier
        fields = ("omega_t", "weight", "omega_s", "context")  # what the denoising term reads
        weighted = {field: getattr(grad_levels, field) for field in fields}
        bound = jax.tree.map(lambda grad: grad / expand(multiplier, grad), weighted)
        grad_levels = grad_levels._replace(**bound)
    estimate = BatchEstimate(
        t=drawn.inputs.draws.t,
        levels=drawn.levels,
        grad_levels=grad_levels,
        denoising=network_grad.terms.denoising_matching,
        loss_density=network_grad.loss_density,
    )
    (grad_schedule,) = drawn.pull_back(gradient_fn(estimate))
    return grad_schedule, estimate


def make_gradient(
    model: VDM, objective: Objective, microbatches: Microbatches = WHOLE
) -> Callable[[Params, Batch, PRNGKey], tuple[Params, Metrics, BatchEstimate]]:
    """Returns a function (params, batch, key) -> (direction of training, metrics, estimate).

    The direction has the structure of params: the gradient of the weighted bound for the network,
    and that of `vdm.training.schedule_objectives` for the schedule (the formulas above). The
    metrics describe the bound in bits/dim, except weighted_loss, the weighted denoising term,
    which only a weighting adds. Only passes through the network are divided into microbatches; the
    draws, the metrics and what the schedule learns from are those of the whole batch.
    """
    gradient_fn = schedule_objectives.GRADIENTS[
        schedule_objectives.objective(
            objective.train_schedule, objective.num_steps, model.interior_matters
        )
    ]

    def gradient(
        params: Params, batch: Batch, key: PRNGKey
    ) -> tuple[Params, Metrics, BatchEstimate]:
        check_batch(batch, model.dims)
        drawn = draw(model, objective, params, batch, key)
        network_grad = network_gradient(model, objective, params, drawn, microbatches)
        grad_schedule, estimate = schedule_direction(objective, gradient_fn, drawn, network_grad)
        grads = {"network": network_grad.grad_network, "schedule": grad_schedule}
        chex.assert_trees_all_equal_structs(grads, dict(params))
        metrics = _metrics(network_grad.terms) | {
            # (bits/dim)^2; of a batch of one it is 0, as NaN would stop the training
            "denoising_variance": jnp.var(estimate.denoising, ddof=min(1, len(estimate.t) - 1)),
            "omega_0": jnp.mean(drawn.levels.omega_0),
            "omega_1": jnp.mean(drawn.levels.omega_1),
        }
        if objective.is_weighted:
            metrics["weighted_loss"] = jnp.mean(drawn.inputs.multiplier * estimate.denoising)
        return grads, metrics, estimate

    return gradient


def make_plain_gradient(
    model: LatentVariableModel, microbatches: Microbatches = WHOLE
) -> Callable[[Params, Batch, PRNGKey], tuple[Params, Metrics, None]]:
    """Like `make_gradient`, but for a model without a noise schedule: the function returns the
    gradient of the mean bound, bits/dim."""
    num_dims = math.prod(model.dims)

    def loss(
        params: Params, data: Array, keys: PRNGKey, dropout_key: PRNGKey
    ) -> tuple[Array, ElboTerms]:
        nats = model.elbo(params, data, keys, dropout_key)
        terms = jax.tree.map(lambda term: to_bpd(term, num_dims), nats)
        return jnp.mean(terms.total), terms

    def gradient(params: Params, batch: Batch, key: PRNGKey) -> tuple[Params, Metrics, None]:
        check_batch(batch, model.dims)
        data = batch["examples"]
        key_noise, dropout_key = jax.random.split(key)
        grads, terms = microbatches(
            lambda rows, key: jax.grad(loss, has_aux=True)(params, *rows, key),
            (data, jax.random.split(key_noise, len(data))),
            dropout_key,
        )
        chex.assert_shape(jax.tree.leaves(terms), data.shape[:1])
        return grads, _metrics(terms), None

    return gradient


def _metrics(terms: ElboTerms) -> Metrics:
    """Returns the means over the batch of terms in bits/dim."""
    return {
        "bpd": jnp.mean(terms.total),
        "bpd_reconstruction": jnp.mean(terms.reconstruction),
        "bpd_prior": jnp.mean(terms.prior_matching),
        "bpd_denoising": jnp.mean(terms.denoising_matching),
        **{f"bpd_{name}": jnp.mean(term) for name, term in terms.more.items()},
    }
