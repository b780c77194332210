"""Closed-form oracles: data for which the ideal denoiser and the bound are known exactly.

Gaussian and mixture: Gaussian conditioning and Tweedie's formula. Finite data: Bayes' rule.
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
    """x ~ N(0, std^2 I)."""

    std: float

    def share(self, omega: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """r(omega) = Var(eps | z_t) per dimension = alpha^2 s^2 / (alpha^2 s^2 + sigma^2)."""
        return jax.nn.sigmoid(2 * jnp.log(self.std) - omega)

    def eps_hat(
        self, z: Float[Array, "batch *dims"], omega: PerExample
    ) -> Float[Array, "batch *dims"]:
        """E[eps | z_t] = sigma z / (alpha^2 s^2 + sigma^2)."""
        omega = expand(omega, z)
        variance = jax.nn.sigmoid(-omega) * self.std**2 + jax.nn.sigmoid(omega)
        return sigma(omega) * z / variance

    def denoising_term(
        self, omega_0: Float[Array, ""], omega_1: Float[Array, ""]
    ) -> Float[Array, ""]:
        """The continuous-time denoising term, nats per dimension:
        1/2 log[(1 + s^2 exp(-omega_0)) / (1 + s^2 exp(-omega_1))], for any schedule."""
        log_variance = 2 * jnp.log(self.std)
        softplus = jax.nn.softplus
        return 0.5 * (softplus(log_variance - omega_0) - softplus(log_variance - omega_1))

    def denoising_term_of_steps(self, omegas: Float[Array, " steps_plus_1"]) -> Float[Array, ""]:
        """The T-step denoising term over the given grid of omega, nats per dimension."""
        return 0.5 * jnp.sum(jnp.expm1(jnp.diff(omegas)) * self.share(omegas[1:]))

    def negative_log_prob(self, x: Float[Array, "batch *dims"]) -> Float[Array, " batch"]:
        """-log p(x), nats."""
        log_prob = jax.scipy.stats.norm.logpdf(x, scale=self.std)
        return -jnp.sum(log_prob, axis=tuple(range(1, x.ndim)))


@dataclasses.dataclass(frozen=True)
class MixtureData:
    """x ~ sum_k w_k N(m_k, s_k^2 I) in D dimensions.

    weights [K], means [K, D], stds [K].
    """

    weights: Float[Array, " components"]
    means: Float[Array, "components dim"]
    stds: Float[Array, " components"]

    def _components(
        self, z: Float[Array, "batch dim"], omega: PerExample
    ) -> tuple[Array, Array, Array]:
        """For z under each component k: log w_k N_k(z) [batch, K], its variance [batch, K],
        its residual z - alpha m_k [batch, K, D]."""
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
        """E[x | z_t] = sum_k r_k(z) E_k[x | z]."""
        log_joint, variance, residual = self._components(z, omega)
        gain = jnp.broadcast_to(alpha(omega), z.shape[:1])[:, None] * self.stds[None] ** 2
        x_k = self.means[None] + (gain / variance)[..., None] * residual
        return jnp.einsum("bk,bkd->bd", jax.nn.softmax(log_joint, axis=-1), x_k)

    def eps_hat(self, z: Float[Array, "batch dim"], omega: PerExample) -> Float[Array, "batch dim"]:
        """E[eps | z_t] = sum_k r_k sigma (z - alpha m_k) / (alpha^2 s_k^2 + sigma^2)."""
        # (z - alpha x_hat) / sigma, the obvious form, divides a difference of nearly equal
        # numbers by a small one as sigma -> 0.
        log_joint, variance, residual = self._components(z, omega)
        share = jax.nn.softmax(log_joint, axis=-1) / variance
        return expand(sigma(omega), z) * jnp.einsum("bk,bkd->bd", share, residual)

    def score(self, z: Float[Array, "batch dim"], omega: PerExample) -> Float[Array, "batch dim"]:
        """grad_z log q(z_t) of the marginal = -E[eps | z_t] / sigma."""
        return -self.eps_hat(z, omega) / expand(sigma(omega), z)

    def log_prob(self, z: Float[Array, "batch dim"], omega: PerExample) -> Float[Array, " batch"]:
        """log q(z_t), nats; at omega = -inf this is log p(x)."""
        return jax.nn.logsumexp(self._components(z, omega)[0], axis=-1)


@dataclasses.dataclass(frozen=True)
class FiniteData:
    """x takes one of N values `points` [N, D] with probabilities `weights` [N]."""

    points: Float[Array, "num dim"]
    weights: Float[Array, " num"]

    def x_hat(self, z: Float[Array, "batch dim"], omega: PerExample) -> Float[Array, "batch dim"]:
        """E[x | z_t]: a softmax over the points of log w_n - ||z - alpha x_n||^2 / (2 sigma^2)."""
        omega = jnp.broadcast_to(omega, z.shape[:1])[:, None, None]
        distance = (z[:, None, :] - alpha(omega) * self.points[None]) / sigma(omega)
        logits = jnp.log(self.weights)[None] - 0.5 * jnp.sum(jnp.square(distance), -1)
        return jax.nn.softmax(logits, axis=-1) @ self.points

    def eps_hat(self, z: Float[Array, "batch dim"], omega: PerExample) -> Float[Array, "batch dim"]:
        """E[eps | z_t] = (z - alpha E[x | z_t]) / sigma."""
        a, s = expand(alpha(omega), z), expand(sigma(omega), z)
        return (z - a * self.x_hat(z, omega)) / s

    def entropy(self) -> Float[Array, ""]:
        """-E log p(x), nats: the limit of the bound with the ideal denoiser."""
        return -jnp.sum(self.weights * jnp.log(self.weights))
