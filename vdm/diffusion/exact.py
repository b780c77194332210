"""Closed-form oracles: data for which the ideal denoiser and the bound are known exactly.

Gaussian and mixture data use Gaussian conditioning and Tweedie's formula, finite data Bayes' rule.
Every `*_eps_hat` is E[eps | z_t], the minimiser of the denoising loss at each omega.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.diffusion.noise import alpha, expand, sigma
from vdm.typing import PerExample


@dataclasses.dataclass(frozen=True)
class GaussianData:
    """Gaussian data x ~ N(0, std^2 I); std is one number, or [1, *dims] with one per dimension."""

    std: float | Float[Array, "1 *dims"]

    def share(self, omega: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The signal's share of the variance of z_t, per dimension:
        r(omega) = alpha^2 s^2 / (alpha^2 s^2 + sigma^2) = Var(eps | z_t)."""
        return jax.nn.sigmoid(2 * jnp.log(self.std) - omega)

    def eps_hat(
        self, z: Float[Array, "batch *dims"], omega: PerExample
    ) -> Float[Array, "batch *dims"]:
        """The ideal denoiser, E[eps | z_t] = sigma z / (alpha^2 s^2 + sigma^2)."""
        omega = expand(omega, z)
        return sigma(omega) * z / self._variance(omega)

    def denoising_term(
        self, omega_0: Float[Array, ""], omega_1: Float[Array, ""]
    ) -> Float[Array, "..."]:
        """The continuous-time denoising term, nats per dimension (std's shape):
        1/2 log[(1 + s^2 exp(-omega_0)) / (1 + s^2 exp(-omega_1))], for any schedule."""
        log_variance = 2 * jnp.log(self.std)
        softplus = jax.nn.softplus
        return 0.5 * (softplus(log_variance - omega_0) - softplus(log_variance - omega_1))

    def least_variance_omega(
        self, t: Float[Array, "..."], omega_0: Float[Array, ""], omega_1: Float[Array, ""]
    ) -> Float[Array, "..."]:
        """omega(t) of the schedule for which the continuous-time estimate with the ideal denoiser
        has the least variance: r(omega) omega'(t) is constant, so softplus(2 log s - omega) is a
        straight line in t. If std differs between dimensions, each gets its own best schedule."""
        log_variance = 2 * jnp.log(self.std)
        height = (1 - t) * jax.nn.softplus(log_variance - omega_0) + t * jax.nn.softplus(
            log_variance - omega_1
        )
        return log_variance - jnp.log(jnp.expm1(height))

    def denoising_term_of_steps(self, omegas: Float[Array, " steps_plus_1"]) -> Float[Array, ""]:
        """The T-step denoising term over the given grid of omega, nats per dimension."""
        return 0.5 * jnp.sum(jnp.expm1(jnp.diff(omegas)) * self.share(omegas[1:]))

    def flow_variance(
        self, omega_0: Float[Array, ""], omega_1: Float[Array, ""]
    ) -> Float[Array, ""]:
        """Variance per dimension of p_0, the density that the probability-flow ODE with the ideal
        denoiser produces at omega_0 from N(0, I) at omega_1: V_0 / V_1, V = alpha^2 s^2 + sigma^2.
        The flow is linear, dz/domega = 1/2 sigma^2 (1/V - 1) z = 1/2 (log V)' z."""
        return self._variance(omega_0) / self._variance(omega_1)

    def variance_of_steps(self, omegas: Float[Array, " steps_plus_1"]) -> Float[Array, ""]:
        """Variance v per dimension of z_0 after T ancestral steps with the ideal denoiser from
        z_1 ~ N(0, I): z_s = (alpha_s/alpha_t)(1 - sigma_t^2 c / V_t) z_t + sigma_s sqrt(c) xi with
        c = -expm1(omega_s - omega_t). With `likelihood.Gaussian` that model's data are
        x ~ N(0, v/alpha_0^2 + exp(omega_0))."""

        def step(variance: Array, ends: Array) -> tuple[Array, None]:
            omega_s, omega_t = ends[0], ends[1]
            c = -jnp.expm1(omega_s - omega_t)
            kept = 1 - jax.nn.sigmoid(omega_t) * c / self._variance(omega_t)
            gain = alpha(omega_s) / alpha(omega_t) * kept
            return jnp.square(gain) * variance + jax.nn.sigmoid(omega_s) * c, None

        pairs = jnp.stack([omegas[:-1], omegas[1:]], axis=1)[::-1]
        return jax.lax.scan(step, jnp.ones((), omegas.dtype), pairs)[0]

    def _variance(self, omega: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Variance V of the marginal q(z_t), per dimension."""
        return jax.nn.sigmoid(-omega) * self.std**2 + jax.nn.sigmoid(omega)

    def negative_log_prob(self, x: Float[Array, "batch *dims"]) -> Float[Array, " batch"]:
        """The exact -log p(x), nats per example."""
        log_prob = jax.scipy.stats.norm.logpdf(x, scale=self.std)
        return -jnp.sum(log_prob, axis=tuple(range(1, x.ndim)))


@dataclasses.dataclass(frozen=True)
class MixtureData:
    """Data from a Gaussian mixture, x ~ sum_k w_k N(m_k, s_k^2 I) in D dimensions.

    weights [K], means [K, D], stds [K].
    """

    weights: Float[Array, " components"]
    means: Float[Array, "components dim"]
    stds: Float[Array, " components"]

    def _components(
        self, z: Float[Array, "batch dim"], omega: PerExample
    ) -> tuple[Array, Array, Array]:
        """For each component k, what it says of z: the log joint density log w_k N_k(z) [batch, K],
        the variance of N_k [batch, K], and the residual z - alpha m_k [batch, K, D]."""
        omega = jnp.broadcast_to(omega, z.shape[:1])
        means = alpha(omega)[:, None, None] * self.means[None]
        variance = (alpha(omega)[:, None] * self.stds[None]) ** 2 + sigma(omega)[:, None] ** 2
        residual = z[:, None, :] - means
        log_joint = jnp.log(self.weights)[None] - 0.5 * (
            jnp.sum(jnp.square(residual), -1) / variance
            + z.shape[-1] * jnp.log(2 * jnp.pi * variance)
        )
        return log_joint, variance, residual

    def x_hat(self, z: Float[Array, "batch dim"], omega: PerExample) -> Float[Array, "batch dim"]:
        """The ideal estimate of x, E[x | z_t] = sum_k r_k(z) E_k[x | z]."""
        log_joint, variance, residual = self._components(z, omega)
        gain = jnp.broadcast_to(alpha(omega), z.shape[:1])[:, None] * self.stds[None] ** 2
        x_k = self.means[None] + (gain / variance)[..., None] * residual
        return jnp.einsum("bk,bkd->bd", jax.nn.softmax(log_joint, axis=-1), x_k)

    def eps_hat(self, z: Float[Array, "batch dim"], omega: PerExample) -> Float[Array, "batch dim"]:
        """The ideal denoiser,
        E[eps | z_t] = sum_k r_k sigma (z - alpha m_k) / (alpha^2 s_k^2 + sigma^2)."""
        # The obvious form, (z - alpha x_hat) / sigma, divides a difference of nearly equal
        # numbers by a small one as sigma -> 0.
        log_joint, variance, residual = self._components(z, omega)
        share = jax.nn.softmax(log_joint, axis=-1) / variance
        return expand(sigma(omega), z) * jnp.einsum("bk,bkd->bd", share, residual)

    def eps_variance(
        self, z: Float[Array, "batch dim"], omega: PerExample
    ) -> Float[Array, " batch"]:
        """E[||eps - eps_hat||^2 | z_t] = tr Cov(eps | z_t), the sum of a part within the components
        and one between them; half its mean over q(z_t) is the lowest possible loss density."""
        log_joint, variance, residual = self._components(z, omega)
        shares = jax.nn.softmax(log_joint, axis=-1)
        scale = jnp.broadcast_to(sigma(omega), z.shape[:1])[:, None]
        within = z.shape[-1] * (variance - jnp.square(scale)) / variance
        eps_k = scale[..., None] * residual / variance[..., None]
        between = jnp.sum(jnp.square(eps_k - self.eps_hat(z, omega)[:, None]), axis=-1)
        return jnp.sum(shares * (within + between), axis=-1)

    def score(self, z: Float[Array, "batch dim"], omega: PerExample) -> Float[Array, "batch dim"]:
        """The score of the marginal, grad_z log q(z_t) = -E[eps | z_t] / sigma."""
        return -self.eps_hat(z, omega) / expand(sigma(omega), z)

    def log_prob(self, z: Float[Array, "batch dim"], omega: PerExample) -> Float[Array, " batch"]:
        """The log density log q(z_t), nats per example; at omega = -inf it is log p(x)."""
        return jax.nn.logsumexp(self._components(z, omega)[0], axis=-1)


@dataclasses.dataclass(frozen=True)
class FiniteData:
    """Data x that take one of N values `points` [N, D] with probabilities `weights` [N]."""

    points: Float[Array, "num dim"]
    weights: Float[Array, " num"]

    def _posterior(
        self, z: Float[Array, "batch dim"], omega: PerExample
    ) -> Float[Array, "batch num"]:
        """The posterior p(x_n | z_t), a softmax of log w_n - ||z - alpha x_n||^2 / (2 sigma^2)."""
        omega = jnp.broadcast_to(omega, z.shape[:1])[:, None, None]
        distance = (z[:, None, :] - alpha(omega) * self.points[None]) / sigma(omega)
        logits = jnp.log(self.weights)[None] - 0.5 * jnp.sum(jnp.square(distance), -1)
        return jax.nn.softmax(logits, axis=-1)

    def x_hat(self, z: Float[Array, "batch dim"], omega: PerExample) -> Float[Array, "batch dim"]:
        """The ideal estimate of x, E[x | z_t]."""
        return self._posterior(z, omega) @ self.points

    def eps_hat(self, z: Float[Array, "batch dim"], omega: PerExample) -> Float[Array, "batch dim"]:
        """The ideal denoiser, E[eps | z_t] = (z - alpha E[x | z_t]) / sigma."""
        a, s = expand(alpha(omega), z), expand(sigma(omega), z)
        return (z - a * self.x_hat(z, omega)) / s

    def eps_variance(
        self, z: Float[Array, "batch dim"], omega: PerExample
    ) -> Float[Array, " batch"]:
        """E[||eps - eps_hat||^2 | z_t] = exp(-omega) tr Cov(x | z_t); half its mean over q(z_t)
        is the lowest possible loss density."""
        error = jnp.sum(jnp.square(self.points[None] - self.x_hat(z, omega)[:, None]), axis=-1)
        omega = jnp.broadcast_to(omega, z.shape[:1])
        return jnp.exp(-omega) * jnp.sum(self._posterior(z, omega) * error, axis=-1)

    def entropy(self) -> Float[Array, ""]:
        """The entropy -E log p(x) in nats, to which the bound with the ideal denoiser tends."""
        return -jnp.sum(self.weights * jnp.log(self.weights))
