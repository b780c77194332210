"""Self-attention over all pixels of an image (VDM appendix B).

Queries are gone through a part at a time, so that the pixels^2 weights are never in memory
together (Rabe & Staats 2021, arXiv:2112.05682). In training on the CPU it has a backward pass of
its own, which keeps the outputs and two numbers for each query (Dao et al. 2022, arXiv:2205.14135).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vdm.nn.blocks import group_norm


class Attention(nn.Module):
    """Single-head self-attention over all pixels, residual, zero at first."""

    num_groups: int = 0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        dtype, zeros = self.dtype, nn.initializers.zeros
        normed = group_norm(x, "norm", self.num_groups, dtype).reshape(b, h * w, c)
        q, k, v = (
            nn.Dense(c, dtype=dtype, name=name)(normed) for name in ("query", "key", "value")
        )
        attention = attend_to_train if train and is_by_hand(q) else attend
        out = attention(q, k, v).reshape(b, h, w, c)
        return x + nn.Dense(c, kernel_init=zeros, dtype=dtype, name="out")(out)


QUERIES_BY_HAND, QUERIES = 128, 256
"""Pixels whose attention is computed at a time, on the CPU and elsewhere."""


def num_parts(pixels: int, most: int) -> int:
    """The fewest equal parts of at most `most` pixels and at least a quarter of that; 1 if there
    are none."""
    candidates = range(-(-pixels // most), 4 * pixels // most + 1)
    return next((n for n in candidates if n and pixels % n == 0), 1)


def is_by_hand(q: Array) -> bool:
    """Whether the products are written here, in the order that suits XLA:CPU, or those of
    jax.nn.dot_product_attention: these take every softmax in float32, 2e-8 off in float64."""
    return jax.default_backend() == "cpu" or q.dtype == jnp.float64


def attend(
    q: Float[Array, "b p c"], k: Float[Array, "b p c"], v: Float[Array, "b p c"]
) -> Float[Array, "b p c"]:
    """softmax(q k^T / sqrt(c)) v over the pixels p; the weights of each part are computed again in
    a backward pass."""
    if len(_parts(q)) == 1:
        return attend_at_once(q, k, v)
    again = jax.checkpoint(lambda q: attend_at_once(q, k, v))
    return _joined(jax.lax.map(again, _parts(q)))


def attend_at_once(
    q: Float[Array, "b n c"], k: Float[Array, "b p c"], v: Float[Array, "b p c"]
) -> Float[Array, "b n c"]:
    """The same, with the weights of all queries in memory."""
    if is_by_hand(q):
        return _attend(q, jnp.swapaxes(k, 1, 2), v)[0]
    return jax.nn.dot_product_attention(*(x[:, :, None] for x in (q, k, v)))[:, :, 0]


@jax.custom_vjp
def attend_to_train(
    q: Float[Array, "b p c"], k: Float[Array, "b p c"], v: Float[Array, "b p c"]
) -> Float[Array, "b p c"]:
    """`attend`, differentiable in reverse mode only; `experiments/throughput` has what it gains."""
    return _forward(q, k, v)[0]


Residuals = tuple[Array, Array, Array, Array, Array, Array]
"""q, k, v, the output; of each query the largest score, and the sum of exp(score - largest)."""


def _forward(q: Array, k: Array, v: Array) -> tuple[Array, Residuals]:
    keys = jnp.swapaxes(k, 1, 2)
    parts = jax.lax.map(lambda q: _attend(q, keys, v), _parts(q))
    out, largest, total = (_joined(part) for part in parts)
    return out, (q, k, v, out, largest, total)


def _backward(residuals: Residuals, by_out: Array) -> tuple[Array, Array, Array]:
    q, k, v, out, largest, total = residuals
    keys, values = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    # sum_j w_ij d/dw_ij of each query i, without its weights: they are in the output.
    along = jnp.sum(by_out.astype(wide) * out.astype(wide), axis=-1, keepdims=True)

    def of_part(so_far: tuple[Array, Array], part: tuple) -> tuple[tuple[Array, Array], Array]:
        by_keys, by_values = so_far
        q, by_out, along, largest, share = part
        weights = jnp.exp(_scores(q, keys) - largest) * share
        by_scores = weights * (_product(by_out, values) - along) / math.sqrt(q.shape[-1])
        weights, by_scores = weights.astype(q.dtype), by_scores.astype(q.dtype)
        # Transposed results, as no matrix of weights need be turned round for them.
        by_keys += _product(jnp.swapaxes(q, 1, 2), by_scores)
        by_values += _product(jnp.swapaxes(by_out, 1, 2), weights)
        return (by_keys, by_values), _product(by_scores, k).astype(q.dtype)

    nothing = jnp.zeros(keys.shape, wide), jnp.zeros(values.shape, wide)
    parts = tuple(_parts(x) for x in (q, by_out, along, largest, 1 / total))
    (by_keys, by_values), by_queries = jax.lax.scan(of_part, nothing, parts)
    by_k, by_v = (jnp.swapaxes(x, 1, 2).astype(q.dtype) for x in (by_keys, by_values))
    return _joined(by_queries), by_k, by_v


attend_to_train.defvjp(_forward, _backward)


def _attend(q: Array, keys: Array, v: Array) -> tuple[Array, Array, Array]:
    """Output, largest score and sum of exp(score - largest), [b, n, 1], of queries q [b, n, c];
    keys are [b, c, p]."""
    scores = _scores(q, keys)
    # What is subtracted cancels, and so would its derivatives.
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = (_product(weights.astype(v.dtype), v) / total).astype(v.dtype)
    return out, largest, total


def _scores(q: Array, keys: Array) -> Array:
    return _product(q, keys) / math.sqrt(q.shape[-1])


def _product(a: Array, b: Array) -> Array:
    """Matrix products [b, m, n], float32 at least."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.matmul(a, b, preferred_element_type=wide)


def _parts(x: Array) -> Array:
    """[b, p, c] -> [parts, b, p / parts, c]."""
    b, p, c = x.shape
    parts = num_parts(p, QUERIES_BY_HAND if is_by_hand(x) else QUERIES)
    return jnp.moveaxis(x.reshape(b, parts, p // parts, c), 1, 0)


def _joined(parts: Array) -> Array:
    """The inverse."""
    n, b, p, c = parts.shape
    return jnp.moveaxis(parts, 0, 1).reshape(b, n * p, c)
