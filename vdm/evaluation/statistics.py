"""Errors of means; without JAX, for `vdm.compare` to start at once."""

import math

import numpy as np


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of independent values [n]: their sample standard deviation over
    sqrt(n); NaN (unknown) for a single one."""
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
