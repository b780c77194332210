"""Data sources that are generated from a seed: two 2-D toys, and noise of any shape."""

from collections.abc import Sequence

import numpy as np

from vdm.data.sources import Source, build_source

# Generated data are fixed data sets, so this seed is separate from the run's.
_GENERATION_SEED = 20210701

# The default mixture, which closed-form tests use too. Its weights are unequal so that a model that
# finds the modes but not their weights is noticed.
MIXTURE_MEANS: tuple[tuple[float, ...], ...] = ((-0.7, -0.4), (0.6, -0.5), (0.1, 0.7))
MIXTURE_WEIGHTS: tuple[float, ...] = (0.5, 0.3, 0.2)
MIXTURE_STD = 0.1


def swirl(
    data_dir: str,
    holdout: int,
    num_train: int = 10_000,
    num_test: int = 2_000,
    noise: float = 0.02,
) -> Source:
    """Continuous 2-D points on a spiral: r (cos t, sin t) + noise, r = t / (4.5 pi) <= 1.

    t is uniform on [1.5 pi, 4.5 pi] (one and a half turns).

    Args:
        noise: standard deviation of the Gaussian noise in each coordinate.
    """
    del data_dir  # generated
    sizes = _check_sizes(num_train, num_test or 2_000)
    if noise < 0:
        raise ValueError(f"noise is {noise}; set data.kwargs.noise to 0 or more")

    def read(split: str) -> tuple[np.ndarray, None]:
        rng = _generator(split)
        angle = np.pi * rng.uniform(1.5, 4.5, size=sizes[split])
        spiral = np.stack([np.cos(angle), np.sin(angle)], axis=1) * angle[:, None] / (4.5 * np.pi)
        points = spiral + noise * rng.standard_normal(spiral.shape)
        return points.astype(np.float32), None

    return build_source("swirl", (2,), 0, 0, holdout, read)


def mixture(
    data_dir: str,
    holdout: int,
    num_train: int = 10_000,
    num_test: int = 2_000,
    means: Sequence[Sequence[float]] = MIXTURE_MEANS,
    weights: Sequence[float] = MIXTURE_WEIGHTS,
    std: float = MIXTURE_STD,
) -> Source:
    """Continuous points from the Gaussian mixture sum_k weights_k N(means_k, std^2 I).

    A point's label is its component.

    Args:
        means: [K, D].
        weights: [K], which sum to 1.
        std: the standard deviation of every component.
    """
    del data_dir  # generated
    sizes = _check_sizes(num_train, num_test or 2_000)
    centres, shares = np.asarray(means, np.float64), np.asarray(weights, np.float64)
    if centres.ndim != 2 or shares.shape != centres.shape[:1]:
        raise ValueError(
            f"means have shape {centres.shape} and weights {shares.shape}; set data.kwargs.means "
            "to K points and data.kwargs.weights to K numbers"
        )
    if np.any(shares < 0) or not np.isclose(shares.sum(), 1.0):
        raise ValueError(
            f"weights {tuple(shares.tolist())} are not a distribution; set data.kwargs.weights "
            "to non-negative numbers that sum to 1"
        )
    if std <= 0:
        raise ValueError(f"std is {std}; set data.kwargs.std to a positive number")

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        rng = _generator(split)
        components = rng.choice(len(shares), size=sizes[split], p=shares)
        points = centres[components]
        points = points + std * rng.standard_normal(points.shape)
        return points.astype(np.float32), components.astype(np.int32)

    return build_source("mixture", centres.shape[1:], 0, len(shares), holdout, read)


def synthetic(
    data_dir: str,
    holdout: int,
    shape: Sequence[int],
    num_codes: int,
    num_classes: int = 0,
    num_train: int = 1024,
    num_test: int = 256,
) -> Source:
    """Uniformly random codes (numbers in [-1, 1) for num_codes = 0), to run a config without data.

    num_test = 0 means the default (here 256), as in every generated set, because configs list
    num_test = 0 for folders.

    Args:
        shape: of one example.
        num_codes: codes are 0 ... num_codes - 1.
        num_classes: labels are random, 0 ... num_classes - 1; 0 means no labels.
    """
    del data_dir  # generated
    sizes = _check_sizes(num_train, num_test or 256)
    shape = tuple(shape)
    if not shape:
        raise ValueError(
            "data.name = 'synthetic' also needs data.kwargs.shape, the shape of an example"
        )
    if not 0 <= num_codes <= 256:
        raise ValueError(f"num_codes is {num_codes}; codes are uint8, set it to 0 ... 256")

    def read(split: str) -> tuple[np.ndarray, np.ndarray | None]:
        rng = _generator(split)
        size = (sizes[split], *shape)
        if num_codes:
            examples = rng.integers(0, num_codes, size=size, dtype=np.uint8)
        else:
            examples = rng.uniform(-1.0, 1.0, size=size).astype(np.float32)
        labels = rng.integers(0, num_classes, sizes[split], np.int32) if num_classes else None
        return examples, labels

    return build_source("synthetic", shape, num_codes, num_classes, holdout, read)


def _check_sizes(num_train: int, num_test: int) -> dict[str, int]:
    if num_train < 1 or num_test < 1:
        raise ValueError(
            f"num_train is {num_train} and num_test {num_test}; set both in data.kwargs to 1 or "
            "more"
        )
    return {"train": num_train, "test": num_test}


def _generator(split: str) -> np.random.Generator:
    """A separate random stream for each split, so that num_train does not change the test set."""
    return np.random.default_rng([_GENERATION_SEED, ("train", "test").index(split)])
