"""Every preset of every file in configs/."""

import inspect
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from vdm import main as program
from vdm.api import load_config
from vdm.config.build import build_source
from vdm.data import sources, user_files
from vdm.devices import sharding
from vdm.runs import states
from vdm.runs.run import build_run

CONFIGS = Path(__file__).parents[2] / "configs"
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


def test_an_installed_package_runs_no_configs_of_others(tmp_path):
    site = tmp_path / "site-packages"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CONFIGS.parent / "vdm", site / "vdm", ignore=skipped)
    shutil.copytree(CONFIGS, site / "vdm/configs", ignore=skipped)  # where a wheel has them
    (site / "configs").mkdir()
    for name in ("digits", "theirs"):
        (site / f"configs/{name}.py").write_text("raise SystemExit('run by mistake')")
    code = (
        "from vdm.config.files import built_in_configs, load_config\n"
        "print(len(built_in_configs()), load_config('configs/digits.py').data.name)\n"
        "load_config('configs/theirs.py')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == f"{len(PRESETS)} digits\n", done.stderr
    assert "config file 'configs/theirs.py' does not exist" in done.stderr
    assert "run by mistake" not in done.stderr


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_every_preset_builds(name, preset):
    run = build_run(load(name, preset), Path("unused"))
    assert run.options.train.log_every <= run.options.train.num_steps


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "imagenet32", "imagenet64"])
def test_a_preset_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}.py takes .*, not 'tpu'"):
        load_config(CONFIGS / f"{name}.py", "tpu")


IMAGES = ("cifar10", "digits", "fashion_mnist", "imagenet32", "imagenet64")


def parsed(monkeypatch, config, **fields):
    """The config of a command line with these fields of its data group."""
    monkeypatch.setattr(sys, "argv", sys.argv)  # parse replaces it
    flags = [f"--config.data.{field}={value}" for field, value in fields.items()]
    return program.parse(["vdm.main", f"--config={CONFIGS / config}.py", *flags]).config


@pytest.mark.parametrize("name", IMAGES)
def test_every_kwarg_of_sources_in_files_is_listed_with_its_default(name):
    kwargs = load_config(CONFIGS / f"{name}.py").data.kwargs
    for source in (user_files.folder, user_files.npy, sources.tfds_images):
        for parameter in list(inspect.signature(source).parameters.values())[2:]:
            assert parameter.name in kwargs
            if parameter.default is not parameter.empty:
                assert kwargs[parameter.name] == parameter.default


@pytest.mark.parametrize("name", IMAGES)
def test_data_of_the_users_own_are_named_on_the_command_line(name, tmp_path, monkeypatch):
    for row in range(5):
        Image.new("L", (6, 4), row).save(tmp_path / f"{row}.png")
    fields = {"kwargs.path": tmp_path, "kwargs.size": 2, "kwargs.num_test": 2}
    source = build_source(parsed(monkeypatch, name, name="folder", **fields).data)
    assert (source.shape, len(source.load("test").examples)) == ((2, 2, 1), 2)
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}.npy", np.zeros((3, 4, 6, 1), np.uint8))
    fields = {"kwargs.path": tmp_path, "kwargs.shape": "(4, 6, 1)", "kwargs.num_codes": 17}
    source = build_source(parsed(monkeypatch, name, name="npy", **fields).data)
    assert (source.load("test").examples.shape, source.num_codes) == ((3, 4, 6, 1), 17)


@pytest.mark.parametrize("name", IMAGES)
def test_other_sources_take_empty_kwargs_for_their_defaults(name, monkeypatch):
    with pytest.raises(ValueError, match=r"'synthetic' also needs data\.kwargs\.shape"):
        build_source(parsed(monkeypatch, name, name="synthetic").data)
    fields = {"kwargs.shape": "(4, 4, 1)", "kwargs.num_codes": 17}
    source = build_source(parsed(monkeypatch, name, name="synthetic", **fields).data)
    assert source.load("test").examples.shape == (256, 4, 4, 1)
    fields = {"kwargs.dataset": "mnist"}
    source = build_source(parsed(monkeypatch, name, name="tfds", **fields).data)
    assert (source.shape, source.num_classes) == ((28, 28, 1), 10)
    for toy in ("swirl", "mixture"):
        source = build_source(parsed(monkeypatch, name, name=toy).data)
        assert len(source.load("test").examples) == 2000


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
    _, metrics = run.train_step()(states.initial_state(run), sharding.put_batch(batch, run.mesh))
    assert all(math.isfinite(value) for value in jax.device_get(metrics).values())
