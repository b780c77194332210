"""Eight simulated CPU devices for every test; must run before any JAX backend starts.

VDM_TEST_PLATFORM=cuda, as `make test-gpu` sets it, is for the tests marked gpu alone.
"""

import os
import sys

# Without it an accelerator that happens to be there would take the place of the eight devices,
# whatever JAX_PLATFORMS a person has set for runs.
PLATFORM = os.environ.get("VDM_TEST_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = "cpu" if PLATFORM == "cpu" else f"{PLATFORM},cpu"

# Tests compile much and compute little, and so do the programs that they start: LLVM's least
# optimisation takes half the time, and one cache serves all processes and runs.
if PLATFORM == "cpu":
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath(".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
try:
    jax.devices()  # at once: the first config built would make them as many as it wants
except (RuntimeError, AssertionError):  # no such platform: its tests say so where they skip
    jax.config.update("jax_platforms", "cpu")
    jax.devices()

import hypothesis  # noqa: E402

hypothesis.settings.register_profile("vdm", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("vdm")

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items):
    """The longest ones first: at the end one worker would wait for the other."""
    items.sort(key=lambda item: "test_multiprocess" not in item.nodeid)


@pytest.fixture
def erratum_number(request):
    """The number in the test's `erratum` marker, which the test must find again."""
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
    """The workdir of an undisturbed run of that config; not to be changed."""
    from vdm.runs import train
    from vdm.runs.run import open_run

    workdir = tmp_path_factory.mktemp("runs") / "finished"
    train.train(open_run(make_tiny_config(), workdir))
    return workdir


@pytest.fixture
def at_home(monkeypatch):
    """The working directory is the checkout's, and sys.argv, which parsing replaces, comes back."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", sys.argv)
