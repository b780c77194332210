"""The variational bound: -log p(x) <= reconstruction + prior matching + denoising matching.

VDM = arXiv:2107.00630: Eq. 11 (three terms), 12-14 (T steps), 15-17 (continuous time). A
schedule enters only through its values at the drawn times (`NoiseLevels`), a network only as a
`Denoiser`, so the same function serves a trained model, an exact oracle and a test.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from vdm.diffusion.kernels import GAUSSIAN, Guess, ReverseKernel, Step, guess
from vdm.diffusion.noise import diffuse, expand
from vdm.diffusion.timesteps import step_interval
from vdm.typing import Denoiser, Likelihood, PerDraw, PerExample, PRNGKey, PyTree, ScheduleFn


class ElboTerms(NamedTuple):
    """The terms of the negative bound, nats per example, each of shape [batch].

    more: the terms that a family of models has beside the three, by name; a VDM has none.
    """

    reconstruction: Float[Array, " batch"]
    prior_matching: Float[Array, " batch"]
    denoising_matching: Float[Array, " batch"]
    more: Mapping[str, Float[Array, " batch"]] = {}

    @property
    def total(self) -> Float[Array, " batch"]:
        """The negative bound: at least -log p(x), in expectation over the draws."""
        return sum(
            self.more.values(),
            start=self.reconstruction + self.prior_matching + self.denoising_matching,
        )

    @property
    def by_name(self) -> dict[str, Float[Array, " batch"]]:
        """Every term under its name, those in `more` last."""
        own = self._asdict()
        return own | dict(own.pop("more"))


class Draws(NamedTuple):
    """All random numbers of one estimate of the bound.

    keys: one per example, for the noise levels of a family, such as those that depend on a latent
        variable; what else reads that variable finds it in `NoiseLevels.context`. None where the
        levels are given.
    u: standard normal, for the divergence of a kernel that has no closed form; None for others.
    """

    t: Float[Array, " batch"]
    eps: Float[Array, "batch *dims"]
    eps_0: Float[Array, "batch *dims"]
    keys: Key[Array, " batch"] | None = None
    u: Float[Array, "batch *dims"] | None = None


class NoiseLevels(NamedTuple):
    """What the bound needs to know of a schedule: its ends, and omega and a weight at drawn times.

    omega_0, omega_1: shared by all examples, or one per example where the schedule depends on the
        data.
    omega_t, weight: one per example, or one per dimension of each (a multivariate schedule, MuLAN,
        arXiv:2312.13236). weight is omega'(t) in continuous time, T expm1(omega_t - omega_s) for T
        steps.
    omega_s: the level to which a step of T leads; None in continuous time.
    context: what else the denoiser of a family is told about each example, such as the latent
        variable on which its noise levels depend; floating-point arrays, as they have a gradient.
    nats: what the levels themselves cost, by the name of the term of the bound, such as the KL of
        that variable.
    of_step, of_decoder: what the divergence of each example's step, and the code length of its
        decoder at omega_t, are multiplied by in a bound of T steps. T and None, or if the network
        is the decoder, the T steps and the decoder are T + 1 parts of which an example has one:
        T + 1 for that one and 0 for the other.

    To train the schedule, the gradient with respect to these levels is all that is needed from the
    network's backward pass.
    """

    omega_0: PerExample
    omega_1: PerExample
    omega_t: PerDraw
    weight: PerDraw
    omega_s: PerDraw | None = None
    context: PyTree = ()
    nats: Mapping[str, Float[Array, " batch"]] = {}
    of_step: Float[Array, " batch"] | None = None
    of_decoder: Float[Array, " batch"] | None = None

    @property
    def omega_mean(self) -> Float[Array, " batch"]:
        """omega_t, averaged over the dimensions if each has its own."""
        return jnp.mean(self.omega_t, axis=tuple(range(1, self.omega_t.ndim)))

    @property
    def weight_mean(self) -> Float[Array, " batch"]:
        """weight, averaged over the dimensions if each has its own."""
        return jnp.mean(self.weight, axis=tuple(range(1, self.weight.ndim)))


class Estimate(NamedTuple):
    """One estimate of the bound, with the noise levels it was taken at and the loss density there.

    loss_density is 1/2 ||eps - eps_hat||^2 [batch], nats per unit of omega: its integral over
    omega is the continuous-time denoising term. If each dimension has its own omega, it is per
    unit of their mean.
    """

    terms: ElboTerms
    loss_density: Float[Array, " batch"]
    levels: NoiseLevels


def draw(
    key: PRNGKey, t: Float[Array, " batch"], dims: tuple[int, ...], needs_u: bool = False
) -> Draws:
    """Draws standard normal noise for the given times and for examples of shape `dims`."""
    keys = [*jax.random.split(key), *([jax.random.fold_in(key, 2)] if needs_u else [])]
    eps, eps_0, *u = (jax.random.normal(k, t.shape + dims, jnp.float32) for k in keys)
    return Draws(t, eps, eps_0, u=u[0] if needs_u else None)


def noise_levels(
    schedule: ScheduleFn, t: Float[Array, " batch"], num_steps: int, decoder_is_part: bool = False
) -> NoiseLevels:
    """Evaluates the schedule at times t in [0, 1) for num_steps steps (0: continuous time).

    decoder_is_part: of T steps, t chooses among T + 1 parts of the bound, of which the first is the
    decoder at omega_0.
    """
    omega_0, omega_1 = schedule(jnp.array([0.0, 1.0], t.dtype))
    if omega_0.ndim:  # One value per dimension, the same for all examples.
        omega_0, omega_1 = omega_0[None], omega_1[None]
    if num_steps == 0:
        omega_t, weight = jax.jvp(schedule, (t,), (jnp.ones_like(t),))
        return NoiseLevels(omega_0, omega_1, omega_t, weight)
    if not decoder_is_part:
        s, t = step_interval(t, num_steps)
        omega_s, omega_t = schedule(s), schedule(t)
        weight = num_steps * jnp.expm1(omega_t - omega_s)
        of_step = jnp.full_like(t, num_steps)
        return NoiseLevels(omega_0, omega_1, omega_t, weight, omega_s, of_step=of_step)
    parts = num_steps + 1
    index = step_interval(t, parts)[0] * parts  # 0 for the decoder, or the number of the step
    index = jnp.round(index)
    decodes = index == 0
    omega_t = schedule(index / num_steps)
    # For the decoder any lower level will do, as what it would contribute is multiplied by 0.
    below = schedule(jnp.maximum(index - 1, 0) / num_steps)
    omega_s = below - expand(decodes.astype(t.dtype), below)
    of_step, of_decoder = jnp.where(decodes, 0.0, parts), jnp.where(decodes, parts, 0.0)
    weight = expand(of_step, omega_t) * jnp.expm1(omega_t - omega_s)
    return NoiseLevels(
        omega_0, omega_1, omega_t, weight, omega_s, of_step=of_step, of_decoder=of_decoder
    )


def prior_matching(x: Float[Array, "batch *dims"], omega_1: PerExample) -> Float[Array, " batch"]:
    """The prior term KL(q(z_1 | x) || N(0, I)) in nats, summed over every non-batch axis (VDM
    Eq. 11).

    At x = 0 and omega_1 = 12 its two parts cancel: a term of 1e-11 nats is right to 1%.
    """
    omega_1 = expand(omega_1, x)
    # sigma^2 - log sigma^2 - 1, in that order, is 0.15% off at omega_1 = 5 in float32
    # (x = 0) and returns 0 at omega_1 = 8.
    snr_share = jax.nn.sigmoid(-omega_1)
    per_dim = 0.5 * (snr_share * (jnp.square(x) - 1.0) + jax.nn.softplus(-omega_1))
    return jnp.sum(per_dim, axis=tuple(range(1, x.ndim)))


def loss_density(
    eps: Float[Array, "batch *dims"], eps_hat: Float[Array, "batch *dims"]
) -> Float[Array, " batch"]:
    """The loss density 1/2 ||eps - eps_hat||^2, summed over every non-batch axis."""
    return 0.5 * jnp.sum(jnp.square(eps - eps_hat), axis=tuple(range(1, eps.ndim)))


def denoising_matching(
    eps: Float[Array, "batch *dims"], eps_hat: Float[Array, "batch *dims"], weight: PerDraw
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Estimates the denoising term, 1/2 sum_d weight_d (eps_d - eps_hat_d)^2 in nats, with the
    weights of `noise_levels` (VDM Eq. 15-17 and 12-14). The second result is the loss density: the
    same sum with the weights divided by their mean over the dimensions."""
    if weight.ndim == 1:
        density = loss_density(eps, eps_hat)
        return weight * density, density
    axes = tuple(range(1, eps.ndim))
    nats = 0.5 * jnp.sum(weight * jnp.square(eps - eps_hat), axis=axes)
    mean = jnp.mean(weight, axis=axes)  # 0 in the part of a bound that is its decoder
    return nats, jnp.where(mean > 0, nats / jnp.where(mean > 0, mean, 1.0), 0.0)


def estimate_elbo(
    data: Shaped[Array, "batch *dims"],
    draws: Draws,
    levels: NoiseLevels,
    denoiser: Denoiser,
    likelihood: Likelihood,
    kernel: ReverseKernel = GAUSSIAN,
    network_decodes: bool = False,
) -> Estimate:
    """Estimates the negative bound once for each example; unbiased for t ~ U(0, 1).

    The cost of the noise levels themselves, if any, becomes further terms.

    kernel: of the T steps; in continuous time all kernels have the same bound. network_decodes:
    whether p(data | z_0) is what the denoiser says of the codes at z_0, instead of the likelihood's
    rule. Of T steps that is estimated for the examples whose levels have this part; in continuous
    time by a second call of the denoiser.
    """
    x = likelihood.encode(data)
    in_steps = levels.omega_s is not None
    parts_of_codes = in_steps and (kernel.of_codes or network_decodes)
    said = guess(denoiser, diffuse(x, draws.eps, levels.omega_t), levels.omega_t, parts_of_codes)
    if levels.omega_s is None or kernel == GAUSSIAN:
        denoising, density = denoising_matching(draws.eps, said.eps_hat, levels.weight)
    else:
        if levels.of_step is None:
            raise ValueError(
                "these noise levels do not say how often each step counts (of_step), which a "
                f"{type(kernel).__name__} kernel needs: a family with levels of its own has "
                "model.kernel = 'gaussian'"
            )
        step = Step(x, draws.eps, levels.omega_s, levels.omega_t)
        nats = jnp.sum(kernel.divergence(said, step, draws.u), axis=tuple(range(1, x.ndim)))
        denoising, density = levels.of_step * nats, loss_density(draws.eps, said.eps_hat)
    terms = ElboTerms(
        reconstruction=_reconstruction(
            data, x, draws, levels, said, denoiser, likelihood, network_decodes
        ),
        prior_matching=prior_matching(x, levels.omega_1),
        denoising_matching=denoising,
        more=levels.nats,
    )
    return Estimate(terms, density, levels)


def _reconstruction(
    data: Shaped[Array, "batch *dims"],
    x: Float[Array, "batch ..."],
    draws: Draws,
    levels: NoiseLevels,
    said: Guess,
    denoiser: Denoiser,
    likelihood: Likelihood,
    network_decodes: bool,
) -> Float[Array, " batch"]:
    """The estimates of -log p(data | z_0), nats; said: of z_t, which is z_0 in the part of T steps
    that is the decoder."""
    omega_0 = levels.omega_0
    if not network_decodes:
        if omega_0.ndim == 1:  # a likelihood takes one for all examples, or one for each dimension
            omega_0 = jnp.broadcast_to(expand(omega_0, x), x.shape)
        return likelihood.reconstruction(data, draws.eps_0, omega_0)
    if levels.omega_s is None:
        at_0 = guess(denoiser, diffuse(x, draws.eps_0, omega_0), omega_0, True)
        return -at_0.log_prob_of(data)
    assert levels.of_decoder is not None
    return levels.of_decoder * -said.log_prob_of(data)


def to_bpd(nats: Float[Array, "*shape"], num_dims: int) -> Float[Array, "*shape"]:
    """Converts nats per example to bits per dimension, nats / (D ln 2) for D = num_dims."""
    return nats / (num_dims * math.log(2))
