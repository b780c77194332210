"""How the schedule learns: which quantity its ends and its interior minimise.

The ends change the bound and follow its gradient. If all dimensions share one omega, the interior
does not change the continuous-time bound, only the variance of its estimate (VDM section 5.1 and
appendix I.2), so its gradient of the bound is noise of mean zero. Instead it minimises the second
moment of l_i, the denoising estimate of example i. This needs no second pass through the network:
the pass that gives the bound's gradient also gives the derivatives of l_i with respect to the noise
levels (omega_i, weight_i), and d l_i^2 = 2 l_i d l_i.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.diffusion.elbo import NoiseLevels
from vdm.diffusion.noise import expand
from vdm.typing import Params


class BatchEstimate(NamedTuple):
    """What one pass through the network measures on a batch.

    t, levels: the drawn times and the noise levels there. grad_levels: the gradient of the mean
    bound of the batch, bits/dim, with respect to the levels; example i adds 1/batch of its own
    derivative. denoising: the estimates l, bits/dim.
    loss_density: 1/2 ||eps - eps_hat||^2, nats per nat of omega.
    """

    t: Float[Array, " batch"]
    levels: NoiseLevels
    grad_levels: NoiseLevels
    denoising: Float[Array, " batch"]
    loss_density: Float[Array, " batch"]


Gradient = Callable[[BatchEstimate], NoiseLevels]
"""A function that returns the gradient with respect to the noise levels, from which that of the
schedule's parameters follows."""


def recombine(ends: NoiseLevels, interior: NoiseLevels) -> NoiseLevels:
    """Combines the ends omega_0 and omega_1 of `ends` with the shape of `interior`, which is
    (omega - omega_0) / (omega_1 - omega_0).

    Combining a schedule with itself changes no value, but separates the derivatives of its ends
    from those of its interior, whatever its parameters are.
    """
    span, own_span = ends.omega_1 - ends.omega_0, interior.omega_1 - interior.omega_0
    ratio = (interior.omega_t - interior.omega_0) / own_span
    return ends._replace(
        omega_t=ends.omega_0 + span * ratio, weight=span * interior.weight / own_span
    )


def split_gradient(estimate: BatchEstimate, scale: Float[Array, " batch"]) -> NoiseLevels:
    """Returns the bound's gradient for the ends, and that of sum_i scale_i l_i / batch for the
    interior."""
    _, pull_back = jax.vjp(recombine, estimate.levels, estimate.levels)
    grad_ends, _ = pull_back(estimate.grad_levels)
    grad_omega, grad_weight = estimate.grad_levels.omega_t, estimate.grad_levels.weight
    none = jax.tree.map(jnp.zeros_like, estimate.levels)
    scaled = none._replace(
        omega_t=expand(scale, grad_omega) * grad_omega,
        weight=expand(scale, grad_weight) * grad_weight,
    )
    _, grad_interior = pull_back(scaled)
    return jax.tree.map(jnp.add, grad_ends, grad_interior)


def bound(estimate: BatchEstimate) -> NoiseLevels:
    """Ends and interior follow the bound, as T steps require, where the interior matters."""
    return estimate.grad_levels


def variance(estimate: BatchEstimate) -> NoiseLevels:
    """The interior minimises E[l^2] / E[l]^2, the relative variance of l with independent times.

    It has no scale, so that one learning rate suits any D. At the minimum the density of omega is
    proportional to sqrt(E[d^2 | omega]) with the loss density d: importance sampling.
    """
    return split_gradient(estimate, 2 * estimate.denoising / _squared_mean(estimate))


def variance_stratified(estimate: BatchEstimate) -> NoiseLevels:
    """The interior minimises E_t Var(l | t) / E[l]^2, the variance left by low-discrepancy times.

    It is estimated by 1/2 (l_i - l_j)^2 of neighbours in t, two examples at nearly the same time.
    """
    order = jnp.argsort(estimate.t)
    steps = jnp.diff(estimate.denoising[order])
    ordered = jnp.zeros_like(estimate.t).at[1:].add(steps).at[:-1].add(-steps)
    scale = jnp.zeros_like(estimate.t).at[order].set(ordered)
    return split_gradient(estimate, scale / _squared_mean(estimate))


def _squared_mean(estimate: BatchEstimate) -> Float[Array, ""]:
    """Returns E[l]^2, estimated by the batch, but never 0 (the square underflows below 1e-19)."""
    mean = jnp.mean(estimate.denoising)
    return jnp.maximum(jnp.square(mean), jnp.finfo(mean.dtype).tiny)


def ends_only(estimate: BatchEstimate) -> NoiseLevels:
    """The ends follow the bound; the interior gets no gradient."""
    return split_gradient(estimate, jnp.zeros_like(estimate.denoising))


def fixed(estimate: BatchEstimate) -> NoiseLevels:
    """The schedule does not learn."""
    return jax.tree.map(jnp.zeros_like, estimate.levels)


GRADIENTS: MappingProxyType[str, Gradient] = MappingProxyType(
    {
        "bound": bound,
        "variance": variance,
        "variance_stratified": variance_stratified,
        "adaptive": ends_only,
        "fixed": fixed,
    }
)
"""config.schedule.train -> the function that gives the schedule's gradient."""


def objective(train: str, num_steps: int, multivariate: bool = False) -> str:
    """Returns the name in `GRADIENTS` that is used for `train`.

    With T steps, or a schedule for each dimension, the interior changes the bound, so that
    "variance" becomes "bound".
    """
    interior_matters = num_steps or multivariate
    return "bound" if interior_matters and train.startswith("variance") else train


def updated(
    train: str, schedule: nn.Module, old: Params, new: Params, estimate: BatchEstimate
) -> Params:
    """Returns the schedule's parameters after a step.

    new: those that the optimiser returned. A fixed schedule keeps the old ones, which weight decay
    would change; the table of an adaptive schedule is updated by the batch.
    """
    if train == "fixed":
        return old
    if train != "adaptive":
        return new
    levels = estimate.levels
    position = (levels.omega_t - levels.omega_0) / (levels.omega_1 - levels.omega_0)
    return new | schedule.adapt(old, position, estimate.loss_density)


def check(train: str, schedule: nn.Module, num_steps: int, interior_matters: bool = False) -> None:
    """Raises ValueError if the schedule cannot learn in this way for a bound of num_steps steps."""
    adapts = hasattr(schedule, "adapt")
    name = type(schedule).__name__
    if num_steps and train == "adaptive":
        raise ValueError(
            "schedule.train = 'adaptive' is for continuous time; with model.num_steps = "
            f"{num_steps} the interior changes the bound itself: choose 'bound' or 'fixed'"
        )
    if train == "adaptive" and interior_matters:
        raise ValueError(
            "schedule.train = 'adaptive' fills a table that reduces the variance, and with a noise "
            "level for each dimension or example the interior changes the bound itself: choose "
            "'bound' or 'fixed'"
        )
    if train == "adaptive" and not adapts:
        raise ValueError(
            f"schedule.train = 'adaptive' needs a schedule with a table to fill, which {name} "
            "does not have: choose schedule.name = 'tabulated'"
        )
    if adapts and train not in ("adaptive", "fixed"):
        remedy = "another schedule.name" if num_steps else "'adaptive'"
        raise ValueError(
            f"the table of schedule {name} gets no gradient: schedule.train = {train!r} would "
            f"not change it; choose {remedy}, or 'fixed'"
        )


def check_next_mean(train: str, num_steps: int, multivariate: bool) -> None:
    """Raises ValueError if model.prediction = 'next_mean' has no meaning, or one that changes."""
    if not num_steps:
        raise ValueError(
            "model.prediction = 'next_mean' is the mean of a step of length 1/T, but with "
            "model.num_steps = 0 there is none: set it to T, or choose 'eps'"
        )
    if train != "fixed":
        raise ValueError(
            "model.prediction = 'next_mean' changes its meaning when the schedule learns, as with "
            f"schedule.train = {train!r}: set schedule.train = 'fixed', or choose 'eps'"
        )
    if multivariate:
        raise ValueError(
            "model.prediction = 'next_mean' needs one omega for all dimensions, but each has its "
            "own in this schedule: choose schedule.name = 'linear', or model.prediction = 'eps'"
        )
