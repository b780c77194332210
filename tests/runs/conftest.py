"""Fixtures of runs: configs of the user's own data, and the codec on the finished run."""

import pytest

import vdm
from vdm import main as program
from vdm.data.sources import digits


@pytest.fixture(scope="module")
def make_config(make_tiny_config):
    def make(path, name="npy", **changes):
        few = {
            "data__name": name, "data__kwargs__path": str(path), "data__kwargs__num_codes": 17,
            "train__num_steps": 2, "train__save_every": 2, "train__eval_every": 0,
            "eval__draws": 1, "sample__num_steps": 2,
        }  # fmt: skip
        return make_tiny_config(**few | changes)

    return make


@pytest.fixture
def call(finished_run, capsys):
    """(mode, input, output, fields) -> (status, stdout, stderr) on the finished run."""
    import json

    def in_process(mode, source, target, **fields):
        saved = json.loads((finished_run / "config.json").read_text())
        overrides = {"compress__num_steps": 3, "compress__lanes": 16} | fields
        flags = [f"--config.{key.replace('__', '.')}={value}" for key, value in overrides.items()]
        for key in (
            "network.kwargs.width", "network.kwargs.num_blocks", "schedule.kwargs.hidden_features",
            "train.num_devices", "train.batch_size", "train.num_steps", "optim.kwargs.decay",
        ):  # fmt: skip
            value = saved
            for part in key.split("."):
                value = value[part]
            flags.append(f"--config.{key}={value}")
        status = program.main(
            ["vdm.main", "--config=configs/digits.py", f"--workdir={finished_run}",
             f"--mode={mode}", f"--input={source}", f"--output={target}", *flags]
        )  # fmt: skip
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return in_process


@pytest.fixture(scope="module")
def images():
    return digits("", 0).load("test").examples


@pytest.fixture(scope="module")
def model(finished_run):
    return vdm.load(finished_run)
