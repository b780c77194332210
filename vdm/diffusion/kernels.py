"""Reverse kernels p(z_s | z_t) of T steps, and what each costs against q(z_s | z_t, x).

Per dimension, q(z_s | z_t, x) = N(A z_t + B x, v) with

    A = alpha_{t|s} sigma_s^2 / sigma_t^2,   B = alpha_s sigma^2_{t|s} / sigma_t^2,
    v = sigma_s^2 sigma^2_{t|s} / sigma_t^2,   (B / sqrt(v))^2 = c^2 = SNR(s) - SNR(t)

(VDM appendix A.2). Every kernel here has the form of that posterior with a guess in place of x:

    gaussian          N(A z_t + B x_hat, v)                     VDM Eq. 31-33
    gaussian_fitted   N(A z_t + B x_hat, v f)                   Analytic-DPM, arXiv:2201.06503
    mixture           sum_k p_k N(A z_t + B x_k, v)             p_k = p(code k | z_t)

The mixture is for integer codes, x_k = x(code k), of which the network predicts the probability of
each. If the dimensions of x are independent given z_t it is the exact reverse process, so that its
bound does not depend on T. As c -> 0 its divergence becomes 1/2 c^2 (x - x_hat)^2, that of the
Gaussian: both have the same continuous-time bound. Bayesian flow networks (arXiv:2308.07037) have
the same density as their receiver distribution.

Everything is measured in standard deviations of q: xi is the position of z_s from its mean, and
delta = c (guess - x) how far the mean of p lies from that of q.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from vdm.diffusion.codes import CodeSums, all_codes, log_prob_of, log_probs_of, mean_eps
from vdm.diffusion.noise import diffuse, expand
from vdm.typing import Denoiser, Kernel, PerExample

LEAST_PRECISION = 1e-20
"""The least c^2, so that the gradient of c is finite where two levels are equal."""


class Step(NamedTuple):
    """A step from z_t = alpha_t x + sigma_t eps to z_s. The levels are those of the whole batch, of
    each example, or of each of its dimensions."""

    x: Float[Array, "batch *dims"]
    eps: Float[Array, "batch *dims"]
    omega_s: PerExample
    omega_t: PerExample

    @property
    def z_t(self) -> Float[Array, "batch *dims"]:
        """The latent at the beginning of the step."""
        return diffuse(self.x, self.eps, self.omega_t)

    @property
    def odds(self) -> Float[Array, "..."]:
        """expm1(omega_t - omega_s) = (c sigma_t / alpha_t)^2, broadcastable against x."""
        return jnp.expm1(expand(self.omega_t, self.x) - expand(self.omega_s, self.x))

    @property
    def c(self) -> Float[Array, "..."]:
        """sqrt(SNR(s) - SNR(t)), broadcastable against x."""
        squared = jnp.exp(-expand(self.omega_t, self.x)) * self.odds
        return jnp.sqrt(jnp.maximum(squared, LEAST_PRECISION))


class Guess(NamedTuple):
    """What the model says of x at z_t: eps_hat and, of codes, log p_k [batch, *dims, V]. Where the
    head has `sums`, the bound reads those, so that what is compiled forms no table."""

    eps_hat: Float[Array, "batch *dims"]
    log_probs: Float[Array, "batch *dims codes"] | None = None
    sums: CodeSums | None = None

    def log_prob_of(self, codes: Integer[Array, "batch *dims"]) -> Float[Array, " batch"]:
        """The sum of log p_k at the given codes, nats per example."""
        if self.sums is not None:
            return jnp.sum(self.sums.log_prob_of(codes), axis=tuple(range(1, codes.ndim)))
        assert self.log_probs is not None
        return log_prob_of(self.log_probs, codes)


def guess(
    denoiser: Denoiser, z: Float[Array, "batch *dims"], omega: PerExample, of_codes: bool
) -> Guess:
    """Calls the denoiser once; of_codes: for the probabilities of codes, too."""
    omega = jnp.broadcast_to(omega, z.shape if omega.ndim > 1 else z.shape[:1])
    if not of_codes:
        return Guess(denoiser(z, omega))
    sums_at = getattr(denoiser, "sums", None)
    if sums_at is not None:
        sums = sums_at(z, omega)
        return Guess(sums.eps_hat(), sums.log_probs(), sums)
    log_probs = log_probs_of(denoiser)(z, omega)
    return Guess(mean_eps(log_probs, z, omega), log_probs)


@runtime_checkable
class ReverseKernel(Protocol):
    """A reverse kernel of T steps."""

    @property
    def of_codes(self) -> bool:
        """Whether it needs the probabilities of codes."""
        ...

    def divergence(
        self, guess: Guess, step: Step, u: Float[Array, "batch *dims"] | None
    ) -> Float[Array, "batch *dims"]:
        """An estimate of KL(q(z_s | z_t, x) || p(z_s | z_t)), nats for each dimension; u: standard
        normal, for a kernel that has no closed form."""
        ...

    def log_ratio(
        self, guess: Guess, step: Step, xi: Float[Array, "batch *dims"]
    ) -> Float[Array, "batch *dims"]:
        """log p(z_s | z_t) - log q(z_s | z_t, x) at the z_s that lies xi from the mean of q, nats
        for each dimension. Its expectation for xi ~ N(0, 1) is -KL(q || p)."""
        ...


def _delta(guess: Guess, step: Step) -> Array:
    """How far the mean at x_hat lies from that of q."""
    return jnp.sqrt(step.odds) * (step.eps - guess.eps_hat)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """The Gaussian with the variance of q and the mean at x_hat (VDM Eq. 31-33)."""

    of_codes = False

    def divergence(self, guess: Guess, step: Step, u: Array | None = None) -> Array:
        """KL = 1/2 delta^2, exactly (VDM Eq. 13)."""
        del u
        return 0.5 * step.odds * jnp.square(step.eps - guess.eps_hat)

    def log_ratio(self, guess: Guess, step: Step, xi: Float[Array, "batch *dims"]) -> Array:
        """(xi^2 - (xi - delta)^2) / 2; as a difference of two log densities of z_s it would lose
        D log sigma_s to rounding."""
        delta = _delta(guess, step)
        return delta * (xi - 0.5 * delta)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The mixture of the Gaussians at the codes, with the codes' probabilities as weights.

    With delta_k = c (x_k - x) the log ratio is log sum_k p_k exp(xi delta_k - 1/2 delta_k^2), and
    KL = -E[log ratio], an integral over xi. Its estimate is the mean over u and -u for one normal
    draw u. That is unbiased for every c, as no quadrature is, and the pair cancels all odd powers
    of u, among them u c (x_hat - x), which for small c is larger than KL itself.
    """

    of_codes = True

    def divergence(self, guess: Guess, step: Step, u: Array | None = None) -> Array:
        """The mean of -log ratio over u and -u."""
        if u is None:
            raise ValueError("the divergence of the mixture kernel is an integral: give draws u")
        return -0.5 * (self.log_ratio(guess, step, u) + self.log_ratio(guess, step, -u))

    def log_ratio(self, guess: Guess, step: Step, xi: Float[Array, "batch *dims"]) -> Array:
        """log sum_k p_k exp(a_k) with a_k = xi delta_k - 1/2 delta_k^2 <= 1/2 xi^2. From a head's
        sums it has an error of 1e-7 however small it is, which T steps at random add up to less
        than their noise; from the table it is exact to float32."""
        if guess.sums is not None:
            return guess.sums.log_mean_exp(step.x, step.c, xi)
        assert guess.log_probs is not None
        c = step.c[..., None] if step.c.ndim else step.c
        delta = c * (all_codes(guess.log_probs.shape[-1], step.x.ndim) - step.x[..., None])
        exponent = delta * (xi[..., None] - 0.5 * delta)
        # For small c the sum is nearly 1 and its logarithm is rounded away, so that a sum over
        # many steps would be noise; for large c the sum of expm1 is nearly -1.
        excess = jnp.sum(jnp.exp(guess.log_probs) * jnp.expm1(exponent), axis=-1)
        is_small = jnp.abs(excess) < 0.5
        small = jnp.log1p(jnp.where(is_small, excess, 0.0))
        return jnp.where(is_small, small, jax.nn.logsumexp(guess.log_probs + exponent, axis=-1))


class FittedGaussian(NamedTuple):
    """The Gaussian at x_hat whose variance is the best one for data: v f with
    f = 1 + E[delta^2] = 1 + expm1(omega_t - omega_s) E[(eps - eps_hat)^2] (Bao et al. 2022,
    arXiv:2201.06503, Eq. 8; here the errors are measured on data).

    omegas: increasing noise levels, [points]. errors: the mean squared error of eps_hat at each,
    [points], or of each dimension there, [points, *dims].
    """

    omegas: Float[Array, " points"]
    errors: Float[Array, "points *dims"]

    @property
    def of_codes(self) -> bool:
        """It uses x_hat alone."""
        return False

    def factor(self, omega_t: PerExample, odds: Float[Array, "..."]) -> Float[Array, "..."]:
        """f, broadcastable against a batch. omega_t: of the whole batch, or of each example. The
        errors are interpolated linearly in omega, and are constant beyond the levels."""
        omega = jnp.atleast_1d(omega_t)
        after = jnp.clip(jnp.searchsorted(self.omegas, omega), 1, self.omegas.size - 1)
        low, high = self.omegas[after - 1], self.omegas[after]
        share = jnp.clip((omega - low) / (high - low), 0.0, 1.0)
        share = share.reshape(-1, *(1,) * (self.errors.ndim - 1))
        errors = (1 - share) * self.errors[after - 1] + share * self.errors[after]
        return 1 + odds * errors.reshape(*errors.shape, *(1,) * (odds.ndim - errors.ndim))

    def widened(self, kernel: Kernel) -> Kernel:
        """The reverse step of a sampler with its variance multiplied by f."""

        def step(denoiser: Denoiser, z_t: Array, omega_s: Any, omega_t: Any) -> tuple[Array, Array]:
            mean, variance = kernel(denoiser, z_t, omega_s, omega_t)
            return mean, variance * self.factor(omega_t, jnp.expm1(omega_t - omega_s))

        return step

    def divergence(self, guess: Guess, step: Step, u: Array | None = None) -> Array:
        """KL = ((1 + delta^2) / f - 1 + log f) / 2, exactly."""
        del u
        f = self.factor(step.omega_t, step.odds)
        squared = step.odds * jnp.square(step.eps - guess.eps_hat)
        return 0.5 * ((1 + squared) / f - 1 + jnp.log(f))

    def log_ratio(self, guess: Guess, step: Step, xi: Float[Array, "batch *dims"]) -> Array:
        """(xi^2 - (xi - delta)^2 / f - log f) / 2."""
        f = self.factor(step.omega_t, step.odds)
        return 0.5 * (jnp.square(xi) - jnp.square(xi - _delta(guess, step)) / f - jnp.log(f))


GAUSSIAN, MIXTURE = Gaussian(), Mixture()
