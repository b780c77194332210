"""The T-step bound in two forms along one path: denoising matching and consistency matching.

The levels are z_0 .. z_T at omega_0 < .. < omega_T; the data x act as a level z_{-1} at
omega = -infinity. For i = 0 .. T - 1 the two forms sum the terms

    denoising    d_i = KL(q(z_i | z_{i+1}, x) || p(z_i | z_{i+1}))
    consistency  c_i = log q(z_i | z_{i-1}) - log p(z_i | z_{i+1})

    bound = reconstruction + KL(q(z_T | x) || N(0, I)) + sum_i E d_i
          = reconstruction + E KL(q(z_T | z_{T-1}) || N(0, I)) + sum_i E c_i.

At each level E c_i = E d_i + D/2 log(g_{i+1} / g_i), where g_i = sigma^2_{i|i-1} / sigma_i^2 is the
share of fresh noise in z_i. The two differ by a constant of the schedule only, so both give the
model the same expected gradient. Sources: Luo 2022 (arXiv:2208.11970) Eq. 37-45 and 46-58. Their
x_t is z_{t-1} here, and their levels x_1 .. x_T are T - 1 steps.

Everything is written in noise coordinates, z_i = alpha_i x + sigma_i eps_i, in which the chain is
an Ornstein-Uhlenbeck process in omega and each density has unit variance:

    q(z_i | z_{i-1})     xi_i   eps_i     = sqrt(1 - g_i) eps_{i-1} + sqrt(g_i) xi_i
    q(z_i | z_{i+1}, x)  eta_i            = sqrt(g_{i+1}) eps_i - sqrt(1 - g_{i+1}) xi_{i+1}
    p(z_i | z_{i+1})     r_i              = eta_i + sqrt(expm1(omega_{i+1} - omega_i))
                                                    (eps_hat_{i+1} - eps_{i+1})
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from vdm.diffusion.elbo import prior_matching
from vdm.diffusion.kernels import GAUSSIAN, ReverseKernel, Step, guess
from vdm.diffusion.noise import NoiseFn, diffuse, expand
from vdm.typing import Denoiser, Likelihood, PerExample


class LevelTerms(NamedTuple):
    """The contribution of one level to each form of the negative bound, nats per example.

    denoising: d_i.
    consistency: c_i.
    printed: KL(q(z_i | z_{i-1}) || p(z_i | z_{i+1})), the term that Luo's Eq. 45 sums. It is NOT a
        term of a bound: the KL redraws z_i given z_{i-1}, as if z_{i+1}, which is already drawn,
        did not depend on z_i. It is too large by D rho - sqrt(rho) E<r_i, xi_i>, where
        rho = g_i / g_{i+1}. For a good model and equal steps that is about D (1 - g), so the sum
        over T levels grows without limit.
    """

    denoising: Float[Array, "*levels batch"]
    consistency: Float[Array, "*levels batch"]
    printed: Float[Array, "*levels batch"]


class PathTerms(NamedTuple):
    """All terms of both forms along one path, nats per example.

    prior_matching = KL(q(z_T | x) || N(0, I)) belongs to the denoising form, last_step_prior =
    KL(q(z_T | z_{T-1}) || N(0, I)) to the consistency form, and reconstruction to both.
    """

    reconstruction: Float[Array, " batch"]
    prior_matching: Float[Array, " batch"]
    last_step_prior: Float[Array, " batch"]
    levels: LevelTerms

    @property
    def denoising_bound(self) -> Float[Array, " batch"]:
        """One estimate of the negative bound in its denoising form (Luo Eq. 58, VDM Eq. 11-13)."""
        return self.reconstruction + self.prior_matching + jnp.sum(self.levels.denoising, 0)

    @property
    def consistency_bound(self) -> Float[Array, " batch"]:
        """One estimate of the negative bound in its consistency form (Luo Eq. 44)."""
        return self.reconstruction + self.last_step_prior + jnp.sum(self.levels.consistency, 0)

    @property
    def printed_sum(self) -> Float[Array, " batch"]:
        """The value of Luo's Eq. 45 (S1 1.47) as printed, which is not the bound."""
        return self.reconstruction + self.last_step_prior + jnp.sum(self.levels.printed, 0)


def forward_noise(
    eps_s: Float[Array, "batch *dims"],
    xi_t: Float[Array, "batch *dims"],
    omega_s: PerExample,
    omega_t: PerExample,
) -> tuple[Float[Array, "batch *dims"], Float[Array, "batch *dims"]]:
    """Computes (eps_t, eta_s) from (eps_s, xi_t), a rotation of the plane by
    acos exp((omega_s - omega_t) / 2).

    alpha_t x + sigma_t eps_t is the draw of q(z_t | z_s) made with the noise xi_t, and eta_s is
    the position of z_s in q(z_s | z_t, x), in standard deviations. omega_s = -inf (z_s = x) gives
    eps_t = xi_t.
    """
    omega_s, omega_t = expand(omega_s, eps_s), expand(omega_t, eps_s)
    # The obvious kept * eps_s, with kept = exp((omega_s - omega_t) / 2) rounded to float32, lets
    # the variance of eps drift: at T = 1000, omega from -8 to 5, the sum along a path is 2e-3 nats
    # off in 64 dimensions, with this form 8e-5.
    lost = jnp.expm1(0.5 * (omega_s - omega_t))
    fresh = jnp.sqrt(-jnp.expm1(omega_s - omega_t))
    return eps_s + lost * eps_s + fresh * xi_t, fresh * eps_s - (xi_t + lost * xi_t)


def level_terms(
    x: Float[Array, "batch *dims"],
    eps_s: Float[Array, "batch *dims"],
    xi_s: Float[Array, "batch *dims"],
    xi_t: Float[Array, "batch *dims"],
    omegas: tuple[PerExample, PerExample, PerExample],
    denoiser: Denoiser,
    kernel: ReverseKernel = GAUSSIAN,
) -> tuple[LevelTerms, Float[Array, "batch *dims"]]:
    """Computes the terms of level s between its neighbours r < s < t, and eps_t.

    Args:
        x: the data at the scale of z.
        eps_s, xi_s: the noise of z_s relative to x and relative to z_r.
        xi_t: the noise with which z_t is drawn from z_s.
        omegas: omega at r, s and t, strictly increasing; -inf at r if z_r is x.
        denoiser: called once, at level t.
        kernel: p(z_s | z_t); `printed` is that of the Gaussian kernel.
    """
    omega_r, omega_s, omega_t = omegas
    eps_t, eta_s = forward_noise(eps_s, xi_t, omega_s, omega_t)
    step = Step(x, eps_t, omega_s, omega_t)
    said = guess(denoiser, step.z_t, omega_t, kernel.of_codes)
    # The log ratio of the variances of q(z_s | z_r) and p(z_s | z_t), log(g_s / g_t).
    log_ratio = jax.nn.log1mexp(omega_s - omega_r) - jax.nn.log1mexp(omega_t - omega_s)
    ratio, dims = jnp.exp(log_ratio), x[0].size
    axes = tuple(range(1, x.ndim))
    # The obvious form, log q - log p, subtracts z_s from means close to it: it is 4e-3 nats off in
    # float32 for 64 dimensions at T = 1000, omega from -13.3 to 5; whitened residuals are 2e-5 off.
    squares = jnp.sum((eta_s - xi_s) * (eta_s + xi_s), axes)
    squares -= 2 * jnp.sum(kernel.log_ratio(said, step, eta_s), axes)
    residual = eta_s - jnp.sqrt(step.odds) * (eps_t - said.eps_hat)
    shift = residual - jnp.sqrt(expand(ratio, x)) * xi_s  # Between the means of q and p.
    terms = LevelTerms(
        denoising=jnp.sum(kernel.divergence(said, step, eta_s), axes),
        consistency=0.5 * (squares - dims * log_ratio),
        printed=0.5 * (dims * (ratio - 1 - log_ratio) + jnp.sum(jnp.square(shift), axes)),
    )
    return terms, eps_t


def last_step_prior(
    z_s: Float[Array, "batch *dims"], omega_s: Float[Array, ""], omega_t: Float[Array, ""]
) -> Float[Array, " batch"]:
    """The divergence KL(q(z_t | z_s) || N(0, I)) in nats, which at t = 1 is the prior term of the
    consistency form (Luo Eq. 45): 1/2 sum[alpha^2_{t|s} (z_s^2 - 1) - log sigma^2_{t|s}]."""
    alpha_squared = jnp.exp(jax.nn.softplus(omega_s) - jax.nn.softplus(omega_t))
    # The variance is written as sigma_t^2 g_t: both logarithms are negative, so nothing cancels.
    log_variance = -jax.nn.softplus(-omega_t) + jax.nn.log1mexp(omega_t - omega_s)
    per_dim = 0.5 * (alpha_squared * (jnp.square(z_s) - 1) - log_variance)
    return jnp.sum(per_dim, axis=tuple(range(1, z_s.ndim)))


def path_terms(
    data: Shaped[Array, "batch *dims"],
    noise_at: NoiseFn,
    omegas: Float[Array, " steps_plus_1"],
    denoiser: Denoiser,
    likelihood: Likelihood,
    kernel: ReverseKernel = GAUSSIAN,
    network_decodes: bool = False,
) -> PathTerms:
    """Computes every term of both forms along one path from q(z_0, .., z_T | x); `levels` has shape
    [T, batch].

    omegas holds T + 1 strictly increasing values: if two are equal, q(z_t | z_s) is a point mass
    and the consistency form does not exist. The denoiser is called T times; both forms share the
    calls. kernel, network_decodes: as of `vdm.diffusion.bounds.path_log_weight`; if the network
    decodes, it is called once more, at level 0.
    """
    x = likelihood.encode(data)
    before = jnp.concatenate([jnp.full(1, -jnp.inf, omegas.dtype), omegas[:-2]])
    eps_0 = noise_at(jnp.zeros((), jnp.int32))

    def body(carry: tuple[Array, Array, Array], level: tuple) -> tuple[tuple, LevelTerms]:
        eps_s, xi_s, _ = carry
        index, *omegas_rst = level
        xi_t = noise_at(index + 1)
        terms, eps_t = level_terms(x, eps_s, xi_s, xi_t, tuple(omegas_rst), denoiser, kernel)
        return (eps_t, xi_t, eps_s), terms

    indices = jnp.arange(omegas.shape[0] - 1)
    (_, _, eps_s), levels = jax.lax.scan(
        body, (eps_0, eps_0, eps_0), (indices, before, omegas[:-1], omegas[1:])
    )
    if network_decodes:
        said = guess(denoiser, diffuse(x, eps_0, omegas[0]), omegas[0], True)
        reconstruction = -said.log_prob_of(data)
    else:
        reconstruction = likelihood.reconstruction(data, eps_0, omegas[0])
    return PathTerms(
        reconstruction=reconstruction,
        prior_matching=prior_matching(x, omegas[-1]),
        last_step_prior=last_step_prior(diffuse(x, eps_s, omegas[-2]), omegas[-2], omegas[-1]),
        levels=levels,
    )


def random_level_terms(
    x: Float[Array, "batch *dims"],
    index: Int[Array, " batch"],
    noise: Float[Array, "three batch *dims"],
    omegas: Float[Array, " steps_plus_1"],
    denoiser: Denoiser,
) -> LevelTerms:
    """Estimates the sums over levels from one call of the denoiser, as in training: T times the
    terms of one level for each example, unbiased for index ~ U{0, .., T - 1} and normal noise.
    noise holds eps of the level before, xi of this level and xi of the next."""
    num_steps = omegas.shape[0] - 1
    eps_r, xi_s, xi_t = noise
    omega_r = jnp.where(index == 0, -jnp.inf, omegas[index - 1])
    omega_s, omega_t = omegas[index], omegas[index + 1]
    eps_s, _ = forward_noise(eps_r, xi_s, omega_r, omega_s)
    terms, _ = level_terms(x, eps_s, xi_s, xi_t, (omega_r, omega_s, omega_t), denoiser)
    return jax.tree.map(lambda term: num_steps * term, terms)
