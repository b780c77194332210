"""The mixture on the digits: it is fitted to uniformly dequantised codes, and gives a bound in
bits/dim.

With u ~ U[0, 1)^D, a density p of code + u gives P(code), the integral of p over the code's cell,
and by Jensen's inequality -log P(code) <= -E_u log p(code + u). The cells have volume 1, so
bits/dim are nats / (D ln 2) without a further constant. Mass of p outside the codes' range is lost.
"""

import itertools
import math
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.ladder.mixture import Mixture, fit, log_likelihood, sample
from experiments.results import Row
from vdm.data.sources import Source, Split
from vdm.evaluation.statistics import mean_error, monte_carlo_error, standard_error

TUNING_SEED = 1_000_003
"""Seed of the noise on which all candidates are compared."""


class Rung(NamedTuple):
    """The results for the ladder's table and figure.

    row: the row of the table. nats: the bound of each test image [examples], averaged over draws
    and seeds, in the order of the
        split.
    samples: uint8 codes [num, *shape].
    largest_fall: the largest decrease of the mean log p in any EM step of any seed, nats; 0 if it
        never fell.
    """

    row: Row
    nats: np.ndarray
    samples: np.ndarray
    largest_fall: float


def dequantise(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds uniform noise: code + u, float64 [n, D], from codes [n, *shape]."""
    flat = codes.reshape(len(codes), -1)
    return flat + rng.random(flat.shape)


def bound_nats(split: Split, params: Mixture, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Computes -log p(code + u), nats [draws, examples]; the mean over draws bounds -log
    P(code)."""
    return np.stack(
        [-log_likelihood(dequantise(split.examples, rng), params) for _ in range(draws)]
    )


def fit_codes(
    split: Split, num_components: int, floor: float, copies: int, rng: np.random.Generator
) -> tuple[Mixture, np.ndarray]:
    """Fits a mixture to `copies` dequantisations of every image, because with a single one the
    covariances would fit its noise. It stops when log p rises by less than 0.01 nats per image,
    2e-4 bits/dim."""
    x = np.concatenate([dequantise(split.examples, rng) for _ in range(copies)])
    return fit(x, num_components, rng, floor=floor, tolerance=1e-2)


def validation_rows(
    tuning: Source,
    components: Sequence[int],
    floors: Sequence[float],
    seeds: Sequence[int],
    copies: int,
    draws: int,
) -> list[Row]:
    """The rows of bits/dim on the held-out examples for each number of components and each floor,
    averaged over seeds; `tuning` is a source with held-out examples, whose test split is not
    read."""
    train, holdout = tuning.load("train"), tuning.load("holdout")

    def nats(k: int, floor: float, seed: int) -> float:
        params, _ = fit_codes(train, k, floor, copies, np.random.default_rng(seed))
        return bound_nats(holdout, params, draws, np.random.default_rng(TUNING_SEED)).mean()

    per_bit = math.prod(tuning.shape) * math.log(2)
    return [
        {
            "num_components": k,
            "floor": floor,
            "bpd": statistics.fmean(nats(k, floor, seed) for seed in seeds) / per_bit,
        }
        for k, floor in itertools.product(components, floors)
    ]


def mixture_rung(
    tuning: Source,
    final: Source,
    *,
    components: Sequence[int] = (1, 2, 4, 8, 16),
    floors: Sequence[float] = (1 / 24, 1 / 12, 1 / 6),
    seeds: Sequence[int] = (0, 1, 2),
    copies: int = 4,
    draws: int = 20,
    num_samples: int = 64,
) -> Rung:
    """Chooses the best of `components` and `floors` on the "holdout" of `tuning`, fits it again on
    the "train" split of `final` from every seed, and measures its bound on "test", averaged over
    the seeds. The samples are the first seed's.

    `floors` are in squared codes; u alone has a variance of 1/12. stderr is the Monte-Carlo error
    and stderr_images the error over test images, as in `experiments.digits`.
    """
    start = time.perf_counter()
    validation = validation_rows(tuning, components, floors, seeds, copies, draws)
    best = min(validation, key=lambda row: row["bpd"])
    k, floor = best["num_components"], best["floor"]

    train, test = final.load("train"), final.load("test")
    rngs = [np.random.default_rng(seed) for seed in seeds]
    tuned = time.perf_counter()
    fits = [fit_codes(train, k, floor, copies, rng) for rng in rngs]
    seconds = (time.perf_counter() - tuned) / len(fits)
    fitted = [params for params, _ in fits]
    largest_fall = max(float(np.max(-np.diff(history), initial=0.0)) for _, history in fits)
    nats = np.stack(
        [bound_nats(test, params, draws, rng) for params, rng in zip(fitted, rngs, strict=True)]
    )  # [seeds, draws, examples]
    bpd = nats / (math.prod(final.shape) * math.log(2))
    noise = mean_error([monte_carlo_error(seed_bpd, independent=True) for seed_bpd in bpd])
    points = sample(fitted[0], num_samples, rngs[0])
    codes = np.clip(np.floor(points), 0, final.num_codes - 1).astype(np.uint8)
    row = {
        "name": f"mixture, K = {k}",
        "bound": "uniform dequantisation",
        "bpd": float(bpd.mean()),
        "stderr": noise.stderr,
        "stderr_degrees": noise.degrees,
        "stderr_images": statistics.fmean(standard_error(b.mean(axis=0)) for b in bpd),
        "bpd_of_seeds": bpd.mean(axis=(1, 2)).tolist(),
        "seeds": list(seeds),
        "num_components": k,
        "floor": floor,
        "parameters": fitted[0].num_parameters,
        "validation": validation,
        "num_examples": len(test.examples),
        "draws_per_example": draws,
        "seconds": seconds,
        "tuning_seconds": tuned - start,
        "data_fingerprint": test.fingerprint,
    }
    samples = codes.reshape(num_samples, *final.shape)
    return Rung(row, nats.mean(axis=(0, 1)), samples, largest_fall)
