"""One call of the devices: how many examples it takes, and what becomes of its result.

Python handles a signal between two calls of compiled code, and a progress bar moves there, so that
a call should take seconds, whatever is computed in it.
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
"""Products in a call on one device, at most: some seconds of a core. Small batches are as fast
there as large ones."""

WORK_OF_ACCELERATOR, LEAST_OF_ACCELERATOR = 5e13, 32
"""The same of an accelerator, and examples below which it is idle."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts in which a long computation is done: how large they are, and what follows them.

    Attributes:
        batch_size: examples in a call, at most.
        finished: the parts that `on_part` got from a call with the same arguments that was cut
            off; they are not computed again.
        on_part: called with each part when it is finished.
        on_batch: called with how much is done, and how much there is in all.
        stop: soon after it is true, the computation is given up by `vdm.devices.waiting.Abandoned`.
    """

    batch_size: int = 256
    finished: Sequence[np.ndarray] = ()
    on_part: Callable[[np.ndarray], None] = lambda part: None
    on_batch: Callable[[int, int], None] = lambda done, total: None
    stop: Callable[[], bool] = lambda: False


def call_size(model: AnyModel, params: Params, batch_size: int, passes: int, mesh: Mesh) -> int:
    """Examples in a call: batch_size, or fewer where that many take long, each with so many passes
    through the network; a multiple of the device count. A function of its arguments alone: the
    size of a batch may show in an example's last bits."""
    # Of a convolution each parameter is used at every pixel.
    pixels = math.prod(model.dims[:2]) if len(model.dims) == 3 else 1
    work, least = WORK, 1
    if mesh.devices.flat[0].platform != "cpu":
        work, least = WORK_OF_ACCELERATOR, LEAST_OF_ACCELERATOR
    most = max(least, int(work / (1 + passes * count_parameters(params) * pixels)))
    return sharding.round_up(min(batch_size, most * mesh.devices.size), mesh)
