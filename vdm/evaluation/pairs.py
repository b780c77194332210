"""Squared distances between all pairs of rows: fast by matrix products, with exact comparisons.

|a|^2 + |b|^2 - 2 a.b is ten times as fast as the sum of squared differences, but has an error of
some 1e-13 of |a|^2 + |b|^2, so that equal rows are not 0 apart. This error is bounded. The few
comparisons that it leaves undecided are decided by the sum of squared differences.
"""

from typing import NamedTuple

import numpy as np

EXACT_PAIRS = 2**22
"""The size of the temporary array for pairs that are computed exactly."""


class Block(NamedTuple):
    """Squared distances between some rows of a and all rows of b.

    squares: [rows, m], the approximate squared distances. errors: [rows, 1] or [rows, m], bounds on
    their errors.
    """

    a: np.ndarray
    b: np.ndarray
    squares: np.ndarray
    errors: np.ndarray

    def within(self, limits: np.ndarray) -> np.ndarray:
        """Returns whether each squared distance is at most its limit, exactly.

        limits: exact squared distances, [1, m] or [rows, 1].
        """
        excess = self.squares - limits
        decided = excess <= 0
        i, j = np.nonzero(np.abs(excess) <= self.errors)
        limits = np.broadcast_to(limits, excess.shape)
        decided[i, j] = self._exact(i, j) <= limits[i, j]
        return decided

    def smallest(self, k: int) -> np.ndarray:
        """Returns the exact k-th smallest squared distance of each row, [rows]; k = 0 for the
        smallest."""
        limit = np.partition(self.squares, k, axis=1)[:, k : k + 1]
        # The true k-th smallest is at most limit + errors: no other can be among the first k + 1.
        i, j = np.nonzero(self.squares <= limit + 2 * self.errors)
        exact = self._exact(i, j)
        order = np.lexsort((exact, i))
        first = np.searchsorted(i, np.arange(len(self.squares)))  # i is sorted
        return exact[order][first + k]

    def _exact(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Returns the sums of squared differences of rows a_i and b_j, symmetric in a and b."""
        sums = np.empty(len(i))
        size = max(1, EXACT_PAIRS // self.a.shape[1])
        for start in range(0, len(i), size):
            some = slice(start, start + size)
            sums[some] = np.square(self.a[i[some]] - self.b[j[some]]).sum(axis=1)
        return sums


class Pairs:
    """All pairs of the rows of a [n, d] and of b [m, d], float64."""

    def __init__(self, a: np.ndarray, b: np.ndarray) -> None:
        self._a, self._b = a, b
        # Subtracting the common mean makes the norms, and so the errors, smallest.
        mean = 0.5 * (a.mean(axis=0) + b.mean(axis=0))
        self._centred_a = a - mean
        self._centred_b = self._centred_a if b is a else b - mean
        self._norms_a = np.square(self._centred_a).sum(axis=1)
        self._norms_b = np.square(self._centred_b).sum(axis=1)

    def block(self, rows: slice) -> Block:
        """Returns the distances between these rows of a and all rows of b."""
        norms = self._norms_a[rows, None]
        squares = self._centred_a[rows] @ self._centred_b.T
        squares *= -2
        squares += norms
        squares += self._norms_b
        # A sum of d products, in any order, has an error of at most d eps sum |a_k b_k| <=
        # d eps (|a|^2 + |b|^2) / 2. The norms and the exact sums have errors of this size too, and
        # there are a few more roundings.
        bound = 4 * (self._a.shape[1] + 8) * np.finfo(float).eps
        errors = bound * (norms + self._norms_b.max())
        return Block(self._a[rows], self._b, squares, errors)
