"""A gradient taken in microbatches, one after another: as much memory as one of them needs.

Everything random but the masks of dropout is drawn for the whole batch beforehand, so that the
number of microbatches changes a gradient by rounding alone (with dropout: by other masks).
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
    """`count` microbatches for a step, on a mesh (None: one device).

    Microbatch m has the m-th part of the rows of each device: no row leaves its device.
    """

    count: int = 1
    mesh: Mesh | None = None

    def __call__(
        self, gradient: Callable[[PyTree, PRNGKey], tuple[Mean, Rows]], rows: PyTree, key: PRNGKey
    ) -> tuple[Mean, Rows]:
        """gradient(rows, key) -> (means over the rows, arrays with a row for each), of all rows.

        Each microbatch has a key folded from `key`; a single one has `key` itself.
        """
        if self.count == 1:
            means, of_rows = gradient(rows, key)
            return sharding.split(means, self.mesh), of_rows
        parts = jax.tree.map(self._cut, rows)

        def add(total: Mean | None, index: Array | int, part: PyTree) -> tuple[Mean, Rows]:
            means, of_rows = gradient(part, jax.random.fold_in(key, index))
            means = means if total is None else jax.tree.map(jnp.add, total, means)
            return sharding.split(means, self.mesh), of_rows

        if self._platform == "cpu":
            # Unrolled: in a loop XLA:CPU takes 20 to 36 times as long for a convolution's gradient.
            total, seen = None, []
            for index in range(self.count):
                part = jax.tree.map(lambda x, i=index: x[i], parts)
                # One after another, or the memory is that of the whole batch.
                part, total = jax.lax.optimization_barrier((part, total))
                total, of_rows = add(total, index, part)
                seen.append(of_rows)
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
        """[batch, ...] -> [count, batch / count, ...]."""
        shards = self.mesh.devices.size if self.mesh else 1
        if len(rows) % (shards * self.count):
            raise ValueError(
                f"{self.count} microbatches of {len(rows)} examples on {shards} devices: it must "
                "divide; choose another train.accumulate"
            )
        parts = rows.reshape(shards, self.count, -1, *rows.shape[1:]).swapaxes(0, 1)
        return parts.reshape(self.count, -1, *rows.shape[1:])

    def _join(self, parts: Array) -> Array:
        """The reverse of `_cut`."""
        shards = self.mesh.devices.size if self.mesh else 1
        rest = parts.shape[2:]
        rows = parts.reshape(self.count, shards, -1, *rest).swapaxes(0, 1)
        return rows.reshape(-1, *rest)
