"""How a stack of equal blocks is compiled: what its backward pass keeps from the forward pass, and
whether it is one block in a loop or a sequence of all blocks.

A loop reads the parameters of its blocks as arrays with a leading axis for the blocks, under one
name, `down_*` instead of `down_0`, `down_1`, ... If the network is a loop, the train state stores
them that way too, so that the gradient, the optimiser and the average handle a few arrays instead
of those of every block. Checkpoints always store each block under its own name.
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
"""Number of blocks from which on scan = "auto" uses a loop."""

Block = Callable[[Params, Array, Array | None, PRNGKey | None], Array]
"""(parameters, h, skip that is concatenated to h or None, dropout key or None) -> the next h."""


def check_form(dtype: str, remat: str, scan: str) -> None:
    """Raises ValueError for an unknown value of network.kwargs.dtype, remat or scan."""
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
    """Whether a stack of `length` blocks is compiled as a loop; "auto" means a long stack on an
    accelerator. On the CPU the gradient of a convolution takes 20 to 36 times longer in a loop."""
    if scan == "auto":
        return length >= LONG_STACK and jax.default_backend() != "cpu"
    return scan == "on" and length > 0


def rematerialised(block: Block, remat: str) -> Block:
    """Returns the block with a backward pass that recomputes parts of the forward pass: with
    "blocks" everything inside the block, with "dots" everything except the outputs of convolutions
    and dense layers, that is norms, swish, dropout and the weights of the attention."""
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
    skips: PyTree,
    keys: PRNGKey | None,
) -> tuple[Array, PyTree]:
    """Applies the blocks in turn and returns the last h and the h after each block.

    Args:
        block: the function of one block.
        params: a list with the parameters of each block; or arrays with a leading axis for the
            blocks, and then the stack is a loop.
        h: the input of the first block.
        skips: the second result of another stack, to concatenate to the inputs of the blocks, the
            last one to that of the first block; or None.
        keys: a dropout key for each block, or None.

    Returns:
        h after the last block; and h after each block, as a list, or in a loop as an array with a
        leading axis for the blocks (None in a loop with skips).
    """
    if not isinstance(params, list):
        # The loop runs backwards, so that the skips need not be reversed in memory.
        backwards = skips is not None
        if backwards:
            params = jax.tree.map(lambda leaf: leaf[::-1], params)
            keys = None if keys is None else keys[::-1]

        def body(h: Array, inputs: tuple) -> tuple[Array, Array | None]:
            block_params, skip, key = inputs
            h = block(block_params, h, skip, key)
            return h, None if backwards else h

        return jax.lax.scan(body, h, (params, skips, keys), reverse=backwards)
    passed = []
    for i, block_params in enumerate(params):
        skip = None if skips is None else skips[-1 - i]
        h = block(block_params, h, skip, None if keys is None else keys[i])
        passed.append(h)
    return h, passed


STACKED = "_*"
"""Stands for the numbers of all blocks in the name of a stack."""


def stacked_name(name: str) -> str:
    """The name of a whole stack: "down_*" for the blocks "down_0", "down_1", ..."""
    return f"{name}{STACKED}"


def is_stacked(path: tuple) -> bool:
    """Whether the array at that path of a state has a leading axis for the blocks."""
    return any(STACKED in str(getattr(key, "key", "")) for key in path)


def stack_blocks(tree: PyTree, loops: Mapping[str, int]) -> PyTree:
    """Returns a train state, or a part of it, with the arrays of `loops` (name -> number of blocks)
    stacked: in every dict that has all blocks NAME_0, ..., NAME_* takes their place."""
    names = {f"{name}_{i}" for name, count in loops.items() for i in range(count)}

    def is_network(node: Any) -> bool:
        return bool(names) and isinstance(node, dict) and names <= node.keys()

    def stacked(node: Any) -> Any:
        if not is_network(node):
            return node
        rest, blocks = {}, defaultdict(dict)
        for key, value in node.items():
            match = re.fullmatch(r"(.+)_(\d+)(\D*)", key)  # down_3, down_3_attention
            if match and int(match[2]) < loops.get(match[1], 0):
                blocks[stacked_name(match[1]) + match[3]][int(match[2])] = value
            else:
                rest[key] = value
        return rest | {key: stack([rows[i] for i in sorted(rows)]) for key, rows in blocks.items()}

    return jax.tree.map(stacked, tree, is_leaf=is_network)


def unstack_blocks(tree: PyTree, loops: Mapping[str, int]) -> PyTree:
    """Stores every block under its own name again, the inverse of `stack_blocks`."""

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
            for i, block in enumerate(unstack(value, loops[name])):
                blocks[key.replace("*", str(i))] = block
        return blocks

    return jax.tree.map(apart, tree, is_leaf=is_network)


def stack(blocks: list[Params]) -> Params:
    """Stacks the parameters of blocks into arrays with a leading axis for the blocks."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)


@functools.partial(jax.jit, static_argnums=1)
def unstack(stacked: Params, count: int) -> list[Params]:
    """Splits stacked parameters into those of `count` blocks, the inverse of `stack`."""
    leaves, structure = jax.tree.flatten(stacked)
    return [jax.tree.unflatten(structure, [leaf[i] for leaf in leaves]) for i in range(count)]
