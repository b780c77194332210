"""What a stack of equal blocks is in the compiled program: what its backward pass keeps of the
forward one, and whether it is one block in a loop or all of them in a row.

A loop reads the parameters of its blocks as arrays with a leading axis for the blocks, under one
name, `down_*` instead of `down_0`, `down_1`, ...: so a train state has them where its network is a
loop, and the gradient, the optimiser and the average are of a few arrays instead of every block's.
Checkpoints have each block by its own name, whatever the program is.
"""

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
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
    params: Params | list[Params],
    h: Array,
    joined: PyTree,
    keys: PRNGKey | None,
) -> tuple[Array, PyTree]:
    """(h behind the last of the blocks, h behind each of them, if nothing is joined).

    params: of each block, a list, or of all of them, arrays with an axis for the blocks, and then
    it is a loop. joined: such a second result, which joins the inputs of the blocks, its last one
    that of the first block; None: nothing does. keys: one for each block. In a loop the second
    result is an array with an axis for the blocks, else a list.
    """
    if not isinstance(params, list):
        # What is joined is read from its end, for which it need not be turned round in memory.
        backwards = joined is not None
        if backwards:
            params = jax.tree.map(lambda leaf: leaf[::-1], params)
            keys = None if keys is None else keys[::-1]

        def body(h: Array, of_block: tuple) -> tuple[Array, Array | None]:
            of, more, key = of_block
            h = block(of, h, more, key)
            return h, None if backwards else h

        return jax.lax.scan(body, h, (params, joined, keys), reverse=backwards)
    passed = []
    for i, of in enumerate(params):
        more = None if joined is None else joined[-1 - i]
        h = block(of, h, more, None if keys is None else keys[i])
        passed.append(h)
    return h, passed


STACKED = "_*"
"""What stands in a name for the numbers of all blocks."""


def stacked_name(name: str) -> str:
    """ "down_*" of the blocks "down_0", "down_1", ..."""
    return f"{name}{STACKED}"


def is_stacked(path: tuple) -> bool:
    """Whether the array at that path of a state has an axis for the blocks in front."""
    return any(STACKED in str(getattr(key, "key", "")) for key in path)


def stack_blocks(tree: PyTree, loops: Mapping[str, int]) -> PyTree:
    """A train state, or a part of it, with the arrays of `loops` (name -> blocks in it) as a loop
    reads them: every dict in it that has all the blocks NAME_0, ... has NAME_* instead."""
    names = {f"{name}_{i}" for name, count in loops.items() for i in range(count)}

    def is_network(node: Any) -> bool:
        return bool(names) and isinstance(node, dict) and names <= node.keys()

    def stacked(node: Any) -> Any:
        if not is_network(node):
            return node
        rest, blocks = {}, defaultdict(dict)
        for key, value in node.items():
            found = re.fullmatch(r"(.+)_(\d+)(\D*)", key)  # down_3, down_3_attention
            if found and int(found[2]) < loops.get(found[1], 0):
                blocks[stacked_name(found[1]) + found[3]][int(found[2])] = value
            else:
                rest[key] = value
        return rest | {key: stack([of[i] for i in sorted(of)]) for key, of in blocks.items()}

    return jax.tree.map(stacked, tree, is_leaf=is_network)


def unstack_blocks(tree: PyTree, loops: Mapping[str, int]) -> PyTree:
    """The inverse of `stack_blocks`: every block under its own name."""

    def is_network(node: Any) -> bool:
        return isinstance(node, dict) and any(stacked_name(name) in node for name in loops)

    def apart(node: Any) -> Any:
        if not is_network(node):
            return node
        blocks = {}
        for key, value in node.items():
            name, stacked, _ = key.partition(STACKED)
            if not stacked:
                blocks[key] = value
                continue
            for i, block in enumerate(rows_of(value, loops[name])):
                blocks[key.replace("*", str(i))] = block
        return blocks

    return jax.tree.map(apart, tree, is_leaf=is_network)


def stack(blocks: list[Params]) -> Params:
    """The parameters of blocks as arrays with an axis for them."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)


@functools.partial(jax.jit, static_argnums=1)
def rows_of(stacked: Params, count: int) -> list[Params]:
    """The inverse of `stack`, for `count` blocks."""
    leaves, structure = jax.tree.flatten(stacked)
    return [jax.tree.unflatten(structure, [leaf[i] for leaf in leaves]) for i in range(count)]
