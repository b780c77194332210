"""The sampler of the mixture kernel, for codes that are independent: then it is exact in one step.
And how it draws codes and guides their logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tests.closed_forms import alpha, sigma
from vdm.diffusion import codes, samplers
from vdm.diffusion.codes import CodesDenoiser, code_log_probs, draw_codes, mean_eps
from vdm.diffusion.likelihood import Discretised
from vdm.diffusion.noise import fresh_noise
from vdm.diffusion.samplers import Interval, run_chain
from vdm.models.drawn import decode

PRIOR = np.array([0.1, 0.4, 0.05, 0.25, 0.2])
X = np.array([-0.8, -0.4, 0.0, 0.4, 0.8])  # the codes' x, 2 (k + 1/2) / 5 - 1
NUM_SAMPLES = 20_000


def log_probs(z, omega):
    """Bayes' rule for independent codes: the logits are the prior's at every noise level."""
    logits = jnp.broadcast_to(jnp.log(PRIOR), (*z.shape, len(PRIOR)))
    return code_log_probs(logits.astype(z.dtype), z, omega)


ORACLE = CodesDenoiser(lambda z, w: mean_eps(log_probs(z, w), z, w), log_probs)


@functools.partial(jax.jit, static_argnums=(0, 2))
def draw(sampler, omegas, network_decodes=False):
    """Samples of one dimension, by the sampler and the decoder."""
    keys = jax.random.split(jax.random.key(0), NUM_SAMPLES)
    noise = fresh_noise(keys, (1,))
    chain = run_chain(noise(jnp.int32(0)), noise, omegas, ORACLE, sampler)
    last = noise(jnp.int32(len(omegas)))
    return decode(chain, omegas[0], last, sampler, ORACLE, Discretised(5), network_decodes)


def chi_square(drawn):
    """The sum of (count - expected)^2 / expected over the codes; four degrees of freedom."""
    counts = np.bincount(np.asarray(drawn.data).ravel(), minlength=5)
    expected = NUM_SAMPLES * PRIOR
    return np.sum((counts - expected) ** 2 / expected)


LARGEST = scipy.stats.chi2.ppf(0.999, 4)


@pytest.mark.parametrize("interior", [(), (-3.0, 1.5)])
def test_independent_codes_are_exact_in_any_number_of_steps(interior):
    omegas = jnp.array([-9.0, *interior, 11.0])
    assert chi_square(draw(samplers.mixture_ancestral(), omegas)) < LARGEST
    assert chi_square(draw(samplers.ancestral(), omegas)) > 1000  # the Gaussian kernel


def test_the_network_decodes_independent_codes_at_any_level():
    omegas = jnp.array([-1.0, 11.0])
    drawn = draw(samplers.mixture_ancestral(), omegas, True)
    assert chi_square(drawn) < LARGEST
    assert (drawn.evaluations == 2).all()
    assert chi_square(draw(samplers.mixture_ancestral(), omegas)) > 1000  # the flat rule


def test_a_step_has_the_moments_of_the_posterior_mixture():
    # Not random: every quantile of the code's draw with both signs of the other.
    omega_s, omega_t, z_t = -1.5, 0.4, 0.3
    quantiles = scipy.stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    noise = jnp.stack([jnp.repeat(jnp.array([-1.0, 1.0]), 2000), jnp.tile(quantiles, 2)])[..., None]
    interval = Interval(
        jnp.float32(omega_s), jnp.float32(omega_t), jnp.bool_(True), lambda k: noise[k]
    )
    step = samplers.mixture_ancestral().step
    z_s = np.asarray(jax.jit(lambda z: step(ORACLE, z, (), interval)[0])(jnp.full((4000, 1), z_t)))

    weights = PRIOR * np.exp(-0.5 * ((z_t - alpha(omega_t) * X) / sigma(omega_t)) ** 2)
    weights /= weights.sum()
    mean_x = weights @ X
    scale = alpha(omega_t) / alpha(omega_s)
    step_variance = sigma(omega_t) ** 2 - scale**2 * sigma(omega_s) ** 2
    of_z = scale * sigma(omega_s) ** 2 / sigma(omega_t) ** 2
    of_x = alpha(omega_s) * step_variance / sigma(omega_t) ** 2
    variance = sigma(omega_s) ** 2 * step_variance / sigma(omega_t) ** 2
    variance += of_x**2 * weights @ (X - mean_x) ** 2
    np.testing.assert_allclose(z_s.mean(), of_z * z_t + of_x * mean_x, rtol=1e-3)
    np.testing.assert_allclose(z_s.var(), variance, rtol=2e-3)


def test_codes_have_their_frequencies():
    count = 10_000
    noise = scipy.stats.norm.ppf((np.arange(count) + 0.5) / count)
    probs = np.broadcast_to(PRIOR, (count, 5))
    drawn = np.asarray(jax.jit(draw_codes)(jnp.log(probs), noise))
    assert (np.diff(drawn) >= 0).all()
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / count, PRIOR, atol=1.5e-4)


def test_impossible_codes_are_not_drawn_and_the_last_one_can_be():
    # The ends of what jax.random.normal gives in float32, and all between.
    noise = jnp.concatenate([jnp.array([-5.42, 5.16]), jnp.linspace(-5.0, 5.0, 99)])
    for code in range(4):
        impossible = np.where(np.arange(4) == code, 0.0, -np.inf)
        for logits in (impossible, np.maximum(impossible, -200.0)):
            drawn = draw_codes(jnp.broadcast_to(logits, (101, 4)).astype(jnp.float32), noise)
            assert (drawn == code).all()


@pytest.mark.parametrize("miss", [-1e-3, 1e-3])
def test_a_sum_that_is_not_one_changes_no_code_in_particular(miss):
    # As rounding leaves it, exaggerated: each code keeps its share, and none is beyond the last.
    noise = jnp.asarray(scipy.stats.norm.ppf((np.arange(1000) + 0.5) / 1000))
    logits = jnp.broadcast_to(jnp.log((1 + miss) * jnp.full(256, 1 / 256)), (1000, 256))
    drawn = np.asarray(draw_codes(logits, noise))
    np.testing.assert_allclose(drawn, np.floor((np.arange(1000) + 0.5) * 0.256), atol=1)
    assert drawn[0] == 0
    assert drawn[-1] == 255


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_guided_logits_are_a_product_of_powers(strength):
    rng = np.random.default_rng(0)
    without, conditional = rng.dirichlet(np.ones(4), (2, 3, 2))
    guided = codes.guided_log_probs(
        lambda z, w: jnp.log(conditional), lambda z, w: jnp.log(without), strength
    )
    got = np.exp(guided(jnp.zeros((3, 2)), jnp.zeros(3)))
    want = without ** (1 - strength) * conditional**strength
    np.testing.assert_allclose(got, want / want.sum(axis=-1, keepdims=True), rtol=1e-4)
    if strength in (0.0, 1.0):
        np.testing.assert_allclose(got, (without, conditional)[int(strength)], rtol=1e-4)


def test_a_denoiser_without_probabilities_is_refused_in_one_line():
    interval = Interval(jnp.float32(-1.0), jnp.float32(1.0), jnp.bool_(True), jnp.zeros_like)
    with pytest.raises(ValueError, match="mixture_ancestral") as error:
        samplers.mixture_ancestral().step(lambda z, w: z, jnp.ones((2, 1)), (), interval)
    assert "model.prediction = 'codes'" in str(error.value)
    assert "\n" not in str(error.value)
