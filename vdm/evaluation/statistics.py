"""Errors of means; without JAX, for `vdm.compare` to start at once."""

import math

import numpy as np


def standard_error(values: np.ndarray) -> float:
    """Of the mean of independent values; NaN (unknown) for a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
