"""The API inside a host program: what it leaves alone, and what it needs of the process."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vdm

ROOT = Path(__file__).parent.parent


def test_a_host_process_in_float64_gets_the_same_numbers(finished_run):
    results = []
    for enabled in (False, True):
        with jax.enable_x64(enabled):
            model = vdm.load(finished_run)
            images = model.split("test").examples[:4]
            content = model.compress(images, num_steps=3)
            np.testing.assert_array_equal(model.decompress(content), images)
            bpd, omega = model.bpd(images, draws=2), model.omega(np.array([0.0, 0.5]))
            results.append((bpd.per_image, model.sample(3, num_steps=2), omega, content))
            assert jnp.result_type(float) == (jnp.float64 if enabled else jnp.float32)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def python(code, **environment):
    """The output of a program in a new process, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_library_imports_the_trainer_only_to_train_and_leaves_its_host_alone(
    finished_run, tmp_path
):
    code = """
        import logging, os, signal, sys
        import jax

        def state():
            return (list(sys.argv), list(logging.getLogger("absl").filters), sys.stdout,
                    sys.stderr, signal.getsignal(signal.SIGTERM), os.getcwd(),
                    jax.config.jax_num_cpu_devices)

        before = state()
        import vdm
        print(len([vdm.diffusion, vdm.nn, vdm.arguments]))  # modules, without another import
        model = vdm.load({run!r})
        model.sample(2, num_steps=2)
        model.bpd(model.split().examples[:4], draws=2)
        config = vdm.load_config({run!r} + "/config.json")
        vdm.build(config)
        assert "vdm.runs.train" not in sys.modules
        config.train.num_devices = config.train.eval_every = 0
        config.train.num_steps = config.train.save_every = 2
        vdm.train(config, {workdir!r})
        assert state() == before
        print(len(jax.devices()))
    """
    code = textwrap.dedent(code).format(run=str(finished_run), workdir=str(tmp_path / "run"))
    lines = python(code).splitlines()
    assert (lines[0], lines[-1]) == ("3", "1")


def test_more_devices_than_there_are_is_one_line_with_the_remedy(make_tiny_config, tmp_path):
    message = r"are 8 devices; .*'jax_num_cpu_devices', 9\) at the start"
    with pytest.raises(ValueError, match=message):
        vdm.train(make_tiny_config(train__num_devices=9), tmp_path / "run")
    assert vdm.build(make_tiny_config(train__num_devices=9)).run.mesh.size == 8


@pytest.mark.parametrize("platform", ["tpu", "abacus"])
def test_a_platform_that_is_not_there_is_named(platform):
    code = """
        import vdm
        try:
            vdm.build(vdm.load_config("configs/digits.py"))
        except ValueError as error:
            print(error)
    """
    (line,) = python(code, JAX_PLATFORMS=platform).splitlines()
    assert f"JAX_PLATFORMS = '{platform}' cannot be used here" in line
    assert "unset JAX_PLATFORMS, or set it to cpu" in line


def test_uncompiled_functions_are_refused(make_tiny_config):
    with jax.disable_jit(), pytest.raises(ValueError, match=r"JAX_DISABLE_JIT is set.*unset it"):
        vdm.build(make_tiny_config())
