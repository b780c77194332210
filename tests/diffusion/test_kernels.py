"""Reverse kernels against densities written out, quadrature in float64, and data of known entropy.

The oracle: if the dimensions of x are independent and the denoiser knows their distribution, the
mixture kernel is the exact reverse process. The weight of every path is then p(x) itself, and the
bound is the entropy for every T; with the network's decoder for every omega_0, too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from vdm.diffusion import codes, consistency, elbo
from vdm.diffusion.bounds import importance_bound, path_log_weight
from vdm.diffusion.exact import GaussianData
from vdm.diffusion.kernels import GAUSSIAN, MIXTURE, Guess, Step, guess
from vdm.diffusion.likelihood import Discretised, codes_to_x
from vdm.diffusion.noise import fresh_noise

V = 5
PRIOR = np.random.default_rng(1).dirichlet(np.full(V, 0.7))
ENTROPY = -float(np.sum(PRIOR * np.log(PRIOR)))
LIKELIHOOD = Discretised(V)
X = (2 * np.arange(V) + 1 - V) / V


@pytest.fixture
def x64():
    """Everything in float64."""
    with jax.enable_x64(True):
        yield


def oracle():
    """The denoiser of independent codes with probabilities PRIOR."""

    def log_probs(z, omega):
        logits = jnp.broadcast_to(jnp.log(jnp.asarray(PRIOR)), (*z.shape, V)).astype(z.dtype)
        return codes.code_log_probs(logits, z, omega)

    return codes.CodesDenoiser(
        lambda z, omega: codes.mean_eps(log_probs(z, omega), z, omega), log_probs
    )


def random_step(omega_s, omega_t, batch=7, dim=3, dtype=np.float64):
    """A step of random codes, and what a network might say of them."""
    rng = np.random.default_rng(2)
    data = rng.integers(0, V, (batch, dim))
    x = codes_to_x(jnp.asarray(data), V).astype(dtype)
    eps = jnp.asarray(rng.standard_normal((batch, dim)), dtype)
    step = Step(x, eps, *(jnp.full(batch, omega, dtype) for omega in (omega_s, omega_t)))
    log_probs = jnp.log(jnp.asarray(rng.dirichlet(np.full(V, 0.5), (batch, dim)), dtype))
    said = Guess(codes.mean_eps(log_probs, step.z_t, step.omega_t), log_probs)
    return data, step, said


def posterior_of(z_t, x, omega_s, omega_t):
    """Mean and standard deviation of q(z_s | z_t, x), by the formulas of VDM appendix A.2 in their
    plainest form."""

    def alpha2(omega):
        return 1 / (1 + np.exp(omega))

    def sigma2(omega):
        return 1 / (1 + np.exp(-omega))

    ratio = np.sqrt(alpha2(omega_t) / alpha2(omega_s))
    fresh = sigma2(omega_t) - ratio**2 * sigma2(omega_s)
    A = ratio * sigma2(omega_s) / sigma2(omega_t)
    B = np.sqrt(alpha2(omega_s)) * fresh / sigma2(omega_t)
    return A * z_t + B * x, np.sqrt(fresh * sigma2(omega_s) / sigma2(omega_t))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("levels", [(-3.0, 1.0), (-0.5, 4.0), (1.0, 1.3)])
@pytest.mark.parametrize("kernel", [GAUSSIAN, MIXTURE])
def test_log_ratio_is_that_of_the_densities_written_out(kernel, levels):
    _, step, said = random_step(*levels)
    xi = np.random.default_rng(3).standard_normal(step.x.shape)
    mean, std = posterior_of(step.z_t, step.x, *levels)
    z_s = mean + std * xi
    log_q = stats.norm.logpdf(z_s, mean, std)
    if kernel is MIXTURE:
        means, _ = posterior_of(np.asarray(step.z_t)[..., None], X, *levels)
        log_p = logsumexp(
            np.asarray(said.log_probs) + stats.norm.logpdf(z_s[..., None], means, std), axis=-1
        )
    else:
        x_hat = np.sum(np.exp(np.asarray(said.log_probs)) * X, axis=-1)
        log_p = stats.norm.logpdf(z_s, posterior_of(step.z_t, x_hat, *levels)[0], std)
    np.testing.assert_allclose(
        kernel.log_ratio(said, step, jnp.asarray(xi)), log_p - log_q, atol=1e-9
    )


NODES, WIDTH = np.linspace(-10, 10, 2001, retstep=True)
WEIGHTS = stats.norm.pdf(NODES) * WIDTH  # the trapezoidal rule, exact to rounding for smooth f


def divergence_of(c, log_probs, code):
    """KL(q || mixture) in float64, by the integral over z_s of section 14, V terms at each node."""
    delta = c * (X - X[code])
    inside = log_probs + NODES[:, None] * delta - 0.5 * delta**2
    return -float(np.sum(WEIGHTS * logsumexp(inside, axis=-1)))


@pytest.mark.parametrize("c", [1e-3, 1e-2, 0.1, 1.0, 3.0, 10.0, 100.0, 1000.0])
def test_divergence_in_float32_is_that_of_quadrature_in_float64(c):
    omega_t = 0.0  # c^2 = exp(-omega_s) - 1
    data, step, said = random_step(-np.log1p(c**2), omega_t, batch=4, dtype=np.float32)
    np.testing.assert_allclose(step.c, c, rtol=1e-5)
    log_probs = np.asarray(said.log_probs, np.float64)
    log_probs -= logsumexp(log_probs, axis=-1, keepdims=True)

    def at(u):
        return MIXTURE.divergence(said, step, jnp.full(step.x.shape, u, jnp.float32))

    every = np.asarray(jax.jit(jax.vmap(at))(jnp.asarray(NODES, jnp.float32)), np.float64)
    got = np.tensordot(WEIGHTS, every, 1)
    want = [[divergence_of(float(step.c[0, 0]), p, k) for p, k in zip(*row, strict=True)]
            for row in zip(log_probs, data, strict=True)]  # fmt: skip
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=3e-6 * min(1, c**2))
    # The Gaussian's value for small c, and no more than the codes themselves cost.
    x_hat = np.sum(np.exp(log_probs) * X, axis=-1)
    cost = -np.take_along_axis(log_probs, data[..., None], -1)[..., 0]
    spread = 0.5 * c**2 * np.sum(np.exp(log_probs) * (X - np.asarray(step.x)[..., None]) ** 2, -1)
    assert (got <= np.minimum(cost, spread) * (1 + 1e-3)).all()
    if c <= 1e-2:
        np.testing.assert_allclose(got, 0.5 * c**2 * (x_hat - step.x) ** 2, rtol=5e-3, atol=1e-9)
    if c >= 100:
        np.testing.assert_allclose(got, cost, rtol=1e-4)


def test_divergence_has_gradients_at_both_ends_of_c():
    for levels in ((0.0, 0.0), (0.0, 1e-6), (-14.0, 5.0)):
        _, step, said = random_step(*levels, dtype=np.float32)

        def total(omega_s, omega_t, step=step, said=said):
            at = step._replace(omega_s=omega_s, omega_t=omega_t)
            return jnp.sum(MIXTURE.divergence(said, at, step.eps))

        slopes = jax.grad(total, argnums=(0, 1))(step.omega_s, step.omega_t)
        assert np.isfinite(np.stack(slopes)).all(), levels


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("omega_0", "network_decodes"), [(-8.0, False), (-1.0, True)])
@pytest.mark.parametrize("num_steps", [1, 2, 5, 20])
def test_every_path_of_the_exact_process_has_the_weight_p_of_x(num_steps, omega_0, network_decodes):
    data = jnp.asarray(np.random.default_rng(4).integers(0, V, (64, 3)))
    omegas = jnp.linspace(omega_0, 30.0, num_steps + 1)
    log_weight = path_log_weight(
        jax.random.split(jax.random.key(0), len(data)), data, omegas, oracle(), LIKELIHOOD,
        MIXTURE, network_decodes,
    )  # fmt: skip
    want = np.log(PRIOR)[np.asarray(data)].sum(axis=-1)
    np.testing.assert_allclose(log_weight, want, atol=1e-5)  # z_1 is N(0, I) but for 3e-7


def expected_bound(kernel, omega_0, num_steps, network_decodes, nodes=(161, 241)):
    """The exact expectation of `estimate_elbo` for one dimension: every code, every part of the
    bound, and the trapezoidal rule over eps, u and eps_0."""
    eps, u = (np.linspace(-8, 8, n) for n in nodes)
    parts = num_steps + network_decodes
    times = (np.arange(parts) + 0.5) / parts
    weigh_eps, weigh_u = (stats.norm.pdf(v) / stats.norm.pdf(v).sum() for v in (eps, u))
    schedule = lambda t: omega_0 + (9.0 - omega_0) * t  # noqa: E731

    def estimates(code, t, eps):
        shape = (len(u), 1)
        draws = elbo.Draws(
            jnp.full(len(u), t),
            jnp.full(shape, eps),
            jnp.full(shape, eps),
            u=jnp.asarray(u)[:, None],
        )
        levels = elbo.noise_levels(schedule, draws.t, num_steps, network_decodes)
        data = jnp.full(shape, code)
        terms = elbo.estimate_elbo(
            data, draws, levels, oracle(), LIKELIHOOD, kernel, network_decodes
        ).terms
        return jnp.sum(weigh_u * terms.total)

    over_eps = jax.vmap(estimates, (None, None, 0))
    every = jax.jit(jax.vmap(jax.vmap(over_eps, (None, 0, None)), (0, None, None)))
    values = every(jnp.arange(V), jnp.asarray(times), jnp.asarray(eps))
    return float(np.einsum("ktn,k,n->", values, PRIOR, weigh_eps) / parts)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("omega_0", "network_decodes"), [(-8.0, False), (-1.0, True)])
@pytest.mark.parametrize("num_steps", [1, 2, 5, 20])
def test_bound_of_independent_codes_is_their_entropy_for_every_number_of_steps(
    num_steps, omega_0, network_decodes
):
    bound = expected_bound(MIXTURE, omega_0, num_steps, network_decodes)
    assert bound == pytest.approx(ENTROPY, abs=1e-5)
    assert expected_bound(GAUSSIAN, omega_0, num_steps, network_decodes, (161, 1)) > ENTROPY + 1e-3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("omega_0", "network_decodes"), [(-8.0, False), (-2.0, True)])
def test_consistency_form_of_the_exact_process_is_p_of_x_on_every_path(omega_0, network_decodes):
    # In the last step nothing of z is left, so its prior term does not vary.
    omegas = jnp.array([omega_0, 0.0, 1.0, 2.0, 40.0])
    data = jnp.asarray(np.random.default_rng(5).integers(0, V, (256, 3)))
    noise_at = fresh_noise(jax.random.split(jax.random.key(1), len(data)), (3,), jnp.float64)
    both = [
        consistency.path_terms(
            data, noise_at, omegas, oracle(), LIKELIHOOD, kernel, network_decodes
        )
        for kernel in (MIXTURE, GAUSSIAN)
    ]
    want = -np.log(PRIOR)[np.asarray(data)].sum(axis=-1)
    np.testing.assert_allclose(both[0].consistency_bound, want, atol=1e-5)
    mean, error = (f(both[0].denoising_bound - want) for f in (jnp.mean, lambda d: jnp.std(d) / 16))
    assert abs(mean) < 4 * error
    assert jnp.mean(both[1].consistency_bound - want) > 1  # the bound of another kernel


@pytest.mark.usefixtures("x64")
def test_importance_weights_of_a_wrong_denoiser_tighten_its_bound():
    def log_probs(z, omega):
        logits = jnp.sin(omega)[:, None, None] * jnp.log(jnp.asarray(PRIOR))[None, None]
        return codes.code_log_probs(jnp.broadcast_to(logits, (*z.shape, V)), z, omega)

    wrong = codes.CodesDenoiser(lambda z, o: codes.mean_eps(log_probs(z, o), z, o), log_probs)
    data = jnp.asarray(np.random.default_rng(6).choice(V, (2000, 1), p=PRIOR))
    omegas = jnp.linspace(-8.0, 9.0, 6)

    def weigh(key):
        keys = jax.random.split(key, len(data))
        return path_log_weight(keys, data, omegas, wrong, LIKELIHOOD, MIXTURE)

    log_weights = jax.jit(jax.vmap(weigh))(jax.random.split(jax.random.key(2), 16))
    bounds = [float(jnp.mean(importance_bound(log_weights[:k]))) for k in (1, 4, 16)]
    assert bounds[0] > bounds[1] > bounds[2] > ENTROPY


def test_denoiser_without_probabilities_is_refused_in_one_line():
    denoiser = GaussianData(1.0).eps_hat
    with pytest.raises(ValueError, match=r"no probability of each code.*prediction = 'codes'"):
        guess(denoiser, jnp.zeros((2, 3)), jnp.zeros(2), of_codes=True)


def test_noise_levels_that_do_not_count_their_steps_are_refused():
    draws = elbo.draw(jax.random.key(0), jnp.array([0.2, 0.6]), (3,), needs_u=True)
    levels = elbo.noise_levels(lambda t: 10 * t - 5, draws.t, 4)._replace(of_step=None)
    data = jnp.zeros((2, 3), jnp.int32)
    with pytest.raises(ValueError, match=r"of_step.*model\.kernel = 'gaussian'"):
        elbo.estimate_elbo(data, draws, levels, oracle(), LIKELIHOOD, MIXTURE)
