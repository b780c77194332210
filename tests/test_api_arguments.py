"""Arguments of the API: wrong ones are named, equal ones give equal results."""

from pathlib import Path

import numpy as np
import pytest

import vdm
from vdm.evaluation.guided import Unguided

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(finished_run):
    return vdm.load(finished_run)


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
