"""Finds the processes of a run from environments only, and tests what they exchange."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from vdm.devices.processes import Cluster, agree, any_of, detect, expand_nodes

SLURM = {
    "SLURM_JOB_ID": "12345", "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "PMI_SIZE": "2", "PMI_RANK": "1",
}  # fmt: skip
OMPI = {
    "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "VDM_COORDINATOR": "a:1",
}  # fmt: skip
BY_HAND = {"VDM_COORDINATOR": "a:1", "VDM_NUM_PROCESSES": "3", "VDM_PROCESS_ID": "0"}


@pytest.mark.parametrize(
    ("environ", "cluster"),
    [
        ({}, None),
        (BY_HAND, Cluster("a:1", 3, 0)),
        (BY_HAND | SLURM | OMPI, Cluster("a:1", 3, 0)),
        (BY_HAND | {"VDM_NUM_PROCESSES": "1"}, None),
        ({"VDM_COORDINATOR": "auto"}, Cluster()),
        (SLURM, Cluster("gpu07:27373", 2, 1)),
        (SLURM | {"VDM_COORDINATOR": "a:1"}, Cluster("a:1", 2, 1)),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({k: v for k, v in SLURM.items() if k[:3] == "SLU" and "STEP" not in k}, None),  # sbatch
        # Four processes on two nodes: each has an accelerator of its own, unless it sees only one.
        (SLURM | {"SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}, Cluster("gpu07:27373", 4, 1, 1)),
        (
            SLURM | {"SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "5"},
            Cluster("gpu07:27373", 4, 1),
        ),
        (SLURM | OMPI, Cluster("a:1", 4, 3, 1)),
        (OMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, Cluster("a:1", 4, 3)),
        ({"PMI_SIZE": "2", "PMI_RANK": "1", "VDM_COORDINATOR": "a:1"}, Cluster("a:1", 2, 1)),
        (
            {"JOB_COMPLETION_INDEX": "1", "VDM_COORDINATOR": "j-0.j:9", "VDM_NUM_PROCESSES": "2"},
            Cluster("j-0.j:9", 2, 1),
        ),
        ({"JOB_COMPLETION_INDEX": "1"}, None),  # a job of its own
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, Cluster()),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ],
)
def test_the_environment_tells_the_processes(environ, cluster):
    assert detect(environ) == cluster


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (BY_HAND | {"VDM_PROCESS_ID": "3"}, "VDM_PROCESS_ID = 3: for 3 processes"),
        (BY_HAND | {"VDM_COORDINATOR": "a"}, "VDM_COORDINATOR = 'a': set it to host:port"),
        (BY_HAND | {"VDM_NUM_PROCESSES": "two"}, "VDM_NUM_PROCESSES = 'two': it must be a number"),
        ({"VDM_COORDINATOR": "a:1"}, "set VDM_PROCESS_ID"),
        ({k: v for k, v in OMPI.items() if k != "VDM_COORDINATOR"}, "of the 4 processes"),
    ],
)
def test_an_environment_that_lacks_something_is_named(environ, message):
    with pytest.raises(ValueError, match=message):
        detect(environ)


@pytest.mark.parametrize(
    ("nodelist", "names"),
    [
        ("node[01-03,7],x", ["node01", "node02", "node03", "node7", "x"]),
        ("host", ["host"]),
        ("a-[9-11],b[2]", ["a-9", "a-10", "a-11", "b2"]),
        ("r[1-2]n[08-09]", ["r1n08", "r1n09", "r2n08", "r2n09"]),
    ],
)
def test_node_lists_are_expanded(nodelist, names):
    assert expand_nodes(nodelist) == names


def test_each_step_of_each_job_has_a_port_that_the_system_never_assigns():
    ids = [
        ("12345", "0"),
        ("12345", "1"),
        ("12346", "0"),
        ("99999999", "4294967295"),
        ("22543", ""),
    ]
    ports = []
    for job, step in ids:
        cluster = detect(SLURM | {"SLURM_JOB_ID": job} | ({"SLURM_STEP_ID": step} if step else {}))
        ports.append(int(cluster.coordinator.removeprefix("gpu07:")))
    assert ports[:3] == [27373, 27374, 27474]
    assert ports[4] == 10_000 + 101 * 22543 % 22768 == 10_043
    assert all(10_000 <= port < 32_768 for port in ports)


def test_what_processes_differ_in_is_named(monkeypatch):
    assert any_of(3) == 3
    agree("the step", 3)  # with itself
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for other, message in ((3, ""), (7, "differ in the step: 3 and 7; "), (0, "the step: 0 and 3")):
        both = lambda value, other=other: np.array([value, other])  # noqa: E731
        monkeypatch.setattr(multihost_utils, "process_allgather", both)
        assert any_of(3) == max(3, other)
        if message:
            with pytest.raises(ValueError, match=message):
                agree("the step", 3)
        else:
            agree("the step", 3)
