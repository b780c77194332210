"""Bits-back coding of images with a diffusion model, whose bound is the expected code length.

    bits = -log2 p(x, z_0 ... z_T) / q(z_0 ... z_T | x)

The encoder pops latents from a stack of bits with q and pushes everything with p. In expectation an
image adds as many bits as the bound with T steps (VDM section 6.3; Frey & Hinton 1997; Townsend et
al. 2019, arXiv:1901.04866). There are two orders:

bit_swap   pop z_0 ~ q(z_0|x), push x by p(x|z_0); for i = 1 ... T pop z_i ~ q(z_i|z_{i-1}), push
           z_{i-1} by p(z_{i-1}|z_i); push z_T by N(0, I). The stack must hold the bits of two
           latents at the start, for any T (Kingma et al. 2019, arXiv:1905.06845).
top_down   pop z_T ~ q(z_T|x), then z_{i-1} ~ q(z_{i-1}|z_i, x) down to z_0; push x, z_0 ... z_T.
           The stack must hold the bits of all T + 1 latents at the start.

The stack begins with random bits, which the first images pop. Images of a batch share evaluations
of the network, and all of them pop before any pushes. So the first batch is a single image, and
later ones have as many as the bits on the stack allow, up to `lanes`: many images need only the
initial bits of one, and about as many evaluations as if `lanes` were always coded at once.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from vdm.compression.cells import Grids
from vdm.compression.chain import Chain
from vdm.compression.lattice import (
    STATE_WORDS,
    DamagedError,
    Stack,
    TooDeepError,
    random_words,
)
from vdm.compression.limits import MOST_LANES, ORDERS
from vdm.compression.steps import Steps, pop_codes, push_codes

SINGLES = 4
"""Number of images coded one by one at first, to learn how many bits an image pops and adds."""

UNIT = 256
"""After n images, the next batch has n growth / UNIT images, or this number halved repeatedly."""

HALVINGS = np.append(1 - 2**-6, np.full(16, 2**-10))[None]
"""Probabilities of 0 ... 16 halvings; coding that there are none takes 0.02 bits per batch."""


@dataclasses.dataclass(frozen=True)
class Coded:
    """Encoded images.

    Attributes:
        words: the stack, uint32. The lowest num_initial words are random bits that it began with
            and that were needed; the num_given words above them came from the user.
        growth: of the batch sizes, see UNIT.
        ideal_bits: the bits that the images add according to the densities of the coded latents.
        batches: the size of each batch.
    """

    words: np.ndarray
    num_initial: int
    num_given: int
    growth: int
    ideal_bits: float = math.nan
    batches: tuple[int, ...] = ()

    @property
    def net_bits(self) -> int:
        """The bits that the images have added."""
        return 32 * (len(self.words) - self.num_initial - self.num_given)


@dataclasses.dataclass(frozen=True)
class Codec:
    """Encoder and decoder. A decoder needs the same chain on the same kind of device.

    Attributes:
        chain: the model's chain.
        order: the order of coding, one of ORDERS.
        lanes: the most images that are coded at once.
        seed: of the random bits.
        exact_draws: as in `steps.Steps`.
    """

    chain: Chain
    order: str = "bit_swap"
    lanes: int = 64
    seed: int = 0
    exact_draws: bool = True

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"unknown order {self.order!r}; known: {', '.join(ORDERS)}")
        if not 1 <= self.lanes <= MOST_LANES:
            raise ValueError(f"lanes = {self.lanes}: they must be 1 to {MOST_LANES}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed = {self.seed}: it must be 0 to 2^64 - 1")

    def encode(
        self,
        codes: np.ndarray,
        labels: np.ndarray | None = None,
        given: np.ndarray | None = None,
        on_images: Callable[[int], None] = lambda done: None,
    ) -> Coded:
        """Encodes images.

        Args:
            codes: [N, *dims].
            labels: [N] for a conditional model.
            given: words (uint32) to use as initial bits, which the decoder returns.
            on_images: called with the number of images that are done.
        """
        given = np.zeros(0, np.uint32) if given is None else given
        reserve = 256 + math.prod(self.chain.latent_dims)
        while True:
            initial = np.concatenate([random_words(reserve, self.seed), given])
            try:
                return self._encode_on(
                    Stack(initial), reserve, len(given), codes, labels, on_images
                )
            except TooDeepError:  # a single image needs more initial bits than there are
                reserve *= 4

    def _encode_on(
        self,
        stack: Stack,
        reserve: int,
        num_given: int,
        codes: np.ndarray,
        labels: np.ndarray | None,
        on_images: Callable[[int], None],
    ) -> Coded:
        """Encodes onto a stack; raises TooDeepError if its `reserve` random words, which lie below
        the given ones, are not enough."""
        count, batches, growth = len(codes), [], 0
        done, need = 0, 1  # need: the most words per image that a batch popped before it pushed
        while done < count:
            # The first image may pop as deep as it needs; later ones must not go deeper than that.
            # The given words cost nothing.
            floor = min(stack.low, reserve + STATE_WORDS)
            if done == SINGLES:
                gain = (stack.num_words - reserve - num_given) / done
                growth = int(np.clip(0.9 * gain / need, 0, 0.5) * UNIT)
            halvings = 0
            while True:
                size = min(self._size(done, growth, halvings), count - done)
                trial = stack.copy()
                trial.low, trial.floor = stack.num_words, floor if size > 1 else STATE_WORDS + 1
                images = slice(done, done + size)
                batch_labels = None if labels is None else labels[images]
                try:
                    self._push_images(trial, codes[images], batch_labels, done)
                    break
                except TooDeepError:
                    if size == 1:
                        raise
                    while self._size(done, growth, halvings) >= size:
                        halvings += 1
            need = max(need, -(-(stack.num_words - trial.low) // size))
            trial.low, trial.floor = min(trial.low, stack.low), 0
            done += size
            if done == count:
                trial.push_uniform([size - 1], [self.lanes])
            else:
                trial.push_categorical(np.array([halvings]), HALVINGS)
            stack = trial
            batches.append(size)
            on_images(done)
        unused = min(stack.untouched, reserve)
        return Coded(
            stack.words[unused:], reserve - unused, num_given, growth, stack.ideal_bits,
            tuple(batches),
        )  # fmt: skip

    def decode(
        self,
        coded: Coded,
        count: int,
        on_images: Callable[[int], None] = lambda done: None,
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Decodes images; returns (codes [count, *dims], labels, given), as they were encoded.

        Raises DamagedError if the bits have changed or the chain is a different one.
        """
        stack = Stack(coded.words, sealed=False)
        codes = np.empty((count, *self.chain.dims), np.int64)
        labels = np.empty(count, np.int64) if self.chain.num_classes else None
        left = count
        while left:
            size = self._pop_size(stack, left, count, coded.growth)
            if not stack.num_words or size > left:
                raise DamagedError("its bits end before the images do")
            images = slice(left - size, left)
            codes[images], batch_labels = self._pop_images(stack, size, left - size)
            if labels is not None and batch_labels is not None:
                labels[images] = batch_labels
            left -= size
            on_images(count - left)
        initial, words = coded.num_initial, stack.words
        expected = np.append(random_words(initial, self.seed), words[initial:-1])
        if (
            len(words) != initial + coded.num_given + 1
            or words[-1] != 1
            or (expected != words[:-1]).any()
        ):
            raise DamagedError("its bits do not end where the encoder began")
        return codes, labels, words[initial:-1]

    def _push_images(
        self, stack: Stack, codes: np.ndarray, labels: np.ndarray | None, first: int
    ) -> None:
        chain, levels = self.chain, self.chain.levels
        grids = Grids(levels, self.seed, first)
        steps = Steps(chain, grids, labels, self.exact_draws)
        x = chain.encode(codes)
        path = self._draw_path(stack, x, grids) if self.order == "top_down" else []
        z = path[0] if path else grids.draw(stack, 0, levels.forward(0), levels.alpha[0] * x)
        push_codes(stack, codes, chain.probabilities(z, labels))
        for i in range(1, levels.num_steps + 1):
            if path:
                above = path[i]
            else:
                above = grids.draw(stack, i, levels.forward(i), levels.alpha_ratio[i - 1] * z)
            steps.push(stack, i, z, above)
            z = above
        grids.push(stack, levels.num_steps, z, np.zeros(z.shape))
        if labels is not None:
            stack.push_uniform(labels, np.full(labels.shape, chain.num_classes))

    def _pop_images(
        self, stack: Stack, count: int, first: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        chain, levels = self.chain, self.chain.levels
        grids = Grids(levels, self.seed, first)
        labels = None
        if chain.num_classes:
            labels = stack.pop_uniform(np.full(count, chain.num_classes))
        steps = Steps(chain, grids, labels, self.exact_draws)
        z = grids.pop(stack, levels.num_steps, np.zeros((count, *chain.latent_dims)))
        path = [z]  # the latents from the top down, for the top-down order
        for i in range(levels.num_steps, 0, -1):
            below = steps.pop(stack, i, z)
            if self.order == "bit_swap":
                mean = levels.alpha_ratio[i - 1] * below
                grids.undraw(stack, i, levels.forward(i), z, mean)
            else:
                path.append(below)
            z = below
        codes = pop_codes(stack, chain.probabilities(z, labels)).reshape(count, *chain.dims)
        x = chain.encode(codes)
        if self.order == "bit_swap":
            grids.undraw(stack, 0, levels.forward(0), z, levels.alpha[0] * x)
        else:
            self._undraw_path(stack, x, path[::-1], grids)
        return codes, labels

    def _draw_path(self, stack: Stack, x: np.ndarray, grids: Grids) -> list[np.ndarray]:
        """Draws z_0 ... z_T from q(. | x), from the top down."""
        levels = self.chain.levels
        path = [grids.draw(stack, levels.num_steps, levels.last(), levels.alpha[-1] * x)]
        for i in range(levels.num_steps, 0, -1):
            mean = levels.mean_at(i, path[-1], x)
            path.append(grids.draw(stack, i - 1, levels.reverse(i - 1), mean))
        return path[::-1]

    def _undraw_path(
        self, stack: Stack, x: np.ndarray, path: list[np.ndarray], grids: Grids
    ) -> None:
        levels = self.chain.levels
        for i in range(1, levels.num_steps + 1):
            mean = levels.mean_at(i, path[i], x)
            grids.undraw(stack, i - 1, levels.reverse(i - 1), path[i - 1], mean)
        grids.undraw(stack, levels.num_steps, levels.last(), path[-1], levels.alpha[-1] * x)

    def _size(self, done: int, growth: int, halvings: int) -> int:
        """The size of the batch after the first `done` images; done + size grows with done."""
        size = done * growth // UNIT if done >= SINGLES else 1
        return max(1, min(size, self.lanes) >> halvings)

    def _pop_size(self, stack: Stack, left: int, count: int, growth: int) -> int:
        """The size of the batch that ended with image number `left`."""
        if left == count:
            return int(stack.pop_uniform([self.lanes])[0]) + 1
        halvings = int(stack.pop_categorical(HALVINGS)[0])
        for size in range(1, min(self.lanes, left) + 1):
            if self._size(left - size, growth, halvings) == size:
                return size
        raise DamagedError("its bits do not give the size of a batch")
