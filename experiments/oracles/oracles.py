"""Data whose denoisers are known, and the terms of their ELBO by quadrature.

All data are x ~ sum_k w_k N(m_k, s_k^2 I), with one component for the Gaussian and s_k = 0 for
finite data. Then q(z_t) = sum_k w_k N(alpha m_k, (alpha^2 s_k^2 + sigma^2) I), and an expectation
over it is a sum of Gauss-Hermite sums, one for each component.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from vdm.data.generated import MIXTURE_MEANS, MIXTURE_STD, MIXTURE_WEIGHTS
from vdm.diffusion.elbo import Draws, NoiseLevels, estimate_elbo
from vdm.diffusion.exact import FiniteData, GaussianData, MixtureData
from vdm.diffusion.likelihood import Discretised, Gaussian, codes_to_x
from vdm.diffusion.noise import alpha, posterior, sigma

CLEAN = -80.0  # an omega at which z equals x to the last digit
NODES = {1: 256, 2: 64}  # Gauss-Hermite nodes for each dimension


@dataclasses.dataclass(frozen=True, eq=False)
class Oracle:
    """Data with their ideal denoiser and likelihood; weights [K], means [K, D], stds [K] describe
    the components."""

    name: str
    data: GaussianData | MixtureData | FiniteData
    likelihood: Gaussian | Discretised
    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    @property
    def discrete(self) -> bool:
        return isinstance(self.likelihood, Discretised)

    def draw(self, key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
        """Draws data [num, D] (codes if discrete), and gives the exact -log p of each in nats."""
        key_k, key_x = jax.random.split(key)
        k = jax.random.choice(key_k, len(self.weights), (num,), p=jnp.asarray(self.weights))
        if isinstance(self.likelihood, Discretised):
            codes = self.likelihood.decode(jnp.asarray(self.means), jnp.float64(CLEAN))
            return codes[k], -jnp.log(jnp.asarray(self.weights))[k]
        noise = jax.random.normal(key_x, (num, self.dim), jnp.float64)
        x = jnp.asarray(self.means)[k] + jnp.asarray(self.stds)[k][:, None] * noise
        return x, self.negative_log_prob(x)

    def negative_log_prob(self, x: jax.Array) -> jax.Array:
        """The exact -log p(x) of the data, nats."""
        if isinstance(self.data, MixtureData):
            return -self.data.log_prob(x, jnp.float64(CLEAN))
        assert isinstance(self.data, GaussianData)
        return self.data.negative_log_prob(x)

    def exact_nats(self) -> float:
        """The exact E -log p(x) in nats, which no bound can be below."""
        if isinstance(self.data, FiniteData):
            return float(self.data.entropy())
        if isinstance(self.data, GaussianData):
            return 0.5 * self.dim * float(1 + np.log(2 * np.pi * self.data.std**2))
        z, weights = self.latents(jnp.float64(CLEAN))
        return float(jnp.sum(weights * self.negative_log_prob(z)))

    def latents(self, omega: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The nodes z [n, D] and weights [n] of an expectation over q(z_t)."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES[self.dim])
        grid = np.array(list(itertools.product(nodes, repeat=self.dim)))
        share = np.array(list(itertools.product(weights, repeat=self.dim))).prod(1)
        share /= share.sum()
        std = jnp.sqrt((alpha(omega) * self.stds) ** 2 + sigma(omega) ** 2)
        z = alpha(omega) * self.means[:, None] + std[:, None, None] * grid[None]
        return z.reshape(-1, self.dim), (self.weights[:, None] * share[None]).ravel()

    def loss_density(self, omegas: np.ndarray) -> np.ndarray:
        """The loss density E 1/2 ||eps - eps_hat||^2 at each omega, nats per unit of omega."""
        data = self.data
        if isinstance(data, GaussianData):
            return self.dim * gaussian_density(data, omegas)

        def at(omega: jax.Array) -> jax.Array:
            z, weights = self.latents(omega)
            return 0.5 * jnp.sum(weights * data.eps_variance(z, omega))

        return np.asarray(jax.jit(functools.partial(jax.lax.map, at))(jnp.asarray(omegas)))

    def end_terms(self, omega_0: float, omega_1: float) -> tuple[float, float]:
        """The expected reconstruction and prior matching over the data, nats."""
        square = float(self.weights @ (np.sum(self.means**2, 1) + self.dim * self.stds**2))
        share = float(jax.nn.sigmoid(-omega_1))
        prior = 0.5 * (share * (square - self.dim) + self.dim * float(jax.nn.softplus(-omega_1)))
        if not isinstance(self.likelihood, Discretised):
            return 0.5 * self.dim * float(1 + omega_0 + np.log(2 * np.pi)), prior
        eps = np.linspace(-10, 10, 4001)
        density = np.exp(-0.5 * eps**2)
        codes = np.asarray(self.likelihood.decode(jnp.asarray(self.means), jnp.float64(CLEAN)))
        each = jax.vmap(
            lambda code: self.likelihood.reconstruction(
                jnp.full((len(eps), 1), code), jnp.asarray(eps)[:, None], jnp.float64(omega_0)
            )
        )(jnp.asarray(codes.ravel()))
        nats = np.asarray(each) @ (density / density.sum())
        return float(self.weights @ nats.reshape(codes.shape).sum(1)), prior


def gaussian_density(data: GaussianData, omegas: np.ndarray) -> np.ndarray:
    """E 1/2 (eps - eps_hat)^2 per dimension, computed by `estimate_elbo` itself: the error is
    linear in (x, eps), so four sign patterns give its second moment exactly."""
    signs = jnp.array([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])[:, :, None]

    def at(omega: jax.Array) -> jax.Array:
        levels = NoiseLevels(omega, omega, jnp.full(4, omega), jnp.ones(4))
        draws = Draws(jnp.zeros(4), signs[1], signs[1])
        x = data.std * signs[0]
        return jnp.mean(estimate_elbo(x, draws, levels, data.eps_hat, Gaussian()).loss_density)

    return np.asarray(jax.jit(functools.partial(jax.lax.map, at))(jnp.asarray(omegas)))


def elbo_of_steps(oracle: Oracle, omega_0: float, omega_1: float, most: int) -> dict[int, float]:
    """The ELBO in nats for T = 1, 2, 4 ... `most` equal steps of omega, and for T = 0, which means
    continuous time."""
    ends = sum(oracle.end_terms(omega_0, omega_1))
    omegas = np.linspace(omega_0, omega_1, most + 1)
    density = oracle.loss_density(omegas)  # Contains the grid of every smaller T.
    result = {}
    for steps in (2**i for i in range(most.bit_length())):
        stride = most // steps
        weight = np.expm1((omega_1 - omega_0) / steps)
        result[steps] = ends + float(weight * density[stride::stride].sum())
    nodes, weights = np.polynomial.legendre.leggauss(16)
    edges = np.linspace(omega_0, omega_1, 65)
    half, middle = np.diff(edges) / 2, (edges[:-1] + edges[1:]) / 2
    at = oracle.loss_density((middle[:, None] + half[:, None] * nodes).ravel()).reshape(64, 16)
    result[0] = ends + float((half[:, None] * weights * at).sum())
    return result


def exact_nats_of_steps(oracle: Oracle, omegas: np.ndarray) -> float | None:
    """The exact E -log p(x) of the model of T ancestral steps, nats: in closed form for the
    Gaussian, on a grid of z in one dimension. It is not known in two dimensions (None)."""
    first = jnp.float64(omegas[0])
    if isinstance(oracle.data, GaussianData):
        z_0 = float(oracle.data.variance_of_steps(jnp.asarray(omegas)) / alpha(first) ** 2)
        variance = z_0 + np.exp(omegas[0])
        square = oracle.data.std**2 / variance
        return 0.5 * oracle.dim * float(np.log(2 * np.pi * variance) + square)
    if oracle.dim > 1:
        return None
    z = jnp.linspace(-6, 6, 4001)
    p = jax.scipy.stats.norm.pdf(z)
    for omega_s, omega_t in zip(omegas[-2::-1], omegas[:0:-1], strict=True):
        at = jnp.float64(omega_t)
        eps_hat = oracle.data.eps_hat(z[:, None], at)
        mean, variance = posterior(z[:, None], eps_hat, jnp.float64(omega_s), at)
        kernel = jax.scipy.stats.norm.pdf(z[None], mean, jnp.sqrt(variance))
        p = (z[1] - z[0]) * p @ kernel
    if oracle.discrete:
        x, weights = oracle.likelihood.decode(jnp.asarray(oracle.means), first), oracle.weights
    else:
        x, weights = oracle.latents(jnp.float64(CLEAN))
    log_prob = jax.lax.map(
        lambda x: oracle.likelihood.log_prob(jnp.full((len(z), 1), x), z[:, None], first), x[:, 0]
    )
    nats = -jnp.log((z[1] - z[0]) * jnp.exp(log_prob) @ p)
    # The outermost nodes have no weight, and their probability underflows.
    weights = jnp.asarray(weights)
    return float(jnp.sum(jnp.where(weights > 1e-18, weights * nats, 0.0)))


def build_oracles() -> list[Oracle]:
    """Builds all oracles; their weights are unequal, so that a missing weight would show."""
    weights, means = np.array(MIXTURE_WEIGHTS), np.array(MIXTURE_MEANS)
    std = 0.5
    gaussian = Oracle(
        "gaussian-4d", GaussianData(std), Gaussian(), np.ones(1), np.zeros((1, 4)), np.array([std])
    )
    return [
        gaussian,
        _mixture("mixture-1d", weights, means[:, :1]),
        _mixture("mixture-2d", weights, means),
        _finite("finite-1d", 16, [[1], [5], [6], [11], [14]], [0.35, 0.25, 0.1, 0.2, 0.1]),
        _finite(
            "finite-2d",
            16,
            [[2, 4], [2, 12], [7, 9], [10, 2], [13, 13]],
            [0.1, 0.3, 0.2, 0.15, 0.25],
        ),
    ]


def _mixture(name: str, weights: np.ndarray, means: np.ndarray) -> Oracle:
    stds = np.full(len(weights), MIXTURE_STD)
    data = MixtureData(jnp.asarray(weights), jnp.asarray(means), jnp.asarray(stds))
    return Oracle(name, data, Gaussian(), weights, means, stds)


def _finite(name: str, num_codes: int, codes: list[list[int]], weights: list[float]) -> Oracle:
    points = np.asarray(codes_to_x(jnp.asarray(codes), num_codes), np.float64)
    data = FiniteData(jnp.asarray(points), jnp.asarray(weights))
    return Oracle(
        name, data, Discretised(num_codes), np.array(weights), points, np.zeros(len(points))
    )
