"""The classifier of noisy examples: its loss, its noise levels, its state."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vdm.diffusion.likelihood import Gaussian
from vdm.models.classifier import NoisyClassifier
from vdm.nn.classifiers import ConvNet, Perceptron
from vdm.training.classifier_step import make_classifier_step
from vdm.training.state import init_state

SEEN = []


class Linear(nn.Module):
    """Logits linear in z; notes the noise levels and latents that it is given."""

    @nn.compact
    def __call__(self, z, omega, train=False):
        jax.debug.callback(lambda *seen: SEEN.append(seen), z, omega)
        return nn.Dense(3, kernel_init=nn.initializers.zeros)(z)


def test_a_step_descends_the_cross_entropy_at_all_noise_levels():
    classifier = NoisyClassifier(Linear(), (2,), 3)
    optimizer = optax.sgd(1.0)
    ends = jnp.float32(-4.0), jnp.float32(2.0)
    step = make_classifier_step(classifier, Gaussian(), ends, optimizer, jax.random.key(1))
    state = init_state(classifier, optimizer, jax.random.key(0))
    x = np.stack([np.linspace(-1, 1, 600), np.ones(600)], axis=1).astype(np.float32)
    labels = np.arange(600, dtype=np.int32) % 3
    SEEN.clear()
    state, metrics = step(state, {"examples": x, "labels": labels})
    jax.effects_barrier()
    z, omega = SEEN[-1]
    np.testing.assert_allclose(metrics["cross_entropy"], np.log(3), rtol=1e-6)  # zero logits
    # uniform between the ends, and noise of that level on these examples
    np.testing.assert_allclose(np.quantile(omega, [0.0, 0.5, 1.0]), [-4.0, -1.0, 2.0], atol=0.3)
    alpha, sigma = (np.sqrt(1 / (1 + np.exp(s * omega)))[:, None] for s in (1, -1))
    eps = (z - alpha * x) / sigma
    assert abs(eps.mean()) < 0.12  # 4 standard errors
    assert abs(eps.std() - 1) < 0.09
    # sgd at rate 1: the new weights are minus the gradient, softmax - one-hot
    error = 1 / 3 - np.eye(3)[labels]
    kernel = state.params["network"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(kernel, -z.T @ error / 600, atol=1e-6)
    assert int(state.step) == 1


def test_another_step_sees_other_noise():
    classifier, optimizer = NoisyClassifier(Linear(), (2,), 3), optax.sgd(0.0)
    ends = jnp.float32(-4.0), jnp.float32(2.0)
    step = make_classifier_step(classifier, Gaussian(), ends, optimizer, jax.random.key(1))
    state = init_state(classifier, optimizer, jax.random.key(0))
    batch = {"examples": np.zeros((4, 2), np.float32), "labels": np.zeros(4, np.int32)}
    SEEN.clear()
    state, _ = step(state, batch)
    state, _ = step(state, batch)
    jax.effects_barrier()
    assert not np.array_equal(SEEN[-1][1], SEEN[-2][1])


class Dropped(nn.Module):
    """Logits after so much dropout that hardly any input is left in training."""

    @nn.compact
    def __call__(self, z, omega, train=False):
        z = nn.Dropout(0.999, deterministic=not train)(z)
        return nn.Dense(3, kernel_init=nn.initializers.ones)(z)


def test_training_drops_out_and_averages_with_each_dimension_at_its_own_level():
    classifier, optimizer = NoisyClassifier(Dropped(), (2,), 3), optax.sgd(1.0)
    ends = jnp.array([[-4.0, -3.0]]), jnp.array([[2.0, 5.0]])
    step = make_classifier_step(classifier, Gaussian(), ends, optimizer, jax.random.key(1))
    state = init_state(classifier, optimizer, jax.random.key(0))
    batch = {"examples": np.ones((40, 2), np.float32), "labels": np.zeros(40, np.int32)}
    state, metrics = step(state, batch)
    assert metrics["accuracy"] == 1.0  # all logits are equal, and the label is the first
    bias, averaged = (
        tree["network"]["Dense_0"]["bias"] for tree in (state.params, state.ema_params)
    )
    np.testing.assert_allclose(bias, [2 / 3, -1 / 3, -1 / 3], atol=1e-2)
    # 1/10 of the old with warm-up at the first step
    np.testing.assert_allclose(averaged, 0.9 * bias, rtol=1e-5)


def test_perceptron_reads_vector_and_noise_level_and_refuses_images():
    network = Perceptron(3, width=4, stages=1)
    z, omega = jax.random.normal(jax.random.key(0), (2, 5)), jnp.array([-2.0, 1.0])
    params = network.init(jax.random.key(1), z, omega)
    here = network.apply(params, z, omega)
    assert here.shape == (2, 3)
    assert np.abs(here - network.apply(params, z, omega + 0.5)).max() > 1e-3
    assert np.abs(here - network.apply(params, z + 0.3, omega)).max() > 1e-3
    with pytest.raises(ValueError, match=r"classifier\.name = 'convnet'"):
        network.init(jax.random.key(1), jnp.zeros((2, 4, 4, 1)), omega)
    with pytest.raises(ValueError, match=r"classifier\.name = 'perceptron'"):
        ConvNet(3).init(jax.random.key(1), z, omega)


def test_convnet_reads_image_and_noise_level():
    network = ConvNet(10, width=4, stages=1)
    z, omega = jax.random.normal(jax.random.key(0), (2, 4, 4, 1)), jnp.array([-2.0, 1.0])

    @jax.jit
    def logits():
        params = network.init(jax.random.key(1), z, omega)
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(2), len(leaves))
        noisy = [p + 0.2 * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)]
        params = jax.tree.unflatten(tree, noisy)
        places = ((z, omega), (z + 0.1, omega), (z, omega + 0.5))
        return jnp.stack([jnp.asarray(network.apply(params, *place)) for place in places])

    here, elsewhere, noisier = logits()
    assert here.shape == (2, 10)
    assert np.abs(here - elsewhere).max() > 1e-3
    assert np.abs(here - noisier).max() > 1e-3


def test_the_step_is_traced_once():
    chex.clear_trace_counter()
    classifier, optimizer = NoisyClassifier(Linear(), (2,), 3), optax.sgd(0.1)
    ends = jnp.float32(-4.0), jnp.float32(2.0)
    step = make_classifier_step(classifier, Gaussian(), ends, optimizer, jax.random.key(1))
    once = jax.jit(chex.assert_max_traces(step.function.__wrapped__, n=1), donate_argnums=0)
    state = init_state(classifier, optimizer, jax.random.key(0))
    batch = {"examples": np.zeros((4, 2), np.float32), "labels": np.zeros(4, np.int32)}
    for _ in range(3):
        state, _ = once(state, batch, *step.arrays)
    assert int(state.step) == 3
