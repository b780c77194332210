import inspect
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
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
        "sys.exit('vdm.runs.train' if 'vdm.runs.train' in sys.modules else 0)"
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
    assert samples.dtype == np.int32
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
    with pytest.raises(ValueError, match="num_steps = -1"):
        trained.bpd(np.full((2, 8, 8, 1), 3), num_steps=-1)


def test_a_folder_that_is_no_workdir_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a workdir"):
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


def python(code, **environment):
    """What a new process says, which must end well."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_modules_are_reachable_without_another_call():
    names = "vdm.diffusion, vdm.nn, vdm.arguments"
    assert python(f"import vdm; print(len([{names}]))") == "3\n"


def test_a_library_leaves_its_host_alone(finished_run, tmp_path):
    code = """
        import logging, os, signal, sys
        import jax

        def state():
            return (list(sys.argv), list(logging.getLogger("absl").filters), sys.stdout,
                    sys.stderr, signal.getsignal(signal.SIGTERM), os.getcwd(),
                    jax.config.jax_num_cpu_devices)

        before = state()
        import vdm
        model = vdm.load({run!r})
        model.bpd(model.split().examples[:4], draws=2)
        config = vdm.load_config({run!r} + "/config.json")
        vdm.build(config)
        config.train.num_devices = config.train.eval_every = 0
        config.train.num_steps = config.train.save_every = 2
        vdm.train(config, {workdir!r})
        assert state() == before
        print(len(jax.devices()))
    """
    code = textwrap.dedent(code).format(run=str(finished_run), workdir=str(tmp_path / "run"))
    assert python(code).splitlines()[-1] == "1"


def test_more_devices_than_there_are_is_one_line_with_the_remedy(make_tiny_config, tmp_path):
    message = r"are 8 devices; .*'jax_num_cpu_devices', 9\) at the start"
    with pytest.raises(ValueError, match=message):
        vdm.train(make_tiny_config(train__num_devices=9), tmp_path / "run")
    assert vdm.build(make_tiny_config(train__num_devices=9)).run.mesh.size == 8


@pytest.mark.parametrize("dtype", [">i4", ">u2", ">i8", "<u8", "i1"])
def test_codes_of_any_integers_are_the_same_codes(trained, dtype):
    codes = trained.split().examples[:3]
    given = codes.astype(dtype)
    assert trained.bpd(given, draws=2).mean == trained.bpd(codes, draws=2).mean
    content = trained.compress(given, num_steps=5)
    np.testing.assert_array_equal(trained.decompress(content), codes)


def test_real_numbers_of_any_byte_order_are_the_same_numbers():
    config = vdm.load_config(ROOT / "configs" / "toy_swirl.py")
    config.data.kwargs["num_train"] = 8
    model, points = vdm.build(config), np.array([[0.5, -0.25], [1.0, 0.0]])
    want = model.bpd(points, draws=2).mean
    assert model.bpd(points.astype(">f4"), draws=2).mean == want
    for wrong in (points.astype(complex), points.astype(str), points.astype(object)):
        with pytest.raises(ValueError, match="expected real numbers"):
            model.bpd(wrong)


@pytest.mark.parametrize(
    ("method", "arguments", "name"),
    [
        ("bpd", {"batch_size": 0}, "batch_size = 0"),
        ("bpd", {"batch_size": 2.0}, "batch_size = 2.0"),
        ("bpd", {"draws": 0}, "draws = 0"),
        ("bpd", {"draws": "2"}, "draws = '2'"),
        ("bpd", {"num_steps": -1}, "num_steps = -1"),
        ("bpd", {"seed": -1}, "seed = -1"),
        ("sample", {"batch_size": 0}, "batch_size = 0"),
        ("sample", {"num_steps": 0}, "num_steps = 0"),
        ("sample", {"num_steps": 2.5}, "num_steps = 2.5"),
        ("sample", {"seed": None}, "seed = None"),
        ("sample", {"sampler": 3}, "sampler = 3"),
        ("sample", {"sampler": "huen"}, "'huen'; did you mean 'heun'.*known: ancestral"),
        ("sample", {"grid": "karas"}, "did you mean 'karras'"),
        ("sample", {"guidance": "free"}, "known: none, classifier_free"),
        ("sample", {"guidance": "classifier_free"}, "needs a model that was trained"),
        ("compress", {"lanes": 0}, "lanes = 0"),
        ("compress", {"num_steps": 0}, "num_steps = 0"),
        ("compress", {"num_steps": 2**20 + 1}, "num_steps = 1048577: it must be at most 1048576"),
        ("compress", {"order": "up"}, "unknown order 'up'"),
    ],
)
def test_an_argument_of_no_use_is_named(trained, method, arguments, name):
    given = 2 if method == "sample" else np.full((2, 8, 8, 1), 3)
    with pytest.raises(ValueError, match=name):
        getattr(trained, method)(given, **arguments)


@pytest.mark.parametrize("number", [0, -3, 1.5])
def test_a_number_of_samples_that_is_none_is_named(trained, number):
    with pytest.raises(ValueError, match="num_samples = "):
        trained.sample(number)


def test_integers_of_numpy_are_integers(trained):
    images, two = np.full((2, 8, 8, 1), 3), np.int64(2)
    assert trained.bpd(images, draws=two, batch_size=two).mean == trained.bpd(images, draws=2).mean
    assert len(trained.sample(two, num_steps=np.uint8(2), batch_size=two)) == 2


def test_samplers_grids_and_guidances_are_known_by_name(trained):
    from vdm.diffusion.grids import equal_omegas
    from vdm.diffusion.samplers import heun

    by_name = trained.sample(2, num_steps=3, sampler="heun", grid="equal_omegas", guidance="none")
    given = trained.sample(2, num_steps=3, sampler=heun(), grid=equal_omegas, guidance=Unguided())
    np.testing.assert_array_equal(by_name, given)
    assert (by_name != trained.sample(2, num_steps=3)).any()


@pytest.mark.parametrize("argument", [{"step": -1}, {"step": 1.5}, {"params": "best"}])
def test_a_checkpoint_that_cannot_be_asked_for_is_named(finished_run, argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        vdm.load(finished_run, **argument)


def test_a_model_is_printed_in_a_line(trained):
    assert repr(trained) == "<vdm.Model of digits: 9,164 parameters of step 30>"


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


@pytest.fixture
def compilations():
    """The number of compilations since it was last emptied: its length. Programs that come from
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
    pytest.param("bpd", lambda: {"bound": "ode-decoder"}, marks=pytest.mark.slow),
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
