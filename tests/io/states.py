"""Train states whose every bit is known, for the tests of checkpoints, and ways to compare them."""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


class Moments(NamedTuple):
    count: jax.Array
    mu: dict[str, jax.Array]
    nu: dict[str, jax.Array]


class Empty(NamedTuple):
    pass


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    params: dict[str, Any]
    ema_params: dict[str, Any]
    opt_state: tuple[Any, ...]
    key: jax.Array


def make_state(step: int, width: int = 16) -> State:
    """A state whose every bit follows from `step`, with the kinds of leaves and nodes we use."""
    rng = np.random.default_rng(step)

    def params() -> dict[str, Any]:
        kernel = jnp.asarray(rng.normal(size=(8, width)), jnp.float32)
        return {"dense": {"kernel": kernel}, "half": jnp.ones(3, jnp.bfloat16) * step}

    nan = jax.lax.bitcast_convert_type(jnp.uint32(0x7FC12345), jnp.float32)
    moments = Moments(jnp.int32(step), params(), {"odd": jnp.stack([nan, -0.0 * nan, jnp.inf])})
    return State(
        step=jnp.int32(step),
        params=params(),
        ema_params=params(),
        opt_state=(moments, Empty(), (None, {})),
        key=jax.random.key(step),
    )


def abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state
    )


def bits(leaf: jax.Array) -> bytes:
    data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return np.asarray(data).tobytes()


def assert_same(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        where = jax.tree_util.keystr(path)
        assert (a.dtype, a.shape, bits(a)) == (b.dtype, b.shape, bits(b)), where
        assert not getattr(a, "weak_type", False), where  # keys have none


def spread(state: State, devices: int) -> State:
    """The state on a mesh of `devices`: kernels split, the rest on each."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))

    def place(leaf: jax.Array) -> jax.Array:
        spec = PartitionSpec("data") if leaf.ndim == 2 else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, state)


def truncate(folder: Path) -> None:
    """Cuts the largest file of a checkpoint in half."""
    largest = max(folder.rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    os.truncate(largest, largest.stat().st_size // 2)
