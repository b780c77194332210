"""Codes Gaussian numbers on a grid with a stack of bits.

A latent lies on the grid k h, possibly shifted, where k is an integer and h the cell. To code
N(mean, variance), k gets the mass between (k - 1/2) h and (k + 1/2) h of a Gaussian whose variance
is smaller by h^2 / 12; k h then has the required variance (Sheppard's correction), up to terms of
order (h / std)^4 in its fourth cumulant. Without this correction every step would add h^2 / 12 to
the noise that the model expects.

The entropy coder is ANS from `constriction` (arXiv:2201.01741), a stack of 32-bit words whose
probabilities are multiples of 2^-24. Pushing a symbol of probability p adds -log2 p bits; popping
it removes them.
"""

import copy
import hashlib
import math
from collections.abc import Iterator
from typing import Any

import constriction
import numpy as np
from numpy.typing import ArrayLike

_stream: Any = vars(constriction)["stream"]  # the package has no type information
models, AnsCoder = _stream.model, _stream.stack.AnsCoder

REACH = 6.0
"""Standard deviations that the table of a Gaussian spans on either side; a mass of 2e-9 lies
beyond. Each cell of the table takes 2^-24 of the probability away from the Gaussian."""

FARTHEST = 2**22
"""The most cells that a mean may lie from zero; a network's means are clipped to this range."""

STATE_WORDS = 2
"""Words of the coder's 64-bit state, which lie above the words that it has not touched."""


class DamagedError(ValueError):
    """The bits differ from what the encoder wrote, or are not read in the same way."""


class TooDeepError(Exception):
    """More bits were popped than allowed."""


class Stack:
    """A stack of bits that records how deep it was read and by how much it should have grown.

    Attributes:
        low: the smallest number of words that it has had.
        floor: popping below this number of words raises TooDeepError.
        ideal_bits: -log2 of the probabilities of latents and codes, of those pushed minus those
            drawn, computed with the density of a Gaussian times its cell instead of the coder's
            probability.
    """

    def __init__(self, words: np.ndarray, *, sealed: bool = True) -> None:
        """Makes a stack from words, uint32, the last one on top.

        `sealed` adds a word 1 above them, so that a zero word on top is kept; the property `words`
        includes it.
        """
        if not sealed and not (len(words) and words[-1]):
            raise DamagedError("its bits end where the encoder wrote none")
        self._coder = AnsCoder(np.ascontiguousarray(words, np.uint32), seal=sealed)
        self.low, self.floor = self.num_words, 0
        self.ideal_bits = 0.0

    @property
    def num_words(self) -> int:
        """The number of 32-bit words on the stack."""
        return self._coder.num_words()

    @property
    def untouched(self) -> int:
        """The number of words at the bottom that were never part of the coder's state."""
        return max(0, self.low - STATE_WORDS)

    @property
    def words(self) -> np.ndarray:
        """The words on the stack, uint32, the last one on top."""
        return self._coder.get_compressed()

    def copy(self) -> "Stack":
        """Another stack with the same bits."""
        other = copy.copy(self)
        other._coder = self._coder.clone()
        return other

    def push(self, symbols: np.ndarray, family: object, *parameters: np.ndarray) -> None:
        """Pushes symbols of a family of distributions, the last symbol first."""
        try:
            self._coder.encode_reverse(symbols.astype(np.int32), family, *parameters)
        except KeyError as error:  # the distribution does not have this symbol
            raise DamagedError("a symbol is out of range") from error

    def pop(self, family: object, *parameters: np.ndarray) -> np.ndarray:
        """Pops as many symbols as there are parameters, int64, the first one from the top."""
        symbols = self._coder.decode(family, *parameters)
        self.low = min(self.low, self.num_words)
        if self.low < self.floor:
            raise TooDeepError
        return symbols.astype(np.int64)

    def scramble(self, num_bits: float, key: tuple[int, int]) -> None:
        """Xors about num_bits bits at the top with random ones; a second call with the same key
        undoes it.

        Popping with q right after pushing a symbol with p gives F_q^-1(F_p(symbol)): noise that
        repeats the model's error. With random bits in between, what is popped is independent of
        what is on the stack; without them, the digits took 0.03 to 0.07 bits/dim more than the
        bound at T = 20.
        """
        sizes = np.full(math.ceil(num_bits / 24) + 1, 1 << 24, np.int32)
        random = np.random.Philox(key=np.asarray(key, np.uint64)).random_raw(len(sizes)) >> 40
        bits = self.pop(models.Uniform(), sizes)
        self.push(bits ^ random.astype(np.int64), models.Uniform(), sizes)

    def push_uniform(self, values: ArrayLike, sizes: ArrayLike) -> None:
        """Pushes integers, each uniform over 0 ... size - 1 with its own 0 < size <= 2^24."""
        values, sizes = (np.asarray(a).astype(np.int32) for a in (values, sizes))
        several = sizes > 1
        self.push(values[several], models.Uniform(), sizes[several])

    def pop_uniform(self, sizes: ArrayLike) -> np.ndarray:
        """Pops what `push_uniform` pushed."""
        sizes = np.asarray(sizes, np.int32)
        values, several = np.zeros(sizes.shape, np.int64), sizes > 1
        values[several] = self.pop(models.Uniform(), sizes[several])
        return values

    def draw_likely(self, probabilities: np.ndarray) -> np.ndarray:
        """Draws symbols 0 ... V - 1, whose probabilities are [symbols, V], among those that have at
        least 2^-24. `pop_categorical` gives every symbol that probability: of 256 symbols it draws
        an impossible one in 2^16 times, which then costs some 30 bits."""
        symbols = np.empty(len(probabilities), np.int64)
        for rows, likely, table in _likely(probabilities):
            places = self.pop_categorical(table) if likely.shape[1] > 1 else np.zeros_like(rows)
            symbols[rows] = likely[np.arange(len(rows)), places]
        return symbols

    def undraw_likely(self, symbols: np.ndarray, probabilities: np.ndarray) -> None:
        """Undoes `draw_likely`."""
        for rows, likely, table in reversed(list(_likely(probabilities))):
            same = likely == symbols[rows, None]
            if not same.any(axis=1).all():
                raise DamagedError("a symbol is out of range")
            if likely.shape[1] > 1:
                self.push_categorical(same.argmax(axis=1), table)

    def push_categorical(self, symbols: np.ndarray, probabilities: np.ndarray) -> None:
        """Pushes symbols 0 ... V - 1, whose probabilities are [symbols, V]."""
        self.push(symbols, models.Categorical(perfect=False), probabilities)
        self.ideal_bits += _bits_of(symbols, probabilities)

    def pop_categorical(self, probabilities: np.ndarray) -> np.ndarray:
        """Pops what `push_categorical` pushed, or draws symbols."""
        symbols = self.pop(models.Categorical(perfect=False), probabilities)
        self.ideal_bits -= _bits_of(symbols, probabilities)
        return symbols


def _likely(probabilities: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each number n of symbols of probability 2^-24 or more that a row [V] has: the rows with
    that number, these symbols of each, [rows, n], and their probabilities."""
    likely = probabilities >= 2.0**-24
    likely[~likely.any(axis=1), 0] = True  # a row of NaN
    counts = likely.sum(axis=1)
    all_symbols, all_probabilities = np.nonzero(likely)[1], probabilities[likely]
    begins = counts.cumsum() - counts
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        places = begins[rows, None] + np.arange(count)
        table = all_probabilities[places]
        yield rows, all_symbols[places], table / table.sum(axis=1, keepdims=True)


def _bits_of(symbols: np.ndarray, probabilities: np.ndarray) -> float:
    """-log2 of the probabilities of symbols."""
    chosen = np.take_along_axis(probabilities, symbols[:, None], axis=1)
    return -float(np.log2(chosen, dtype=np.float64).sum())


class Gaussians:
    """Independent Gaussians on a grid, whose standard deviations do not depend on the data.

    Any cell can be pushed: for a cell at the edge of the table or beyond, the distance from the
    edge is pushed as well, with about twice as many bits as it has.
    """

    def __init__(self, std: ArrayLike, cell: ArrayLike) -> None:
        """std: the standard deviation of a latent, more than cell / 3; std and cell are scalars or
        have the shape of an example."""
        self._true_std = np.asarray(std) / cell
        self._std = np.sqrt(np.square(self._true_std) - 1 / 12)  # Sheppard
        self._cell = np.asarray(cell)
        self._edge = int(np.ceil(REACH * self._std.max())) + 1
        self._table = models.QuantizedGaussian(-self._edge, self._edge)

    def push(self, stack: Stack, cells: np.ndarray, mean: np.ndarray) -> None:
        """Pushes latents, given in cells (int64, of the shape of `mean`).

        `mean` is in the units of the latents and may be any number, even infinite or NaN.
        """
        nearest, offset = self._split(mean)
        far = cells.ravel() - nearest
        inside = np.clip(far, -self._edge, self._edge)
        outside = np.abs(inside) == self._edge
        _push_lengths(stack, np.abs(far[outside]) - self._edge)
        stack.push(inside, self._table, offset, self._spread(mean))
        stack.ideal_bits += self._bits(cells, mean)

    def pop(self, stack: Stack, mean: np.ndarray) -> np.ndarray:
        """Pops what `push` pushed."""
        nearest, offset = self._split(mean)
        far = stack.pop(self._table, offset, self._spread(mean))
        outside = np.abs(far) == self._edge
        far[outside] += np.sign(far[outside]) * _pop_lengths(stack, int(outside.sum()))
        return (far + nearest).reshape(mean.shape)

    def draw(self, stack: Stack, mean: np.ndarray, key: tuple[int, int]) -> np.ndarray:
        """Draws random latents inside the table, in cells, from the bits on the stack, which are
        scrambled first with this key."""
        nearest, offset = self._split(mean)
        stack.scramble(self._expected_bits(mean), key)
        cells = (stack.pop(self._table, offset, self._spread(mean)) + nearest).reshape(mean.shape)
        stack.ideal_bits -= self._bits(cells, mean)
        return cells

    def undraw(
        self, stack: Stack, cells: np.ndarray, mean: np.ndarray, key: tuple[int, int]
    ) -> None:
        """Undoes `draw`: restores the bits that these cells were drawn with."""
        nearest, offset = self._split(mean)
        stack.push(cells.ravel() - nearest, self._table, offset, self._spread(mean))
        stack.scramble(self._expected_bits(mean), key)

    def _expected_bits(self, mean: np.ndarray) -> float:
        """The entropy in bits of Gaussians of the shape of `mean`, in cells."""
        widths = np.broadcast_to(self._std, mean.shape) * math.sqrt(2 * math.pi * math.e)
        return float(np.log2(widths).sum())

    def _bits(self, cells: np.ndarray, mean: np.ndarray) -> float:
        """The sum of -log2 of the densities times the cells."""
        distance = (cells - mean / self._cell) / self._true_std
        log_width = np.log2(self._true_std) + 0.5 * math.log2(2 * math.pi)
        return float((0.5 * math.log2(math.e) * distance**2 + log_width).sum())

    def _split(self, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cell that holds the mean, int64, and the mean's offset from its centre, in cells."""
        in_cells = np.nan_to_num(mean / self._cell, posinf=FARTHEST, neginf=-FARTHEST).ravel()
        in_cells = np.clip(in_cells, -FARTHEST, FARTHEST)
        nearest = np.rint(in_cells)
        return nearest.astype(np.int64), in_cells - nearest

    def _spread(self, mean: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self._std, mean.shape).ravel()


_CLASSES = 25
"""How many numbers of bits, 0 ... 24, a length can have."""


def _push_lengths(stack: Stack, lengths: np.ndarray) -> None:
    """Pushes non-negative integers below 2^24 - 1: the bits of length + 1 without its leading one,
    and their number."""
    bits = np.frexp(lengths + 1.0)[1] - 1
    stack.push_uniform(lengths + 1 - (1 << bits), 1 << bits)
    stack.push_uniform(bits, np.full(bits.shape, _CLASSES))


def _pop_lengths(stack: Stack, count: int) -> np.ndarray:
    bits = stack.pop_uniform(np.full(count, _CLASSES))
    return stack.pop_uniform(1 << bits) + (1 << bits) - 1


def random_words(count: int, seed: int) -> np.ndarray:
    """Random words, uint32, to pop before anything is pushed. The last ones, on top, are the same
    for every count."""
    stream = hashlib.shake_256(b"vdm initial bits %d" % seed).digest(4 * count)
    return np.frombuffer(stream, "<u4").astype(np.uint32)[::-1]
