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
    """Logits linear in z; records the latents and noise levels that it is given."""

    @nn.compact
    def __call__(self, z, omega, train=False):
        if not self.is_initializing():
            jax.debug.callback(lambda *seen: SEEN.append(seen), z, omega)
        return nn.Dense(3, kernel_init=nn.initializers.zeros)(z)


OPTIMIZER = optax.sgd(1.0)
LABELS = np.arange(600, dtype=np.int32) % 3
BATCH = {
    "examples": np.stack([np.linspace(-1, 1, 600), np.ones(600)], axis=1).astype(np.float32),
    "labels": LABELS,
}


def make_step(network, ends):
    """(the step, the state before it) of a classifier of pairs of numbers into three classes."""
    classifier = NoisyClassifier(network, (2,), 3)
    step = make_classifier_step(classifier, Gaussian(), ends, OPTIMIZER, jax.random.key(1))
    return step, jax.jit(lambda: init_state(classifier, OPTIMIZER, jax.random.key(0)))()


@pytest.fixture(scope="module")
def three_steps():
    """[(state, metrics, z, omega)] after each of three steps, which may be traced only once."""
    chex.clear_trace_counter()
    step, state = make_step(Linear(), (jnp.float32(-4.0), jnp.float32(2.0)))
    once = jax.jit(chex.assert_max_traces(step.function.__wrapped__, n=1), donate_argnums=0)
    found = []
    for _ in range(3):
        state, metrics = once(state, BATCH, *step.arrays)
        jax.effects_barrier()
        found.append((jax.device_get(state), metrics, *SEEN.pop()))
    assert not SEEN
    return found


def test_the_step_is_traced_once(three_steps):
    assert [int(state.step) for state, *_ in three_steps] == [1, 2, 3]


def test_a_step_descends_the_cross_entropy_at_all_noise_levels(three_steps):
    state, metrics, z, omega = three_steps[0]
    np.testing.assert_allclose(metrics["cross_entropy"], np.log(3), rtol=1e-6)  # zero logits
    # uniform between the ends, and noise of that level on these examples
    np.testing.assert_allclose(np.quantile(omega, [0.0, 0.5, 1.0]), [-4.0, -1.0, 2.0], atol=0.3)
    alpha, sigma = (np.sqrt(1 / (1 + np.exp(s * omega)))[:, None] for s in (1, -1))
    eps = (z - alpha * BATCH["examples"]) / sigma
    assert abs(eps.mean()) < 0.12  # 4 standard errors
    assert abs(eps.std() - 1) < 0.09
    # sgd at rate 1: the new weights are minus the gradient, softmax - one-hot
    error = 1 / 3 - np.eye(3)[LABELS]
    kernel = state.params["network"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(kernel, -z.T @ error / 600, atol=1e-6)


def test_another_step_sees_other_noise(three_steps):
    (_, _, z, omega), (_, _, other_z, other_omega), _ = three_steps
    assert not np.array_equal(z, other_z)
    assert not np.array_equal(omega, other_omega)


class Dropped(nn.Module):
    """Logits after so much dropout that hardly any input is left in training."""

    @nn.compact
    def __call__(self, z, omega, train=False):
        z = nn.Dropout(0.999, deterministic=not train)(z)
        return nn.Dense(3, kernel_init=nn.initializers.ones)(z)


def test_training_drops_out_and_averages_with_each_dimension_at_its_own_level():
    step, state = make_step(Dropped(), (jnp.array([[-4.0, -3.0]]), jnp.array([[2.0, 5.0]])))
    batch = {"examples": np.ones((40, 2), np.float32), "labels": np.zeros(40, np.int32)}
    state, metrics = step(state, batch)
    assert metrics["accuracy"] == 1.0  # all logits are equal, and the label is the first
    bias, averaged = (
        tree["network"]["Dense_0"]["bias"] for tree in (state.params, state.ema_params)
    )
    np.testing.assert_allclose(bias, [2 / 3, -1 / 3, -1 / 3], atol=1e-2)
    # with warm-up, the first average keeps 1/10 of the initial parameters
    np.testing.assert_allclose(averaged, 0.9 * bias, rtol=1e-5)


def logits_at(network, z, *places):
    """The logits at each (z, omega), one program for all, with parameters away from zeros."""

    @jax.jit
    def logits():
        leaves, tree = jax.tree.flatten(network.init(jax.random.key(1), z, places[0][1]))
        keys = jax.random.split(jax.random.key(2), len(leaves))
        noisy = [p + 0.2 * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)]
        params = jax.tree.unflatten(tree, noisy)
        return [network.apply(params, *place) for place in places]

    return logits()


@pytest.mark.parametrize(
    ("network", "shape"), [(Perceptron(10, width=4, stages=1), (5,)),
                           (ConvNet(10, width=4, stages=1), (4, 4, 1))],
    ids=["perceptron", "convnet"],
)  # fmt: skip
def test_networks_read_the_example_and_its_noise_level(network, shape):
    z, omega = jax.random.normal(jax.random.key(0), (2, *shape)), jnp.array([-2.0, 1.0])
    places = (z, omega), (z + 0.1, omega), (z, omega + 0.5)
    here, elsewhere, noisier = logits_at(network, z, *places)
    assert here.shape == (2, 10)
    assert np.abs(here - elsewhere).max() > 1e-3
    assert np.abs(here - noisier).max() > 1e-3


@pytest.mark.parametrize(
    ("network", "shape", "other"),
    [(Perceptron(3), (2, 4, 4, 1), "convnet"), (ConvNet(3), (2, 5), "perceptron")],
)
def test_networks_refuse_examples_of_another_shape(network, shape, other):
    with pytest.raises(ValueError, match=rf"classifier\.name = '{other}'"):
        jax.eval_shape(network.init, jax.random.key(1), jnp.zeros(shape), jnp.zeros(2))
