"""Bounds on -log p(x) other than the ELBO: importance weighting, the probability-flow ODE.

The importance-weighted bound, like the T-step ELBO, holds for the model of T ancestral steps. The
ODE bounds hold for a different model with the same denoiser: the density of the flow, turned into
a probability of codes in one of three ways.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from vdm.diffusion.kernels import GAUSSIAN, ReverseKernel, Step, guess
from vdm.diffusion.noise import alpha, diffuse, fresh_noise, level, sigma
from vdm.diffusion.ode import Solver, flow_log_density
from vdm.typing import Denoiser, EndPoint, Likelihood, OmegaGrid, PRNGKey

DEQUANTISATIONS = ("decoder", "uniform", "truncated-normal")

FARTHEST = 5.0
"""Where the truncated normal is cut off, in standard deviations, unless the code's bin is
narrower."""


def path_log_weight(
    keys: Key[Array, " batch"],
    data: Shaped[Array, "batch *dims"],
    omegas: OmegaGrid,
    denoiser: Denoiser,
    likelihood: Likelihood,
    kernel: ReverseKernel = GAUSSIAN,
    network_decodes: bool = False,
) -> Float[Array, " batch"]:
    """The log importance weight of one path drawn from q, in nats:
    log w = log p(x, z_0 ... z_1) / q(z_0 ... z_1 | x).

        log w = log p(x|z_0) + log N(z_1; 0, I) - log q(z_1|x)
                + sum over the steps of log p(z_s|z_t) - log q(z_s|z_t, x)

    omegas holds T + 1 increasing values for T steps, or T + 1 for each dimension. E w = p(x) of
    the T-step model, and -E log w is its negative ELBO (VDM Eq. 11-14). Each example has its own
    key, so its path does not depend on the batch; use different keys for each path.

    kernel: p(z_s|z_t). network_decodes: whether p(x|z_0) is what the denoiser says of the codes
    instead of the likelihood's rule.
    """
    x = likelihood.encode(data)
    axes = tuple(range(1, x.ndim))

    noise_at = fresh_noise(keys, x.shape[1:], omegas.dtype)

    def step(carry: tuple[Array, Array], index: Array) -> tuple[tuple[Array, Array], None]:
        eps, log_weight = carry
        omega_s, omega_t = level(omegas, index - 1), level(omegas, index)
        # Under q(z_s|z_t,x), z_s = alpha_s x + sigma_s eps_s, where the noise is an AR(1) process.
        xi, a_step = noise_at(index), Step(x, eps, omega_s, omega_t)
        said = guess(denoiser, a_step.z_t, omega_t, kernel.of_codes)
        log_weight += jnp.sum(kernel.log_ratio(said, a_step, xi), axis=axes)
        # exp((omega_s - omega_t) / 2), rounded to float32, lets the variance of eps drift: by 5e-6
        # over 1000 steps from omega = 5 to -13.3.
        lost = jnp.expm1(0.5 * (omega_s - omega_t))
        fresh = jnp.sqrt(-jnp.expm1(omega_s - omega_t))
        return (eps + lost * eps + fresh * xi, log_weight), None

    # Index 0 is for eps_1, indices 1 .. T are for the steps.
    eps_1 = noise_at(jnp.zeros((), jnp.int32))
    indices = jnp.arange(omegas.shape[0] - 1, 0, -1)
    (eps_0, log_weight), _ = jax.lax.scan(
        step, (eps_1, _log_prior_ratio(x, eps_1, level(omegas, jnp.int32(-1)))), indices
    )
    omega_0 = level(omegas, jnp.int32(0))
    if not network_decodes:
        return log_weight - likelihood.reconstruction(data, eps_0, omega_0)
    said = guess(denoiser, diffuse(x, eps_0, omega_0), omega_0, True)
    return log_weight + said.log_prob_of(data)


def _log_prior_ratio(
    x: Float[Array, "batch *dims"], eps: Float[Array, "batch *dims"], omega_1: EndPoint
) -> Float[Array, " batch"]:
    """The log ratio log N(z_1; 0, I) - log q(z_1|x) at z_1 = alpha_1 x + sigma_1 eps, nats."""
    # This is (eps^2 - z_1^2) / 2 + log sigma_1, multiplied out with 1 - sigma^2 = alpha^2. In the
    # first form the float32 rounding, 1e-7 per dimension, is the size of the mean at omega_1 = 15.
    a, s = alpha(omega_1), sigma(omega_1)
    per_dim = 0.5 * a * (a * (jnp.square(eps) - jnp.square(x)) - 2 * s * x * eps)
    return jnp.sum(per_dim - 0.5 * jax.nn.softplus(-omega_1), axis=tuple(range(1, x.ndim)))


def importance_bound(log_weights: Float[Array, "K batch"]) -> Float[Array, " batch"]:
    """The importance-weighted bound -log (1/K) sum_k w_k, nats (Burda et al. 2016,
    arXiv:1509.00519, Eq. 8).

    Its expectation is at least -log p(x) of the T-step model and does not increase with K; K = 1
    is the negative ELBO.
    """
    return math.log(log_weights.shape[0]) - jax.nn.logsumexp(log_weights, axis=0)


class OdeEstimate(NamedTuple):
    """One estimate of an ODE bound on -log p(x), for one example.

    total: the bound in nats; NaN where the solver failed.
    probe_variance: the variance of `total` due to the random probes of Hutchinson's divergence, in
        nats^2 (their sample variance / their number; 0 when exact, NaN for a single probe).
    num_evaluations: the number of denoiser calls.
    """

    total: Float[Array, ""]
    probe_variance: Float[Array, ""]
    num_evaluations: Int[Array, ""]


def probability_flow_bound(
    key: PRNGKey,
    data: Shaped[Array, "*dims"],
    omegas: Float[Array, " points"],
    denoiser: Denoiser,
    likelihood: Likelihood,
    dequantisation: str,
    solver: Solver,
) -> OdeEstimate:
    """An estimate whose expectation is at least -log p(x) of the flow, in nats, for one example
    (no batch axis).

    z_0 = alpha_0 x + sigma_0 n, where the dequantisation chooses the density of n:
    decoder: n ~ N(0, I). The bound is -E log p(x|z_0) p_0(z_0) / q(z_0|x), and p is the flow
        followed by the likelihood.
    uniform: z_0 / alpha_0 is uniform in the code's bin of width 2/V (Theis et al. 2016,
        arXiv:1511.01844, section 3.1).
    truncated-normal: n ~ N(0, I) cut off at that bin, or at 5 standard deviations if the bin is
        wider (i-DODE, arXiv:2305.03935; MuLAN, arXiv:2312.13236).
    For the last two the bound is -E log p_0(z_0) / q(z_0|x), and p is the flow's mass of the bin.
    The three are bounds for different models, so a result must name its dequantisation. omegas:
    as in `flow_log_density`.
    """
    num_codes = _num_codes(dequantisation, likelihood)
    key_noise, key_probes = jax.random.split(key)
    omega_0 = omegas[0]
    x = likelihood.encode(data[None])[0].astype(omegas.dtype)
    noise, log_q = _dequantise(key_noise, dequantisation, x.shape, omega_0, num_codes)
    # From the density of the noise to that of z_0: subtract D log sigma_0.
    log_q = jnp.sum(log_q + 0.5 * jax.nn.softplus(-omega_0))
    z_0 = alpha(omega_0) * x + sigma(omega_0) * noise
    flow = flow_log_density(key_probes, z_0, omegas, denoiser, solver)
    totals = log_q - flow.log_prob
    if dequantisation == "decoder":
        totals += likelihood.reconstruction(data[None], noise[None], omega_0)[0]
    return OdeEstimate(jnp.mean(totals), _variance_of_mean(totals, solver), flow.num_evaluations)


def _dequantise(
    key: PRNGKey,
    dequantisation: str,
    shape: tuple[int, ...],
    omega_0: Float[Array, ""],
    num_codes: int,
) -> tuple[Array, Array]:
    """Draws the noise n, in standard deviations of z_0, and gives its log density per dimension."""
    if dequantisation == "decoder":
        noise = jax.random.normal(key, shape, omega_0.dtype)
        return noise, jax.scipy.stats.norm.logpdf(noise)
    edge = jnp.exp(-0.5 * omega_0) / num_codes  # of the bin, in standard deviations
    if dequantisation == "uniform":
        noise = edge * jax.random.uniform(key, shape, omega_0.dtype, -1.0, 1.0)
        return noise, jnp.broadcast_to(-jnp.log(2 * edge), shape)
    # From edge = 5.5 on, P(|n| < edge) is 1 in float32 and a draw may land on the edge itself,
    # however far out: E n^2 is 37 at edge = 12769. Cutting off at 5 costs 6e-7 nats.
    cut = jnp.minimum(edge, FARTHEST)
    noise = jax.random.truncated_normal(key, -cut, cut, shape, omega_0.dtype)
    return noise, jax.scipy.stats.norm.logpdf(noise) - log_central_mass(cut)


def log_central_mass(edge: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The log normaliser of the truncated normal, log P(|n| < edge) for n ~ N(0, 1), edge > 0."""
    # In float32 log erf alone gives 0 from edge = 5.5 on, where the value is -4e-8, and
    # log1p(-erfc) alone has lost all digits at edge = 1e-7.
    scaled = edge / math.sqrt(2)
    near, far = jnp.minimum(scaled, 1.0), jnp.maximum(scaled, 1.0)
    return jnp.where(scaled < 1.0, jnp.log(jax.lax.erf(near)), jnp.log1p(-jax.lax.erfc(far)))


def _num_codes(dequantisation: str, likelihood: Likelihood) -> int:
    """The number of codes of the likelihood, or 0 if its data are not codes. Raises ValueError for
    an unknown dequantisation and for one that needs bins where there are none."""
    if dequantisation not in DEQUANTISATIONS:
        raise ValueError(
            f"unknown dequantisation {dequantisation!r}; known: {', '.join(DEQUANTISATIONS)}"
        )
    num_codes: int = getattr(likelihood, "num_codes", 0)
    if not num_codes and dequantisation != "decoder":
        raise ValueError(
            f"dequantisation {dequantisation!r} needs the bins of integer codes, which "
            f"{type(likelihood).__name__} does not have: choose 'decoder'"
        )
    return num_codes


def _variance_of_mean(totals: Float[Array, " probes"], solver: Solver) -> Float[Array, ""]:
    """The variance of the mean of `totals` over Hutchinson's probes."""
    if solver.divergence == "exact":
        return jnp.zeros_like(totals[0])
    if solver.probes == 1:
        return jnp.full_like(totals[0], jnp.nan)
    return jnp.var(totals, ddof=1) / solver.probes
