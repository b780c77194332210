"""How the schedule learns: what each of its parts is to make smaller.

The ends change the bound and follow its gradient. The interior does not change the bound of
continuous time, only the variance of its estimate (VDM section 5.1 and appendix I.2), so the
bound's gradient for it is noise of mean zero. It learns from the second moment of l_i, the
denoising estimate of example i, instead, without a second pass through the network: the pass that
gives the bound's gradient also gives its derivatives in the noise levels (omega_i, weight_i) of
each example, and d l_i^2 = 2 l_i d l_i.
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


class Pass(NamedTuple):
    """What one pass through the network tells of a batch.

    by_levels: the derivative of the batch's mean bound in every noise level. denoising: the
    estimates l [batch], in the same units. loss_density [batch]: l without its weight, nats.
    """

    t: Float[Array, " batch"]
    levels: NoiseLevels
    by_levels: NoiseLevels
    denoising: Float[Array, " batch"]
    loss_density: Float[Array, " batch"]


Gradient = Callable[[Pass], NoiseLevels]
"""The direction, in the noise levels, that is pulled back to the parameters of the schedule."""


def recombine(ends: NoiseLevels, interior: NoiseLevels) -> NoiseLevels:
    """The same levels with omega_0 and omega_1 of `ends`, and of `interior` only the shape
    (omega - omega_0) / (omega_1 - omega_0) of what lies between. Of one schedule with itself it
    changes no value, but tells the derivatives of its ends from those of its interior, whatever
    its parameters are."""
    span, own_span = ends.omega_1 - ends.omega_0, interior.omega_1 - interior.omega_0
    ratio = (interior.omega_t - interior.omega_0) / own_span
    return NoiseLevels(
        ends.omega_0,
        ends.omega_1,
        ends.omega_0 + span * ratio,
        span * interior.weight / own_span,
    )


def split_gradient(seen: Pass, scale: Float[Array, " batch"]) -> NoiseLevels:
    """For the ends the bound's gradient, for the interior that of sum_i scale_i l_i / batch."""
    _, pull_back = jax.vjp(recombine, seen.levels, seen.levels)
    by_ends, _ = pull_back(seen.by_levels)
    by_omega, by_weight = seen.by_levels.omega_t, seen.by_levels.weight
    none = jax.tree.map(jnp.zeros_like, seen.levels)
    scaled = none._replace(
        omega_t=expand(scale, by_omega) * by_omega, weight=expand(scale, by_weight) * by_weight
    )
    _, by_interior = pull_back(scaled)
    return jax.tree.map(jnp.add, by_ends, by_interior)


def bound(seen: Pass) -> NoiseLevels:
    """The bound's gradient for all of it: needed for T steps, where the interior matters."""
    return seen.by_levels


def variance(seen: Pass) -> NoiseLevels:
    """The interior reduces E[l^2] / E[l]^2, the relative variance of l with independent times;
    free of scale, so that one learning rate serves any D. Its least is reached with a density of
    omega proportional to sqrt(E[l_density^2 | omega]) (mathematics of importance sampling)."""
    return split_gradient(seen, 2 * seen.denoising / jnp.square(jnp.mean(seen.denoising)))


def variance_stratified(seen: Pass) -> NoiseLevels:
    """The interior reduces E_t Var(l | t) / E[l]^2, what low-discrepancy times leave of the
    variance, by 1/2 (l_i - l_j)^2 of neighbours in t: two examples at nearly the same time."""
    order = jnp.argsort(seen.t)
    steps = jnp.diff(seen.denoising[order])
    of_sorted = jnp.zeros_like(seen.t).at[1:].add(steps).at[:-1].add(-steps)
    scale = jnp.zeros_like(seen.t).at[order].set(of_sorted)
    return split_gradient(seen, scale / jnp.square(jnp.mean(seen.denoising)))


def ends_only(seen: Pass) -> NoiseLevels:
    """The ends follow the bound; the interior gets no gradient."""
    return split_gradient(seen, jnp.zeros_like(seen.denoising))


def fixed(seen: Pass) -> NoiseLevels:
    """Nothing moves."""
    return jax.tree.map(jnp.zeros_like, seen.levels)


GRADIENTS: MappingProxyType[str, Gradient] = MappingProxyType(
    {
        "bound": bound,
        "variance": variance,
        "variance_stratified": variance_stratified,
        "adaptive": ends_only,
        "fixed": fixed,
    }
)
"""config.schedule.train -> the gradient of the schedule."""


def objective(train: str, num_steps: int) -> str:
    """The name in `GRADIENTS` of what is done: with T steps the interior changes the bound, so
    that what would reduce the variance follows the bound instead."""
    return "bound" if num_steps and train.startswith("variance") else train


def updated(train: str, schedule: nn.Module, old: Params, new: Params, seen: Pass) -> Params:
    """The schedule's parameters after a step, `new` being the optimiser's: the old ones where
    they are fixed (weight decay would move them), the table of an adaptive one with the batch
    counted in."""
    if train == "fixed":
        return old
    if train != "adaptive":
        return new
    omega_0, omega_1, omega_t, _ = seen.levels
    position = (omega_t - omega_0) / (omega_1 - omega_0)
    tables = schedule.adapt(old, position, seen.loss_density)
    return tables | {"ends": new["ends"]} if "ends" in new else tables


def check(train: str, schedule: nn.Module, num_steps: int) -> None:
    """ValueError where the schedule cannot learn in that way, for a bound of num_steps steps."""
    adapts = hasattr(schedule, "adapt")
    name = type(schedule).__name__
    if num_steps and train == "adaptive":
        raise ValueError(
            "schedule.train = 'adaptive' is for continuous time; with model.num_steps = "
            f"{num_steps} the interior changes the bound itself: choose 'bound' or 'fixed'"
        )
    if train == "adaptive" and not adapts:
        raise ValueError(
            f"schedule.train = 'adaptive' needs a schedule with a table to fill, which {name} has "
            "not: choose schedule.name = 'tabulated'"
        )
    if adapts and train not in ("adaptive", "fixed"):
        raise ValueError(
            f"the table of schedule {name} gets no gradient: schedule.train = {train!r} would "
            "leave it as it is; choose 'adaptive' or 'fixed'"
        )
