import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import shaken
from vdm.nn.blocks import Conditioning, num_groups
from vdm.nn.embeddings import fourier_features, fourier_frequencies, omega_embedding
from vdm.nn.mlp import MLP
from vdm.nn.unet import UNet
from vdm.typing import NO_LABEL


def inputs(shape):
    return jax.random.normal(jax.random.key(0), shape), jnp.linspace(-8.0, 5.0, shape[0])


def build(network, shape, labels=None):
    """Initial parameters, z and omega."""
    z, omega = inputs(shape)
    return jax.jit(network.init)(jax.random.key(1), z, omega, labels), z, omega


def build_away(network, shape, labels=None):
    """The same with parameters away from the zeros at which they start, so that every path carries
    signal."""
    z, omega = inputs(shape)
    shapes = jax.eval_shape(network.init, jax.random.key(1), z, omega, labels)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return shaken(zeros, 0.4), z, omega


@functools.partial(jax.jit, static_argnames=("network", "train"))
def apply(network, params, z, omega, labels=None, augmented=None, train=False, rngs=None):
    flags = {} if augmented is None else {"augmented": augmented}
    return network.apply(params, z, omega, labels, train=train, rngs=rngs, **flags)


@pytest.mark.parametrize(
    ("shape", "attention"),
    [
        ((2, 8, 8, 1), "middle"),
        ((2, 5, 7, 3), "all"),
        pytest.param((2, 4, 9, 3), "none", marks=pytest.mark.slow),
    ],
)
def test_unet_takes_any_image_and_starts_as_the_identity(shape, attention):
    network = UNet(num_codes=256, width=16, num_blocks=1, attention=attention)
    params, z, omega = build(network, shape)
    np.testing.assert_array_equal(apply(network, params, z, omega), z)
    moved = apply(network, shaken(params, 0.3), z, omega)
    assert np.abs(moved - z).max() > 1e-3


@pytest.mark.parametrize(
    ("width", "film"),
    [(4, False), (32, False), (32, True), pytest.param(36, False, marks=pytest.mark.slow)],
)
def test_unet_sees_omega(width, film):
    # With one channel per group, as in the published network at width 32, the output would not
    # depend on omega (to 2e-7).
    network = UNet(num_codes=17, width=width, num_blocks=0, film=film, attention="none")
    params, z, omega = build_away(network, (2, 4, 4, 1))
    change = apply(network, params, z, omega) - apply(network, params, z, omega + 3.0)
    assert np.sqrt(np.mean(np.square(change))) > 1e-2


@pytest.mark.parametrize("channels", [4, 8, 20, 30, 32, 36, 64, 128, 256])
def test_groups_have_four_channels_or_more(channels):
    groups = num_groups(channels)
    assert channels % groups == 0
    assert channels // groups >= min(4, channels)
    assert groups <= 32
    assert num_groups(128) == 32


@pytest.mark.parametrize("network", [
    UNet(num_codes=17, num_classes=10, width=16, num_blocks=0),
    MLP(num_classes=10, width=16, num_blocks=1),
])  # fmt: skip
def test_labels_matter_and_are_required(network):
    shape = (2, 4, 4, 1) if isinstance(network, UNet) else (2, 3)
    labels = jnp.array([3, 3])
    params, z, omega = build_away(network, shape, labels)
    one, other = (apply(network, params, z, omega, jnp.array([3, k])) for k in (3, 4))
    np.testing.assert_array_equal(one[0], other[0])
    assert np.abs(one[1] - other[1]).max() > 1e-3
    with pytest.raises(ValueError, match="needs labels"):
        jax.eval_shape(network.apply, params, z, omega)


def test_dropout_is_off_without_train_and_random_with_it():
    network = UNet(num_codes=17, width=16, num_blocks=0, dropout=0.5)
    params, z, omega = build_away(network, (2, 4, 4, 1))

    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return apply(network, params, z, omega, train=True, rngs=rngs)

    np.testing.assert_array_equal(
        apply(network, params, z, omega), apply(network, params, z, omega)
    )
    assert np.abs(train(0) - train(1)).max() > 1e-3
    np.testing.assert_array_equal(train(0), train(0))


@pytest.mark.parametrize("network", [
    UNet(num_codes=5, outputs_per_dim=5, width=16, num_blocks=0), MLP(5, 0, 5, width=16)
])  # fmt: skip
def test_logits_have_one_axis_more_and_start_at_zero(network):
    shape = (2, 4, 4, 3) if isinstance(network, UNet) else (2, 3)
    params, z, omega = build(network, shape)
    logits = apply(network, params, z, omega)
    assert logits.shape == (*shape, 5)
    np.testing.assert_array_equal(logits, 0)


def test_fourier_features_turn_v_over_4_and_v_over_2_times_per_unit():
    assert fourier_frequencies(256) == (2**6, 2**7)
    assert fourier_frequencies(0) == ()
    x = jnp.array([[0.3, -0.7]])
    features = fourier_features(x, fourier_frequencies(16))
    angles = 2 * np.pi * np.array([[0.3 * 4, 0.3 * 8, -0.7 * 4, -0.7 * 8]])
    want = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    np.testing.assert_allclose(features, want, atol=1e-5)
    half = fourier_features(x.astype(jnp.bfloat16), (64.0, 128.0))
    assert half.dtype == jnp.float32


def test_omega_embedding_reads_fixed_constants():
    # u = 0 at omega = -13.3 and 1 at 5: sines of 1000 u f_k, then cosines.
    got = omega_embedding(jnp.array([-13.3, 5.0]), 6)
    f = 10_000.0 ** -np.array([0, 0.5, 1])
    want = [np.r_[np.sin(u * f), np.cos(u * f)] for u in (0.0, 1000.0)]
    np.testing.assert_allclose(got, want, atol=1e-3)
    with pytest.raises(ValueError, match="even width"):
        omega_embedding(jnp.zeros(1), 7)


def test_networks_name_the_other_when_the_shape_is_wrong():
    with pytest.raises(ValueError, match="'mlp'"):
        build_away(UNet(num_codes=17, width=16, num_blocks=1), (2, 3))
    with pytest.raises(ValueError, match="'unet'"):
        build_away(MLP(), (2, 4, 4, 1))


def test_a_label_as_scalar_may_be_any_number_and_is_zero_when_absent():
    network = UNet(num_codes=17, width=16, num_blocks=0, label_as_scalar=True)
    params, z, omega = build_away(network, (2, 4, 4, 1))
    half, two = (apply(network, params, z, omega, jnp.array([0.0, x])) for x in (0.5, 2.0))
    np.testing.assert_array_equal(half[0], two[0])
    assert np.abs(half[1] - two[1]).max() > 1e-3
    np.testing.assert_array_equal(
        apply(network, params, z, omega), apply(network, params, z, omega, jnp.zeros(2, jnp.int32))
    )
    conditional = UNet(num_codes=17, num_classes=3, width=16, num_blocks=0, label_as_scalar=True)
    with pytest.raises(ValueError, match="needs labels"):
        jax.eval_shape(conditional.apply, params, z, omega)


def test_groups_that_do_not_divide_the_width_are_refused():
    network = UNet(num_codes=256, width=32, num_blocks=1, num_groups=5)
    with pytest.raises(ValueError, match="num_groups = 5 does not divide 32 channels"):
        jax.eval_shape(network.init, jax.random.key(1), jnp.zeros((1, 4, 4, 1)), jnp.zeros(1))


def test_no_label_has_no_embedding():
    # The embeddings of labels change the conditioning of labelled examples and of no others.
    conditioning = Conditioning(8, num_classes=3)
    omega = jnp.array([0.5, 0.5])

    @jax.jit
    def outputs(labels, shift):
        params = conditioning.init(jax.random.key(0), omega, labels)["params"]
        params = params | {"label": jax.tree.map(lambda e: e + shift, params["label"])}
        return conditioning.apply({"params": params}, omega, labels)

    labels = jnp.array([NO_LABEL, 2])
    change = np.abs(outputs(labels, 0.0) - outputs(labels, 1.0)).max(axis=1)
    assert change[0] == 0
    assert change[1] > 0.1


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (UNet(num_codes=17, width=8, num_blocks=0, attention="none", augmented=True), (2, 4, 4, 1)),
        (MLP(width=8, num_blocks=1, augmented=True), (2, 3)),
    ],
)
def test_networks_are_told_which_examples_are_augmented(network, shape):
    params, z, omega = build_away(network, shape)

    def out(flag):
        return apply(network, params, z, omega, augmented=flag)

    one, none = out(jnp.array([True, False])), out(None)
    np.testing.assert_array_equal(out(jnp.zeros(2, bool)), none)  # as for data without augmentation
    assert np.abs(one - none)[0].max() > 1e-3
    np.testing.assert_array_equal(one[1], none[1])


def test_the_flag_as_scalar_is_the_published_conditioning():
    cond = Conditioning(8, label_as_scalar=True, augmented=True)
    plain = Conditioning(8, label_as_scalar=True)
    omega = jnp.linspace(-8.0, 5.0, 3)
    params = jax.jit(cond.init)(jax.random.key(0), omega, None)
    flag = jnp.array([True, False, True])
    labels = flag.astype(jnp.float32)
    np.testing.assert_array_equal(
        jax.jit(cond.apply)(params, omega, None, flag), jax.jit(plain.apply)(params, omega, labels)
    )
