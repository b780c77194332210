"""Importance-weighted and ODE bounds compared with Gaussian models known in closed form."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from scipy import stats

from tests.closed_forms import gauss_legendre
from vdm.diffusion import bounds, noise
from vdm.diffusion.bounds import (
    importance_bound,
    log_central_mass,
    path_log_weight,
    probability_flow_bound,
)
from vdm.diffusion.elbo import prior_matching
from vdm.diffusion.exact import GaussianData, MixtureData
from vdm.diffusion.likelihood import Discretised, Gaussian
from vdm.diffusion.ode import FlowDensity, Solver

OMEGAS = (-3.0, -1.5, 0.5, 2.0)


def mixture():
    weights, means = [0.2, 0.5, 0.3], [[-0.6, 0.3], [0.1, -0.5], [0.9, 0.4]]
    return MixtureData(*(jnp.asarray(v) for v in (weights, means, [0.2, 0.3, 0.4])))


@pytest.mark.parametrize("likelihood", [Gaussian(), Discretised(8)])
@pytest.mark.equation("S4 70", "vdm.diffusion.bounds:path_log_weight")
@pytest.mark.equation("S1 1.59", "vdm.diffusion.bounds:path_log_weight")
def test_log_weight_is_the_ratio_of_the_densities_along_the_path(likelihood):
    # By its definition, from the densities of z and `noise.posterior`, along the same draws.
    def log_density(value, mean, variance):
        return norm.logpdf(value, mean, jnp.sqrt(variance)).sum(-1)

    @jax.jit
    def by_definition(keys, data, omegas):
        def xi(index):
            draw = functools.partial(jax.random.normal, shape=(2,), dtype=jnp.float64)
            return jax.vmap(lambda key: draw(jax.random.fold_in(key, index)))(keys)

        x = likelihood.encode(data)
        z = noise.diffuse(x, xi(0), omegas[-1])
        a, s = noise.alpha(omegas[-1]), noise.sigma(omegas[-1])
        want = norm.logpdf(z).sum(-1) - norm.logpdf(z, a * x, s).sum(-1)
        for i in (3, 2, 1):
            eps = (z - noise.alpha(omegas[i]) * x) / noise.sigma(omegas[i])
            q = noise.posterior(z, eps, omegas[i - 1], omegas[i])
            p = noise.posterior(z, mixture().eps_hat(z, omegas[i]), omegas[i - 1], omegas[i])
            z = q[0] + jnp.sqrt(q[1]) * xi(i)
            want += log_density(z, *p) - log_density(z, *q)
        return want + likelihood.log_prob(data, z, omegas[0])

    with jax.enable_x64(True):
        omegas, keys = jnp.array(OMEGAS), jax.random.split(jax.random.key(0), 5)
        if isinstance(likelihood, Discretised):
            data = jax.random.randint(jax.random.key(1), (5, 2), 0, 8)
        else:
            data = jax.random.normal(jax.random.key(1), (5, 2), jnp.float64)
        weigh = jax.jit(lambda *a: path_log_weight(*a, mixture().eps_hat, likelihood))
        np.testing.assert_allclose(
            weigh(keys, data, omegas), by_definition(keys, data, omegas), rtol=1e-10
        )


@pytest.mark.slow
def test_weights_of_gaussian_data_average_to_its_likelihood_and_their_logs_to_the_elbo():
    data, x, num = GaussianData(0.6), 0.5, 200_000
    omegas = jnp.array(OMEGAS)
    keys = jax.random.split(jax.random.key(0), num)
    weigh = jax.jit(lambda keys, x: path_log_weight(keys, x, omegas, data.eps_hat, Gaussian()))
    log_w = np.asarray(weigh(keys, jnp.full((num, 1), x)), np.float64)
    a_0, var_0 = noise.alpha(omegas[0]), jnp.exp(omegas[0])
    exact = norm.logpdf(x, 0.0, jnp.sqrt(data.variance_of_steps(omegas) / a_0**2 + var_0))
    ratio = np.exp(log_w - float(exact))
    assert ratio.mean() == pytest.approx(1, abs=4 * ratio.std() / np.sqrt(num))
    assert ratio.std() < 2
    # E (eps - eps_hat)^2 at this x: eps_hat is linear in eps and x
    want = 0.5 * (1 + omegas[0] + np.log(2 * np.pi)) + prior_matching(
        jnp.full((1, 1), x), omegas[-1]
    )
    for s, t in itertools.pairwise(omegas):
        gain = data.eps_hat(jnp.ones((1, 1)), t)[0, 0]
        kept, bias = 1 - gain * noise.sigma(t), gain * noise.alpha(t) * x
        want += 0.5 * jnp.expm1(t - s) * (kept**2 + bias**2)
    assert -log_w.mean() == pytest.approx(float(want[0]), abs=4 * log_w.std() / np.sqrt(num))


@pytest.mark.equation("S4 21", "vdm.diffusion.bounds:importance_bound")
def test_importance_bound_is_the_elbo_at_k_1_and_falls_as_groups_merge():
    @jax.jit
    def bounds_of_groups(log_w):
        """The same weights in groups of k, averaged: Jensen's inequality for each."""
        groups = (log_w.reshape(16 // k, k, 4) for k in (1, 2, 4, 8, 16))
        means = [jnp.mean(jnp.stack([importance_bound(g) for g in each]), 0) for each in groups]
        return importance_bound(log_w[:1]), jnp.stack(means)

    log_w = 30 * jax.random.normal(jax.random.key(0), (16, 4)) - 500
    first, means = bounds_of_groups(log_w)
    np.testing.assert_array_equal(first, -log_w[0])
    assert (np.diff(means, axis=0) < 0).all()
    want = -np.log(np.mean(np.exp(np.asarray(log_w, np.float64) + 500), axis=0)) + 500
    np.testing.assert_allclose(means[-1], want, rtol=1e-6)


def test_a_path_does_not_depend_on_its_batch():
    keys = jax.random.split(jax.random.key(0), 6)
    data = jax.random.normal(jax.random.key(1), (6, 2))

    @jax.jit
    def weigh(keys, data):
        return path_log_weight(keys, data, jnp.array(OMEGAS), mixture().eps_hat, Gaussian())

    np.testing.assert_allclose(weigh(keys, data)[2:4], weigh(keys[2:4], data[2:4]), rtol=1e-5)


@pytest.mark.parametrize("edge", [1e-3, 0.9, 1.3, 1.5, 3.0, 6.0, 8.0])
def test_log_central_mass_keeps_its_digits(edge):
    nodes, weights = gauss_legendre(60)
    density = np.exp(-0.5 * (edge * nodes) ** 2) / np.sqrt(2 * np.pi)
    mass = 2 * edge * np.sum(weights * density)
    tail = edge + 8 * nodes  # where the mass is 1 to rounding, from its complement
    missing = 16 * np.sum(weights * np.exp(-0.5 * tail**2)) / np.sqrt(2 * np.pi)
    want = np.log(mass) if edge < 2 else np.log1p(-missing)
    got = jax.jit(log_central_mass)(jnp.float32(edge))
    np.testing.assert_allclose(got, want, rtol=3e-6)


@pytest.mark.parametrize(("omega_0", "num_codes"), [(-3.0, 9), (-13.3, 256), (-30.0, 256)])
def test_noise_stays_where_its_density_is(monkeypatch, omega_0, num_codes):
    # Bins of 0.5, 3.0 and 12769 standard deviations to each side, in float32.
    codes, model, starts = jnp.full(200_000, 4), Discretised(num_codes), []

    def flow(key, z_0, omegas, denoiser, solver):
        starts.append((key, z_0))
        return FlowDensity(jnp.zeros(1), jnp.int32(0))

    monkeypatch.setattr(bounds, "flow_log_density", flow)
    edge = np.exp(-omega_0 / 2) / num_codes

    @functools.partial(jax.jit, static_argnums=0)
    def start(name, key, codes, omegas):
        probability_flow_bound(key, codes, omegas, jnp.add, model, name, Solver())
        ends = noise.alpha(omegas[0]), noise.sigma(omegas[0]), model.encode(codes[0])
        return *starts.pop(), *ends

    for name, half in (("uniform", edge), ("truncated-normal", min(edge, 5.0))):
        key, z_0, *ends = start(name, jax.random.key(0), codes, jnp.array([omega_0, 5.0]))
        a, s, x = map(float, ends)
        n = (np.float64(z_0) - a * x) / s
        rounding = 2**-23 / s  # of z_0
        farthest = np.abs(n).max()
        assert farthest < half * (1 + 1e-6) + rounding
        if name == "uniform" or half < 4:
            assert farthest > half * (1 - 1e-3) - rounding
        else:
            assert farthest > 4
            assert np.mean(n**2) == pytest.approx(1.0, abs=0.05)
        # the probes have another key than the noise
        again = jax.random.uniform(key, codes.shape, jnp.float32, -1.0, 1.0)
        assert abs(np.corrcoef(again, n)[0, 1]) < 0.02


SOLVER = Solver(num_steps=24, divergence="exact")
STD = 0.4


def estimates(dequantisation, code, num_codes, num):
    """Draws of the bound for one code of one dimension, and the flow's variance of z_0."""
    data, omegas = GaussianData(STD), jnp.linspace(-3.0, 5.0, SOLVER.num_steps + 1)
    variance = data.flow_variance(omegas[0], omegas[-1])

    def one(key):
        codes, model = jnp.array([code]), Discretised(num_codes)
        return probability_flow_bound(
            key, codes, omegas, data.eps_hat, model, dequantisation, SOLVER
        )

    draws = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(4), num))
    return draws, float(variance), omegas


def test_uniform_and_truncated_normal_dequantisation_of_a_gaussian_flow():
    # -log p_0 of the linear flow is quadratic in z_0, so the bound depends on E n^2 alone, which is
    # known. At the middle code of an odd number of codes, x = 0, the draws differ only by
    # 1/2 alpha^2 n^2 / v, which is small in a narrow bin.
    num = 2000
    with jax.enable_x64(True):
        for name, num_codes in (("uniform", 65), ("truncated-normal", 9)):
            draws, v, omegas = estimates(name, num_codes // 2, num_codes, num)
            a_0, s = float(noise.alpha(omegas[0])), np.exp(0.5 * float(omegas[0]))
            edge = 1 / (num_codes * s)
            if name == "uniform":
                square, entropy = edge**2 / 3, np.log(2 * edge)
            else:
                mass = 2 * stats.norm.cdf(edge) - 1
                square = 1 - 2 * edge * stats.norm.pdf(edge) / mass
                entropy = 0.5 * (square + np.log(2 * np.pi)) + np.log(mass)
            log_p = -0.5 * ((a_0 * s) ** 2 * square / v + np.log(2 * np.pi * v))
            want = -log_p - entropy - np.log(a_0 * s)
            total = np.asarray(draws.total)
            assert total.mean() == pytest.approx(want, abs=4 * total.std() / np.sqrt(num) + 1e-6)
            assert total.std() < 0.03
            # it is an upper bound of -log of the bin's mass
            scale = a_0 / np.sqrt(v)
            exact = -np.log(2 * stats.norm.cdf(scale / num_codes) - 1)
            assert 0 < want - exact < 2e-3
            assert (np.asarray(draws.probe_variance) == 0).all()


@pytest.mark.slow
def test_decoder_dequantisation_of_a_gaussian_flow():
    # Quadrature gives the model's probability of a code and the expectation of the bound.
    num, code, num_codes = 4000, 6, 9
    with jax.enable_x64(True):
        draws, v, omegas = estimates("decoder", code, num_codes, num)
        model, omega_0 = Discretised(num_codes), omegas[0]
        x = float(model.encode(jnp.array(code)))
        eps = jnp.linspace(-9.0, 9.0, 4001)
        step, column = float(eps[1] - eps[0]), jnp.full((4001, 1), code)
        z = noise.alpha(omega_0) * x + noise.sigma(omega_0) * eps
        log_p_0 = norm.logpdf(z, 0.0, jnp.sqrt(v))
        log_q = norm.logpdf(eps) - jnp.log(noise.sigma(omega_0))
        reconstruction = model.reconstruction(column, eps[:, None], omega_0)
        density = norm.pdf(eps)
        want = step * jnp.sum(density * (reconstruction - log_p_0 + log_q))
        total = np.asarray(draws.total)
        assert total.mean() == pytest.approx(float(want), abs=4 * total.std() / np.sqrt(num))
        exact = -jnp.log(step * jnp.sum(density * jnp.exp(log_p_0 - reconstruction - log_q)))
        assert 0 < float(want - exact) < 0.2


@pytest.mark.parametrize("probes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_probe_variance_is_that_of_the_total(probes):
    # With a million codes z_0 is nearly fixed. In two dimensions v'Jv takes two values a +- d, so
    # two probes average to a + d or a - d, with an estimated variance of 0, or to a, with an
    # estimate of d^2, which is right on average.
    num_codes = 1_000_000
    with jax.enable_x64(True):
        omegas, codes = jnp.linspace(-6.0, 5.0, 9), jnp.array([650_000, 400_000])

        def one(key):
            solver, model = Solver(num_steps=8, probes=probes), Discretised(num_codes)
            denoiser = mixture().eps_hat
            return probability_flow_bound(key, codes, omegas, denoiser, model, "uniform", solver)

        draws = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 32))
    total, variance = np.asarray(draws.total), np.asarray(draws.probe_variance)
    if probes == 1:
        assert np.isnan(variance).all()
        return
    d = (total.max() - total.min()) / 2
    middle = abs(total - (total.max() + total.min()) / 2) < d / 2
    assert d > 0.01
    assert 0 < middle.sum() < 32
    np.testing.assert_allclose(variance, np.where(middle, d**2, 0), atol=1e-4 * d**2, rtol=1e-3)


@pytest.mark.parametrize(
    ("dequantisation", "likelihood", "message"),
    [
        ("variational", Discretised(8), "unknown dequantisation 'variational'; known: decoder"),
        ("uniform", Gaussian(), "'uniform' needs the bins of integer codes, which Gaussian"),
    ],
)
def test_a_dequantisation_that_does_not_apply_is_refused(dequantisation, likelihood, message):
    data = likelihood.decode(jnp.ones(2), jnp.float32(-3.0))
    omegas, denoiser = jnp.array([-3.0, 3.0]), mixture().eps_hat
    with pytest.raises(ValueError, match=message):
        probability_flow_bound(
            jax.random.key(0), data, omegas, denoiser, likelihood, dequantisation, Solver()
        )
