"""The command line: what it prints, its exit status, and that mistakes harm nothing."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import vdm
from tests.faults.program import wait_for_step
from vdm import main as program
from vdm.config.flags import parse
from vdm.devices import processes, sharding
from vdm.io.checkpoints import Checkpoints
from vdm.io.metrics_log import read_metrics
from vdm.runs import states, train
from vdm.runs.run import build_run, open_run
from vdm.training import loop
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


def run_code(code, *arguments, stdin=None):
    """The finished process of a program that imports vdm.main."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=ROOT, stdin=stdin, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _at_home(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", sys.argv)


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


def test_a_config_beside_the_package_is_found_from_any_folder(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, out, _ = call(["--config=configs/cifar10.py", "--print_config=json"], capsys)
    assert status == 0
    assert json.loads(out)["data"]["kwargs"]["dataset"] == "cifar10"


def test_a_config_takes_an_argument(capsys, tmp_path):
    (tmp_path / "c.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(name='none'):\n    return ConfigDict({'name': name})\n"
    )
    _, out, _ = call([f"--config={tmp_path / 'c.py'}:aug", "--print_config=json"], capsys)
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
     ("def get_config():\n    return {}\n", "ConfigDict"), ("x = 1\n", "get_config"),
     ("import sys\nsys.exit('set DATA')\n", "SystemExit: set DATA (c.py, line 2: sys.exit("),
     ("def get_config():\n    return {}['lr']\n", "KeyError: 'lr' (c.py, line 2: return {}['lr'])"),
     ("raise RuntimeError('no GPU')\n", "RuntimeError: no GPU (c.py, line 1"),
     ("class E(BaseException): pass\nraise E('odd')\n", "E: odd (c.py, line 2: raise E("),
     ("def get_config():\n    return get_config()\n", "RecursionError: maximum"),
     ("open('/nowhere')\n", "No such file or directory: /nowhere (c.py, line 1"),
     ("x = int('two\\nlines')\n", "invalid literal for int()"),
     ("raise ValueError('choose :a or :b')\n", "error: choose :a or :b"),
     ("\0\n", "null bytes")],
)  # fmt: skip
def test_a_broken_config_file_is_one_line(text, message, capsys, tmp_path):
    (tmp_path / "c.py").write_text(text)
    status, _, err = call([f"--config={tmp_path / 'c.py'}", f"--workdir={tmp_path}/w"], capsys)
    assert status == 2
    assert err.count("\n") == 1
    assert message in err
    with pytest.raises(ValueError, match=re.escape(message.removeprefix("error: "))) as caught:
        vdm.load_config(tmp_path / "c.py")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("configs/digitz.py", "did you mean --config=configs/digits.py? there are configs/cifar10"),
        ("swirl", "configs/toy_swirl.py, and files of your own"),
        ("configs/cifar10.py:tpu", "error: configs/cifar10.py takes no argument, or one of :aug"),
        ("configs/digits.py:aug", "get_config() takes 0 positional arguments"),
        ("Makefile", "neither a Python file nor a config.json"),
        ("constraints.txt", "neither a Python file nor a config.json"),
    ],
)
def test_a_config_that_is_not_there_is_one_line_with_those_that_are(config, message, capsys):
    status, _, err = call([f"--config={config}", "--print_config"], capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err


def test_a_config_file_may_define_dataclasses(tmp_path, capsys):
    (tmp_path / "json.py").write_text(  # and have the name of a module
        "from __future__ import annotations\nimport dataclasses\nimport ml_collections\n"
        "@dataclasses.dataclass\nclass A:\n    seed: int = 3\n"
        "def get_config():\n    return ml_collections.ConfigDict(dataclasses.asdict(A()))\n"
    )
    status, out, _ = call([f"--config={tmp_path / 'json.py'}", "--print_config=json"], capsys)
    assert (status, out) == (0, '{\n  "seed": 3\n}\n')


def test_the_config_json_of_a_workdir_is_a_config(finished_run, tmp_path, capsys):
    old = json.loads((finished_run / "config.json").read_text())
    del old["metrics"], old["train"]["fsdp"]  # as an earlier version wrote it
    folder = tmp_path / "a:b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(old))
    flags = ["--config.seed=7", "--config.train.fsdp=2", "--print_config=json"]
    status, out, _ = call([f"--config={folder / 'config.json'}", *flags], capsys)
    assert status == 0
    found, want = json.loads(out), json.loads((finished_run / "config.json").read_text())
    want["seed"], want["train"]["fsdp"] = 7, 2
    assert found == want
    flags = ["--mode=sample", f"--workdir={finished_run}", "--config.sample.num_images=8"]
    config = parse(["vdm.main", f"--config={finished_run / 'config.json'}", *flags]).config
    assert open_run(config, finished_run).options.sample.num_images == 8
    status, _, err = call([f"--config={finished_run}", "--print_config"], capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert f"did you mean --config={finished_run / 'config.json'}?" in err


@pytest.mark.parametrize("content", ['{"bpd": 3.1}', "[1, 2]", '{"data": ', "\0", "3"])
def test_another_json_is_one_line(content, tmp_path, capsys):
    (tmp_path / "eval.json").write_text(content)
    status, _, err = call([f"--config={tmp_path / 'eval.json'}", "--print_config"], capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert "does not hold a config" in err or "is damaged" in err


def test_kwargs_of_a_component_of_ones_own_are_given_on_the_command_line(capsys):
    flags = ["--config=configs/digits.py", "--print_config=json"]
    own = ["--config.sample.grid.kwargs.power=0.5", "--config.schedule.kwargs.knots=(1, 2)",
           "--config.schedule.kwargs.kind=late", "--config.schedule.kwargs.free=true"]  # fmt: skip
    names = ["--config.sample.grid.name=my:Grid", "--config.schedule.name=my:Schedule"]
    status, out, _ = call([*flags, *own, *names], capsys)
    assert status == 0
    config = json.loads(out)
    assert config["sample"]["grid"]["kwargs"]["power"] == 0.5
    kwargs = config["schedule"]["kwargs"]
    assert (kwargs["knots"], kwargs["kind"], kwargs["free"]) == ([1, 2], "late", True)
    assert kwargs["omega_0"] == -8.0  # those there are stay
    status, _, err = call([*flags, own[1]], capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert (
        "--config.schedule.kwargs.knots=VALUE beside --config.schedule.name=package.module" in err
    )
    status, _, err = call([*flags, "--config.schedule.kwargs.hidden_feature=3", names[0]], capsys)
    assert "did you mean --config.schedule.kwargs.hidden_features?" in err


def test_kwargs_of_a_component_that_the_file_names_are_given_on_the_command_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from vdm.config import defaults\n"
        "def get_config():\n"
        "    config = defaults.get_config()\n"
        "    config.schedule.name = 'my:Schedule'\n"
        "    config.schedule.kwargs = {'mixed': True}\n"
        "    return config\n"
    )
    flags = [f"--config={tmp_path / 'mine.py'}", "--print_config=json"]
    given = ["--config.schedule.kwargs.init_mix=1", "--config.schedule.kwargs.mixed=false"]
    _, out, _ = call([*flags, *given], capsys)
    assert json.loads(out)["schedule"]["kwargs"] == {"init_mix": 1, "mixed": False}
    other = [*flags, "--config.schedule.name=monotone", given[0]]  # which has no such kwarg
    status, _, err = call(other, capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert "--config.schedule.kwargs.init_mix=VALUE beside --config.schedule.name=package" in err


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


@pytest.fixture
def second_of_two(monkeypatch):
    """As if this process had joined another one and were not the first; its end is a SystemExit."""
    monkeypatch.setattr(processes, "has_joined", lambda: True)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(processes, "leave", sys.exit)


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
    monkeypatch.setattr(train, "train", fail)
    with pytest.raises(SystemExit, match="1"):
        call(command(tmp_path), capsys)
    err = capsys.readouterr().err
    assert "in fail\n" in err
    assert "another process of this run has ended" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "status"),
    [(loop.Interrupted("stopped at step 3", 15), 143), (NonFiniteError("loss is nan"), 1)],
)
def test_of_several_processes_the_first_says_how_a_run_ended(
    error, status, monkeypatch, capsys, tmp_path
):
    def fail(*_):
        raise error

    monkeypatch.setattr(train, "train", fail)
    code, out, err = call(command(tmp_path), capsys)
    assert code == status
    assert str(error) in out + err
    monkeypatch.setattr(processes, "is_first", lambda: False)
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


def final_state(config, workdir):
    run = open_run(config, workdir)
    step, state = run.checkpoints.restore(states.abstract_state(run))
    return step, jax.device_get(state)


@pytest.mark.slow
def test_three_kills_leave_the_same_parameters_to_the_last_bit(make_tiny_config, tmp_path):
    options = {"train__num_steps": 400, "train__save_every": 20, "train__log_every": 5}
    undisturbed = start(command(tmp_path / "whole", **options))
    assert undisturbed.wait() == 0, undisturbed.communicate()
    rng = random.Random(0)
    for earliest in (20, 90, 200):
        process = start(command(tmp_path / "killed", **options))
        wait_for_step(tmp_path / "killed", process, earliest)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it had not come to its end
    assert start(command(tmp_path / "killed", **options)).wait() == 0
    config = make_tiny_config(eval__draws=1, train__num_steps=400)
    (step, state), (killed_step, killed_state) = (
        final_state(config, tmp_path / name) for name in ("whole", "killed")
    )
    assert step == killed_step == 400
    jax.tree.map(np.testing.assert_array_equal, state, killed_state)
    lines = read_metrics(tmp_path / "killed")
    steps = [line["step"] for line in lines if "train/bpd" in line]
    assert steps == list(range(5, 401, 5))


@pytest.mark.parametrize("swallow", ["except Exception", "__del__"])
def test_sigterm_ends_the_program_also_where_its_exception_is_swallowed(swallow):
    code = """
        import signal, sys, time
        from vdm import main

        class Callback:
            def __del__(self):
                signal.raise_signal(signal.SIGTERM)

        def run(options, given):
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
    result = run_code(code, swallow)
    assert result.returncode == 128 + signal.SIGTERM, result.stderr
    assert result.stdout == f"{program._stopped()}\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_program_also_inside_one_long_call(signum):
    code = f"""
        import hashlib, os, signal, sys, threading
        from vdm import main

        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background

        def run(options, given):  # no bytecode and no handler for long, as in a compilation
            threading.Timer(0.3, os.kill, (os.getpid(), {signum.value})).start()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

        main.GRACE_SECS, main.run, main.parse = 0.5, run, lambda argv: None
        sys.exit(main.main(sys.argv))
    """
    result = run_code(code, "train")
    assert result.returncode == 128 + signum, result.stderr
    assert result.stdout == f"{program._stopped()}\n"


def test_the_end_of_a_forked_process_is_not_that_of_the_program():
    code = """
        import os, signal, sys, time
        from vdm import main

        def run(options, given):
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                try:
                    os.write(writer, b"!")
                    time.sleep(600)
                finally:
                    os._exit(3)
            os.read(reader, 1)
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            time.sleep(1)
            return 7

        main.GRACE_SECS, main.run, main.parse = 0.1, run, lambda argv: None
        sys.exit(main.main(sys.argv))
    """
    result = run_code(code, "train")
    assert (result.returncode, result.stdout) == (7, "")


def test_the_program_does_not_wait_for_a_forked_process():
    code = """
        import os, sys
        from vdm import main

        def run(options, given):
            if not os.fork():
                os.closerange(1, 3)
                sys.stdin.read()
                os._exit(0)
            return 7

        main.run, main.parse = run, lambda argv: None
        sys.exit(main.main(sys.argv))
    """
    reader, writer = os.pipe()  # the child lives on until this is closed
    try:
        result = run_code(code, "train", stdin=reader)
    finally:
        os.close(writer)
        os.close(reader)
    assert result.returncode == 7


def test_a_training_that_saves_is_given_its_time():
    code = """
        import signal, sys, time
        from vdm import main
        from vdm.io.signals import stop_signals

        def run(options, given):
            with stop_signals() as signals:
                signal.raise_signal(signal.SIGTERM)
                time.sleep(1.5)
                print("saved", signals)
                return 7

        main.GRACE_SECS, main.run, main.parse = 0.1, run, lambda argv: None
        sys.exit(main.main(sys.argv))
    """
    result = run_code(code, "train")
    assert (result.returncode, result.stdout) == (7, f"saved [{signal.SIGTERM.value}]\n")


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


def test_the_program_makes_the_cpu_one_device_for_each_core(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(sharding, "split_host", asked.append)
    monkeypatch.setattr(train, "train", lambda *_: None)
    assert call(command(tmp_path, train__num_devices=3), capsys)[0] == 0
    open_run(parse(["x", *command(tmp_path)]).config, tmp_path)  # as the API does
    assert asked == [3]
