"""The classifier of noisy examples: its loss, its noise levels, its state."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vdm.classifier import NoisyClassifier
from vdm.diffusion.likelihood import Gaussian
from vdm.nn.classifiers import ConvNet
from vdm.training.classifier import make_classifier_step
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
