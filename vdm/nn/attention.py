"""Self-attention over all pixels of an image (VDM appendix B).

The queries are processed one part at a time, so that the pixels^2 weights are never all in memory
(Rabe & Staats 2021, arXiv:2112.05682). Training on the CPU uses a backward pass written here, which
keeps only the outputs and two numbers for each query (Dao et al. 2022, arXiv:2205.14135).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vdm.nn.blocks import group_norm


class Attention(nn.Module):
    """Single-head self-attention over all pixels, added to its input; it starts as the identity."""

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
        attention = attend_to_train if train and uses_own_products(q) else attend
        out = attention(q, k, v).reshape(b, h, w, c)
        return x + nn.Dense(c, kernel_init=zeros, dtype=dtype, name="out")(out)


QUERIES_ON_CPU, QUERIES = 128, 256
"""Most pixels whose attention is computed at a time, on the CPU and elsewhere."""


def num_parts(pixels: int, most: int) -> int:
    """The smallest number of equal parts with at most `most` and at least `most` / 4 pixels each;
    1 if the pixels cannot be divided so."""
    candidates = range(-(-pixels // most), 4 * pixels // most + 1)
    return next((n for n in candidates if n and pixels % n == 0), 1)


def uses_own_products(q: Array) -> bool:
    """Whether to use the matrix products of this file, whose order suits XLA:CPU, instead of
    jax.nn.dot_product_attention, which takes every softmax in float32 (2e-8 off for float64)."""
    return jax.default_backend() == "cpu" or q.dtype == jnp.float64


def attend(
    q: Float[Array, "b p c"], k: Float[Array, "b p c"], v: Float[Array, "b p c"]
) -> Float[Array, "b p c"]:
    """Attention over the pixels p, softmax(q k^T / sqrt(c)) v, one part of the queries at a time;
    the backward pass recomputes the weights of each part."""
    if len(_parts(q)) == 1:
        return attend_at_once(q, k, v)
    attend_part = jax.checkpoint(lambda q: attend_at_once(q, k, v))
    return _joined(jax.lax.map(attend_part, _parts(q)))


def attend_at_once(
    q: Float[Array, "b n c"], k: Float[Array, "b p c"], v: Float[Array, "b p c"]
) -> Float[Array, "b n c"]:
    """Attention over the pixels p for all queries at once, with all their weights in memory."""
    if uses_own_products(q):
        return _attend(q, jnp.swapaxes(k, 1, 2), v)[0]
    return jax.nn.dot_product_attention(*(x[:, :, None] for x in (q, k, v)))[:, :, 0]


@jax.custom_vjp
def attend_to_train(
    q: Float[Array, "b p c"], k: Float[Array, "b p c"], v: Float[Array, "b p c"]
) -> Float[Array, "b p c"]:
    """`attend` with a backward pass of its own, so that it is differentiable in reverse mode only;
    `experiments/throughput` measures what that gains."""
    return _forward(q, k, v)[0]


Residuals = tuple[Array, Array, Array, Array, Array, Array]
"""q, k, v, the output; for each query the largest score and the sum of exp(score - largest)."""


def _forward(q: Array, k: Array, v: Array) -> tuple[Array, Residuals]:
    keys = jnp.swapaxes(k, 1, 2)
    parts = jax.lax.map(lambda q: _attend(q, keys, v), _parts(q))
    out, largest, total = (_joined(part) for part in parts)
    return out, (q, k, v, out, largest, total)


def _backward(residuals: Residuals, grad_out: Array) -> tuple[Array, Array, Array]:
    q, k, v, out, largest, total = residuals
    keys, values = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    # sum_j w_ij d/dw_ij for each query i; the output contains the weights, so they are not needed.
    weighted = jnp.sum(grad_out.astype(wide) * out.astype(wide), axis=-1, keepdims=True)

    def add_part(sums: tuple[Array, Array], part: tuple) -> tuple[tuple[Array, Array], Array]:
        grad_keys, grad_values = sums
        q, grad_out, weighted, largest, share = part
        weights = jnp.exp(_scores(q, keys) - largest) * share
        grad_scores = weights * (_product(grad_out, values) - weighted) / math.sqrt(q.shape[-1])
        weights, grad_scores = weights.astype(q.dtype), grad_scores.astype(q.dtype)
        # The results are transposed, so that no matrix of weights has to be.
        grad_keys += _product(jnp.swapaxes(q, 1, 2), grad_scores)
        grad_values += _product(jnp.swapaxes(grad_out, 1, 2), weights)
        return (grad_keys, grad_values), _product(grad_scores, k).astype(q.dtype)

    zeros = jnp.zeros(keys.shape, wide), jnp.zeros(values.shape, wide)
    parts = tuple(_parts(x) for x in (q, grad_out, weighted, largest, 1 / total))
    (grad_keys, grad_values), grad_queries = jax.lax.scan(add_part, zeros, parts)
    grad_k, grad_v = (jnp.swapaxes(x, 1, 2).astype(q.dtype) for x in (grad_keys, grad_values))
    return _joined(grad_queries), grad_k, grad_v


attend_to_train.defvjp(_forward, _backward)


def _attend(q: Array, keys: Array, v: Array) -> tuple[Array, Array, Array]:
    """The output of the queries q [b, n, c] and, [b, n, 1] each, their largest score and their sum
    of exp(score - largest); keys are [b, c, p]."""
    scores = _scores(q, keys)
    # The largest score cancels in the result, and so would its derivatives.
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = (_product(weights.astype(v.dtype), v) / total).astype(v.dtype)
    return out, largest, total


def _scores(q: Array, keys: Array) -> Array:
    return _product(q, keys) / math.sqrt(q.shape[-1])


def _product(a: Array, b: Array) -> Array:
    """Matrix products [b, m, n] in at least float32."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.matmul(a, b, preferred_element_type=wide)


def _parts(x: Array) -> Array:
    """Splits the pixels into parts, [b, p, c] -> [parts, b, p / parts, c]."""
    b, p, c = x.shape
    parts = num_parts(p, QUERIES_ON_CPU if uses_own_products(x) else QUERIES)
    return jnp.moveaxis(x.reshape(b, parts, p // parts, c), 1, 0)


def _joined(parts: Array) -> Array:
    """Joins the parts again, the inverse of `_parts`."""
    n, b, p, c = parts.shape
    return jnp.moveaxis(parts, 0, 1).reshape(b, n * p, c)
