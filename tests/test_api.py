"""The API: train, load, build, and the methods of a model."""

import inspect
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import vdm
from vdm.api import BitsPerDim
from vdm.diffusion.grids import karras
from vdm.diffusion.samplers import ddim, dpm_solver
from vdm.evaluation.guided import Unguided

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
    config = make_tiny_config(train__num_steps=4, train__save_every=4, train__eval_every=0)
    model = vdm.train(config, tmp_path / "run")
    assert model.step == 4
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["step"] == 4
    config.seed = 1
    with pytest.raises(ValueError, match="belongs to another config"):
        vdm.train(config, tmp_path / "run")


def test_the_splits_of_a_model_are_those_of_its_data(trained):
    assert trained.split().examples.shape == (297, 8, 8, 1)
    assert trained.split("train").labels.shape == (1500,)


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
    assert samples.dtype == np.int32
    assert samples.shape == (3, 8, 8, 1)
    assert 0 <= samples.min() <= samples.max() <= 16
    np.testing.assert_array_equal(samples, trained.sample(3, num_steps=4, batch_size=2))


def test_build_starts_from_the_seed(make_tiny_config):
    model = vdm.build(make_tiny_config())
    images = np.full((2, 8, 8, 1), 3)
    assert model.step == 0
    assert np.isfinite(model.bpd(images, draws=2).mean)


def test_a_model_is_used_with_another_kernel_and_decoder(trained):
    images = np.full((2, 8, 8, 1), 3)
    mixture = trained.using("mixture", decoder="network")
    assert (mixture.vdm.reverse, mixture.vdm.decoder_rule) == ("mixture", "network")
    assert mixture.using().vdm == mixture.vdm
    assert trained.using("mixture").vdm.decoder_rule == "bayes"
    bounds = [model.bpd(images, num_steps=2, draws=4).mean for model in (trained, mixture)]
    assert bounds[1] < bounds[0]
    with pytest.raises(ValueError, match="did you mean 'mixture'"):
        trained.using("mixtur")


def test_a_model_trained_for_T_steps_keeps_its_kernel(make_tiny_config):
    config = make_tiny_config(model__num_steps=3, model__kernel="mixture")
    model = vdm.build(config)
    assert model.using("mixture").vdm == model.vdm
    with pytest.raises(ValueError, match="trained for 3 steps of kernel 'mixture' with decoder"):
        model.using(decoder="network")


def test_a_model_is_printed_in_a_line(trained):
    assert repr(trained) == "<vdm.Model of digits: 9,164 parameters of step 30>"


@pytest.fixture
def compilations():
    """A list with an entry for each compilation since it was last cleared. Programs that come from
    the cache on disk count too."""
    found = []

    def listener(event, seconds, **details):
        del seconds, details
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield found
    jax.monitoring.unregister_event_duration_listener(listener)


def given_samplers():
    return {"sampler": dpm_solver(), "grid": karras(5.0), "guidance": Unguided()}


@pytest.mark.parametrize(("method", "make_arguments"), [
    ("sample", dict),
    ("sample", lambda: {"sampler": "heun", "grid": "karras", "guidance": "none"}),
    ("sample", given_samplers),
    ("bpd", dict),
    ("bpd", lambda: {"bound": "iw-2", "num_steps": 3}),
    pytest.param("bpd", lambda: {"bound": "ode-decoder", "draws": 1}, marks=pytest.mark.slow),
], ids=["sample", "sample by name", "sample by object", "bpd", "bpd iw", "bpd ode"])  # fmt: skip
def test_a_call_with_another_seed_or_of_a_model_loaded_again_compiles_nothing(
    trained, finished_run, compilations, method, make_arguments
):
    def call(model, seed):
        given = {"num_steps": 7} if method == "sample" else {"draws": 3}  # as nowhere else
        what = 3 if method == "sample" else np.full((3, 8, 8, 1), 3)
        result = getattr(model, method)(what, seed=seed, **given | make_arguments())
        return result if method == "sample" else result.per_image

    first = call(trained, 11)
    assert compilations, "the first call compiles, which is counted"
    compilations.clear()
    np.testing.assert_array_equal(call(trained, 11), first)
    assert (call(trained, 2**40) != first).any()
    assert not compilations
    again = vdm.load(finished_run)
    compilations.clear()
    np.testing.assert_array_equal(call(again, 11), first)
    assert not compilations


def test_a_sampler_given_by_name_and_as_an_object_is_compiled_once(trained, compilations):
    by_name = trained.sample(3, num_steps=5, sampler="ddim", grid="karras")
    compilations.clear()
    given = trained.sample(3, num_steps=5, sampler=ddim(eta=0.0), grid=karras())
    np.testing.assert_array_equal(given, by_name)
    assert not compilations
