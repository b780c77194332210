import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vdm
from vdm.api import BitsPerDim

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(finished_run):
    return vdm.load(finished_run)


def test_load_gives_the_numbers_of_eval_json(trained, finished_run):
    from vdm.data.sources import digits

    images = digits("", 0).load("test").examples
    got = trained.bpd(images)
    report = json.loads((finished_run / "eval.json").read_text())
    assert isinstance(got, BitsPerDim)
    assert got.mean == pytest.approx(report["bpd"], rel=1e-5)
    assert got.stderr_images == pytest.approx(report["stderr_images"], rel=1e-4)
    assert got.stderr_degrees == report["stderr_degrees"] == 1  # two draws
    assert np.isnan(trained.bpd(images, draws=1).stderr_degrees)
    assert got.per_image.shape == (297,)
    assert trained.step == 30
    assert trained.omega(np.array([0.0, 1.0])) == pytest.approx(
        [report["omega_0"], report["omega_1"]], rel=1e-6
    )


def test_train_leaves_a_workdir_and_returns_its_model(make_tiny_config, tmp_path):
    config = make_tiny_config(train__num_steps=4, train__save_every=2, train__eval_every=0)
    model = vdm.train(config, tmp_path / "run")
    assert model.step == 4
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["step"] == 4
    config.seed = 1
    with pytest.raises(ValueError, match="belongs to another config"):
        vdm.train(config, tmp_path / "run")


def test_the_splits_of_a_model_are_those_of_its_data(trained):
    assert trained.split().examples.shape == (297, 8, 8, 1)
    assert trained.split("train").labels.shape == (1500,)


def test_the_api_is_used_without_importing_the_trainer():
    code = (
        "import sys, numpy as np, vdm; config = vdm.load_config('configs/toy_swirl.py'); "
        "config.data.kwargs['num_train'] = 8; model = vdm.build(config); "
        "model.sample(2, num_steps=2); "
        "sys.exit('vdm.loops' if 'vdm.loops' in sys.modules else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stderr.strip() == ""


def test_what_is_public_has_types_and_docstrings():
    assert {"train", "build", "load", "load_config", "Model", "BitsPerDim"} == set(vdm.__all__)
    for name in vdm.__all__:
        thing = getattr(vdm, name)
        methods = (
            [m for n, m in vars(thing).items() if n[0] != "_"] if isinstance(thing, type) else []
        )
        for public in [thing, *methods]:
            public = getattr(public, "fget", public)
            if not callable(public):
                continue  # the default of a field
            assert public.__doc__, public
            if inspect.isfunction(public):
                parameters = inspect.signature(public).parameters
                assert {*parameters, "return"} - {"self"} == set(public.__annotations__), public
    assert (ROOT / "vdm" / "py.typed").exists()


def test_a_workdir_from_before_the_ode_options_is_loaded(finished_run, tmp_path):
    workdir = shutil.copytree(finished_run, tmp_path / "old")
    config = json.loads((workdir / "config.json").read_text())
    del config["eval"]["ode"], config["network"]["kwargs"]["num_groups"]
    (workdir / "config.json").write_text(json.dumps(config))
    assert vdm.load(workdir).run.options.eval.ode.probes == 2


def test_a_workdir_of_shared_parameters_is_loaded_on_other_devices(finished_run, tmp_path):
    workdir = shutil.copytree(finished_run, tmp_path / "shared")
    config = json.loads((workdir / "config.json").read_text())
    config["train"]["num_devices"], config["train"]["fsdp"] = 3, 3  # does not divide those here
    (workdir / "config.json").write_text(json.dumps(config))
    assert vdm.load(workdir).run.mesh.shape["fsdp"] == 1


def test_samples_are_images_of_codes(trained):
    samples = trained.sample(3, num_steps=4)
    assert samples.shape == (3, 8, 8, 1)
    assert 0 <= samples.min() <= samples.max() <= 16
    np.testing.assert_array_equal(samples, trained.sample(3, num_steps=4, batch_size=2))


def test_build_starts_from_the_seed(make_tiny_config):
    model = vdm.build(make_tiny_config())
    images = np.full((2, 8, 8, 1), 3)
    assert model.step == 0
    assert np.isfinite(model.bpd(images, draws=2).mean)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8), np.uint8), "expected"),
        (np.zeros((2, 8, 8, 1), np.float32), "integer codes"),
        (np.full((2, 8, 8, 1), 17), "expected 0 to 16"),
    ],
)
def test_wrong_images_are_refused(trained, images, message):
    with pytest.raises(ValueError, match=message):
        trained.bpd(images)


def test_labels_of_a_conditional_model_are_checked(make_tiny_config):
    model = vdm.build(make_tiny_config(model__class_conditional=True))
    images = np.full((2, 8, 8, 1), 3)
    assert np.isfinite(model.bpd(images, [1, 9], draws=2).mean)
    for labels, message in [(None, "give labels"), ([1], "expected 2"), ([1, 10], "0 to 9")]:
        with pytest.raises(ValueError, match=message):
            model.bpd(images, labels)
    with pytest.raises(ValueError, match="0 to 9"):
        model.sample(1, labels=[-1])


def test_negative_steps_are_refused(trained):
    with pytest.raises(ValueError, match="continuous time"):
        trained.bpd(np.full((2, 8, 8, 1), 3), num_steps=-1)


def test_a_folder_that_is_no_workdir_is_named(tmp_path):
    with pytest.raises(ValueError, match="is no workdir"):
        vdm.load(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vdm.nothing  # noqa: B018


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
