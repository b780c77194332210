"""Two processes with two simulated devices each are one run, also when one of them dies."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.programs import Program
from vdm.api import load_config
from vdm.io.metrics_log import read_metrics
from vdm.runs import states, train
from vdm.runs.run import open_run

ROOT = Path(__file__).parent.parent
CHANGES = {
    "network.kwargs.width": 8, "network.kwargs.num_blocks": 0, "schedule.kwargs.hidden_features": 8,
    "optim.name": "sgd", "train.num_steps": 36, "train.batch_size": 16, "train.num_devices": 4,
    "train.save_every": 6, "train.log_every": 6, "train.eval_every": 0, "train.accumulate": 2,
    "train.keep_checkpoints": 20, "eval.draws": 1, "eval.batch_size": 400,
    "sample.num_steps": 2, "sample.num_images": 4,
}  # fmt: skip


def start(workdir):
    """Both processes of a run."""
    arguments = [
        "--config=configs/digits.py", f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in CHANGES.items()),
    ]  # fmt: skip
    return [Program(arguments, environment) for environment in environments()]


def start_both(*arguments):
    """Both processes of a Python command."""
    return [
        subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for environment in environments()
    ]  # fmt: skip


def environments():
    """The environment of each of two processes."""
    port = free_port()
    kept = ("PATH", "HOME", "VDM_DATA_DIR", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")  # fmt: skip
    environ = {name: os.environ[name] for name in kept if name in os.environ} | {
        "PYTHONPATH": str(ROOT),
        "VDM_COORDINATOR": f"127.0.0.1:{port}",
        "VDM_NUM_PROCESSES": "2",
        "VDM_HEARTBEAT_SECS": "20",
    }
    return [environ | {"VDM_PROCESS_ID": str(index)} for index in (0, 1)]


def free_port():
    """A free port below the range from which the system could give it to another program first."""
    for port in range(10_000 + os.getpid() % 20_000, 32_768):
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def end(processes, within=1200):
    """[(exit status, stdout, stderr)] of both."""
    try:
        outputs = [process.communicate(timeout=within) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *o) for p, o in zip(processes, outputs, strict=True)]


def wait_for_checkpoint(processes, workdir, step):
    """Waits for a checkpoint of `step` or later."""
    while not any(int(s) >= step for s in names(workdir)):
        assert all(process.poll() is None for process in processes), end(processes)
        time.sleep(0.01)


def names(workdir):
    folder = workdir / "checkpoints"
    return [path.name for path in folder.glob("*") if path.name.isdecimal()]


def config_of(**changes):
    config = load_config("configs/digits.py")
    config.update_from_flattened_dict(CHANGES | changes)
    return config


def parameters(workdir, **changes):
    run = open_run(config_of(**changes), workdir)
    step, state = run.checkpoints.restore(states.abstract_state(run), 36)
    assert step == 36
    return jax.device_get(state)


@pytest.mark.slow
def test_two_processes_are_one_run_through_kills_and_signals(tmp_path):
    undisturbed, disturbed, alone = (tmp_path / name for name in ("both", "killed", "alone"))
    (status, out, err), (status_1, out_1, err_1) = end(start(undisturbed))
    assert (status, status_1) == (0, 0), err + err_1
    assert "4 x cpu" in out
    # Only the first process prints; in both, threads of Gloo print and break into lines.
    ours = {line for line in out.splitlines() if "Gloo" not in line and line.strip()}
    assert len(ours) > 5
    assert not any(line in out_1 for line in ours if len(line) > 20)
    assert [line["step"] for line in read_metrics(undisturbed)] == [*range(6, 37, 6), 36]
    assert json.loads((undisturbed / "environment.json").read_text())["processes"] == 2
    written = {path.name for path in undisturbed.iterdir()}
    assert written >= {"config.json", "eval.json", "samples.npz", "samples.png", "omega.png"}
    assert sum("tfevents" in name for name in written) == 1

    processes = start(disturbed)
    wait_for_checkpoint(processes, disturbed, 6)
    processes[1].send_signal(signal.SIGKILL)
    (status, _, err), _ = end(processes)
    assert status not in (0, None)
    assert "another process of this run has ended" in err or "distributed service" in err, err
    assert "36" not in names(disturbed)

    processes = start(disturbed)
    wait_for_checkpoint(processes, disturbed, max(map(int, names(disturbed))) + 6)
    processes[1].send_signal(signal.SIGTERM)  # that one alone
    (status, out, err), (status_1, _, err_1) = end(processes)
    assert (status, status_1) == (143, 143), err + err_1
    stopped = re.search(r"stopped at step (\d+)", out)
    assert int(stopped[1]) == max(map(int, names(disturbed))) < 36

    results = end(start(disturbed))
    assert [result[0] for result in results] == [0, 0], results
    whole, went_on = parameters(undisturbed), parameters(disturbed)
    jax.tree.map(np.testing.assert_array_equal, whole, went_on)

    train.train(open_run(config_of(), alone))
    one = parameters(alone)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    reports = [json.loads((w / "eval.json").read_text()) for w in (undisturbed, disturbed, alone)]
    assert reports[0]["bpd"] == reports[1]["bpd"]
    np.testing.assert_allclose(reports[2]["bpd"], reports[0]["bpd"], rtol=1e-5)

    on_one = parameters(disturbed, **{"train.num_devices": 1})
    jax.tree.map(np.testing.assert_array_equal, on_one, whole)


SAVE = """
    import errno, os, sys, time
    from pathlib import Path

    import jax
    import numpy as np

    from vdm.devices import processes, sharding
    from vdm.io import checkpoints

    jax.config.update("jax_num_cpu_devices", 2)
    processes.initialize()
    folder, where = sys.argv[1:]
    place = sharding.split_batch(sharding.build_mesh())
    state = jax.jit(lambda: {"a": jax.numpy.arange(8.0)}, out_shardings={"a": place})()
    run = checkpoints.Checkpoints(folder)
    run.save(1, state)

    def full(path, *_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    if where == "before":
        Path.mkdir = full  # only the first process makes folders here
    elif where == "after":
        checkpoints.seal = full
    elif where == f"inside of {jax.process_index()}":
        checkpoints.ocp.save = full
    try:
        run.save(2, state)
    except checkpoints.CheckpointError as error:
        print(error, file=sys.stderr, flush=True)
        Path(folder, f"said{jax.process_index()}").touch()
        if processes.is_first() and where in ("before", "after"):
            while not Path(folder, "said1").exists():  # its end would end the other too early
                time.sleep(0.01)
        processes.leave(2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["before", "after", "inside of 0", "inside of 1"])
def test_the_process_whose_disk_is_full_says_so_and_none_waits_for_ever(where, tmp_path):
    results = end(start_both("-c", textwrap.dedent(SAVE), tmp_path, where))
    failing = 1 if where.endswith("1") else 0
    status, _, err = results[failing]
    assert status == 2
    assert err.splitlines()[-1].startswith(f"cannot save checkpoint {tmp_path}/2: No space left")
    status, _, err = results[1 - failing]
    assert status not in (0, None), err
    if where in ("before", "after"):
        assert "the first process failed; see its message" in err
    assert [p.name for p in tmp_path.iterdir() if p.name.isdecimal()] == ["1"]
