"""What --config and --config.FIELD take, and what is said about a config that cannot be read."""

import json
import re

import pytest

import vdm
from tests.command_line import call
from vdm.config.flags import parse
from vdm.runs.run import open_run

pytestmark = pytest.mark.usefixtures("at_home")


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
