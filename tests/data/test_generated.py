"""Generated points have the shape, the weights and the noise that they state."""

import numpy as np
import pytest

from vdm.data import generated


def test_swirl_without_noise_lies_on_the_spiral():
    points = generated.swirl("", 0, noise=0.0).load("train").examples
    assert points.dtype == np.float32
    radius, angle = np.hypot(*points.T), np.arctan2(points[:, 1], points[:, 0])
    assert radius.min() > 1 / 3 - 1e-6
    assert 0.999 < radius.max() < 1 + 1e-6
    turns = (radius * 4.5 * np.pi - angle) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-5)


def test_swirl_noise_has_the_stated_deviation():
    # The same draws with and without noise, so the difference is the noise alone.
    clean, noisy = (generated.swirl("", 0, noise=n).load("train").examples for n in (0.0, 0.1))
    np.testing.assert_allclose((noisy - clean).std(axis=0), 0.1, rtol=0.03)  # 4 standard errors


def test_mixture_has_its_weights_means_and_deviation():
    split = generated.mixture("", 0, num_train=50_000).load("train")
    for k, (mean, weight) in enumerate(
        zip(generated.MIXTURE_MEANS, generated.MIXTURE_WEIGHTS, strict=True)
    ):
        points = split.examples[split.labels == k]
        count = len(points)
        assert abs(count / 50_000 - weight) < 4 * np.sqrt(weight * (1 - weight) / 50_000)
        error = generated.MIXTURE_STD / np.sqrt(count)
        np.testing.assert_allclose(points.mean(axis=0), mean, atol=4 * error)
        np.testing.assert_allclose(points.std(axis=0), generated.MIXTURE_STD, rtol=0.04)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"weights": (0.5, 0.5)}, "means have shape"),
        ({"weights": (0.5, 0.3, 0.3)}, "not a distribution"),
        ({"std": 0.0}, "std is 0.0"),
        ({"num_train": 0}, "num_train is 0"),
    ],
)
def test_mixture_mistakes_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        generated.mixture("", 0, **kwargs)


@pytest.mark.parametrize("constructor", [generated.swirl, generated.mixture])
def test_generated_test_points_do_not_depend_on_the_number_of_training_points(constructor):
    few, many = (constructor("", 0, num_train=n, num_test=50) for n in (10, 100))
    assert few.load("test").fingerprint == many.load("test").fingerprint
    assert few.load("test").fingerprint != many.load("train").fingerprint


@pytest.mark.parametrize("num_codes", [0, 2, 17, 256])
def test_synthetic_fills_its_codes(num_codes):
    source = generated.synthetic("", 0, shape=[8, 8, 2], num_codes=num_codes, num_classes=4)
    split = source.load("train")
    assert split.examples.shape == (1024, 8, 8, 2)
    assert split.labels is not None
    assert set(np.unique(split.labels)) == {0, 1, 2, 3}
    if num_codes:
        assert split.examples.dtype == np.uint8
        assert set(np.unique(split.examples)) == set(range(num_codes))
    else:
        assert split.examples.dtype == np.float32
    unlabelled = generated.synthetic("", 0, shape=(2,), num_codes=0).load("test")
    assert unlabelled.labels is None
    with pytest.raises(ValueError, match="num_codes is 257"):
        generated.synthetic("", 0, shape=(2,), num_codes=257)
