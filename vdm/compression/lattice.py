"""Gaussians on a grid, coded with a stack of bits.

A latent lives on the grid k h, k an integer, h the cell, perhaps shifted. N(mean, variance) gives k
the mass of a Gaussian between (k - 1/2) h and (k + 1/2) h whose variance is smaller by h^2 / 12:
that of k h is then the variance asked for (Sheppard's correction), up to terms of order (h / std)^4
in its fourth cumulant. Without it every step would add h^2 / 12 to the noise that the model
expects.

The entropy coder is `constriction`'s ANS (arXiv:2201.01741): a stack of 32-bit words; probabilities
are multiples of 2^-24. Pushing a symbol of probability p adds -log2 p bits, popping one takes them.
"""

import copy
import hashlib
import math
from typing import Any

import constriction
import numpy as np
from numpy.typing import ArrayLike

_stream: Any = vars(constriction)["stream"]  # the package says nothing of its parts
models, AnsCoder = _stream.model, _stream.stack.AnsCoder

REACH = 6.0
"""Standard deviations that the table of a Gaussian spans on either side: 2e-9 lie beyond. Each
cell of it costs 2^-24 of probability that is not the Gaussian's."""

FARTHEST = 2**22
"""Cells that a mean may lie from zero; the network's own are cut off there."""

STATE_WORDS = 2
"""Words of the coder's 64-bit state, which lie on top of those that it has not touched."""


class DamagedError(ValueError):
    """The bits are not what the encoder wrote, or not read as it wrote them."""


class TooDeepError(Exception):
    """More was popped than may be."""


class Stack:
    """Bits as a stack, how deep it was read, and what it should have grown by.

    low: the fewest words that it had; with fewer than `floor` it raises TooDeepError. ideal_bits:
    -log2 of the probabilities of the latents and codes that were pushed less those drawn, with the
    density of a Gaussian times its cell in place of the coder's probability.
    """

    def __init__(self, words: np.ndarray, *, sealed: bool = True) -> None:
        """words: uint32, the last one on top. sealed: with a word 1 above them, which keeps a zero
        on top; `words` gives it too."""
        if not sealed and not (len(words) and words[-1]):
            raise DamagedError("its bits end where none were written")
        self._coder = AnsCoder(np.ascontiguousarray(words, np.uint32), seal=sealed)
        self.low, self.floor = self.num_words, 0
        self.ideal_bits = 0.0

    @property
    def num_words(self) -> int:
        """Words of 32 bits on the stack."""
        return self._coder.num_words()

    @property
    def untouched(self) -> int:
        """Words at the bottom that were never part of the coder's state."""
        return max(0, self.low - STATE_WORDS)

    @property
    def words(self) -> np.ndarray:
        """uint32."""
        return self._coder.get_compressed()

    def copy(self) -> "Stack":
        """Another one with the same bits."""
        other = copy.copy(self)
        other._coder = self._coder.clone()
        return other

    def push(self, symbols: np.ndarray, family: object, *parameters: np.ndarray) -> None:
        """Pushes the last symbol first."""
        try:
            self._coder.encode_reverse(symbols.astype(np.int32), family, *parameters)
        except KeyError as error:  # a symbol that its distribution has not
            raise DamagedError("a symbol is out of range") from error

    def pop(self, family: object, *parameters: np.ndarray) -> np.ndarray:
        """As many symbols as there are parameters, int64, the first one from the top."""
        symbols = self._coder.decode(family, *parameters)
        self.low = min(self.low, self.num_words)
        if self.low < self.floor:
            raise TooDeepError
        return symbols.astype(np.int64)

    def scramble(self, num_bits: float, key: tuple[int, int]) -> None:
        """Xors about num_bits from the top with random ones; once more with the same key undoes it.

        Pushing by p and popping by q at once gives F_q^-1(F_p(symbol)): noise that repeats the
        model's error. With random bits in between what is popped is independent of what is there:
        without them the digits cost 0.03 to 0.07 bits/dim more than the bound at T = 20.
        """
        sizes = np.full(math.ceil(num_bits / 24) + 1, 1 << 24, np.int32)
        random = np.random.Philox(key=np.asarray(key, np.uint64)).random_raw(len(sizes)) >> 40
        found = self.pop(models.Uniform(), sizes)
        self.push(found ^ random.astype(np.int64), models.Uniform(), sizes)

    def push_uniform(self, values: ArrayLike, sizes: ArrayLike) -> None:
        """Integers 0 ... size - 1, each for itself; 0 < size <= 2^24."""
        values, sizes = (np.asarray(a).astype(np.int32) for a in (values, sizes))
        several = sizes > 1
        self.push(values[several], models.Uniform(), sizes[several])

    def pop_uniform(self, sizes: ArrayLike) -> np.ndarray:
        """What `push_uniform` pushed."""
        sizes = np.asarray(sizes, np.int32)
        values, several = np.zeros(sizes.shape, np.int64), sizes > 1
        values[several] = self.pop(models.Uniform(), sizes[several])
        return values

    def push_categorical(self, symbols: np.ndarray, probabilities: np.ndarray) -> None:
        """Symbols 0 ... V - 1 with probabilities [symbols, V]."""
        self.push(symbols, models.Categorical(perfect=False), probabilities)
        chosen = np.take_along_axis(probabilities, symbols[:, None], axis=1)
        self.ideal_bits -= float(np.log2(chosen, dtype=np.float64).sum())

    def pop_categorical(self, probabilities: np.ndarray) -> np.ndarray:
        """What `push_categorical` pushed."""
        return self.pop(models.Categorical(perfect=False), probabilities)


class Gaussians:
    """Independent Gaussians of one grid, with standard deviations that do not depend on data.

    Any cell can be pushed: one at the edge of the table or beyond is followed by how far beyond, in
    about twice its bits.
    """

    def __init__(self, std: ArrayLike, cell: ArrayLike) -> None:
        """std > cell / 3: of a latent; () or the shape of an example."""
        self._true_std = np.asarray(std) / cell
        self._std = np.sqrt(np.square(self._true_std) - 1 / 12)  # Sheppard
        self._cell = np.asarray(cell)
        self._edge = int(np.ceil(REACH * self._std.max())) + 1
        self._table = models.QuantizedGaussian(-self._edge, self._edge)

    def push(self, stack: Stack, cells: np.ndarray, mean: np.ndarray) -> None:
        """cells: int64, the shape of mean: latents in cells; mean: of latents, any finite number or
        none."""
        nearest, offset = self._split(mean)
        far = cells.ravel() - nearest
        inside = np.clip(far, -self._edge, self._edge)
        outside = np.abs(inside) == self._edge
        _push_lengths(stack, np.abs(far[outside]) - self._edge)
        stack.push(inside, self._table, offset, self._spread(mean))
        stack.ideal_bits += self._bits(cells, mean)

    def pop(self, stack: Stack, mean: np.ndarray) -> np.ndarray:
        """What `push` pushed."""
        nearest, offset = self._split(mean)
        far = stack.pop(self._table, offset, self._spread(mean))
        outside = np.abs(far) == self._edge
        far[outside] += np.sign(far[outside]) * _pop_lengths(stack, int(outside.sum()))
        return (far + nearest).reshape(mean.shape)

    def draw(self, stack: Stack, mean: np.ndarray, key: tuple[int, int]) -> np.ndarray:
        """Random latents, in cells, from the bits on the stack; within the table. key: for
        `Stack.scramble`."""
        nearest, offset = self._split(mean)
        stack.scramble(self._expected_bits(mean), key)
        cells = (stack.pop(self._table, offset, self._spread(mean)) + nearest).reshape(mean.shape)
        stack.ideal_bits -= self._bits(cells, mean)
        return cells

    def undraw(
        self, stack: Stack, cells: np.ndarray, mean: np.ndarray, key: tuple[int, int]
    ) -> None:
        """Gives the bits back that `draw` made these cells of."""
        nearest, offset = self._split(mean)
        stack.push(cells.ravel() - nearest, self._table, offset, self._spread(mean))
        stack.scramble(self._expected_bits(mean), key)

    def _expected_bits(self, mean: np.ndarray) -> float:
        """The entropy of as many as there are means."""
        widths = np.broadcast_to(self._std, mean.shape) * math.sqrt(2 * math.pi * math.e)
        return float(np.log2(widths).sum())

    def _bits(self, cells: np.ndarray, mean: np.ndarray) -> float:
        """-log2 of the densities times the cells."""
        distance = (cells - mean / self._cell) / self._true_std
        log_width = np.log2(self._true_std) + 0.5 * math.log2(2 * math.pi)
        return float((0.5 * math.log2(math.e) * distance**2 + log_width).sum())

    def _split(self, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cell that holds the mean, int64, and the mean's place in it."""
        in_cells = np.nan_to_num(mean / self._cell, posinf=FARTHEST, neginf=-FARTHEST).ravel()
        in_cells = np.clip(in_cells, -FARTHEST, FARTHEST)
        nearest = np.rint(in_cells)
        return nearest.astype(np.int64), in_cells - nearest

    def _spread(self, mean: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self._std, mean.shape).ravel()


_CLASSES = 25
"""Numbers of bits, 0 ... 24, that a length may have."""


def _push_lengths(stack: Stack, lengths: np.ndarray) -> None:
    """Non-negative integers below 2^24 - 1, as the number of bits of length + 1, then these."""
    bits = np.frexp(lengths + 1.0)[1] - 1
    stack.push_uniform(lengths + 1 - (1 << bits), 1 << bits)
    stack.push_uniform(bits, np.full(bits.shape, _CLASSES))


def _pop_lengths(stack: Stack, count: int) -> np.ndarray:
    bits = stack.pop_uniform(np.full(count, _CLASSES))
    return stack.pop_uniform(1 << bits) + (1 << bits) - 1


def random_words(count: int, seed: int) -> np.ndarray:
    """Random words to pop before anything is pushed, uint32; the top ones, which are last, are the
    same for every count."""
    stream = hashlib.shake_256(b"vdm initial bits %d" % seed).digest(4 * count)
    return np.frombuffer(stream, "<u4").astype(np.uint32)[::-1]
