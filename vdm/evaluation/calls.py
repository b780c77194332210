"""Divides a long computation into calls of compiled code that take seconds each.

Python handles signals and moves progress bars only between such calls, so none should take long.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh

from vdm.devices import sharding
from vdm.models.latent_variable import AnyModel
from vdm.models.vdm import count_parameters
from vdm.typing import Params

WORK = 5e10
"""The largest number of multiplications in a call on one CPU device: some seconds of a core. Small
batches are as fast there as large ones."""

WORK_OF_ACCELERATOR, LEAST_OF_ACCELERATOR = 5e13, 32
"""The same for an accelerator, and the number of examples below which it is partly idle."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """How a long computation is divided into parts, and what is done with each.

    Attributes:
        batch_size: the largest number of examples in a call.
        finished: the parts that `on_part` received in an earlier, interrupted computation with the
            same arguments; they are not computed again.
        on_part: called with each finished part.
        on_batch: called with (amount done, total).
        stop: `vdm.devices.waiting.Abandoned` is raised soon after stop() is true.
    """

    batch_size: int = 256
    finished: Sequence[np.ndarray] = ()
    on_part: Callable[[np.ndarray], None] = lambda part: None
    on_batch: Callable[[int, int], None] = lambda done, total: None
    stop: Callable[[], bool] = lambda: False


def call_size(model: AnyModel, params: Params, batch_size: int, passes: int, mesh: Mesh) -> int:
    """Returns the number of examples in a call: batch_size, or fewer where that would take too
    long; a multiple of the number of devices.

    passes: through the network, for each example. The result depends on the arguments alone,
    because the batch size may change the last bits of an example's result.
    """
    # A convolution uses each parameter at every pixel.
    pixels = math.prod(model.dims[:2]) if len(model.dims) == 3 else 1
    work, least = WORK, 1
    if mesh.devices.flat[0].platform != "cpu":
        work, least = WORK_OF_ACCELERATOR, LEAST_OF_ACCELERATOR
    most = max(least, int(work / (1 + passes * count_parameters(params) * pixels)))
    return sharding.round_up(min(batch_size, most * mesh.devices.size), mesh)
