"""Joins several processes, on one machine or many, into one run, and tells which of them writes.

Every process runs the same command; the workdir must be a folder that all of them see.

SLURM       srun --nodes=2 --ntasks-per-node=1 python -m vdm.main --config=... --workdir=...
Open MPI    mpirun -n 2 -x VDM_COORDINATOR=$(hostname):29400 python -m vdm.main ...
MPICH       VDM_COORDINATOR=$(hostname):29400 mpiexec -n 2 python -m vdm.main ...
Kubernetes  an Indexed Job with VDM_COORDINATOR=<pod of index 0>:29400 and VDM_NUM_PROCESSES=2
Cloud TPU   the command on every worker, with VDM_COORDINATOR=auto where the workers' names are not
            in TPU_WORKER_HOSTNAMES
by hand     VDM_COORDINATOR=host0:29400 VDM_NUM_PROCESSES=2 VDM_PROCESS_ID=0 python -m vdm.main ...

If one process dies, the others stop within VDM_HEARTBEAT_SECS seconds (default 100) of its last
sign of life; restart all of them to resume from the newest checkpoint.

Processes that receive SIGTERM or SIGINT agree to stop every 16 steps, so the time that the launcher
leaves between that signal and a kill must cover 16 steps and a save.
"""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np


@dataclass(frozen=True)
class Cluster:
    """The processes of a run, and which one this is.

    Attributes:
        coordinator: "host:port" of the first process; "" if JAX finds everything by itself.
        num_processes: how many processes there are.
        process_id: the index of this process.
        local_device: the accelerator of this process; None for all that it sees.
    """

    coordinator: str = ""
    num_processes: int = 0
    process_id: int = 0
    local_device: int | None = None


def detect(environ: Mapping[str, str]) -> Cluster | None:
    """The cluster described by environment variables; None for a single process.

    Raises ValueError if the variables contradict each other or one is missing.
    """
    coordinator = environ.get("VDM_COORDINATOR", "")
    if coordinator == "auto":
        return Cluster()
    # The order matters: mpirun inside a SLURM job sets the variables of both, and srun also sets
    # those of PMI.
    if "VDM_PROCESS_ID" in environ:
        return _cluster(environ, coordinator, "VDM_NUM_PROCESSES", "VDM_PROCESS_ID")
    if "OMPI_COMM_WORLD_SIZE" in environ:
        sharing = int(environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1")) > 1
        local = "OMPI_COMM_WORLD_LOCAL_RANK" if sharing else ""
        size, rank = "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"
        return _cluster(environ, coordinator, size, rank, local)
    if "SLURM_STEP_NODELIST" in environ:  # not set in a batch script outside srun
        nodes = expand_nodes(environ["SLURM_STEP_NODELIST"])
        port = _port(environ)
        local = "SLURM_LOCALID" if _count(environ, "SLURM_NTASKS") > len(nodes) else ""
        return _cluster(
            environ, coordinator or f"{nodes[0]}:{port}", "SLURM_NTASKS", "SLURM_PROCID", local
        )
    if "PMI_SIZE" in environ:
        return _cluster(environ, coordinator, "PMI_SIZE", "PMI_RANK")
    if "JOB_COMPLETION_INDEX" in environ and coordinator:
        return _cluster(environ, coordinator, "VDM_NUM_PROCESSES", "JOB_COMPLETION_INDEX")
    if "," in environ.get("TPU_WORKER_HOSTNAMES", ""):
        return Cluster()
    if coordinator or "VDM_NUM_PROCESSES" in environ:
        raise ValueError(
            "VDM_COORDINATOR or VDM_NUM_PROCESSES is set, but nothing tells which process this "
            "is: set VDM_PROCESS_ID to 0, 1, ..."
        )
    return None


def _port(environ: Mapping[str, str]) -> int:
    """A different port for each step of each job, below the range that Linux assigns itself."""
    job, step = (int(environ.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return 10_000 + (101 * job + step) % 22_768  # 101: step 1 of a job is not step 0 of the next


def _cluster(
    environ: Mapping[str, str], coordinator: str, count: str, index: str, local: str = ""
) -> Cluster | None:
    """The cluster described by the variables named `count`, `index` and `local` (the index of this
    process on its machine); None for a single process."""
    num_processes, process_id = _count(environ, count), _count(environ, index)
    if num_processes == 1:
        return None
    if not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(
            f"VDM_COORDINATOR = {coordinator!r}: set it to host:port of the first of the "
            f"{num_processes} processes, with a port that is free there"
        )
    if process_id >= num_processes:
        raise ValueError(
            f"{index} = {process_id}: for {num_processes} processes it must be from 0 to "
            f"{num_processes - 1}"
        )
    # A launcher that gives each process one accelerator has already hidden the others.
    hidden = len(environ.get("CUDA_VISIBLE_DEVICES", ",").split(",")) == 1
    device = _count(environ, local) if local and not hidden else None
    return Cluster(coordinator, num_processes, process_id, device)


def _count(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    if not value.isdecimal():
        raise ValueError(f"the environment variable {name} = {value!r}: it must be a number")
    return int(value)


def expand_nodes(nodelist: str) -> list[str]:
    """Expands SLURM's node lists: "node[01-03,7],x" -> node01, node02, node03, node7, x."""
    names = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodelist):
        expanded = [""]
        for plain, inside in re.findall(r"([^\[]+)|\[([^\]]*)\]", part):
            choices = [plain] if plain else _expand_ranges(inside)
            expanded = [name + choice for name in expanded for choice in choices]
        names += expanded
    if not names:
        raise ValueError("SLURM_STEP_NODELIST is empty: set VDM_COORDINATOR to host:port")
    return names


def _expand_ranges(ranges: str) -> list[str]:
    """Expands ranges of numbers: "01-03,7" -> 01, 02, 03, 7."""
    numbers = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        width = len(first)
        numbers += [f"{n:0{width}d}" for n in range(int(first), int(last or first) + 1)]
    return numbers


def initialize(environ: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes, if there are any; call it before JAX's backend starts."""
    import jax

    cluster = detect(environ)
    if cluster is None or jax.distributed.is_initialized():
        return
    heartbeat = int(environ.get("VDM_HEARTBEAT_SECS", "100"))
    if not cluster.coordinator:
        jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat)
        return
    jax.distributed.initialize(
        cluster.coordinator,
        cluster.num_processes,
        cluster.process_id,
        local_device_ids=None if cluster.local_device is None else [cluster.local_device],
        heartbeat_timeout_seconds=heartbeat,
    )


def has_joined() -> bool:
    """Whether this process has joined other processes."""
    import jax

    return jax.distributed.is_initialized()


def num_processes() -> int:
    """The number of processes. Does not start JAX's backend if the environment tells the number."""
    import jax

    if not jax.distributed.is_initialized():
        return 1
    cluster = detect(os.environ)
    return cluster.num_processes if cluster and cluster.coordinator else jax.process_count()


def is_first() -> bool:
    """Whether this is the one process that writes files and prints. Does not start JAX's backend in
    a single process."""
    if "jax" not in sys.modules:  # as in a program that only draws or reads
        return True
    import jax

    return not jax.distributed.is_initialized() or jax.process_index() == 0


def any_of(value: int) -> int:
    """The largest `value` over all processes, each of which must call this at the same point."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return value
    return int(multihost_utils.process_allgather(np.int32(value)).max())


def agree(what: str, value: int) -> None:
    """Raises ValueError in every process unless `value` is the same in all of them. Each process
    must call this at the same point."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return
    values = multihost_utils.process_allgather(np.int32(value))
    if values.min() != values.max():
        raise ValueError(
            f"the processes differ in {what}: {values.min()} and {values.max()}; the workdir must "
            "be a folder that all of them see: wait until they see the same files, then restart all"
        )


def leave(status: int) -> NoReturn:
    """Ends this process at once after an error; a normal exit would wait for the other processes,
    which wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
