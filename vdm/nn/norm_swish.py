"""swish(GroupNorm(x)) with a backward pass that needs only x and its statistics in memory.

With JAX's own derivative, every call keeps three more arrays of x's size: x - mean, the normalised
x, and the denominator of the sigmoid. `jax.checkpoint` does not help on the CPU, where XLA merges
the recomputation with the original computation. The backward pass here computes the same numbers in
another form, which XLA does not merge.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

EPSILON = 1e-6

Residuals = tuple[Array, Array, Array, Array, Array]
"""x; for each channel the mean and 1/std of its group; scale; shift."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def norm_swish(
    x: Float[Array, "b h w c"],
    scale: Float[Array, "b c"],
    shift: Float[Array, "b c"],
    groups: int,
) -> Float[Array, "b h w c"]:
    """Computes swish(scale (x - mean) / std + shift), with mean and std over the pixels and the
    channels of a group (Wu & He 2018, arXiv:1803.08494, Eq. 1-3). Differentiable in reverse mode
    only."""
    return _forward(x, scale, shift, groups)[0]


def _forward(x: Array, scale: Array, shift: Array, groups: int) -> tuple[Array, Residuals]:
    mean, inverse = _statistics(x, groups)
    factor = scale * inverse
    y = nn.swish(x * _pixels(factor) + _pixels(shift - mean * factor))
    return y.astype(x.dtype), (x, mean, inverse, scale, shift)


def _backward(groups: int, residuals: Residuals, dy: Array) -> tuple[Array, Array, Array]:
    x, mean, inverse, scale, shift = residuals
    normed = (x - _pixels(mean)) * _pixels(inverse)
    y = normed * _pixels(scale) + _pixels(shift)
    # Not jax.nn.sigmoid: XLA would keep that of the forward pass in memory.
    gate = 0.5 + 0.5 * jnp.tanh(0.5 * y)
    dy = dy * (gate + y * gate * (1 - gate))
    grad_shift = jnp.sum(dy, axis=(1, 2))
    grad_scale = jnp.sum(dy * normed, axis=(1, 2))
    size = x.shape[1] * x.shape[2]
    along_one = _over_groups(grad_shift * scale, groups) / size
    along_normed = _over_groups(grad_scale * scale, groups) / size
    grad_normed = dy * _pixels(scale) - _pixels(along_one) - normed * _pixels(along_normed)
    return (_pixels(inverse) * grad_normed).astype(x.dtype), grad_scale, grad_shift


def _statistics(x: Array, groups: int) -> tuple[Array, Array]:
    """The mean and 1/std [b, c] of each channel's group, in at least float32; like flax, it
    computes the variance as E[x^2] - E[x]^2."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = _over_groups(jnp.mean(x, axis=(1, 2)), groups)
    square = _over_groups(jnp.mean(jnp.square(x), axis=(1, 2)), groups)
    return mean, jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + EPSILON)


def _over_groups(x: Array, groups: int) -> Array:
    """The mean of x over the channels of a group, [b, c], repeated for each of them."""
    b, c = x.shape
    return jnp.repeat(jnp.mean(x.reshape(b, groups, -1), axis=-1), c // groups, axis=-1)


def _pixels(x: Array) -> Array:
    return x[:, None, None, :]


norm_swish.defvjp(_forward, _backward)


class NormSwish(nn.Module):
    """swish(GroupNorm(x)) with the parameters of flax's GroupNorm.

    In training it calls `norm_swish`, otherwise flax's GroupNorm, which can be differentiated in
    forward and reverse mode. dtype: of the result; None means that of x and the parameters.
    """

    groups: int
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        train: bool,
        film: tuple[Float[Array, "b 1 1 c"], Float[Array, "b 1 1 c"]] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Computes swish(GroupNorm(x)), or swish(GroupNorm(x) (1 + s) + t) if film = (s, t)."""
        shape = (x.shape[0], x.shape[-1])
        scale = self.param("scale", nn.initializers.ones, shape[1:])
        shift = self.param("bias", nn.initializers.zeros, shape[1:])
        if not train:
            norm = nn.GroupNorm(self.groups, epsilon=EPSILON, dtype=self.dtype, parent=None)
            normed: Any = norm.apply({"params": {"scale": scale, "bias": shift}}, x)
            return nn.swish(normed if film is None else normed * (1 + film[0]) + film[1])
        scale, shift = jnp.broadcast_to(scale, shape), jnp.broadcast_to(shift, shape)
        if film is not None:
            factor, more = (f[:, 0, 0].astype(scale.dtype) for f in film)
            scale, shift = scale * (1 + factor), shift * (1 + factor) + more
        x = x if self.dtype is None else x.astype(self.dtype)
        return norm_swish(x, scale, shift, self.groups)
