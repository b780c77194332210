"""FID's Inception-v3: its parts compared with NumPy, its list of arrays, and what is refused.

The whole network is compared with PyTorch's in tests/evaluation/test_features.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from vdm.nn.inception import (
    Convolution,
    InceptionV3,
    Mixed7,
    average_pool,
    from_pytorch,
    max_pool,
    pytorch_shapes,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def windows(x, fill):
    """The 3 x 3 pixels around each, `fill` outside the image, [b, h, w, c, 3, 3]."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))


def test_average_pool_leaves_its_padding_out():
    x = normal(2, 4, 5, 3)
    expected = np.nanmean(windows(x, np.nan), axis=(4, 5))
    np.testing.assert_allclose(average_pool(x), expected, atol=1e-6)
    np.testing.assert_allclose(average_pool(np.ones((1, 3, 3, 1), np.float32)), 1.0, rtol=1e-6)


def test_max_pools_with_and_without_padding():
    x = normal(2, 7, 9, 3) - 5
    around = windows(x, -np.inf).max(axis=(4, 5))
    np.testing.assert_array_equal(max_pool(x, 1, "SAME"), around)
    np.testing.assert_array_equal(max_pool(x), around[:, 1:-1:2, 1:-1:2])


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3), 1, "SAME"), ((3, 3), 2, "VALID"), ((1, 7), 1, "SAME"), ((3, 3), 1, "VALID")],
)
def test_convolution_is_correlation_then_running_statistics(kernel, stride, padding):
    module = Convolution(4, kernel, stride, padding)
    x = normal(1, 9, 11, 2)
    weight = normal(*kernel, 2, 4, seed=1)
    scale, bias, mean = normal(3, 4, seed=2)
    var = np.array([1e-4, 0.01, 0.5, 2.0], np.float32)  # eps = 1e-3 shows
    variables = {
        "params": {"conv": {"kernel": weight}, "bn": {"scale": scale, "bias": bias}},
        "batch_stats": {"bn": {"mean": mean, "var": var}},
    }
    got = module.apply(variables, x)
    mode = {"SAME": "same", "VALID": "valid"}[padding]
    y = np.stack([
        sum(scipy.signal.correlate2d(x[0, :, :, i], weight[:, :, i, o], mode) for i in range(2))
        for o in range(4)
    ], axis=-1)[::stride, ::stride]  # fmt: skip
    expected = np.maximum(0, (y - mean) / np.sqrt(var + 1e-3) * scale + bias)
    np.testing.assert_allclose(got[0], expected, rtol=1e-4, atol=1e-4)
    assert 0 < np.mean(expected > 0) < 1


def test_last_block_pools_the_maximum_and_the_others_the_mean():
    x = normal(1, 3, 3, 4)
    shapes = jax.eval_shape(Mixed7(False).init, jax.random.key(0), x)
    leaves, tree = jax.tree.flatten(shapes)
    values = [0.05 * np.abs(normal(*leaf.shape, seed=i)) + 0.01 for i, leaf in enumerate(leaves)]
    variables = jax.tree.unflatten(tree, values)
    mean, maximum = (jax.jit(Mixed7(pool).apply)(variables, x) for pool in (False, True))
    np.testing.assert_array_equal(mean[..., :1856], maximum[..., :1856])
    pool_branch = {group: tree["branch_pool"] for group, tree in variables.items()}
    around = windows(x, -np.inf).max(axis=(4, 5))
    expected = Convolution(192).apply(pool_branch, around)
    np.testing.assert_allclose(maximum[..., 1856:], expected, rtol=1e-5, atol=1e-6)
    assert np.abs(mean[..., 1856:] - expected).max() > 0.1


def test_arrays_are_those_of_the_port():
    shapes = pytorch_shapes()
    assert len(shapes) == 470
    # The published sizes without the classifier: 21,751,136 of kernels and 17,216 channels.
    assert sum(np.prod(s) for n, s in shapes.items() if n.endswith("conv.weight")) == 21_751_136
    assert sum(np.prod(s) for n, s in shapes.items() if n.endswith("running_var")) == 17_216
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_5b.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert shapes["Mixed_6b.branch7x7_2.conv.weight"] == (128, 128, 1, 7)
    assert shapes["Mixed_6e.branch7x7dbl_2.conv.weight"] == (192, 192, 7, 1)
    assert shapes["Mixed_7a.branch7x7x3_4.conv.weight"] == (192, 192, 3, 3)
    assert shapes["Mixed_7c.branch3x3dbl_3b.bn.running_mean"] == (384,)


def arrays_of_the_port():
    """Zeros that share one number in memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in pytorch_shapes().items()}


def test_kernels_are_turned_and_extras_left_out():
    name = "Mixed_5d.branch3x3dbl_2.conv.weight"
    weight = normal(96, 64, 3, 3)
    given = arrays_of_the_port() | {
        name: weight.astype(np.float64),
        "fc.weight": np.zeros((1008, 2048)),
        "Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros(()),
    }
    variables = from_pytorch(given)
    kernel = variables["params"]["Mixed_5d"]["branch3x3dbl_2"]["conv"]["kernel"]
    assert kernel.dtype == np.float32
    assert kernel[2, 0, 5, 7] == weight[7, 5, 2, 0]
    image = jax.ShapeDtypeStruct((3, 299, 299, 3), jnp.float32)
    features = jax.eval_shape(InceptionV3().apply, variables, image)
    assert (features.shape, features.dtype) == ((3, 2048), jnp.float32)


def test_other_arrays_are_listed_in_one_line():
    given = arrays_of_the_port()
    for name in list(given)[:6]:
        del given[name]
    given["Mixed_7c.branch1x1.bn.bias"] = np.zeros(321)
    given["AuxLogits.fc.bias"] = np.zeros(1000)
    with pytest.raises(ValueError, match="not the weights of FID's Inception-v3") as caught:
        from_pytorch(given)
    message = str(caught.value)
    assert "6 missing: Conv2d_1a_3x3.bn.running_mean, " in message
    assert ", and 2 more; 1 unexpected: AuxLogits.fc.bias; " in message
    assert "1 of other shape: Mixed_7c.branch1x1.bn.bias [321] for [320]" in message
    assert "\n" not in message
