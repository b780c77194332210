"""Standard errors of means, and confidence intervals. JAX is not imported, so that `vdm.compare`
starts at once.

A standard error estimated from few values is itself uncertain: estimated from two values, it is off
by more than a factor of 2 in four cases out of ten, and 1.96 errors to each side cover 70%, not
95%. So every error comes with its degrees of freedom, and intervals follow Student's t.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Error(NamedTuple):
    """A standard error (NaN if unknown), and the degrees of freedom of the variance that it comes
    from (0 if unknown)."""

    stderr: float
    degrees: float


def student_quantile(degrees: ArrayLike, level: float = 0.95) -> np.ndarray:
    """Returns how many standard errors an interval of this level reaches to each side.

    This is the quantile of Student's t: at 95% it is 12.7 for one degree of freedom and 1.96 for
    infinitely many; NaN for none. degrees: of any shape.
    """
    from scipy.special import ndtri, stdtrit  # takes 0.1 s, and not all callers need it

    degrees, upper = np.asarray(degrees, np.float64), 0.5 + 0.5 * level
    finite = np.where(np.isfinite(degrees) & (degrees > 0), degrees, 1.0)
    quantile = np.where(np.isposinf(degrees), ndtri(upper), stdtrit(finite, upper))
    return np.where(degrees > 0, quantile, np.nan)


def half_width(stderr: float | None, degrees: float | None, level: float = 0.95) -> float:
    """Returns half the width of the interval of this level around a mean with this standard error.
    NaN if the error or its degrees of freedom are unknown (None, NaN or 0 degrees)."""
    if stderr is None or degrees is None:
        return math.nan
    return float(student_quantile(degrees, level)) * stderr


def standard_error(values: np.ndarray) -> float:
    """Returns the standard error of the mean of independent values [n]: their sample standard
    deviation over sqrt(n), with n - 1 degrees of freedom. NaN (unknown) for a single value."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def num_strata(draws: int) -> int:
    """Returns the number of parts of [0, 1) that the times of the draws are spread over.

    It is the largest number for which every part has equally many draws, and at least two: draws /
    2 for an even number, 1 for a prime. With one draw in each part, the variation within parts
    could not be told from that between them, which is not an error of the mean: the standard error
    of the draws' means would be too large, by a factor of 1.5 on the digits.
    """
    return max(parts for parts in range(1, max(1, draws // 2) + 1) if draws % parts == 0)


def stratified_error(means: np.ndarray, strata: int) -> float:
    """Returns the standard error of the mean of independent draws [draws], from the variance within
    parts; draw k lies in part k mod strata. NaN (unknown) for one draw in each part."""
    parts = means.reshape(-1, strata)
    replicates = len(parts)
    if replicates < 2:
        return math.nan
    return math.sqrt(np.mean(parts.var(axis=0, ddof=1)) / (replicates * strata))


def monte_carlo_error(values: np.ndarray, strata: int = 1, independent: bool = False) -> Error:
    """Returns the error that the noise causes in the mean of values [draws, images], for the same
    images. It is unknown for one draw, where noise cannot be told from differences between images.

    independent: whether the noise of each image is independent of that of the others. Then every
    image contributes its own variance: sqrt(sum_i var_i / draws) / images, with
    images (draws - 1) degrees of freedom.

    Otherwise the images of a draw share something, such as the offset of their times, and only the
    means of whole draws are independent: `stratified_error`, with draws - strata degrees of
    freedom. This number assumes that the variances within the parts are equal. They nearly are as
    soon as there are more than a few images, because in each part the times of a draw cover all of
    [0, 1). Weighting them as Satterthwaite does, by variances of two values each, would make the
    degrees of freedom a random number.
    """
    draws, images = values.shape
    if not independent:
        return Error(stratified_error(values.mean(axis=1), strata), draws - strata)
    if draws < 2:
        return Error(math.nan, 0)
    variance = values.var(axis=0, ddof=1).sum() / draws
    return Error(math.sqrt(variance) / images, images * (draws - 1))


def mean_error(errors: Sequence[Error]) -> Error:
    """Returns the error of the mean of independent estimates of one kind, such as several seeds.
    Their variances are equal, so the degrees of freedom add up. Unknown if one of them is."""
    stderr = math.hypot(*(error.stderr for error in errors)) / len(errors)
    return Error(stderr, 0 if math.isnan(stderr) else sum(error.degrees for error in errors))


def difference_error(first: Error, second: Error) -> Error:
    """Returns the error of the difference of two independent estimates whose variances may differ.

    The degrees of freedom, those of Welch and Satterthwaite, lie between the smaller of the two and
    their sum.
    """
    stderr = math.hypot(first.stderr, second.stderr)
    if math.isnan(stderr):
        return Error(math.nan, 0)
    if stderr == 0.0:
        return Error(0.0, first.degrees + second.degrees)
    shares = [(error.stderr / stderr) ** 4 / error.degrees for error in (first, second)]
    return Error(stderr, 1 / sum(shares))
