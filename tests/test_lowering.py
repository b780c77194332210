"""Every preset's programs are lowered for GPUs and TPUs on the CPU, from shapes; none is run.

Lowering fails where an accelerator does not support an operation. `jax.default_backend` returns
"gpu" here, so that the traced program is the one that an accelerator would compile.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from vdm.api import load_config
from vdm.devices.keys import root_key
from vdm.evaluation.bits_per_dim import make_evaluate_batch
from vdm.models.vdm import VDM
from vdm.runs import states
from vdm.runs.run import build_run

CONFIGS = Path(__file__).parent.parent / "configs"
PRESETS = [
    "cifar10", "cifar10:aug", "cifar10:cpu", "cifar10:gpu1h", "cifar10:gpu1day",
    "cifar10:published", "digits", "fashion_mnist:cpu", "fashion_mnist:peer",
    "fashion_mnist:gpu1h", "imagenet32:old", "imagenet32:new", "imagenet64:old", "imagenet64:new",
    "toy_mixture", "toy_swirl",
]  # fmt: skip
SIZE = 16


def array(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def lower(function, *arguments):
    lowered = function.trace(*arguments).lower(lowering_platforms=("cuda", "tpu"))
    assert "func.func public @main" in lowered.as_text()


@pytest.fixture
def on_accelerator(monkeypatch):
    """A function from a preset to its run, with only as many equal blocks as make a loop."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def build(preset):
        name, *arguments = preset.split(":")
        config = load_config(CONFIGS / f"{name}.py", *arguments)
        config.train.num_devices, config.train.fsdp = 1, 1
        config.network.kwargs.num_blocks = min(4, config.network.kwargs.num_blocks)
        return build_run(config, Path("unused"))

    return build


def test_every_preset_is_lowered():
    assert {preset.partition(":")[0] for preset in PRESETS} == {
        path.stem for path in CONFIGS.glob("*.py")
    }


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_step_evaluation_and_sampler_lower_for_accelerators(on_accelerator, preset):
    run = on_accelerator(preset)
    assert isinstance(run.model, VDM)
    state = jax.eval_shape(functools.partial(states.looped, run), states.abstract_state(run))
    codes = jnp.uint8 if run.source.num_codes else jnp.float32
    batch = {
        "examples": array((SIZE, *run.source.shape), codes),
        "labels": array((SIZE,), jnp.int32),
        "index": array((SIZE,), jnp.int32),
        "augmented": array((SIZE,), bool),
    }
    step = run.train_step()
    lower(step.function, state, batch, *step.arrays)

    evaluate_batch = make_evaluate_batch(run.model, run.estimator, 1000, run.options.eval.draws)
    key = jax.eval_shape(lambda: root_key(0))
    lower(evaluate_batch, state.ema_params, batch, key, array((), jnp.int32))

    @jax.jit
    def draw(params, keys, labels):
        denoiser, num_steps = run.guidance(run.model, params, labels), run.options.sample.num_steps
        return run.model.sample(params, keys, run.sampler, run.grid, num_steps, denoiser)

    keys = jax.eval_shape(lambda: jax.random.split(root_key(0), SIZE))
    lower(draw, state.ema_params, keys, batch["labels"])
