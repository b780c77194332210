"""Devices, the mesh over them, and the placement of arrays.

Programs run in parallel through `jax.jit` over arrays with a NamedSharding (pmap is in maintenance
mode), on a mesh with axes "data" and "fsdp". A batch is split over both axes. With fsdp = 1, every
device has all parameters; with more, each array of the state is split over that many devices and
gathered for the pass through the network (ZeRO, arXiv:1910.02054).
"""

import functools
import os
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vdm.devices import processes
from vdm.typing import PyTree

MAX_HOST_DEVICES = 16

AXES = ("data", "fsdp")

MIN_SPLIT = 1024
"""Arrays with fewer numbers are not split: gathering 4 kB takes as long as gathering nothing."""

Tree = TypeVar("Tree")


def num_cores() -> int:
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def split_host(num_devices: int = 0) -> None:
    """Divides the CPU into `num_devices` JAX devices, shared equally among the processes of a run.

    0 means the largest power of two that is not above the number of cores. XLA runs each
    convolution on one core, so one device per core is 1.2 to 1.5 times faster than one device on
    all cores; a power of two divides the usual batch sizes. This has no effect if an accelerator is
    used or a backend has already started. Only programs should call it, not libraries.
    """
    if num_devices > max(MAX_HOST_DEVICES, num_cores()):
        return  # accelerators, or a mistake that `build_mesh` reports
    num_devices //= processes.num_processes()
    if not num_devices:
        num_devices = min(MAX_HOST_DEVICES, 1 << (num_cores().bit_length() - 1))
    try:
        jax.config.update("jax_num_cpu_devices", num_devices)
    except RuntimeError:  # the backend is running and keeps its devices
        return


def start() -> None:
    """Starts JAX's devices. Raises ValueError if there are none, or if compilation is disabled."""
    if getattr(jax.config, "jax_disable_jit", False):
        raise ValueError(
            "JAX_DISABLE_JIT is set, and uncompiled steps would take hours: unset it, or set it "
            "to 0; jax.debug.print shows values inside compiled functions"
        )
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        requested = getattr(jax.config, "jax_platforms", None)
        reason = " ".join(str(error).split()) or "its plugin is not installed, or finds no device"
        if not requested:
            raise ValueError(f"JAX finds no devices: {reason}") from error
        reason = reason.partition(" (set JAX")[0]
        raise ValueError(
            f"JAX_PLATFORMS = {requested!r} cannot be used here ({reason}): "
            "unset JAX_PLATFORMS, or set it to cpu; an NVIDIA GPU needs the package's extra "
            "'cuda', a TPU 'tpu'"
        ) from error


def build_mesh(num_devices: int = 0, fsdp: int = 1) -> Mesh:
    """Builds the mesh with axes ("data", "fsdp").

    Args:
        num_devices: how many devices to use, the first ones; 0 means all.
        fsdp: over how many neighbouring devices to split each array of the state.

    Raises:
        ValueError: there are not that many devices, or fsdp does not divide their number.
    """
    # Each process holds consecutive rows of a batch, so its devices must be neighbours;
    # jax.make_mesh would order devices by how they are connected.
    devices = sorted(jax.devices(), key=lambda device: device.process_index)
    if num_devices > len(devices):
        more = (
            f"; jax.config.update('jax_num_cpu_devices', {num_devices}) at the start of a program "
            "divides the CPU into that many"
            if devices[0].platform == "cpu"
            else ""
        )
        raise ValueError(
            f"train.num_devices = {num_devices}, but there are {len(devices)} devices; "
            f"0 uses all of them{more}"
        )
    if 0 < num_devices < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"train.num_devices = {num_devices}: {jax.process_count()} processes use all of their "
            f"{len(devices)} devices; set it to 0"
        )
    devices = devices[: num_devices or len(devices)]
    if len(devices) % fsdp:
        raise ValueError(
            f"train.fsdp = {fsdp} does not divide the {len(devices)} devices: take a divisor, or "
            "1, which keeps all parameters on each device"
        )
    shape = (len(devices) // fsdp, fsdp)
    mesh = Mesh(np.array(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 2)
    if jax.process_count() > 1:
        _meet(mesh)
    return mesh


def _meet(mesh: Mesh) -> None:
    """Connects all processes while they are at the same point in the program.

    The first collective operation of a set of devices waits only 30 s for the others (gloo), and
    compiling a step may take one process longer than the others.
    """
    ones = {"": np.ones(mesh.devices.size // jax.process_count(), np.int32)}
    jax.jit(jax.numpy.sum, out_shardings=replicated(mesh))(put_batch(ones, mesh)[""])
    processes.any_of(0)


def name_devices(mesh: Mesh) -> str:
    """The number and kind of a mesh's devices, such as "2 x cpu"."""
    return f"{mesh.devices.size} x {mesh.devices.flat[0].platform}"


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The sharding that splits the leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def is_split(mesh: Mesh | None) -> bool:
    """Whether arrays of the state are split over several devices."""
    return mesh is not None and mesh.shape["fsdp"] > 1


def split_array(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """The sharding of an array of the state.

    Its largest axis that is divisible by the "fsdp" devices (the last of equal ones) is split over
    them. An array without such an axis, or with fewer than MIN_SPLIT numbers, is not split. The
    sharding depends only on the shape, so the optimiser's arrays and the EMA are placed like their
    parameters.
    """
    count = mesh.shape["fsdp"]
    axes = [axis for axis, size in enumerate(shape) if size % count == 0]
    if count == 1 or not axes or np.prod(shape) < MIN_SPLIT:
        return replicated(mesh)
    chosen = max(axes, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*[None] * chosen, "fsdp"))


def split_state(tree: PyTree, mesh: Mesh) -> PyTree:
    """The sharding of every array (or shape) in a state."""
    return jax.tree.map(lambda leaf: split_array(leaf.shape, mesh), tree)


def split(tree: Tree, mesh: Mesh | None) -> Tree:
    """Inside a compiled function, constrains a state or its gradient to the shardings of
    `split_state`; without a split mesh, returns it unchanged."""
    if mesh is None or not is_split(mesh):
        return tree
    return jax.lax.with_sharding_constraint(tree, split_state(tree, mesh))


def gather(tree: Tree, mesh: Mesh | None) -> Tree:
    """Makes arrays of a state whole on every device, inside a compiled function or outside."""
    if mesh is None or not is_split(mesh):
        return tree
    return _gather_to(replicated(mesh))(tree)


def put_everywhere(tree: Tree, mesh: Mesh | None) -> Tree:
    """Copies arrays that every process has to every device; without a mesh, does nothing."""
    return tree if mesh is None else _gather_to(replicated(mesh))(tree)


@functools.cache
def _gather_to(everywhere: NamedSharding) -> Callable[[Tree], Tree]:
    """A compiled function for each sharding, cached so that it is not compiled at every call."""
    return jax.jit(lambda arrays: jax.lax.with_sharding_constraint(arrays, everywhere))


def check_batch(
    batch_size: int, mesh: Mesh, accumulate: int = 1, field: str = "train.batch_size"
) -> None:
    """Checks that a training batch and its microbatches can be divided equally among the devices.

    Raises ValueError, which names the config's `field`, if not.
    """
    size = mesh.devices.size
    if batch_size % (size * accumulate):
        parts = f" times train.accumulate = {accumulate}" if accumulate > 1 else ""
        least = -(-batch_size // (size * accumulate)) * size * accumulate
        remedy = ""
        if batch_size % size == 0:
            remedy = ", or --config.train.accumulate=1"
        elif batch_size % accumulate == 0 and jax.process_count() == 1:
            remedy = ", or --config.train.num_devices=1"
        raise ValueError(
            f"{field} = {batch_size} is not divisible by the {size} devices{parts}: take "
            f"{least}{remedy}"
        )


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The smallest multiple of the number of devices that is at least batch_size."""
    return -(-batch_size // mesh.devices.size) * mesh.devices.size


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's share of a global batch onto the devices, split over its leading axis."""
    sharding = split_batch(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def put_whole_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Like `put_batch`, for a global batch that every process has as a whole."""
    sharding = split_batch(mesh)
    return {
        k: jax.make_array_from_process_local_data(sharding, v, v.shape) for k, v in batch.items()
    }


def fetch(tree: PyTree) -> PyTree:
    """Returns whole arrays as NumPy arrays in every process; all processes must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
