"""The command line: what it prints, its exit status, and that mistakes harm nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from vdm import distributed, loops
from vdm import main as program
from vdm.io.checkpoints import Checkpoints
from vdm.io.metrics import read_metrics
from vdm.run import build_run, open_run
from vdm.training.metrics import NonFiniteError

ROOT = Path(__file__).parent.parent
TINY = {
    "network.kwargs.width": 8, "network.kwargs.num_blocks": 0,
    "schedule.kwargs.hidden_features": 8, "train.num_devices": 2, "train.batch_size": 32,
    "eval.draws": 1, "sample.num_steps": 2, "sample.num_images": 4, "train.eval_every": 0,
}  # fmt: skip


def command(workdir, **fields):
    """The flags of digits.py made tiny; fields as group__field."""
    fields = TINY | {name.replace("__", "."): value for name, value in fields.items()}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["--config=configs/digits.py", f"--workdir={workdir}", *overrides]


def call(arguments, capsys):
    """(status, stdout, stderr) of the program in this process."""
    status = program.main(["vdm.main", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def start(arguments):
    """The program in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "vdm.main", *map(str, arguments)],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _at_home(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", sys.argv)


@pytest.mark.parametrize("flag", ["--help", "--print_config"])
def test_help_and_print_config_import_nothing_heavy(flag):
    code = (
        "import sys; from vdm.main import main; "
        f"assert main(['x', '--config=configs/digits.py', {flag!r}]) == 0; "
        "heavy = {'jax', 'flax', 'numpy', 'grain', 'orbax', 'matplotlib'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_print_config_shows_overrides(capsys):
    arguments = ["--config=configs/digits.py", "--config.seed=7", "--print_config"]
    status, out, _ = call(arguments, capsys)
    assert status == 0
    assert json.loads(out)["seed"] == 7


def test_a_config_beside_the_package_is_found_from_any_folder(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, out, _ = call(["--config=configs/cifar10.py", "--print_config"], capsys)
    assert status == 0
    assert json.loads(out)["data"]["kwargs"]["dataset"] == "cifar10"


def test_a_config_takes_an_argument(capsys, tmp_path):
    (tmp_path / "c.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(name='none'):\n    return ConfigDict({'name': name})\n"
    )
    _, out, _ = call([f"--config={tmp_path / 'c.py'}:aug", "--print_config"], capsys)
    assert json.loads(out) == {"name": "aug"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.num_step=3"], "--config.train.num_steps"),
        (["--config.network.kwargs.widht=3"], "--config.network.kwargs.width"),
        (["--config.zzz=3"], "no field 'zzz'"),
        (["--config.trian.num_steps=3"], "--config.train.num_steps"),
        (["--config.train.num_steps=abc"], "expected int, such as 2000"),
        (["--config.train.num_steps=2.5"], "expected int, such as 2000"),
        (["--config.model.class_conditional=maybe"], "expected bool, such as False"),
        (["--config.likelihood=gauss"], "--config.likelihood.name=gauss"),
        (["--config.sample.name=ancestrall"], "did you mean 'ancestral'"),
        (["--config.likelihood.name=gaussian"], "has integer codes"),
        (["--config=configs"], "is a folder"),
        (["--mode=eval", "--init_from=x"], "is no checkpoint"),
        (["--config.schedule.name=monotne"], "did you mean 'monotone'"),
        (["--config=configs/digitz.py"], "'configs/digitz.py' does not exist"),
        (["--worksdir=x"], "workdir"),
        (["stray"], "'stray' is no flag"),
        (["--mode=evaluate"], "--mode=evaluate"),
        (["--workdir="], "--workdir is missing"),
        (["--config.train.batch_size=33"], "does not divide by the 2 devices"),
        (["--config.train.num_devices=500"], "there are 8 devices"),
        (["--init_from=configs"], "is no checkpoint"),
        (["--mode=eval"], "no checkpoint"),
        (["--mode=sample"], "no checkpoint"),
        (["--config.data.data_dir=Makefile"], "Makefile"),
        (["--workdir=Makefile"], "is a file"),
        (["--config.data.name=tfds"], "data.kwargs.dataset"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_workdir(arguments, message, capsys, tmp_path):
    status, _, err = call([*command(tmp_path / "run"), *arguments], capsys)
    assert status == 2
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("def get_config(:\n", "SyntaxError"), ("import nowhere_at_all\n", "ModuleNotFoundError"),
     ("def get_config():\n    return {}\n", "ConfigDict"), ("x = 1\n", "get_config")],
)  # fmt: skip
def test_a_broken_config_file_is_one_line(text, message, capsys, tmp_path):
    (tmp_path / "c.py").write_text(text)
    status, _, err = call([f"--config={tmp_path / 'c.py'}", f"--workdir={tmp_path}/w"], capsys)
    assert status == 2
    assert err.count("\n") == 1
    assert message in err


def test_debug_shows_the_traceback(capsys, tmp_path):
    with pytest.raises(ValueError, match="monotne"):
        call([*command(tmp_path, schedule__name="monotne"), "--debug"], capsys)


@pytest.fixture
def second_of_two(monkeypatch):
    """As if this process had joined another one and were not the first; its end is a SystemExit."""
    monkeypatch.setattr(distributed, "has_joined", lambda: True)
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    monkeypatch.setattr(distributed, "leave", sys.exit)


def test_one_of_several_processes_ends_with_its_traceback(
    second_of_two, monkeypatch, capsys, tmp_path
):
    def fail(*_):
        raise KeyError("a bug " + "x" * 400)

    mistake = [*command(tmp_path, schedule__name="monotne"), "--debug"]
    with pytest.raises(SystemExit, match="2"):
        call(mistake, capsys)
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert "did you mean 'monotone'" in err.splitlines()[-1]
    monkeypatch.setattr(loops, "train", fail)
    with pytest.raises(SystemExit, match="1"):
        call(command(tmp_path), capsys)
    err = capsys.readouterr().err
    assert "in fail\n" in err
    assert "another process of this run has ended" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "status"),
    [(loops.Interrupted("stopped at step 3", 15), 143), (NonFiniteError("loss is nan"), 1)],
)
def test_of_several_processes_the_first_says_how_a_run_ended(
    error, status, monkeypatch, capsys, tmp_path
):
    def fail(*_):
        raise error

    monkeypatch.setattr(loops, "train", fail)
    code, out, err = call(command(tmp_path), capsys)
    assert code == status
    assert str(error) in out + err
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    assert call(command(tmp_path), capsys) == (status, "", "")


def test_a_workdir_of_another_config_is_refused_and_unharmed(capsys, tmp_path):
    assert call(command(tmp_path, train__num_steps=2), capsys)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    status, _, err = call(command(tmp_path, train__num_steps=2, seed=1), capsys)
    assert status == 2
    assert "seed: here 1, there 0" in err
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before
    status, out, _ = call([*command(tmp_path, eval__num_steps=3), "--mode=eval"], capsys)
    assert status == 0
    assert "T = 3" in out
    assert call([*command(tmp_path, sample__name="ddim"), "--mode=sample"], capsys)[0] == 0


def wait_for_step(workdir, process, step):
    """Until the log of a running program has reached `step`."""
    deadline = time.monotonic() + 120
    while not any(line["step"] >= step for line in read_metrics(workdir)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def final_state(config, workdir):
    run = open_run(config, workdir)
    step, state = run.checkpoints.restore(run.abstract_state())
    return step, jax.device_get(state)


@pytest.mark.slow
def test_three_kills_leave_the_same_parameters_to_the_last_bit(make_tiny_config, tmp_path):
    options = {"train__num_steps": 300, "train__save_every": 20, "train__log_every": 5}
    undisturbed = start(command(tmp_path / "whole", **options))
    assert undisturbed.wait() == 0, undisturbed.communicate()
    rng = random.Random(0)
    for earliest in (20, 90, 200):
        process = start(command(tmp_path / "killed", **options))
        wait_for_step(tmp_path / "killed", process, earliest)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "eval.json").exists()
    assert start(command(tmp_path / "killed", **options)).wait() == 0
    config = make_tiny_config(eval__draws=1, train__num_steps=300)
    (step, state), (killed_step, killed_state) = (
        final_state(config, tmp_path / name) for name in ("whole", "killed")
    )
    assert step == killed_step == 300
    jax.tree.map(np.testing.assert_array_equal, state, killed_state)
    lines = read_metrics(tmp_path / "killed")
    steps = [line["step"] for line in lines if "train/bpd" in line]
    assert steps == list(range(5, 301, 5))


@pytest.mark.parametrize("swallow", ["except Exception", "__del__"])
def test_sigterm_ends_the_program_also_where_its_exception_is_swallowed(swallow):
    code = """
        import signal, sys, time
        from vdm import main

        class Callback:
            def __del__(self):
                signal.raise_signal(signal.SIGTERM)

        def run(options):
            if sys.argv[-1] == "__del__":
                Callback()
            else:
                try:
                    signal.raise_signal(signal.SIGTERM)
                except Exception:
                    pass
            time.sleep(600)

        main.GRACE_SECS, main.run, main.parse = 1, run, lambda argv: None
        sys.exit(main.main(sys.argv))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), swallow],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 128 + signal.SIGTERM, result.stderr
    assert result.stdout == f"{program._stopped()}\n"


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_where_and_the_run_goes_on(signum, capsys, tmp_path):
    process = start(command(tmp_path, train__num_steps=100_000, train__log_every=5))
    wait_for_step(tmp_path, process, 10)
    process.send_signal(signum)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 128 + signum
    assert err == ""
    steps = Checkpoints(tmp_path / "checkpoints").steps()
    assert f"saved in {tmp_path}/checkpoints/{steps[-1]}" in out
    status, out, _ = call(command(tmp_path, train__num_steps=steps[-1] + 2), capsys)
    assert status == 0
    assert f"resuming {tmp_path} at step {steps[-1]}" in out


def test_the_program_computes_in_float32_whatever_the_environment_says(tmp_path):
    results = []
    for enabled in ("0", "1"):
        workdir = tmp_path / enabled
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_ENABLE_X64": enabled}
        result = subprocess.run(
            [sys.executable, "-m", "vdm.main", *command(workdir, train__num_steps=2)],
            cwd=ROOT, env=environment, text=True, capture_output=True,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert ("JAX_ENABLE_X64 is set and ignored" in result.stdout) == (enabled == "1")
        report = json.loads((workdir / "eval.json").read_text())
        with np.load(workdir / "samples.npz") as drawn:
            results.append((report["bpd"], drawn["samples"]))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_experiments_say_that_models_are_float32(make_tiny_config):
    with (
        jax.enable_x64(True),
        pytest.raises(ValueError, match="JAX_ENABLE_X64 is set, and models here are float32"),
    ):
        build_run(make_tiny_config(), "unused")
