"""Components of the user's own, named by a dotted path."""

import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.api import load_config
from vdm.config import build as configs
from vdm.diffusion.kernels import guess
from vdm.runs import train
from vdm.runs.run import build_run

FOLDER = Path(importlib.util.find_spec("vdm").origin).parent.parent / "configs"


def load(name):
    return load_config(FOLDER / f"{name}.py")


def test_a_dotted_path_brings_a_component_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_schedules.py").write_text(
        "import flax.linen as nn\n"
        "class Square(nn.Module):\n"
        "    lowest: float\n"
        "    def __call__(self, t):\n"
        "        return self.lowest + 10 * t + t**2\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = load("toy_swirl")
    config.schedule = {"name": "my_schedules:Square", "kwargs": {"lowest": -7.0}, "train": "fixed"}
    model = configs.build_model(config, configs.build_source(config.data))
    params = model.init(jax.random.key(0))
    assert float(model.schedule_fn(params)(np.float32(1.0))) == 4.0


def test_a_weighting_of_the_users_own_gives_one_number_for_each_example(tmp_path, monkeypatch):
    (tmp_path / "my_weightings.py").write_text(
        "def power(p=2.0):\n"
        "    return lambda omega_t, weight: weight**p\n"
        "def total():\n"
        "    return lambda omega_t, weight: weight.sum()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = load("digits")
    config.weighting = {"name": "my_weightings:power", "kwargs": {"p": 3.0}}
    weight = np.array([3.0, 4.0], np.float32)
    np.testing.assert_allclose(configs.build_weighting(config.weighting)(weight, weight), weight**3)
    config.weighting = {"name": "my_weightings:total", "kwargs": {}}
    with pytest.raises(ValueError, match=r"gives shape \(\) .* one multiplier for each"):
        build_run(config, Path("unused"))


def test_a_head_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_heads.py").write_text(
        "import dataclasses\n"
        "import jax.numpy as jnp\n"
        "from vdm.diffusion.codes import code_log_probs, mean_eps\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Parabola:\n"
        "    num_codes: int\n"
        "    sharpness: float\n"
        "    def outputs_per_dim(self, num_codes):\n"
        "        return 2\n"
        "    def log_probs(self, outputs, z, omega):\n"
        "        k = self.sharpness * jnp.arange(self.num_codes)\n"
        "        k = k.reshape((1,) * z.ndim + (-1,))\n"
        "        logits = outputs[..., :1] * k + outputs[..., 1:] * k**2\n"
        "        return code_log_probs(logits, z, omega)\n"
        "    def eps_hat(self, outputs, z, omega):\n"
        "        return mean_eps(self.log_probs(outputs, z, omega), z, omega)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = load("digits")
    config.model.head.name = "my_heads:Parabola"
    config.model.head.kwargs.sharpness = 0.1
    config.model.kernel, config.model.decoder = "mixture", "network"
    model = build_run(config, Path("unused")).vdm
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert params["network"]["conv_out"]["bias"].shape == (2,)

    def log_probs(params):
        z, omega = jnp.zeros((3, 8, 8, 1)), jnp.zeros(3)
        return guess(model.denoiser(params), z, omega, True).log_probs

    assert jax.eval_shape(log_probs, params).shape == (3, 8, 8, 1, 17)


def test_an_augmentation_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_augmentations.py").write_text(
        "import numpy as np\n"
        "from vdm.data.transforms import Augmentation\n"
        "def shift(most):\n"
        "    def draw(generator, size):\n"
        "        by = generator.integers(0, most, size)\n"
        "        return {'augmented': by > 0, 'by': by}\n"
        "    return Augmentation(draw, lambda x, choices: x + choices['by'].astype(x.dtype))\n"
        "def plain():\n"
        "    return lambda x: x\n"
        "def drawing(**rows):\n"
        "    return Augmentation(lambda generator, size: rows.get('list') or {\n"
        "        key: np.zeros(**kind) for key, kind in rows.items()}, None)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = load("digits")
    config.data.augmentation = {"name": "my_augmentations:shift", "kwargs": {"most": 3}}
    found = build_run(config, Path("unused")).augmentation
    assert found.draw(np.random.default_rng(0), 4).keys() == {"augmented", "by"}
    config.data.augmentation = {"name": "my_augmentations:plain", "kwargs": {}}
    with pytest.raises(ValueError, match=r"gives a function: it must give a .*Augmentation"):
        build_run(config, Path("unused"))
    flags = {"shape": (2,), "dtype": "bool"}
    for rows, message in [
        ({"by": {"shape": (2,)}}, "gives nothing as 'augmented': it must be bool of shape"),
        ({"augmented": {"shape": (2,)}}, "gives float64 of shape (2,) as 'augmented'"),
        ({"augmented": {"shape": (3,), "dtype": "bool"}}, "gives bool of shape (3,) as 'aug"),
        ({"augmented": flags, "by": {"shape": (3, 2)}}, "gives float64 of shape (3, 2) as 'by'"),
        ({"augmented": flags, "by": {"shape": ()}}, "gives float64 of shape () as 'by'"),
        ({"list": [1]}, "does not return a dict of arrays"),
    ]:
        config.data.augmentation = {"name": "my_augmentations:drawing", "kwargs": rows}
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            build_run(config, Path("unused"))
        assert "\n" not in str(caught.value)


def test_a_metrics_hook_of_the_users_own_gets_config_and_workdir(
    make_tiny_config, tmp_path, monkeypatch
):
    (tmp_path / "my_tracker.py").write_text(
        "class Tracker:\n"
        "    opened = []\n"
        "    def __init__(self, project, config, workdir):\n"
        "        self.opened.append((project, config['seed'], workdir.name))\n"
        "    def write(self, step, scalars): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = make_tiny_config(metrics__name="my_tracker:Tracker")
    run = build_run(config, tmp_path / "run")  # what only evaluates needs no tracker
    with pytest.raises(ValueError, match=r"metrics.name = 'my_tracker:Tracker' also needs"):
        run.open_metrics_hook()
    config.metrics.kwargs = {"project": "mine"}
    run = build_run(config, tmp_path / "run")
    import my_tracker

    assert my_tracker.Tracker.opened == []  # not before a training begins
    assert run.open_metrics_hook().opened == [("mine", 0, "run")]
    config.metrics.name = "my_tracker:Trakcer"
    with pytest.raises(ValueError, match="cannot be imported"):
        train.train(build_run(config, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
