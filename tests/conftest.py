"""Gives every test eight simulated CPU devices; must run before any JAX backend starts.

`make test-gpu` sets VDM_TEST_PLATFORM=cuda, for the tests marked gpu.
"""

import importlib.metadata
import os
import sys

# Otherwise an accelerator in the machine would replace the eight devices. This also overrides
# the JAX_PLATFORMS that a person has set for runs.
PLATFORM = os.environ.get("VDM_TEST_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = "cpu" if PLATFORM == "cpu" else f"{PLATFORM},cpu"

# Tests, and the programs that they start, compile much and compute little: LLVM's lowest
# optimisation level halves the time, XLA's older code for fused operations, which newer versions
# no longer have, takes two thirds of the rest, and all processes and runs share one cache.
if PLATFORM == "cpu":
    flags = "--xla_backend_optimization_level=0"
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ.setdefault("XLA_FLAGS", flags)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath(".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
try:
    jax.devices()  # now, because the first config that is built would choose their number
except (RuntimeError, AssertionError):  # no such platform: its tests are skipped and say why
    jax.config.update("jax_platforms", "cpu")
    jax.devices()

import hypothesis  # noqa: E402

hypothesis.settings.register_profile("vdm", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("vdm")

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

ROOT = Path(__file__).parent.parent


LONGEST = (
    "test_multiprocess", "test_notebooks", "test_kills", "test_rerun", "test_extending",
    "test_parity", "test_lowering", "test_dpm", "test_ladder", "test_checkpoint", "test_api",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Sorts the files that take longest to the front; at the end one worker would wait for the
    other. A file runs on one worker, so that what it compiles is compiled once."""
    names = [item.nodeid.partition("::")[0] for item in items]
    rank = {
        name: next((i for i, part in enumerate(LONGEST) if part in name), len(LONGEST))
        for name in names
    }
    items.sort(key=lambda item: rank[item.nodeid.partition("::")[0]])


@pytest.fixture
def erratum_number(request):
    """The number in the test's `erratum` marker, which the test must reproduce."""
    return request.node.get_closest_marker("erratum").args[2]


@pytest.fixture(scope="session")
def make_tiny_config():
    """A function (**{"group__field": value}) -> digits.py with a network of a few thousand
    parameters, 30 steps and a learning rate that does not depend on their number.

    Runs of equal configs, but for seeds, data and lengths, share their compiled functions."""
    from vdm.api import load_config

    def make(**changes):
        config = load_config(ROOT / "configs" / "digits.py")
        config.network.kwargs.width, config.network.kwargs.num_blocks = 8, 0
        config.schedule.kwargs.hidden_features, config.optim.kwargs.decay = 8, "none"
        config.train.num_steps, config.train.batch_size, config.train.num_devices = 30, 32, 2
        config.train.log_every = config.train.save_every = 10
        config.train.eval_every, config.train.eval_draws = 20, 1
        config.eval.draws, config.sample.num_steps, config.sample.num_images = 2, 3, 4
        for name, value in changes.items():
            *groups, field = name.split("__")
            group = config
            for part in groups:
                group = group[part]
            group[field] = value
        return config

    return make


@pytest.fixture(scope="session")
def finished_run(make_tiny_config, tmp_path_factory):
    """The workdir of an uninterrupted run of `make_tiny_config()`; tests must not change it."""
    from vdm.runs import train
    from vdm.runs.run import open_run

    workdir = tmp_path_factory.mktemp("runs") / "finished"
    train.train(open_run(make_tiny_config(), workdir))
    return workdir


@pytest.fixture
def at_home(monkeypatch):
    """Works in the checkout's folder, and restores sys.argv, which parsing replaces."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", sys.argv)


@pytest.fixture(scope="session", autouse=True)
def coarse_figures():
    """Draws the figures of runs in this process with few pixels: none of their content is tested
    here. tests/io/test_plots.py draws them in a process of its own, with all."""
    from vdm.io import plots

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_DPI", 50)
        yield
