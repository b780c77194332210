"""Computes a gradient in microbatches, one after another, which saves memory.

All random numbers except dropout masks are drawn for the whole batch beforehand, so that the number
of microbatches changes a gradient only by rounding (and, with dropout, by other masks).
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from vdm.devices import sharding
from vdm.typing import PRNGKey, PyTree

Mean = TypeVar("Mean")
Rows = TypeVar("Rows")


@dataclasses.dataclass(frozen=True)
class Microbatches:
    """Divides each batch into `count` microbatches, on a mesh (None: one device).

    Microbatch m holds the m-th part of the rows of each device, so that no row leaves its device.
    """

    count: int = 1
    mesh: Mesh | None = None

    def __call__(
        self, gradient: Callable[[PyTree, PRNGKey], tuple[Mean, Rows]], rows: PyTree, key: PRNGKey
    ) -> tuple[Mean, Rows]:
        """Returns gradient(rows, key) for all rows, computed in microbatches.

        gradient: returns (means over the rows, arrays with one row for each). key: each microbatch
        gets a key folded from it; a single microbatch gets the key itself.
        """
        if self.count == 1:
            means, per_row = gradient(rows, key)
            return sharding.split(means, self.mesh), per_row
        parts = jax.tree.map(self._cut, rows)

        def add(total: Mean | None, index: Array | int, part: PyTree) -> tuple[Mean, Rows]:
            means, per_row = gradient(part, jax.random.fold_in(key, index))
            means = means if total is None else jax.tree.map(jnp.add, total, means)
            return sharding.split(means, self.mesh), per_row

        if self._platform == "cpu":
            # Unrolled, because XLA:CPU takes 20 to 36 times as long for a convolution's gradient in
            # a loop.
            total, seen = None, []
            for index in range(self.count):
                part = jax.tree.map(lambda x, i=index: x[i], parts)
                # One after another; otherwise they need as much memory as the whole batch.
                part, total = jax.lax.optimization_barrier((part, total))
                total, per_row = add(total, index, part)
                seen.append(per_row)
            stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *seen)
        else:
            shapes, _ = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], parts), key)
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            total, stacked = jax.lax.scan(
                lambda total, x: add(total, *x),
                sharding.split(zeros, self.mesh),
                (jnp.arange(self.count), parts),
            )
        return jax.tree.map(lambda x: x / self.count, total), jax.tree.map(self._join, stacked)

    @property
    def _platform(self) -> str:
        return self.mesh.devices.flat[0].platform if self.mesh else jax.default_backend()

    def _cut(self, rows: Array) -> Array:
        """Reshapes [batch, ...] to [count, batch / count, ...]."""
        shards = self.mesh.devices.size if self.mesh else 1
        if len(rows) % (shards * self.count):
            raise ValueError(
                f"{self.count} microbatches of {len(rows)} examples on {shards} devices: they "
                "must divide evenly; choose another train.accumulate"
            )
        parts = rows.reshape(shards, self.count, -1, *rows.shape[1:]).swapaxes(0, 1)
        return parts.reshape(self.count, -1, *rows.shape[1:])

    def _join(self, parts: Array) -> Array:
        """Undoes `_cut`."""
        shards = self.mesh.devices.size if self.mesh else 1
        rest = parts.shape[2:]
        rows = parts.reshape(self.count, shards, -1, *rest).swapaxes(0, 1)
        return rows.reshape(-1, *rest)
