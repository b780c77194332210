"""A step of the chain in a file: z_s = z_{i-1} given z_t = z_i, by the model's reverse kernel.

The Gaussian kernel is a push of z_s. The mixture sum_k p_k N(z_s; A z_t + B x_k, v) takes bits back
through the code k of each dimension: the encoder pops k ~ p(k | z_s, z_t), pushes z_s by the
Gaussian at x_k and then k by p_k. This adds, whatever k is,

    log p(k | z_s, z_t) - log N(z_s; A z_t + B x_k, v) - log p_k = -log sum_j p_j N(z_s; ...x_j, v)

nats. So it does not matter that k repeats what was pushed before it, and no bits are scrambled.
The coder has no probabilities below 2^-24, so that this fails for a nearly impossible k, which then
costs some 30 bits: of many codes, only likely ones are drawn (`Stack.draw_likely`).
"""

import dataclasses

import numpy as np

from vdm.compression.cells import Grids
from vdm.compression.chain import Chain
from vdm.compression.lattice import Stack

MANY = 64
"""With more codes than this, none is drawn that is less likely than 2^-24, which takes time. With
fewer it matters little: in a step, an impossible code costs some 30 bits in 2^24 draws."""


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of a batch of images, with their labels if the model is conditional. exact_draws:
    whether MANY matters."""

    chain: Chain
    grids: Grids
    labels: np.ndarray | None
    exact_draws: bool = True

    def push(self, stack: Stack, i: int, below: np.ndarray, above: np.ndarray) -> None:
        """Pushes z_{i-1} by p(z_{i-1} | z_i)."""
        if not self.chain.mixture:
            self.grids.push(stack, i - 1, below, self._mean(i, above))
            return
        log_probs = self.chain.log_probs(i, above, self.labels)
        codes = self._posterior(i, below, above, log_probs).draw(stack)
        self.grids.push(stack, i - 1, below, self._mean_at(i, above, codes))
        push_codes(stack, codes, np.exp(log_probs))

    def pop(self, stack: Stack, i: int, above: np.ndarray) -> np.ndarray:
        """Pops the z_{i-1} that `push` pushed."""
        if not self.chain.mixture:
            return self.grids.pop(stack, i - 1, self._mean(i, above))
        log_probs = self.chain.log_probs(i, above, self.labels)
        codes = pop_codes(stack, np.exp(log_probs))
        below = self.grids.pop(stack, i - 1, self._mean_at(i, above, codes))
        self._posterior(i, below, above, log_probs).undraw(stack, codes)
        return below

    def _posterior(
        self, i: int, below: np.ndarray, above: np.ndarray, log_probs: np.ndarray
    ) -> "_Posterior":
        exact = self.exact_draws and self.chain.num_codes > MANY
        return _Posterior(self.chain, i, below, above, log_probs, exact)

    def _mean(self, i: int, above: np.ndarray) -> np.ndarray:
        eps_hat = self.chain.eps_hat(i, above, self.labels)
        return self.chain.levels.posterior_mean(i, above, eps_hat)

    def _mean_at(self, i: int, above: np.ndarray, codes: np.ndarray) -> np.ndarray:
        x = self.chain.x_of_codes[codes].reshape(above.shape)
        return self.chain.levels.mean_at(i, above, x)


class _Posterior:
    """p(k | z_{i-1}, z_i), proportional to p_k N(z_{i-1}; A z_i + B x_k, v), of every dimension;
    made for one image at a time, as it is large if there are many codes."""

    def __init__(
        self, chain: Chain, i: int, below: np.ndarray, above: np.ndarray, log_probs: np.ndarray,
        exact: bool = False,
    ) -> None:  # fmt: skip
        position, c = chain.levels.position(i, below, above)
        shape = (*log_probs.shape[:2], 1)
        self._position = position.reshape(shape)
        self._c = np.broadcast_to(c, position.shape).reshape(shape)
        self._log_probs, self._x, self._exact = log_probs, chain.x_of_codes, exact

    def draw(self, stack: Stack) -> np.ndarray:
        """Pops a code for each dimension, int64 [batch, D]."""
        draw = stack.draw_likely if self._exact else stack.pop_categorical
        return np.stack([draw(self.table(n)) for n in range(len(self._c))])

    def undraw(self, stack: Stack, codes: np.ndarray) -> None:
        """Undoes `draw`."""
        undraw = stack.undraw_likely if self._exact else stack.push_categorical
        for n in reversed(range(len(codes))):
            undraw(codes[n], self.table(n))

    def table(self, n: int) -> np.ndarray:
        """The probabilities of image n, float64 [D, V]."""
        exponent = self._position[n] - self._c[n] * self._x
        np.square(exponent, out=exponent)
        exponent *= -0.5
        exponent += self._log_probs[n]
        exponent -= exponent.max(axis=1, keepdims=True)
        # The coder's least probability draws any code, so none may be 0 for `Stack.ideal_bits`.
        table = np.exp(np.maximum(exponent, -700.0, out=exponent), out=exponent)
        table /= table.sum(axis=1, keepdims=True)
        return table


def push_codes(stack: Stack, codes: np.ndarray, probabilities: np.ndarray) -> None:
    """Pushes codes image by image, the last image first."""
    for image, table in zip(codes[::-1], probabilities[::-1], strict=True):
        stack.push_categorical(image.ravel(), table)


def pop_codes(stack: Stack, probabilities: np.ndarray) -> np.ndarray:
    """Pops what `push_codes` pushed, int64 [batch, D]."""
    return np.stack([stack.pop_categorical(table) for table in probabilities])
