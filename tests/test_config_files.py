"""Every preset of every file in configs/."""

import math
from pathlib import Path

import jax
import numpy as np
import pytest

from vdm import sharding
from vdm.api import load_config
from vdm.run import build_run

CONFIGS = Path(__file__).parent.parent / "configs"
PRESETS = {
    "cifar10": ("", "aug", "cpu", "gpu1h", "gpu1day", "published"),
    "digits": ("",),
    "fashion_mnist": ("cpu", "peer", "gpu1h"),
    "imagenet32": ("old", "new"),
    "imagenet64": ("old", "new"),
    "toy_mixture": ("",),
    "toy_swirl": ("",),
}
ALL = [(name, preset) for name, presets in PRESETS.items() for preset in presets]


def load(name, preset):
    config = load_config(CONFIGS / f"{name}.py", *([preset] if preset else []))
    kwargs = config.network.kwargs
    kwargs.num_blocks = min(1, kwargs.num_blocks)  # tracing 64 blocks takes half a minute
    kwargs.width = 32 if preset == "published" else 8
    config.schedule.kwargs.hidden_features = 8
    config.train.num_devices, config.train.batch_size = 1, 2
    return config


def test_no_config_is_left_out():
    assert {path.stem for path in CONFIGS.glob("*.py")} == PRESETS.keys()


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_every_preset_builds(name, preset):
    run = build_run(load(name, preset), Path("unused"))
    assert run.options.train.log_every <= run.options.train.num_steps


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "imagenet32", "imagenet64"])
def test_a_preset_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}.py takes .*, not 'tpu'"):
        load_config(CONFIGS / f"{name}.py", "tpu")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), ALL)
def test_every_preset_takes_a_step(name, preset):
    config = load(name, preset)
    run = build_run(config, Path("unused"))
    shape, classes = run.source.shape, run.source.num_classes
    if run.source.num_codes:
        config.data.name = "synthetic"
        config.data.kwargs = {
            "shape": (4, 4, *shape[2:]), "num_codes": run.source.num_codes, "num_classes": classes,
        }  # fmt: skip
        run = build_run(config, Path("unused"))
    split = run.source.load("train")
    batch = {"examples": split.examples[:2]}
    if run.augmentation is not None:
        batch["augmented"] = np.array([True, False])
    _, metrics = run.train_step()(run.initial_state(), sharding.put_batch(batch, run.mesh))
    assert all(math.isfinite(value) for value in jax.device_get(metrics).values())
