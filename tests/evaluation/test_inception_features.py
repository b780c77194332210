"""Features of Inception: how images are resized, and the numbers that PyTorch computes."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdm.evaluation import features
from vdm.evaluation.features import (
    InceptionFeatures,
    inception_images,
    read_inception_features,
)
from vdm.io.atomic import save_npz
from vdm.nn.inception import pytorch_shapes


@pytest.mark.parametrize(("height", "width"), [(8, 5), (400, 310)])
def test_images_are_interpolated_at_the_centres_of_pixels(height, width):
    codes = np.random.default_rng(0).integers(0, 17, (1, height, width, 1))
    got = np.asarray(inception_images(jnp.asarray(codes), 17))
    assert got.shape == (1, 299, 299, 3)
    np.testing.assert_array_equal(got[..., 0], got[..., 2])
    # Each pixel is computed from the two nearest rows and columns, also when an image shrinks:
    # there is no antialiasing.
    expected = 2 * codes[0, :, :, 0] / 16 - 1
    for axis, size in enumerate((height, width)):
        place = np.clip((np.arange(299) + 0.5) * size / 299 - 0.5, 0, size - 1)
        low = np.minimum(place.astype(int), size - 2)
        share = np.expand_dims(place - low, 1 - axis)
        below, above = expected.take(low, axis), expected.take(low + 1, axis)
        expected = (1 - share) * below + share * above
    np.testing.assert_allclose(got[0, :, :, 1], expected, atol=1e-4)


def test_batches_are_filled_up_and_cut_again(monkeypatch):
    shapes = []

    def stub(variables, images, num_codes):
        shapes.append(images.shape)
        return images.reshape(len(images), -1) * variables["params"]

    monkeypatch.setattr(features, "_pool3", stub)
    codes = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    found = InceptionFeatures({"params": np.float32(2)}, "stub", batch_size=3)
    np.testing.assert_array_equal(found(codes, 17), 2.0 * np.arange(7)[:, None])
    assert shapes == [(3, 1, 1, 1)] * 3
    assert found(codes[:2], 17).dtype == np.float64
    assert shapes[-1] == (2, 1, 1, 1)


def uniform(bits, *shape):
    """Numbers in [0, 1), from the bits of PCG64, which NumPy promises not to change."""
    return ((bits.random_raw(int(np.prod(shape))) >> np.uint64(11)) * 2.0**-53).reshape(shape)


def weights():
    """Random weights that keep activations near 1 and make the eps of the batch norms matter."""
    bits, arrays = np.random.PCG64(0), {}
    for name, shape in sorted(pytorch_shapes().items()):
        u = uniform(bits, *shape)
        if name.endswith("conv.weight"):
            array = (2 * u - 1) * np.sqrt(0.6 / np.prod(shape[1:]))
        elif name.endswith("running_var"):
            array = 0.05 + 0.1 * u
        elif name.endswith("bn.weight"):
            array = 0.5 + u
        else:
            array = 0.4 * u - 0.2
        arrays[name] = array.astype(np.float32)
    return arrays


# torch 2.15.0 and torchvision 0.29.2: inception_v3 in float64 with the weights above and the
# pools of FID, on the images below resized by torch.nn.functional.interpolate(mode="bilinear").
# Features 1, 330, ...: one of each branch of the last block; then the mean of all 2,048.
TORCH_FEATURES = (1, 330, 710, 1102, 1480, 1862, 2031)
TORCH_GREY = [
    [10.01757309, 1.99418102, 1.74893144, 0.64198975, 1.42390502, 3.08261644, 6.33378768],
    [10.51937171, 2.08925599, 1.83759991, 0.64664865, 1.47934657, 3.31646141, 6.01040364],
]
TORCH_GREY_MEAN = [2.82203853, 2.78972462]
TORCH_RGB = [
    [13.66464449, 2.77649136, 2.18244846, 0.86547998, 1.86086658, 3.9509106, 7.83596654],
    [13.50604898, 2.7334864, 2.18537484, 0.91140538, 1.92448244, 3.8084304, 7.97018813],
]
TORCH_RGB_MEAN = [3.40049304, 3.39017684]


@pytest.mark.slow
def test_inception_features_are_those_of_pytorch(tmp_path):
    save_npz(tmp_path / "inception.npz", **weights())
    found = read_inception_features(tmp_path / "inception.npz", batch_size=2)
    assert found.name.startswith("inception-v3-pool3@sha256:")
    bits = np.random.PCG64(1)
    grey = (uniform(bits, 2, 8, 8, 1) * 17).astype(np.uint8)
    rgb = (uniform(bits, 2, 32, 32, 3) * 256).astype(np.uint8)
    for codes, num_codes, expected, mean in (
        (grey, 17, TORCH_GREY, TORCH_GREY_MEAN),
        (rgb, 256, TORCH_RGB, TORCH_RGB_MEAN),
    ):
        got = found(codes, num_codes)
        assert got.shape == (2, 2048)
        np.testing.assert_allclose(got[:, TORCH_FEATURES], expected, rtol=5e-6)
        np.testing.assert_allclose(got.mean(axis=1), mean, rtol=2e-6)


def test_files_without_features_are_recognised_by_their_shapes_alone(tmp_path):
    path = tmp_path / "inception.npz"
    shapes = pytorch_shapes()
    save_npz(path, **{name: np.zeros(shape, np.float16) for name, shape in shapes.items()})
    features.check_features(path, (32, 32, 3), 256)
    with pytest.raises(ValueError, match=r"sample\.features: images of 2 channels; Inception"):
        features.check_features(path, (32, 32, 2), 256)
    save_npz(path, **{name: np.zeros(1) for name in shapes})
    with pytest.raises(ValueError, match="470 of other shape"):
        features.check_features(path, (32, 32, 3), 256)
    save_npz(path, weight_0=np.zeros((64, 3)), bias_0=np.zeros(2))
    with pytest.raises(ValueError, match="two layers or more"):
        features.check_features(path, (8, 8, 1), 17)
    for content in (b"", path.read_bytes()[:-40]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"not an \.npz of numbers"):
            features.check_features(path, (8, 8, 1), 17)
