"""Errors of means, and the intervals they give; without JAX, for `vdm.compare` to start at once.

An error that is estimated from few values is itself uncertain: from two of them it is off by more
than a factor of 2 in four cases of ten, and 1.96 of it to each side cover 70%, not 95%. So an error
comes with its degrees of freedom, and an interval is as many errors wide as Student's t says.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Error(NamedTuple):
    """A standard error, NaN where it is unknown, and the degrees of freedom of the variance that
    it comes from, 0 where it is unknown."""

    stderr: float
    degrees: float


def student_quantile(degrees: ArrayLike, level: float = 0.95) -> np.ndarray:
    """How many standard errors the interval of this level reaches to each side: Student's t. At 95%
    12.7 for one degree of freedom, 1.96 for infinitely many; NaN for none. Any shape."""
    from scipy.special import ndtri, stdtrit  # a tenth of a second, and not all callers need it

    degrees, upper = np.asarray(degrees, np.float64), 0.5 + 0.5 * level
    finite = np.where(np.isfinite(degrees) & (degrees > 0), degrees, 1.0)
    quantile = np.where(np.isposinf(degrees), ndtri(upper), stdtrit(finite, upper))
    return np.where(degrees > 0, quantile, np.nan)


def half_width(stderr: float | None, degrees: float | None, level: float = 0.95) -> float:
    """Of the interval of this level around a mean with that standard error: half its width. NaN
    where the error or its degrees of freedom are unknown (None, NaN or 0 degrees)."""
    if stderr is None or degrees is None:
        return math.nan
    return float(student_quantile(degrees, level)) * stderr


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of independent values [n]: their sample standard deviation over
    sqrt(n), with n - 1 degrees of freedom; NaN (unknown) for a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def num_strata(draws: int) -> int:
    """Parts of [0, 1) that the times of so many draws are spread over: the most that leave every
    part equally many draws, and at least two. draws / 2 if they are even, 1 if they are prime.

    With one draw in each part nothing tells what varies within a part from what varies between
    them, which is no error of the mean: a standard error of the draws' means is then too large,
    1.5 times on the digits.
    """
    return max(parts for parts in range(1, max(1, draws // 2) + 1) if draws % parts == 0)


def stratified_error(means: np.ndarray, strata: int) -> float:
    """Standard error of the mean of independent draws [draws], of which number k lies in part
    k mod strata: from the variance within the parts. NaN (unknown) for one draw in each."""
    parts = means.reshape(-1, strata)
    replicates = len(parts)
    if replicates < 2:
        return math.nan
    return math.sqrt(np.mean(parts.var(axis=0, ddof=1)) / (replicates * strata))


def monte_carlo_error(values: np.ndarray, strata: int = 1, independent: bool = False) -> Error:
    """Error of the mean of values [draws, images] over other noise on the same images; unknown for
    one draw, in which what the noise does cannot be told from how images differ.

    independent: the noise of an image is independent of that of the others. Then every image tells
    its own share: sqrt(sum_i var_i / draws) / images, with images (draws - 1) degrees of freedom.

    Otherwise the images of a draw share something, such as the offset of their times, and only the
    means of whole draws are independent: `stratified_error`, with draws - strata degrees of
    freedom. They assume that the variances within the parts are alike. In each part the times of a
    draw cover all of [0, 1), so they are, as soon as there are more than a few images; and to
    weigh them as Satterthwaite does, by variances of two values each, would make the degrees a
    random number.
    """
    draws, images = values.shape
    if not independent:
        return Error(stratified_error(values.mean(axis=1), strata), draws - strata)
    if draws < 2:
        return Error(math.nan, 0)
    variance = values.var(axis=0, ddof=1).sum() / draws
    return Error(math.sqrt(variance) / images, images * (draws - 1))


def mean_error(errors: Sequence[Error]) -> Error:
    """Of the mean of independent estimates of one kind, such as of several seeds: their variances
    are alike, so the degrees of freedom add up. Unknown if one of them is."""
    stderr = math.hypot(*(error.stderr for error in errors)) / len(errors)
    return Error(stderr, 0 if math.isnan(stderr) else sum(error.degrees for error in errors))


def difference_error(first: Error, second: Error) -> Error:
    """Of the difference of two independent estimates whose variances may differ, with the degrees
    of freedom of Welch and Satterthwaite: from the smaller of the two to their sum."""
    stderr = math.hypot(first.stderr, second.stderr)
    if math.isnan(stderr):
        return Error(math.nan, 0)
    if stderr == 0.0:
        return Error(0.0, first.degrees + second.degrees)
    shares = [(error.stderr / stderr) ** 4 / error.degrees for error in (first, second)]
    return Error(stderr, 1 / sum(shares))
