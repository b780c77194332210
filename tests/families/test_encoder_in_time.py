"""A family with its own encoder and bound: its quantities are its own, or are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.closed_forms import gauss_legendre
from tests.families.encoder_in_time import EncoderInTime, Linear
from vdm.config.build import build_estimator
from vdm.config.options import read
from vdm.diffusion.elbo import Draws, draw
from vdm.diffusion.grids import equal_times
from vdm.diffusion.likelihood import Gaussian
from vdm.diffusion.samplers import ancestral
from vdm.models.vdm import VDM
from vdm.nn import schedules
from vdm.nn.mlp import MLP

STD, STRENGTH, OMEGA_0, OMEGA_1 = 1.5, 0.6, -4.0, 3.0
MODEL = EncoderInTime(
    schedule=schedules.Linear(OMEGA_0, OMEGA_1), network=Linear(STD, STRENGTH),
    likelihood=Gaussian(), dims=(1,),
)  # fmt: skip
SIGNS = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)], np.float32)


elbo = jax.jit(MODEL.elbo, static_argnums=3)
estimate_eps = jax.jit(lambda params, z, omega: MODEL.denoiser(params)(z, omega))


@pytest.fixture(scope="module")
def params():
    params = jax.jit(MODEL.init)(jax.random.key(0))
    params["network"]["strength"] = jnp.float32(STRENGTH)
    return params


def mean_terms(params, t, weights, num_steps):
    """The terms for x ~ N(0, STD^2), exact in x and eps: the sign patterns of the two have their
    second moments, and all is linear in them."""
    x, eps = np.tile(SIGNS, (len(t), 1)).T[..., None]
    draws = Draws(jnp.repeat(jnp.asarray(t, jnp.float32), 4), jnp.asarray(eps), jnp.asarray(eps))
    terms = elbo(params, jnp.asarray(STD * x), draws, num_steps).terms
    return {name: np.repeat(weights, 4) @ np.asarray(v) / 4 for name, v in terms.by_name.items()}


def parts(omega):
    """alpha, sigma, the encoder's factor, and that of the ideal denoiser's target."""
    share = 1 / (1 + np.exp(-omega))
    encoded = 1 + STRENGTH * share
    return np.sqrt(1 - share), np.sqrt(share), encoded, encoded - STRENGTH * share * (1 - share)


def test_without_an_encoder_it_is_the_vdm():
    fields = {"schedule": schedules.Linear(-4.0, 3.0), "network": MLP(16), "dims": (3,),
              "likelihood": Gaussian()}  # fmt: skip
    plain, ours = VDM(**fields), EncoderInTime(**fields)
    x = jax.random.normal(jax.random.key(1), (8, 3))

    @jax.jit
    def estimates():
        params = plain.init(jax.random.key(0))
        own = params | {"network": {"denoiser": params["network"], "strength": jnp.zeros(())}}
        draws = draw(jax.random.key(2), jnp.linspace(0.0, 0.9, 8), (3,))
        return [
            [model.elbo(params, x, draws, num_steps) for num_steps in (0, 5)]
            for model, params in ((plain, params), (ours, own))
        ]

    one, other = map(jax.tree.leaves, estimates())
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_bound_of_continuous_time_is_the_integral(params):
    times, weights = gauss_legendre(64)
    terms = mean_terms(params, times, weights, 0)

    def density(omega):  # 1/2 exp(-omega) Var(y | z)
        a, s, encoded, target = parts(omega)
        return 0.5 * np.exp(-omega) * (target * STD * s) ** 2 / ((a * encoded * STD) ** 2 + s**2)

    omega = OMEGA_0 + (OMEGA_1 - OMEGA_0) * times
    exact = (OMEGA_1 - OMEGA_0) * weights @ density(omega)
    np.testing.assert_allclose(terms["denoising_matching"], exact, rtol=1e-5)
    a, s, encoded, _ = parts(OMEGA_1)
    second = (a * encoded * STD) ** 2 + s**2
    np.testing.assert_allclose(
        terms["prior_matching"], 0.5 * (second - 1 - np.log(s**2)), rtol=1e-5
    )
    a, s, encoded, _ = parts(OMEGA_0)  # x - z_0 / alpha_0, with z_0 made of x_0
    distance = (1 - encoded) ** 2 * STD**2 + (s / a) ** 2
    exact = 0.5 * (distance * (a / s) ** 2 + OMEGA_0 + np.log(2 * np.pi))
    np.testing.assert_allclose(terms["reconstruction"], exact, rtol=1e-5)


def joint(x, num_steps, slopes=None):
    """Mean and covariance of (z_T ... z_0): q given x, or with the slopes of eps_hat = slope z the
    model p. Steps of the linear-Gaussian chain, from their definition."""
    omegas = np.linspace(OMEGA_0, OMEGA_1, num_steps + 1)
    a, s, encoded, _ = parts(omegas)
    mean, covariance = np.zeros(num_steps + 1), np.zeros((num_steps + 1,) * 2)
    mean[0], covariance[0, 0] = (0.0, 1.0) if slopes is not None else (
        a[-1] * encoded[-1] * x, s[-1] ** 2
    )  # fmt: skip
    for k, i in enumerate(range(num_steps, 0, -1)):
        ratio = a[i] / a[i - 1]
        step = s[i] ** 2 - ratio**2 * s[i - 1] ** 2  # sigma^2_{t|s}
        gain, share = ratio * s[i - 1] ** 2 / s[i] ** 2, a[i - 1] * step / s[i] ** 2
        if slopes is None:
            shift = share * encoded[i] * x + a[i - 1] * (encoded[i - 1] - encoded[i]) * x
        else:
            gain, shift = gain + share * (1 - s[i] * slopes[i]) / a[i], 0.0
        mean[k + 1] = gain * mean[k] + shift
        covariance[k + 1, : k + 1] = covariance[: k + 1, k + 1] = gain * covariance[k, : k + 1]
        covariance[k + 1, k + 1] = gain**2 * covariance[k, k] + step * s[i - 1] ** 2 / s[i] ** 2
    return mean, covariance


def slopes_of(params, num_steps):
    omegas = np.linspace(OMEGA_0, OMEGA_1, num_steps + 1, dtype=np.float32)
    return np.float64(estimate_eps(params, np.ones((num_steps + 1, 1), np.float32), omegas))[:, 0]


@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_bound_of_finite_steps_is_the_kl_of_whole_chains(params, num_steps):
    times = (np.arange(num_steps) + 0.5) / num_steps
    terms = mean_terms(params, times, np.full(num_steps, 1 / num_steps), num_steps)
    _, ours = joint(0.0, num_steps, slopes_of(params, num_steps))
    total = 0.0
    for x in (-STD, STD):
        mean, theirs = joint(x, num_steps)
        solved = np.linalg.solve(ours, theirs)
        total += 0.25 * (
            np.trace(solved) + mean @ np.linalg.solve(ours, mean) - num_steps - 1
            - np.linalg.slogdet(theirs)[1] + np.linalg.slogdet(ours)[1]
        )  # fmt: skip
    got = terms["denoising_matching"] + terms["prior_matching"]
    np.testing.assert_allclose(got, total, rtol=2e-5)


def test_ancestral_samples_are_of_the_model_that_is_bounded(params):
    num_steps, count = 10, 20_000
    keys = jax.random.split(jax.random.key(3), count)
    drawn = jax.jit(
        lambda keys: MODEL.sample(
            params, keys, ancestral(), equal_times, num_steps, MODEL.denoiser(params)
        )
    )(keys)
    _, covariance = joint(0.0, num_steps, slopes_of(params, num_steps))
    variance = covariance[-1, -1] / parts(OMEGA_0)[0] ** 2
    assert np.mean(drawn.data**2) == pytest.approx(variance, rel=4 * np.sqrt(2 / count))


def test_estimates_of_the_plain_vdm_are_refused(make_tiny_config):
    assert MODEL.supports == {"noise_levels", "schedule", "reverse_steps"}
    options = read(make_tiny_config()).eval
    for bound, num_steps in (("iw-4", 5), ("ode-decoder", 0)):
        chosen = dataclasses.replace(options, bound=bound, num_steps=num_steps)
        with pytest.raises(ValueError, match=rf"eval.bound = '{bound}' needs .*EncoderInTime does"):
            build_estimator(chosen, MODEL)


def test_an_override_loses_the_capabilities_that_rest_on_it_unless_it_keeps_them():
    class Subclass(EncoderInTime):
        def kernel(self, denoiser):
            raise AssertionError

    class Again(Subclass):
        keeps = frozenset({"noise_levels"})

    fields = {f.name: getattr(MODEL, f.name) for f in dataclasses.fields(MODEL)}
    assert Subclass(**fields).supports == {"schedule", "reverse_steps"}
    assert Again(**fields).supports == {"schedule", "reverse_steps", "noise_levels"}


def test_the_ancestral_sampler_takes_the_reverse_steps_of_the_model(params):
    class Narrow(EncoderInTime):
        def kernel(self, denoiser, z_t, omega_s, omega_t):
            mean, variance = super().kernel(denoiser, z_t, omega_s, omega_t)
            return mean, 0.0 * variance

    fields = {f.name: getattr(MODEL, f.name) for f in dataclasses.fields(MODEL)}
    model, z_1 = Narrow(**fields), jnp.full((1, 1), 1.7)
    keys = jax.random.split(jax.random.key(0), 1)
    drawn = model.sample(params, keys, ancestral(), equal_times, 3, model.denoiser(params), z_1)
    a, s, _, _ = parts(np.linspace(OMEGA_0, OMEGA_1, 4))
    z, slopes = 1.7, slopes_of(params, 3)
    for i in (3, 2, 1):
        share = 1 - (a[i] * s[i - 1] / (a[i - 1] * s[i])) ** 2
        z = a[i - 1] / a[i] * (z - s[i] * share * slopes[i] * z)
    np.testing.assert_allclose(drawn.data[0, 0], z / a[0], rtol=1e-5)
