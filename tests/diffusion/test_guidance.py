"""Guidance where all its parts are known: the labels are the components of a mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import sigma
from vdm.diffusion import guidance, samplers
from vdm.diffusion.exact import MixtureData
from vdm.diffusion.langevin import predictor_corrector

WEIGHTS, MEANS = [0.3, 0.7], [[-0.6, 0.2], [0.5, 0.1]]
STDS = [0.2, 0.4]


def mixture(dtype=jnp.float32):
    return MixtureData(*(jnp.array(a, dtype) for a in (WEIGHTS, MEANS, STDS)))


def component(label, dtype=jnp.float32):
    mean, std = jnp.array(MEANS[label], dtype)[None], jnp.array([STDS[label]], dtype)
    return MixtureData(jnp.ones(1, dtype), mean, std)


def log_prob_of(label, data):
    def log_prob(z, omega):
        joint = jnp.log(data.weights[label]) + component(label, z.dtype).log_prob(z, omega)
        return joint - data.log_prob(z, omega)

    return log_prob


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
@pytest.mark.equation("S2 108", "vdm.diffusion.guidance:classifier")
@pytest.mark.equation("S2 109", "vdm.diffusion.guidance:classifier")
@pytest.mark.equation("S2 110", "vdm.diffusion.guidance:classifier")
@pytest.mark.equation("S2 111", "vdm.diffusion.guidance:classifier_free")
@pytest.mark.equation("S2 113", "vdm.diffusion.guidance:classifier_free")
def test_both_kinds_are_one_where_the_classifier_is_exact(strength):
    # grad log p(y | z) = score of the component - score of the mixture (Bayes' rule)
    with jax.enable_x64():
        data = mixture(jnp.float64)
        z = jax.random.normal(jax.random.key(0), (7, 2), jnp.float64)
        omega = jnp.linspace(-4.0, 3.0, 7, dtype=jnp.float64)
        conditional = component(1, jnp.float64).eps_hat

        @jax.jit
        def every(z, omega):
            free = guidance.classifier_free(conditional, data.eps_hat, strength)
            by_classifier = guidance.classifier(data.eps_hat, log_prob_of(1, data), strength)
            ends = data.eps_hat(z, omega), conditional(z, omega)
            return free(z, omega), by_classifier(z, omega), ends

        free, by_classifier, ends = every(z, omega)
        np.testing.assert_allclose(free, by_classifier, rtol=1e-9, atol=1e-12)
        if strength in (0.0, 1.0):
            np.testing.assert_allclose(free, ends[int(strength)], rtol=1e-12)


def test_a_classifier_reads_a_noise_level_for_each_dimension():
    z = jnp.ones((3, 2))
    omega = jnp.broadcast_to(jnp.array([-2.0, 1.0]), (3, 2))

    def log_prob(z, omega):
        return jnp.sum(z * omega, axis=1)

    def nothing(z, omega):
        return jnp.zeros_like(z)

    guided = jax.jit(guidance.classifier(nothing, log_prob, 2.0))(z, omega)
    np.testing.assert_allclose(guided, -2 * sigma(np.asarray(omega)) * omega, rtol=1e-6)


@pytest.mark.parametrize(
    "sampler",
    [samplers.ancestral(), samplers.heun(), samplers.dpm_solver(), predictor_corrector()],
    ids=["ancestral", "heun", "dpm_solver", "predictor_corrector"],
)
def test_samplers_follow_the_label(sampler):
    # The samples follow the law of that label, which guidance reaches from the mixture by Bayes'
    # rule.
    data, keys = mixture(), jax.random.split(jax.random.key(0), 2000)
    guided = guidance.classifier(data.eps_hat, log_prob_of(0, data), 1.0)
    omegas = jnp.linspace(-8.0, 8.0, 101)
    draw = jax.jit(lambda keys: samplers.sample(keys, (2,), omegas, guided, sampler))
    z_0 = np.asarray(draw(keys))
    np.testing.assert_allclose(z_0.mean(axis=0), MEANS[0], atol=0.03)  # 4 standard errors: 0.018
    np.testing.assert_allclose(z_0.std(axis=0), 0.2, atol=0.02)
