"""Measures the error of a score, its size, and where samples lie. Expectations are sums over grids
and quadrature nodes, without random draws."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm.data.generated import MIXTURE_MEANS, MIXTURE_STD, MIXTURE_WEIGHTS
from vdm.diffusion.exact import FiniteData, MixtureData
from vdm.diffusion.score_matching import ncsn_score
from vdm.typing import Denoiser

NODES, PARTS = 6, 6
BLOCK = 512  # points processed at a time; each is compared with every place


class Data(NamedTuple):
    """Two-dimensional data around given places, whose ideal denoiser is `exact`.

    places: [M, 2].
    parts: [M], the part of the data that each place belongs to.
    shares: [K], the probability of each part.
    std: the standard deviation of the data around the places.
    codimension: the number of directions that lead away from the places.
    """

    exact: MixtureData | FiniteData
    places: np.ndarray
    parts: np.ndarray
    shares: np.ndarray
    std: float
    codimension: int

    def width(self, r: float) -> float:
        """The standard deviation of x + r eps around the places, in each direction away from
        them."""
        return float(np.hypot(self.std, r))


def mixture() -> Data:
    """The data of `vdm.data.generated.mixture` with its defaults; the parts are the components."""
    means, weights = np.array(MIXTURE_MEANS), np.array(MIXTURE_WEIGHTS)
    stds = np.full(len(weights), MIXTURE_STD)
    exact = MixtureData(*(jnp.asarray(v, jnp.float32) for v in (weights, means, stds)))
    return Data(exact, means, np.arange(len(means)), weights, MIXTURE_STD, 2)


def curve(num_points: int = 4096) -> Data:
    """The spiral of `vdm.data.generated.swirl` without its noise; the parts are PARTS equal parts
    of its angle."""
    angle = np.pi * (1.5 + 3 * (np.arange(num_points) + 0.5) / num_points)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * angle[:, None] / (4.5 * np.pi)
    weights = jnp.full(num_points, 1 / num_points, jnp.float32)
    exact = FiniteData(jnp.asarray(points, jnp.float32), weights)
    parts = np.arange(num_points) * PARTS // num_points
    return Data(exact, points, parts, np.full(PARTS, 1 / PARTS), 0.0, 1)


def mean_square_score(
    data: Data, r: Float[Array, " levels"], num_places: int = 128
) -> Float[Array, " levels"]:
    """E ||grad log q_r||^2 of x + r eps, by Gauss-Hermite quadrature over x around at most
    num_places of the places, and over eps."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(NODES)
    nodes = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    shares = np.outer(shares, shares).ravel() / shares.sum() ** 2
    stride = max(1, len(data.places) // num_places)
    places = data.places[stride // 2 :: stride]
    weights = data.shares if len(places) == len(data.shares) else np.full(len(places), 1.0)
    share = jnp.asarray(np.outer(weights / weights.sum(), shares).ravel(), jnp.float32)
    score = ncsn_score(data.exact.eps_hat)

    def at_level(r: Array) -> Array:
        # x + r eps is normal, as a sum of two normal variables.
        away = jnp.hypot(jnp.float32(data.std), r) * jnp.asarray(nodes, jnp.float32)
        points = (jnp.asarray(places, jnp.float32)[:, None] + away[None]).reshape(-1, 2)

        def square(point: Array) -> Array:
            return jnp.sum(jnp.square(score(point[None], r)))

        return share @ jax.lax.map(square, points, batch_size=BLOCK)

    return jax.jit(lambda r: jax.lax.map(at_level, r))(r)


def error_on_data(data: MixtureData, denoiser: Denoiser, omega: Array) -> Float[Array, ""]:
    """The relative error E ||s_hat - s||^2 / E ||s||^2 over q(z_t), where s_hat is the score of a
    denoiser."""
    z, omegas = _square(omega, half_width=4.0)
    return _relative_error(data, denoiser, z, omegas, jnp.exp(data.log_prob(z, omegas)))


def error_from_normal(data: MixtureData, denoiser: Denoiser, omega: Array) -> Float[Array, ""]:
    """The relative error over N(0, I), where samplers start."""
    z, omegas = _square(omega, half_width=4.0)
    share = jnp.exp(-0.5 * jnp.sum(jnp.square(z), axis=-1))
    return _relative_error(data, denoiser, z, omegas, share)


def error_of_quarters(data: MixtureData, denoiser: Denoiser, omega: Array) -> Float[Array, " 4"]:
    """The relative errors over four quarters of equal area of the square [-1.5, 1.5]^2, from the
    highest density q(z_t) to the lowest."""
    z, omegas = _square(omega, half_width=1.5)
    quarters = jnp.argsort(-data.log_prob(z, omegas)).reshape(4, -1)
    share = jnp.ones(quarters.shape[1])
    return jnp.stack([_relative_error(data, denoiser, z[i], omegas[i], share) for i in quarters])


def _square(omega: Array, half_width: float) -> tuple[Array, Array]:
    """A grid of 120 x 120 points z [14400, 2] around 0, and omega for each point."""
    grid = jnp.linspace(-half_width, half_width, 120)
    z = jnp.stack(jnp.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    return z, jnp.broadcast_to(omega, z.shape[:1])


def _relative_error(
    data: MixtureData, denoiser: Denoiser, z: Array, omegas: Array, share: Array
) -> Array:
    """The relative error of eps_hat = -sigma score, which at one noise level is that of the
    score."""
    exact = data.eps_hat(z, omegas)
    error, size = (jnp.sum(jnp.square(v), axis=-1) for v in (denoiser(z, omegas) - exact, exact))
    return (share @ error) / (share @ size)


def nearest(
    data: Data, samples: Float[Array, "n 2"]
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " n"]]:
    """The share of each part among the samples, where a sample belongs to the part of its nearest
    place; and the distance of each sample from that place."""
    places = jnp.asarray(data.places, jnp.float32)

    def nearest_place(sample: Array) -> tuple[Array, Array]:
        squares = jnp.sum(jnp.square(sample[None] - places), axis=-1)
        place = jnp.argmin(squares)
        return place, jnp.sqrt(squares[place])

    place, distance = jax.jit(lambda x: jax.lax.map(nearest_place, x, batch_size=BLOCK))(samples)
    counts = np.bincount(data.parts[np.asarray(place)], minlength=len(data.shares))
    return counts / len(samples), np.asarray(distance)
