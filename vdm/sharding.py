"""Devices: how many there are, the mesh over them, and where arrays live.

Parallelism is `jax.jit` over arrays with a NamedSharding (pmap is in maintenance mode): the
batch is split over the axis "data", parameters are on every device.
"""

import os

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MAX_HOST_DEVICES = 16


def num_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def split_host(num_devices: int = 0) -> None:
    """Make the CPU `num_devices` devices; 0: the largest power of two up to its cores.

    XLA runs each convolution on one core, so one device per core is 1.2 to 1.5 times faster
    than one device on all cores. A power of two divides the usual batch sizes. Does nothing
    when an accelerator is used or a backend has already started.
    """
    if num_devices > max(MAX_HOST_DEVICES, num_cores()):
        return  # accelerators, or a mistake that `build_mesh` names
    if not num_devices:
        num_devices = min(MAX_HOST_DEVICES, 1 << (num_cores().bit_length() - 1))
    try:
        jax.config.update("jax_num_cpu_devices", num_devices)
    except RuntimeError:  # the backend is running: keep the devices it has
        return


def build_mesh(num_devices: int = 0) -> Mesh:
    """A mesh with the one axis "data" over the first `num_devices` devices; 0 takes all."""
    devices = jax.devices()
    if num_devices > len(devices):
        raise ValueError(
            f"train.num_devices = {num_devices}, but there are {len(devices)} devices; "
            "0 takes all there are"
        )
    devices = devices[: num_devices or len(devices)]
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def name_devices(mesh: Mesh) -> str:
    """Such as "2 x cpu"."""
    return f"{mesh.devices.size} x {mesh.devices.flat[0].platform}"


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """A training batch has equally many examples on every device."""
    size = mesh.devices.size
    if batch_size % size:
        raise ValueError(
            f"train.batch_size = {batch_size} does not divide by the {size} devices: take "
            f"{round_up(batch_size, mesh)}, or --config.train.num_devices=1"
        )


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The smallest multiple of the device count that holds batch_size examples."""
    return -(-batch_size // mesh.devices.size) * mesh.devices.size


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a global batch, onto the devices, split over its leading axis."""
    sharding = split_batch(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
