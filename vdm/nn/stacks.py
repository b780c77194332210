"""What a stack of equal blocks is in the compiled program: what its backward pass keeps of the
forward one, and whether it is one block in a loop or all of them in a row."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_policies
from jaxtyping import Array

from vdm.typing import Params, PRNGKey, PyTree

Dtype = Literal["float32", "bfloat16"]
Remat = Literal["none", "blocks", "dots"]
Scan = Literal["auto", "on", "off"]

LONG_STACK = 4
"""Blocks from which on scan = "auto" makes a loop of them."""

Block = Callable[[Params, Array, Array | None, PRNGKey | None], Array]
"""(parameters, h, what is joined to h, key of the dropout) -> h behind the block."""


def check_form(dtype: str, remat: str, scan: str) -> None:
    """ValueError for a name that is none."""
    for field, value, known in (
        ("dtype", dtype, ("float32", "bfloat16")),
        ("remat", remat, ("none", "blocks", "dots")),
        ("scan", scan, ("auto", "on", "off")),
    ):
        if value not in known:
            raise ValueError(
                f"network.kwargs.{field} is {' or '.join(map(repr, known))}, not {value!r}"
            )


def is_looped(scan: str, length: int) -> bool:
    """Whether a stack of that length is a loop: "auto" says so of a long one on an accelerator.
    In a loop XLA:CPU takes 20 to 36 times as long for the gradient of a convolution."""
    if scan == "auto":
        return length >= LONG_STACK and jax.default_backend() != "cpu"
    return scan == "on" and length > 0


def rematerialised(block: Block, remat: str) -> Block:
    """The block with a backward pass that computes again what it needs of the forward one: with
    "blocks" all but the block's inputs; with "dots" all but what convolutions and dense layers put
    out, so norms, swish, dropout and the weights of the attention."""
    if remat == "none":
        return block
    keep = _convolutions_and_dense if remat == "dots" else checkpoint_policies.nothing_saveable
    return jax.checkpoint(block, policy=keep)


def _convolutions_and_dense(primitive: Any, *args: Any, **params: Any) -> Any:
    if primitive.name == "conv_general_dilated":
        return True
    return checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *args, **params)


def run_stack(
    block: Block,
    params: list[Params],
    h: Array,
    joined: PyTree,
    keys: PRNGKey | None,
    looped: bool,
) -> tuple[Array, PyTree]:
    """(h behind the last of the blocks, h behind each of them, if nothing is joined).

    joined: such a second result, which joins the inputs of the blocks, its last one that of the
    first block; None: nothing does. keys: one for each block. In a loop the second result is an
    array with an axis for the blocks, else a list.
    """
    if looped:
        # What is joined is read from its end, for which it need not be turned round in memory.
        backwards = joined is not None
        params = params[::-1] if backwards else params
        keys = keys[::-1] if backwards and keys is not None else keys
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)

        def body(h: Array, of_block: tuple) -> tuple[Array, Array | None]:
            of, more, key = of_block
            h = block(of, h, more, key)
            return h, None if backwards else h

        return jax.lax.scan(body, h, (stacked, joined, keys), reverse=backwards)
    passed = []
    for i, of in enumerate(params):
        more = None if joined is None else joined[-1 - i]
        h = block(of, h, more, None if keys is None else keys[i])
        passed.append(h)
    return h, passed
