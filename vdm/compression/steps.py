"""A step of the chain in a file: z_s = z_{i-1} given z_t = z_i, by the model's reverse kernel.

The Gaussian kernel is a push of z_s. The mixture sum_k p_k N(z_s; A z_t + B x_k, v) takes bits back
through the code k of each dimension: the encoder pops k ~ p(k | z_s, z_t), pushes z_s by the
Gaussian at x_k and then k by p_k. This adds, whatever k is,

    log p(k | z_s, z_t) - log N(z_s; A z_t + B x_k, v) - log p_k = -log sum_j p_j N(z_s; ...x_j, v)

nats. So it does not matter that k repeats what was pushed before it, and no bits are scrambled.
"""

import dataclasses

import numpy as np

from vdm.compression.cells import Grids
from vdm.compression.chain import Chain
from vdm.compression.lattice import REACH, Stack


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of a batch of images, with their labels if the model is conditional."""

    chain: Chain
    grids: Grids
    labels: np.ndarray | None

    def push(self, stack: Stack, i: int, below: np.ndarray, above: np.ndarray) -> None:
        """Pushes z_{i-1} by p(z_{i-1} | z_i)."""
        if not self.chain.mixture:
            self.grids.push(stack, i - 1, below, self._mean(i, above))
            return
        log_probs = self.chain.log_probs(i, above, self.labels)
        posterior = _Posterior(self.chain, i, below, above, log_probs)
        codes = posterior.draw(stack)
        self.grids.push(stack, i - 1, below, self._mean_at(i, above, codes))
        push_codes(stack, codes, np.exp(log_probs))

    def pop(self, stack: Stack, i: int, above: np.ndarray) -> np.ndarray:
        """Pops the z_{i-1} that `push` pushed."""
        if not self.chain.mixture:
            return self.grids.pop(stack, i - 1, self._mean(i, above))
        log_probs = self.chain.log_probs(i, above, self.labels)
        codes = pop_codes(stack, np.exp(log_probs))
        below = self.grids.pop(stack, i - 1, self._mean_at(i, above, codes))
        _Posterior(self.chain, i, below, above, log_probs).undraw(stack, codes)
        return below

    def _mean(self, i: int, above: np.ndarray) -> np.ndarray:
        eps_hat = self.chain.eps_hat(i, above, self.labels)
        return self.chain.levels.posterior_mean(i, above, eps_hat)

    def _mean_at(self, i: int, above: np.ndarray, codes: np.ndarray) -> np.ndarray:
        x = self.chain.x_of_codes[codes].reshape(above.shape)
        return self.chain.levels.mean_at(i, above, x)


class _Posterior:
    """p(k | z_{i-1}, z_i), proportional to p_k N(z_{i-1}; A z_i + B x_k, v), of every dimension.

    It is of the codes from which z_{i-1} lies at most REACH standard deviations of q(z_{i-1} | x),
    as all but 2e-9 do. The coder would give each of the others 2^-24: of 256 codes, these
    would cost 6e-4 bits a step. Tables are made for one image at a time.
    """

    def __init__(
        self, chain: Chain, i: int, below: np.ndarray, above: np.ndarray, log_probs: np.ndarray
    ) -> None:
        levels, shape = chain.levels, log_probs.shape[:2]
        position, c = levels.position(i, below, above)
        self._position = position.reshape(shape)
        self._c = np.broadcast_to(c, position.shape).reshape(shape)
        self._log_probs, self._x = log_probs, chain.x_of_codes
        num_codes = log_probs.shape[-1]
        scale = num_codes / (2 * levels.alpha[i - 1])  # neighbouring x_k are 2 / V apart
        half = int(np.ceil((REACH * levels.sigma[i - 1] * scale).max()))
        self._width = min(2 * half + 1, num_codes)
        nearest = np.rint(below * scale + (num_codes - 1) / 2)
        first = np.clip(nearest - half, 0, num_codes - self._width)
        self._first = first.astype(np.int64).reshape(shape)

    def draw(self, stack: Stack) -> np.ndarray:
        """Pops a code for each dimension, int64 [batch, D]."""
        return np.stack(
            [first + stack.pop_categorical(self._table(n)) for n, first in enumerate(self._first)]
        )

    def undraw(self, stack: Stack, codes: np.ndarray) -> None:
        """Undoes `draw`."""
        for n in reversed(range(len(codes))):
            stack.push_categorical(codes[n] - self._first[n], self._table(n))

    def _table(self, n: int) -> np.ndarray:
        """The probabilities of the codes from `first` on, of image n, float64 [D, width]."""
        codes = self._first[n][:, None] + np.arange(self._width)
        distance = self._position[n][:, None] - self._c[n][:, None] * self._x[codes]
        exponent = np.take_along_axis(self._log_probs[n], codes, axis=1) - 0.5 * distance**2
        table = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        return table / table.sum(axis=1, keepdims=True)


def push_codes(stack: Stack, codes: np.ndarray, probabilities: np.ndarray) -> None:
    """Pushes codes image by image, the last image first."""
    for image, table in zip(codes[::-1], probabilities[::-1], strict=True):
        stack.push_categorical(image.ravel(), table)


def pop_codes(stack: Stack, probabilities: np.ndarray) -> np.ndarray:
    """Pops what `push_codes` pushed, int64 [batch, D]."""
    return np.stack([stack.pop_categorical(table) for table in probabilities])
