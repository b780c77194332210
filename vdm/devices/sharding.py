"""Devices: how many there are, the mesh over them, and where arrays live.

Parallelism is `jax.jit` over arrays with a NamedSharding (pmap is in maintenance mode), on a mesh
with the axes "data" and "fsdp". A batch is split over both. Parameters are on every device with
fsdp = 1; with more, each array of the state is split over that many devices, and is gathered for
the pass through the network (ZeRO, arXiv:1910.02054).
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
"""Arrays of fewer numbers are whole on every device: to gather 4 kB takes as long as nothing."""

Tree = TypeVar("Tree")


def num_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def split_host(num_devices: int = 0) -> None:
    """Make the CPU `num_devices` devices, of several processes each its share; 0: the largest
    power of two up to its cores. For programs: a library takes the devices that there are.

    XLA runs each convolution on one core, so one device per core is 1.2 to 1.5 times faster
    than one device on all cores. A power of two divides the usual batch sizes. Does nothing
    when an accelerator is used or a backend has already started.
    """
    if num_devices > max(MAX_HOST_DEVICES, num_cores()):
        return  # accelerators, or a mistake that `build_mesh` names
    num_devices //= processes.num_processes()
    if not num_devices:
        num_devices = min(MAX_HOST_DEVICES, 1 << (num_cores().bit_length() - 1))
    try:
        jax.config.update("jax_num_cpu_devices", num_devices)
    except RuntimeError:  # the backend is running: keep the devices it has
        return


def start() -> None:
    """Starts JAX's devices. ValueError where there are none, or where JAX compiles nothing."""
    if getattr(jax.config, "jax_disable_jit", False):
        raise ValueError(
            "JAX_DISABLE_JIT is set, and uncompiled steps would take hours: unset it, or set it "
            "to 0; jax.debug.print shows values inside of compiled functions"
        )
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = getattr(jax.config, "jax_platforms", None)
        reason = " ".join(str(error).split()) or "its plugin is not installed, or finds no device"
        if not wanted:
            raise ValueError(f"JAX finds no devices: {reason}") from error
        raise ValueError(
            f"JAX_PLATFORMS = {wanted!r} cannot be used here ({reason.partition(' (set JAX')[0]}): "
            "unset JAX_PLATFORMS, or set it to cpu; an NVIDIA GPU needs the package's extra "
            "'cuda', a TPU 'tpu'"
        ) from error


def build_mesh(num_devices: int = 0, fsdp: int = 1) -> Mesh:
    """A mesh ("data", "fsdp") over the first `num_devices` devices, 0: all; `fsdp` neighbours
    share each array of the state."""
    # A process has the rows of a batch that its place in the order of processes gives it, so its
    # devices are neighbours; jax.make_mesh would order them by how they are connected.
    devices = sorted(jax.devices(), key=lambda device: device.process_index)
    if num_devices > len(devices):
        more = (
            f"; jax.config.update('jax_num_cpu_devices', {num_devices}) at the start of a program "
            "makes the CPU as many"
            if devices[0].platform == "cpu"
            else ""
        )
        raise ValueError(
            f"train.num_devices = {num_devices}, but there are {len(devices)} devices; "
            f"0 takes all there are{more}"
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
            "1, which keeps the parameters whole on each"
        )
    shape = (len(devices) // fsdp, fsdp)
    mesh = Mesh(np.array(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 2)
    if jax.process_count() > 1:
        _meet(mesh)
    return mesh


def _meet(mesh: Mesh) -> None:
    """Connects all processes, while they are at the same point. The first collective of a set of
    devices waits 30 s for the others (gloo), and compiling a step may take one of them longer."""
    ones = {"": np.ones(mesh.devices.size // jax.process_count(), np.int32)}
    jax.jit(jax.numpy.sum, out_shardings=replicated(mesh))(put_batch(ones, mesh)[""])
    processes.any_of(0)


def name_devices(mesh: Mesh) -> str:
    """Such as "2 x cpu"."""
    return f"{mesh.devices.size} x {mesh.devices.flat[0].platform}"


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def is_split(mesh: Mesh | None) -> bool:
    """Whether several devices share each array of the state."""
    return mesh is not None and mesh.shape["fsdp"] > 1


def split_array(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Where an array of the state lives: its largest axis that the "fsdp" devices divide is split
    over them (of equals the last); whole where there is none, or below MIN_SPLIT numbers.

    By the shape alone, so that the optimiser's arrays and the EMA lie where their parameters do.
    """
    count = mesh.shape["fsdp"]
    axes = [axis for axis, size in enumerate(shape) if size % count == 0]
    if count == 1 or not axes or np.prod(shape) < MIN_SPLIT:
        return replicated(mesh)
    chosen = max(axes, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*[None] * chosen, "fsdp"))


def split_state(tree: PyTree, mesh: Mesh) -> PyTree:
    """The sharding of every array, or shape, of a state."""
    return jax.tree.map(lambda leaf: split_array(leaf.shape, mesh), tree)


def split(tree: Tree, mesh: Mesh | None) -> Tree:
    """In a compiled function: arrays of a state, or its gradient, kept where `split_state` says.
    Nothing is said where arrays are whole anyway."""
    if mesh is None or not is_split(mesh):
        return tree
    return jax.lax.with_sharding_constraint(tree, split_state(tree, mesh))


def gather(tree: Tree, mesh: Mesh | None) -> Tree:
    """Whole on every device, in a compiled function or outside."""
    if mesh is None or not is_split(mesh):
        return tree
    return _gather_to(replicated(mesh))(tree)


def put_everywhere(tree: Tree, mesh: Mesh | None) -> Tree:
    """Arrays that every process has, whole on every device; None leaves them where they are."""
    return tree if mesh is None else _gather_to(replicated(mesh))(tree)


@functools.cache
def _gather_to(everywhere: NamedSharding) -> Callable[[Tree], Tree]:
    """One function for each sharding: a new one would be compiled at every call."""
    return jax.jit(lambda arrays: jax.lax.with_sharding_constraint(arrays, everywhere))


def check_batch(
    batch_size: int, mesh: Mesh, accumulate: int = 1, field: str = "train.batch_size"
) -> None:
    """A training batch, and each of its microbatches, has equally many examples on every device;
    else a ValueError that names the config's `field`."""
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
            f"{field} = {batch_size} does not divide by the {size} devices{parts}: take "
            f"{least}{remedy}"
        )


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The smallest multiple of the device count that holds batch_size examples."""
    return -(-batch_size // mesh.devices.size) * mesh.devices.size


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a global batch, onto the devices, split over its leading axis."""
    sharding = split_batch(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def put_whole_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """`put_batch` of a batch that every process has all of."""
    sharding = split_batch(mesh)
    return {
        k: jax.make_array_from_process_local_data(sharding, v, v.shape) for k, v in batch.items()
    }


def fetch(tree: PyTree) -> PyTree:
    """Arrays as NumPy arrays, whole, in every process; all of them call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
