"""A family whose noise levels depend on the data: its quantities are its own, or are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import gauss_hermite, gauss_legendre
from tests.families.data_schedule import TERM, DataSchedule
from tests.families.encoder_in_time import Linear
from vdm.diffusion.elbo import Draws
from vdm.diffusion.grids import equal_times
from vdm.diffusion.likelihood import Gaussian
from vdm.diffusion.samplers import ancestral, ddim
from vdm.models.interface import require
from vdm.nn import schedules

STD, OMEGA_0, OMEGA_1 = 1.5, -4.0, 3.0
MODEL = DataSchedule(
    schedule=schedules.Linear(OMEGA_0, OMEGA_1), network=Linear(STD, 0.0),
    likelihood=Gaussian(), dims=(1,),
)  # fmt: skip
SIGNS = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)], np.float32)
POSTERIOR = {"slope": 0.4, "offset": 0.3, "log_std": -0.5}


elbo = jax.jit(MODEL.elbo, static_argnums=3)


@pytest.fixture(scope="module")
def params():
    params = jax.jit(MODEL.init)(jax.random.key(0))
    params["schedule"]["posterior"] = jax.tree.map(jnp.float32, POSTERIOR)
    return params


def terms_at(params, t, weights, num_steps, key):
    """The terms for x = +-STD, exact in eps and t, with one draw of the noise of c for all."""
    x, eps = np.tile(SIGNS, (len(t), 1)).T[..., None]
    eps, keys = jnp.asarray(eps), jnp.broadcast_to(key, len(x))
    draws = Draws(jnp.repeat(jnp.asarray(t, jnp.float32), 4), eps, eps, keys)
    terms = elbo(params, jnp.asarray(STD * x), draws, num_steps).terms.by_name
    return {name: weights @ np.asarray(v).reshape(-1, 4) / 4 for name, v in terms.items()}


def squared_error(omega):
    """E (eps - eps_hat)^2 of the ideal denoiser, for x = +-STD alike."""
    share = 1 / (1 + np.exp(-omega))
    return (1 - share) * STD**2 / ((1 - share) * STD**2 + share)


@pytest.mark.parametrize("seed", range(3))
def test_terms_are_those_of_the_drawn_schedule(params, seed):
    key = jax.random.key(seed)
    noise = float(jax.random.normal(key, ()))
    # E over the four patterns: two of each sign of x, which has a c of its own
    c = [
        POSTERIOR["slope"] * x + POSTERIOR["offset"] + np.exp(-0.5) * noise
        for x in SIGNS[:, 0] * STD
    ]
    for num_steps in (1, 4):
        times = (np.arange(num_steps) + 0.5) / num_steps
        terms = terms_at(params, times, np.full(num_steps, 1 / num_steps), num_steps, key)
        grid = np.linspace(0, 1, num_steps + 1)
        total = 0.0
        for value in c:
            omega = OMEGA_0 + (OMEGA_1 - OMEGA_0) * grid ** np.exp(np.tanh(value))
            total += np.sum(0.5 * np.expm1(np.diff(omega)) * squared_error(omega[1:])) / 4
        # the second moment of eps - eps_hat is exact over the signs of x and eps for each c alone
        assert terms["denoising_matching"].sum() == pytest.approx(total, rel=2e-5)


def test_bound_of_continuous_time_does_not_depend_on_the_path(params):
    times, weights = gauss_legendre(200)
    terms = terms_at(params, times, weights, 0, jax.random.key(5))
    omega = OMEGA_0 + (OMEGA_1 - OMEGA_0) * times
    exact = (OMEGA_1 - OMEGA_0) / 2 * weights @ squared_error(omega)
    np.testing.assert_allclose(terms["denoising_matching"].sum(), exact, rtol=1e-4)


def test_the_term_of_the_latent_is_its_kl(params):
    terms = terms_at(params, np.array([0.5]), np.ones(1), 0, jax.random.key(0))
    c, width = np.linspace(-12, 12, 20_001, retstep=True)
    total = 0.0
    for x in (-STD, STD):
        mean, std = POSTERIOR["slope"] * x + POSTERIOR["offset"], np.exp(POSTERIOR["log_std"])
        log_q = -0.5 * ((c - mean) / std) ** 2 - np.log(std)
        q = np.exp(log_q) / np.sqrt(2 * np.pi)
        total += np.sum(q * (log_q + 0.5 * c**2)) * width / 2
    np.testing.assert_allclose(terms[TERM].sum(), total, rtol=1e-5)


def test_samples_are_of_the_prior_over_schedules(params):
    count, num_steps = 20_000, 3
    keys = jax.random.split(jax.random.key(3), count)
    drawn = jax.jit(
        lambda keys: MODEL.sample(
            params, keys, ancestral(), equal_times, num_steps, MODEL.denoiser(params)
        )
    )(keys)
    variance = 0.0
    for c, weight in zip(*gauss_hermite(40), strict=True):
        omega = OMEGA_0 + (OMEGA_1 - OMEGA_0) * np.linspace(0, 1, 4) ** np.exp(np.tanh(c))
        share, of_z = 1 / (1 + np.exp(-omega)), 1.0
        for i in (3, 2, 1):  # z_s = (alpha_s / alpha_t) (z_t - sigma_t c eps_hat) + ...
            step = -np.expm1(omega[i - 1] - omega[i])
            slope = np.sqrt(share[i]) / ((1 - share[i]) * STD**2 + share[i])
            gain = np.sqrt((1 - share[i - 1]) / (1 - share[i]))
            gain *= 1 - np.sqrt(share[i]) * step * slope
            of_z = gain**2 * of_z + share[i - 1] * step
        variance += weight * of_z / (1 - share[0])
    assert np.mean(drawn.data**2) == pytest.approx(variance, rel=4 * np.sqrt(2 / count))


def test_what_needs_one_schedule_is_refused():
    assert MODEL.supports == {"noise_levels", "reverse_steps", "noisy_data"}
    assert MODEL.interior_matters
    for capability in ("schedule", "importance_weighted", "probability_flow", "lossless_codec"):
        with pytest.raises(ValueError, match=r"x needs .* DataSchedule does not have .*levels"):
            require(MODEL, capability, "x")
    require(MODEL, ancestral().needs, "sample.name = 'ancestral'")
    with pytest.raises(ValueError, match=r"'ddim' needs a denoiser that is the score"):
        require(MODEL, ddim().needs, "sample.name = 'ddim'")
