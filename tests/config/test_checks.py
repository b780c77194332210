"""A mistake in a user's own component is one line, before anything is written."""

import re
import sys
from pathlib import Path

import pytest

from vdm.api import load_config
from vdm.runs.run import build_run

SLIPS = """
import dataclasses
import flax.linen as nn
import jax.numpy as jnp
from vdm.diffusion.likelihood import Discretised

class Falls(nn.Module):
    def __call__(self, t):
        return 5 - 13 * t

class Row(nn.Module):
    def __call__(self, t):
        return 13 * t.reshape(-1) - 8

class Mean(nn.Module):
    def __call__(self, t):
        return 13 * jnp.mean(t) - 8

class Broken(nn.Module):
    def __call__(self, t):
        return jnp.log(t - 1)

class Rises(nn.Module):
    def __call__(self, t):
        return 13 * t - 8

class Few(nn.Module):
    @nn.compact
    def __call__(self, z, omega, labels=None, train=False):
        return nn.Dense(3)(z)

class Logits(nn.Module):
    outputs_per_dim: int = 1
    @nn.compact
    def __call__(self, z, omega, labels=None, train=False):
        return nn.Dense(self.outputs_per_dim)(z[..., None])

@dataclasses.dataclass(frozen=True)
class Nameless:
    def encode(self, data):
        return data / 17

class Unhashable(Discretised):
    __hash__ = None

@dataclasses.dataclass(frozen=True)
class PerPixel(Discretised):
    def log_prob(self, data, z_0, omega_0):
        return z_0

@dataclasses.dataclass(frozen=True)
class Same(Discretised):
    pass

def number(data_dir=0, holdout=0, num_steps=0):
    return 3

def short():
    return lambda schedule, num_steps: schedule(jnp.linspace(0.0, 1.0, num_steps))
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Builds the run of digits.py with the component of that name from the module above."""
    (tmp_path / "my_slips.py").write_text(SLIPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_slips", raising=False)

    def build_it(group, name):
        config = load_config("configs/digits.py")
        component = config
        for part in group.split("."):
            component = component[part]
        component.name, component.kwargs = f"my_slips:{name}", {}
        return build_run(config, Path("unused"))

    return build_it


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        ("schedule", "Falls", "gives an omega that does not increase"),
        ("schedule", "Broken", "gives an omega that does not increase"),
        ("schedule", "Row", "gives omega of shape (1,) for t of shape (): it must be that of t"),
        ("schedule", "Mean", "gives omega of shape () for t of shape (2, 3)"),
        ("network", "Few", "'codes' it must be (2, 8, 8, 1, 17)"),
        ("likelihood", "Nameless", "has no num_codes"),
        ("likelihood", "Unhashable", "make it a frozen dataclass"),
        ("likelihood", "PerPixel", "log_prob of two examples of shape (8, 8, 1) gives"),
        ("data", "number", "type int: it must give a vdm.data.sources.Source"),
        ("optim", "number", "type int: it must give an optax.GradientTransformation"),
        ("sample", "number", "type int: it must give a vdm.diffusion.samplers.Sampler"),
        ("sample.guidance", "number", "type int: it must give a vdm.evaluation.guided.Guidance"),
        ("classifier", "number", "type int: it must give a flax module"),
        ("sample.grid", "number", "'int' object is not callable"),
        ("sample.grid", "short", "gives shape (3,) for 3 steps: it must be (4,)"),
    ],
)
def test_a_slip_is_named_with_its_field(group, name, message, build):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        build(group, name)
    assert str(caught.value).startswith(f"{group}.name = 'my_slips:{name}'")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("group", "name"), [("schedule", "Rises"), ("network", "Logits"), ("likelihood", "Same")]
)
def test_one_that_is_right_passes(group, name, build):
    build(group, name)


def test_a_network_of_the_users_own_gives_what_the_head_reads(tmp_path, monkeypatch):
    (tmp_path / "my_logits.py").write_text(SLIPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = load_config("configs/digits.py")
    config.model.head.name = "normals"
    config.network = {"name": "my_logits:Logits", "kwargs": {}}
    build_run(config, Path("unused"))
    config.network = {"name": "my_logits:Few", "kwargs": {}}
    with pytest.raises(ValueError, match=re.escape("'codes' it must be (2, 8, 8, 1, 12)")):
        build_run(config, Path("unused"))


def test_a_module_that_is_not_found_is_looked_for_on_pythonpath():
    config = load_config("configs/digits.py")
    config.schedule.name = "nowhere.at_all:Net"
    with pytest.raises(ValueError, match="PYTHONPATH must have the folder that nowhere is in"):
        build_run(config, Path("unused"))
