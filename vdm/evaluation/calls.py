"""One call of the devices: how many examples it takes, and how it is waited for.

Python handles a signal between two calls of compiled code, and a progress bar moves there, so that
a call should take seconds, whatever is computed in it.
"""

import math

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
