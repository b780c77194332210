"""The command line: what it prints, its exit status, and that mistakes do no harm."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.command_line import call, command
from vdm import main as program
from vdm.config.flags import parse
from vdm.devices import sharding
from vdm.runs import train
from vdm.runs.run import build_run, open_run

pytestmark = pytest.mark.usefixtures("at_home")


ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("flag", ["--help", "--print_config", "--print_config=changes"])
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
    arguments = ["--config=configs/digits.py", "--config.seed=7"]
    status, out, _ = call([*arguments, "--print_config=json"], capsys)
    assert (status, json.loads(out)["seed"]) == (0, 7)
    for flag in ("--print_config", "--print_config=true"):
        status, out, _ = call([*arguments, flag], capsys)
        assert status == 0
        assert re.match("config.seed = 7 +# of the initial parameters", out)
        assert "\nconfig.network.kwargs.width = 32 " in out
    status, out, _ = call([*arguments, "--print_config=changes"], capsys)
    assert out.startswith("config.seed = 7\nconfig.data.name = 'digits'\n")
    assert "holdout" not in out
    status, _, err = call([*arguments, "--print_config=jsn"], capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert "<fields|changes|json>" in err


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
        (["--mode=eval", "--init_from=x"], "is not a checkpoint"),
        (["--config.schedule.name=monotne"], "did you mean 'monotone'"),
        (["--config=configs/digitz.py"], "'configs/digitz.py' does not exist"),
        (["--worksdir=x"], "workdir"),
        (["stray"], "'stray' is not a flag"),
        (["--mode=evaluate"], "--mode=evaluate"),
        (["--workdir="], "--workdir is missing"),
        (["--config.train.batch_size=33"], "is not divisible by the 2 devices"),
        (["--config.train.num_devices=500"], "there are 8 devices"),
        (["--init_from=configs"], "is not a checkpoint"),
        (["--mode=eval"], "is not a checkpoint"),
        (["--mode=sample"], "is not a checkpoint"),
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


NETWORK = """
import flax.linen as nn

class Broken(nn.Module):
    kind: str = "name"
    width: int = 8
    num_blocks: int = 0

    @nn.compact
    def __call__(self, z, omega, labels=None, train=False):
        if self.kind == "name":
            return z + undefined
        if self.kind == "shape":
            return z + z[:, :3]
        return {}[self.kind]
"""


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [("name", 1, "NameError: name 'undefined' is not defined (my_net.py, line 12: return z + und"),
     ("shape", 2, "(my_net.py, line 14: return z + z[:, :3])"),
     ("a_key", 1, "KeyError: 'a_key' (my_net.py, line 15: return {}[self.kind])")],
)  # fmt: skip
def test_a_bug_in_ones_own_network_is_one_line(
    kind, status, message, tmp_path, monkeypatch, capsys
):
    (tmp_path / "my_net.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_net", raising=False)
    flags = [*command(tmp_path / "run"), "--config.network.name=my_net:Broken",
             f"--config.network.kwargs.kind={kind}"]  # fmt: skip
    found, _, err = call(flags, capsys)
    assert (found, err.count("\n")) == (status, 1)
    assert err.startswith("error: network.name = 'my_net:Broken': ")
    assert message in err
    assert err.endswith("; --debug shows the traceback\n")
    assert not (tmp_path / "run").exists()
    with pytest.raises((NameError, TypeError, ValueError, KeyError)):
        call([*flags, "--debug"], capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [("def f(:\n", "SyntaxError"), ("x = undefined\n", "(my_bad.py, line 1: x = undefined)"),
     ("raise SystemExit('no licence')\n", "SystemExit: no licence")],
)  # fmt: skip
def test_a_module_of_ones_own_that_cannot_be_imported_is_one_line(
    text, message, tmp_path, monkeypatch, capsys
):
    (tmp_path / "my_bad.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    flags = command(tmp_path / "run", schedule__name="my_bad:Schedule")
    status, _, err = call(flags, capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert "schedule.name = 'my_bad:Schedule' cannot be imported" in err
    assert message in err


def test_a_fault_of_ours_has_its_traceback(monkeypatch, tmp_path, capsys):
    def fail(*_):
        error = KeyError("inside")
        error.__traceback__ = None
        raise error

    monkeypatch.setattr(program, "own_frame", lambda error: None)
    monkeypatch.setattr(train, "train", fail)
    with pytest.raises(KeyError, match="inside"):
        call(command(tmp_path), capsys)


def test_parsing_leaves_the_arguments_of_the_host_program_alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["notebook", "--config.seed=9"])
    options = parse(["vdm.main", "--config=configs/digits.py", "--config.seed=3"])
    assert options.config.seed == 3
    assert sys.argv == ["notebook", "--config.seed=9"]
    with pytest.raises(ValueError, match="no field 'sead'"):
        parse(["vdm.main", "--config=configs/digits.py", "--config.sead=3"])
    assert sys.argv == ["notebook", "--config.seed=9"]


def test_help_has_the_lines_of_its_source(capsys):
    assert program.main(["vdm.main", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--mode=compress \\\n    --input=images.npy" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("no such\nplatform")])
def test_devices_that_do_not_start_are_one_line(error, capsys, tmp_path, monkeypatch):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    status, _, err = call(command(tmp_path / "run"), capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert (" ".join(str(error).split()) or "its plugin is not installed") in err
    assert not (tmp_path / "run").exists()


def test_debug_shows_the_traceback(capsys, tmp_path):
    with pytest.raises(ValueError, match="monotne"):
        call([*command(tmp_path, schedule__name="monotne"), "--debug"], capsys)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """(workdir, output) of a training of two steps; not to be changed."""
    workdir, out = tmp_path_factory.mktemp("runs") / "two steps", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", sys.argv)
        assert program.main(["vdm.main", *command(workdir, train__num_steps=2)]) == 0
    return workdir, out.getvalue()


def test_a_workdir_of_another_config_is_refused_and_unharmed(two_steps, capsys, tmp_path):
    shutil.copytree(two_steps[0], tmp_path, dirs_exist_ok=True)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    status, _, err = call(command(tmp_path, train__num_steps=2, seed=1), capsys)
    assert status == 2
    assert "seed: here 1, there 0" in err
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before
    status, out, _ = call([*command(tmp_path, eval__num_steps=3), "--mode=eval"], capsys)
    assert status == 0
    assert "T = 3" in out
    assert call([*command(tmp_path, sample__name="ddim"), "--mode=sample"], capsys)[0] == 0


def test_the_program_computes_in_float32_whatever_the_environment_says(two_steps, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_ENABLE_X64": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "vdm.main", *command(tmp_path, train__num_steps=2)],
        cwd=ROOT, env=environment, text=True, capture_output=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    here, said = two_steps
    notice = "JAX_ENABLE_X64 is set and ignored"
    assert (notice in result.stdout, notice in said) == (True, False)
    reports = [json.loads((workdir / "eval.json").read_text()) for workdir in (tmp_path, here)]
    assert reports[0]["bpd"] == reports[1]["bpd"]
    samples = [np.load(workdir / "samples.npz")["samples"] for workdir in (tmp_path, here)]
    np.testing.assert_array_equal(*samples)


def test_experiments_say_that_models_are_float32(make_tiny_config):
    with (
        jax.enable_x64(True),
        pytest.raises(ValueError, match="JAX_ENABLE_X64 is set, and models here are float32"),
    ):
        build_run(make_tiny_config(), "unused")


def test_the_program_makes_the_cpu_one_device_for_each_core(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(sharding, "split_host", asked.append)
    monkeypatch.setattr(train, "train", lambda *_: None)
    assert call(command(tmp_path, train__num_devices=3), capsys)[0] == 0
    open_run(parse(["x", *command(tmp_path)]).config, tmp_path)  # as the API does
    assert asked == [3]
