"""The learned rungs of the ladder: in which case one rung equals another, and their gradients."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import vdm
from experiments.ladder.checks import IdentityLatents
from experiments.ladder.hvae import HierarchicalVAE
from experiments.ladder.kernels import kernel
from experiments.ladder.latent_vdm import LatentLikelihood, LatentVDM
from experiments.ladder.vae import VAE
from tests.closed_forms import gauss_hermite, gauss_legendre, signs
from vdm.diffusion import elbo, hierarchy
from vdm.diffusion.grids import equal_times
from vdm.diffusion.hierarchy import Normal
from vdm.diffusion.likelihood import Discretised, Gaussian
from vdm.diffusion.noise import fresh_noise, sigma
from vdm.diffusion.predictions import convert
from vdm.diffusion.samplers import ancestral
from vdm.nn.encoders import LEAST_LOG_VARIANCE, GaussianMLP, ResidualMLP
from vdm.nn.mlp import MLP
from vdm.nn.schedules import Linear

DIMS = (3, 2, 1)
CODES = jnp.asarray(np.random.default_rng(0).integers(0, 5, (6, *DIMS)))


def random_params(model):
    """Parameters away from their initial values, at which outputs are 0; those of the schedule are
    initial. Drawn by NumPy, because compiling dozens of draws of jax.random takes seconds."""
    rng, shapes = np.random.default_rng(1), jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda s: jnp.float32(rng.normal(0, 0.4, s.shape)), shapes)
    if "schedule" in params:
        params["schedule"] = model.init_schedule(jax.random.key(0))
    return params


def small(kind, **kwargs):
    return kind(Discretised(5), DIMS, latent_dim=4, width=8, num_blocks=1, **kwargs)


@pytest.mark.equation("S1 1.20", "experiments.ladder.vae:VAE.elbo")
def test_hierarchical_vae_of_one_level_is_the_vae():
    vae, hvae = small(VAE), small(HierarchicalVAE, num_levels=1)
    params = random_params(vae)
    lists = {"network": {name: [value] for name, value in params["network"].items()}}
    keys = jax.random.split(jax.random.key(2), 6)
    ours, theirs = jax.jit(vae.elbo)(params, CODES, keys), jax.jit(hvae.elbo)(lists, CODES, keys)
    for name, expected in ours.by_name.items():
        np.testing.assert_allclose(theirs.by_name[name], expected, rtol=1e-6, err_msg=name)
    shapes = jax.eval_shape(hvae.init, jax.random.key(0))
    assert jax.tree.structure(shapes) == jax.tree.structure(lists)
    samples = jax.jit(vae.sample)(params, keys)[0], jax.jit(hvae.sample)(lists, keys)[0]
    np.testing.assert_array_equal(*samples)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [VAE, HierarchicalVAE])
def test_untrained_vae_codes_by_chance_and_draws_depend_on_their_own_key(kind):
    # Initially the decoder is N(0, I) for every input, so codes have the softmax of -x^2 / 2. The
    # encoder is changed to give N(0, I) too, which makes its KL 0.
    model = small(kind)
    params, keys = jax.jit(model.init)(jax.random.key(0)), jax.random.split(jax.random.key(2), 6)
    encoders = params["network"]["encoder"]
    first = encoders if kind is VAE else encoders[0]
    out = first["mlp"]["dense_out"]
    out["kernel"], out["bias"] = 0.0 * out["kernel"], out["bias"].reshape(-1, 2).at[:, 1].set(4.0)
    out["bias"] = out["bias"].ravel()
    bound = jax.jit(model.elbo)
    terms = bound(params, CODES, keys)
    x = 2 * (np.arange(5) + 0.5) / 5 - 1
    log_prob = -0.5 * x**2 - np.log(np.exp(-0.5 * x**2).sum())
    expected = -log_prob[np.asarray(CODES)].sum((1, 2, 3))
    np.testing.assert_allclose(terms.reconstruction, expected, rtol=1e-5)
    if kind is HierarchicalVAE:  # then q(z_2|z_1) is p(z_2|z_1), so the extra level costs nothing
        eps = [fresh_noise(keys, (4,))(jnp.int32(level)) for level in (0, 1)]
        z_1, z_2 = eps[0], (eps[0] + eps[1]) / np.sqrt(2)
        surplus = scipy.stats.norm.logpdf(z_1) - scipy.stats.norm.logpdf(
            z_1, z_2 / np.sqrt(2), np.sqrt(0.5)
        )
        prior = 0.5 * (z_1**2 / 2 + 0.5 - 1 + np.log(2))
        np.testing.assert_allclose(terms.denoising_matching, surplus.sum(1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(terms.prior_matching, prior.sum(1), rtol=1e-4)
    else:
        np.testing.assert_allclose(terms.prior_matching, 0, atol=1e-6)
    moved = random_params(model)
    alone = bound(moved, CODES[2:3], keys[2:3])
    np.testing.assert_allclose(alone.total, bound(moved, CODES, keys).total[2:3], rtol=1e-5)


@pytest.mark.equation("S1 1.24", "experiments.ladder.vae:VAE.elbo")
@pytest.mark.equation("S4 55", "experiments.ladder.vae:VAE.elbo")
def test_mean_over_draws_of_the_vae_is_the_expectation_over_eps():
    vae = VAE(Discretised(5), DIMS, latent_dim=1, width=8, num_blocks=1)
    params = random_params(vae)
    draws = 2000
    data = jnp.tile(CODES[:1], (draws, 1, 1, 1))
    terms = jax.jit(vae.elbo)(params, data, jax.random.split(jax.random.key(5), draws))
    # The same expectation by quadrature over z = mu + sigma eps
    nodes, weights = gauss_hermite(60)

    @jax.jit
    def log_likelihood(network, eps):
        q = kernel(vae.encoder, network["encoder"])(vae.likelihood.encode(CODES[:1]))
        decoded = kernel(vae.decoder, network["decoder"])(hierarchy.reparameterise(q, eps))
        return hierarchy.log_likelihood(vae.likelihood, data[:60], decoded)

    of_nodes = log_likelihood(params["network"], jnp.float32(nodes[:, None]))
    exact = -weights @ np.asarray(of_nodes)
    error = float(terms.reconstruction.std()) / np.sqrt(draws)
    assert 0 < error < 0.02 * exact
    assert abs(float(terms.reconstruction.mean()) - exact) < 4 * error


def latent_vdm(**kwargs):
    network, schedule = MLP(width=8, num_blocks=1, fourier=False), Linear(-6.0, 5.0)
    return LatentVDM(
        schedule, network, Discretised(5), DIMS, latent_dim=4, width=8, num_blocks=1, **kwargs
    )


def draws(key, batch, dims):
    t = jnp.mod(0.3 + jnp.arange(batch) / batch, 1.0)
    return elbo.draw(key, t, dims)


@pytest.mark.equation("S4 130", "experiments.ladder.latent_vdm:LatentLikelihood")
def test_bound_is_that_of_the_vdm_when_encoder_and_decoder_are_the_identity():
    class Denoiser(nn.Module):
        @nn.compact
        def __call__(self, z, omega, labels=None, train=False):
            weight = self.param("weight", nn.initializers.constant(0.3), (1, *z.shape[1:]))
            return jnp.tanh(weight * z + 0.05 * omega.reshape(-1, 1, 1, 1))

    with jax.enable_x64(True):
        model = IdentityLatents(Linear(-6.0, 5.0), Denoiser(), Discretised(5), DIMS)
        plain = vdm.models.vdm.VDM(Linear(-6.0, 5.0), Denoiser(), Discretised(5), DIMS)
        params = jax.jit(plain.init)(jax.random.key(0))
        fused = params | {"network": {"denoiser": params["network"]}}
        drawn = jax.tree.map(lambda a: a.astype(jnp.float64), draws(jax.random.key(3), 6, DIMS))
        for num_steps in (0, 10):
            ours, theirs = (
                jax.jit(m.elbo, static_argnums=3)(p, CODES, drawn, num_steps).terms
                for m, p in ((model, fused), (plain, params))
            )
            for name, expected in theirs.by_name.items():
                np.testing.assert_allclose(ours.by_name[name], expected, rtol=1e-9, err_msg=name)
    params, fused = jax.tree.map(jnp.float32, (params, fused))
    keys, taken = jax.random.split(jax.random.key(4), 6), (ancestral(), equal_times, 8)
    samples = [
        jax.jit(lambda p, m=m: m.sample(p, keys, *taken, m.denoiser(p)).data)(p)
        for m, p in ((model, fused), (plain, params))
    ]
    np.testing.assert_array_equal(*samples)


class Doubling(LatentVDM):
    """A latent VDM with the encoder f = 2 x and the decoder x = f / 2."""

    def likelihood_of(self, params, dropout_key=None):
        return LatentLikelihood(
            self.likelihood, lambda x: 2 * x, lambda f, omega_0: Normal(f / 2, omega_0)
        )


class Ideal(nn.Module):
    """The ideal denoiser of f ~ N(0, 1), converted to the given prediction."""

    prediction: str

    def __call__(self, z, omega, labels=None, train=False):
        eps_hat = sigma(omega)[:, None] * z
        return convert(eps_hat, "eps", self.prediction, z, omega, omega - 0.1)


@pytest.mark.equation("S4 129", "experiments.ladder.latent_vdm:LatentLikelihood.encode")
@pytest.mark.erratum(
    "S4 §3.5",
    "only the prediction of the next step is said to remain; by eps, x, v and the score the "
    "denoising term is this, its closed form",
    1.0601,
)
def test_a_learned_latent_leaves_every_prediction_as_it_was(erratum_number):
    # x ~ N(0, 0.5^2), so f ~ N(0, 1) and the denoising term is known. eps - eps_hat is linear in
    # (x, eps): four sign patterns give its second moment, Gauss-Legendre nodes the integral over t.
    ends = (-2.0, 5.0)
    with jax.enable_x64(True):
        times, weights = gauss_legendre(64)
        x, eps = (np.tile(column, 64)[:, None] for column in signs(2).T)
        drawn = elbo.Draws(np.repeat(times, 4), eps, eps)
        found = {}
        for prediction in ("eps", "x", "v", "score"):
            model = Doubling(
                Linear(*ends, learn_ends=False), Ideal(prediction), Gaussian(), (1,), latent_dim=1,
                prediction=prediction,
            )  # fmt: skip
            params = {"network": {"denoiser": {}}, "schedule": {}}
            terms = jax.jit(model.elbo)(params, 0.5 * x, drawn).terms
            nats = np.asarray(terms.denoising_matching, np.float64)
            found[prediction] = np.repeat(weights, 4) / 4 @ nats
    exact = 0.5 * np.log((1 + np.exp(-ends[0])) / (1 + np.exp(-ends[1])))
    np.testing.assert_allclose(list(found.values()), exact, rtol=1e-6)
    np.testing.assert_allclose(exact, erratum_number, rtol=1e-4)


def test_gradient_of_the_fused_bound_reaches_encoder_decoder_denoiser_and_ends():
    model = dataclasses.replace(latent_vdm(), schedule=Linear(-6.0, 5.0, learn_ends=True))
    params = random_params(model)
    drawn = draws(jax.random.key(3), 6, (4,))

    def bound(params):
        return jnp.mean(model.elbo(params, CODES, drawn).terms.total)

    def norms(tree):
        return {k: float(sum(jnp.sum(jnp.abs(g)) for g in jax.tree.leaves(v))) for k, v in tree}

    gradient = jax.jit(jax.grad(bound))(params)
    found = norms([*gradient["network"].items(), ("schedule", gradient["schedule"])])
    assert min(found.values()) > 1e-3, found
    # the denoising term alone reaches the encoder through z_t
    denoising = jax.jit(
        jax.grad(lambda p: model.elbo(p, CODES, drawn).terms.denoising_matching.sum())
    )
    by_encoder = denoising(params)["network"]["encoder"]["dense_in"]["kernel"]
    assert float(jnp.abs(by_encoder).sum()) > 1e-3


def test_latent_vdm_refuses_what_its_latents_are_not():
    with pytest.raises(ValueError, match="prediction = 'codes'"):
        latent_vdm(prediction="codes")


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [(VAE, {"latent_dim": 0}), (HierarchicalVAE, {"num_levels": 0}), (VAE, {"dropout": 1.0})],
)
def test_sizes_that_are_none_are_refused(kind, kwargs):
    (name,) = kwargs
    with pytest.raises(ValueError, match=rf"model\.kwargs\.{name} ="):
        kind(Discretised(5), DIMS, **kwargs)


def test_networks_start_at_the_standard_normal_and_drop_out_in_training_only():
    inputs = jax.random.normal(jax.random.key(0), (5, 3, 2))
    network = GaussianMLP((2, 2), width=8, num_blocks=1, dropout=0.5)
    params = jax.jit(network.init)(jax.random.key(1), inputs)
    apply = jax.jit(network.apply, static_argnames="train")
    mean, log_variance = apply(params, inputs)
    np.testing.assert_array_equal(mean, jnp.zeros((5, 2, 2)))
    np.testing.assert_allclose(log_variance, 0, atol=1e-4)
    low = jax.tree.map(lambda p: p - 100.0, params)
    assert float(apply(low, inputs)[1].min()) >= LEAST_LOG_VARIANCE
    params = jax.tree.map(lambda p: p + 0.3, params)
    rngs = {"dropout": jax.random.key(2)}
    trained = apply(params, inputs, train=True, rngs=rngs)[0]
    assert float(jnp.abs(trained - apply(params, inputs)[0]).max()) > 1e-3
    outputs, _ = jax.jit(ResidualMLP((7,), width=8).init_with_output)(jax.random.key(0), inputs)
    assert outputs.shape == (5, 7)
    assert float(jnp.abs(outputs).min()) > 0
