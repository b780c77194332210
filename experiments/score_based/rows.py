"""Draws the samples and makes the rows of the table."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.results import Row
from experiments.score_based import measures
from experiments.score_based.measures import Data
from experiments.score_based.training import OMEGA_0, OMEGA_1, Trained
from vdm.diffusion.exact import MixtureData
from vdm.diffusion.langevin import annealed_langevin, predictor_corrector
from vdm.diffusion.noise import alpha
from vdm.diffusion.samplers import Sampler, ancestral, heun, sample
from vdm.evaluation.statistics import standard_error
from vdm.typing import Denoiser, Params

LEVELS, CORRECTIONS = 200, 5  # Langevin steps at each level
STEP, PLAIN_STEP = 0.2, 1.0  # c / sigma^2; larger for plain Langevin, which has far to go
ERROR_LEVELS = 6
FAR = 5.0  # standard deviations
RADII = np.geomspace(0.1, np.exp(OMEGA_0["curve"] / 2), 7)  # r = sigma / alpha

DenoiserOf = Callable[[Params], Denoiser]


class Way(NamedTuple):
    """A sampler and its number of steps down from OMEGA_1; 0 means that it stays at the smallest
    level."""

    sampler: Sampler
    steps: int


CALLS = LEVELS * CORRECTIONS  # denoiser calls per sample, the same for every way
WAYS = {
    "plain Langevin": Way(annealed_langevin(CALLS, PLAIN_STEP), 0),
    "annealed Langevin": Way(annealed_langevin(CORRECTIONS, STEP), LEVELS),
    "predictor-corrector": Way(predictor_corrector(), CALLS // 2),
    "ancestral": Way(ancestral(), CALLS),
    "Heun": Way(heun(), CALLS // 2),
}


class Sampled(NamedTuple):
    """Sampled points [n, 2] of the first seed, for the figures, and the row over all seeds."""

    points: np.ndarray
    row: Row


@functools.partial(jax.jit, static_argnames=("denoiser_of", "sampler"))
def draw(
    params: Params, keys: jax.Array, omegas: jax.Array, denoiser_of: DenoiserOf, sampler: Sampler
) -> jax.Array:
    """Draws x_noisy = z_0 / alpha_0 [n, 2], starting from N(0, I)."""
    return sample(keys, (2,), omegas, denoiser_of(params), sampler) / alpha(omegas[0])


def sampled(
    name: str,
    way: Way,
    data: Data,
    omega_0: float,
    denoiser_of: DenoiserOf,
    params: Sequence[Params],
    number: int,
) -> Sampled:
    """Draws `number` samples with each of the params, and makes their row; all ways start from the
    same noise."""
    omegas = jnp.linspace(omega_0, OMEGA_1 if way.steps else omega_0, max(way.steps, 1) + 1)
    start, drawn = time.perf_counter(), []
    for seed, each in enumerate(params):
        keys = jax.random.split(jax.random.key(seed), number)
        drawn.append(np.asarray(draw(each, keys, omegas, denoiser_of, way.sampler)))
    seconds = time.perf_counter() - start
    row = describe(data, data.width(float(np.exp(omega_0 / 2))), drawn)
    return Sampled(drawn[0], {"name": name, "evaluations": CALLS, "seconds": seconds} | row)


def describe(data: Data, width: float, drawn: Sequence[np.ndarray]) -> Row:
    """The columns on samples: shares of the parts, averaged over the seeds, and distances from the
    places. stderr is the standard error of the share with the largest error, over the seeds, or
    over the samples if there is one seed.

    width: the standard deviation that the samples should have around the places.
    """
    per_seed = [measures.nearest(data, jnp.asarray(points)) for points in drawn]
    shares = np.stack([share for share, _ in per_seed])
    errors = np.abs(shares.mean(axis=0) - data.shares)
    worst, distance = int(errors.argmax()), np.concatenate([far for _, far in per_seed])
    binomial = float(np.sqrt(data.shares[worst] * (1 - data.shares[worst]) / len(distance)))
    far = np.array([np.mean(distances > FAR * width) for _, distances in per_seed])
    return {
        **{f"share_{k + 1}": float(share) for k, share in enumerate(shares.mean(axis=0))},
        "largest_error": float(errors[worst]),
        "stderr": standard_error(shares[:, worst]) if len(drawn) > 1 else binomial,
        "shares_of_seeds": shares.tolist(),
        "distance": float(distance.mean()),
        "far": float(far.mean()),
        "far_of_seeds": far.tolist(),
        **({"stderr_far": standard_error(far)} if len(drawn) > 1 else {}),
        "std_ratio": float(np.sqrt(np.mean(np.square(distance)) / data.codimension)) / width,
        "num_samples": len(distance),
    }


def weight_rows(data: Data, omegas: Sequence[float]) -> list[Row]:
    """The rows on how much the exact score changes when every weight becomes 1 / K."""
    assert isinstance(data.exact, MixtureData)
    even = MixtureData(
        jnp.full_like(data.exact.weights, 1 / len(data.shares)), data.exact.means, data.exact.stds
    )
    return [
        {
            "name": f"weights/score with equal weights, omega = {omega:g}",
            "relative_change": float(
                measures.error_on_data(data.exact, even.eps_hat, jnp.float32(omega))
            ),
            "seconds": 0.0,
        }
        for omega in omegas
    ]


def error_rows(data: Data, nets: dict[str, Trained]) -> list[tuple[str, Row]]:
    """The rows on the errors of the scores of the "plain" and the "annealed" network, averaged over
    the seeds: both at the smallest level, and the annealed one at the levels of its ladder."""
    exact, omega_0 = data.exact, OMEGA_0["mixture"]
    assert isinstance(exact, MixtureData)

    @jax.jit
    def at_level(params: Params, omega: jax.Array) -> dict[str, jax.Array]:
        denoiser = nets["plain"].denoiser(params)  # Both networks have the same architecture.
        return {
            "error_on_data": measures.error_on_data(exact, denoiser, omega),
            "error_from_normal": measures.error_from_normal(exact, denoiser, omega),
            "error_quarters": measures.error_of_quarters(exact, denoiser, omega),
        }

    def errors(net: Trained, omega: float) -> dict[str, np.ndarray]:
        per_seed = [at_level(params, jnp.float32(omega)) for params in net.params]
        return {key: np.stack([np.asarray(e[key]) for e in per_seed]) for key in per_seed[0]}

    rows = []
    for ladder, net in nets.items():
        relative = errors(net, omega_0)
        means = {key: values.mean(axis=0) for key, values in relative.items()}
        row = {
            "name": f"density/{ladder} network, smallest level",
            "error_on_data": float(means["error_on_data"]),
            "error_from_normal": float(means["error_from_normal"]),
            **{f"error_quarter_{k + 1}": float(e) for k, e in enumerate(means["error_quarters"])},
            "stderr_on_data": standard_error(relative["error_on_data"]),
            "stderr_from_normal": standard_error(relative["error_from_normal"]),
            **{f"{key}_of_seeds": values.tolist() for key, values in relative.items()},
            "seconds": net.seconds,
        }
        rows.append((ladder, row))
    levels = np.linspace(omega_0, OMEGA_1, ERROR_LEVELS)
    ladder_errors = [errors(nets["annealed"], float(omega)) for omega in levels]
    on_data = [float(level["error_on_data"].mean()) for level in ladder_errors]
    row = {
        "name": "density/annealed network, its levels",
        "error_on_data": max(on_data),
        "error_from_normal": float(ladder_errors[-1]["error_from_normal"].mean()),
        "levels": levels.tolist(),
        "error_on_data_of_levels": on_data,
        "seconds": 0.0,
    }
    return [*rows, ("annealed", row)]


def size_row(name: str, data: Data) -> Row:
    """The row on the mean square of the exact score as the noise vanishes, with the power of r
    fitted to it by least squares."""
    start = time.perf_counter()
    squares = np.asarray(measures.mean_square_score(data, jnp.asarray(RADII, jnp.float32)))
    return {
        "name": name,
        "slope": float(np.polyfit(np.log(RADII), np.log(squares), 1)[0]),
        "largest_r": float(RADII[0]),
        "at_largest_r": float(squares[0]),
        "smallest_r": float(RADII[-1]),
        "at_smallest_r": float(squares[-1]),
        "times_r_squared": float(squares[-1] * RADII[-1] ** 2),
        "mean_square_score": squares.tolist(),
        "seconds": time.perf_counter() - start,
    }
