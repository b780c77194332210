"""The DDPM is the hierarchical VAE whose encoder is fixed and linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.ladder import ddpm
from vdm.diffusion import consistency, hierarchy
from vdm.diffusion.exact import MixtureData
from vdm.diffusion.likelihood import Gaussian


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


OMEGAS = np.array([-6.0, -3.5, -1.0, 0.5, 3.0, 5.0])
DATA = MixtureData(
    weights=jnp.array([0.3, 0.7]), means=jnp.array([[-0.5], [0.4]]), stds=jnp.array([0.1, 0.2])
)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_hierarchy_with_the_fixed_linear_encoder_is_the_ddpm_along_a_path(dtype):
    # The DDPM's log p - log q with q factored from the top, q(z_1|x) prod q(z_s|z_t, x), by
    # densities; the hierarchy's with q factored from the data; one path serves both.
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.uniform(-1, 1, (40, 1)), dtype)
    omegas, likelihood = jnp.asarray(OMEGAS, dtype), Gaussian()
    eps = list(jnp.asarray(rng.standard_normal((len(OMEGAS), 40, 1)), dtype))
    encoders, decoders = ddpm.as_hierarchy(omegas, DATA.eps_hat)
    path = hierarchy.encode_path(x, encoders, eps)
    log_likelihood = likelihood.log_prob(x, path.latents[0], omegas[0])
    weight = hierarchy.log_weight(path, decoders, log_likelihood)
    terms = hierarchy.negative_elbo(path, decoders, log_likelihood)
    expected = ddpm.log_weight(x, path.latents, omegas, DATA.eps_hat, log_likelihood)
    # and the consistency form of `vdm.diffusion.consistency`, by the same noise
    stacked = jnp.stack(eps)
    forms = consistency.path_terms(x, lambda i: stacked[i], omegas, DATA.eps_hat, likelihood)
    tolerance = {"rtol": 1e-11} if dtype == np.float64 else {"rtol": 1e-5, "atol": 1e-4}
    np.testing.assert_allclose(weight, expected, **tolerance)
    np.testing.assert_allclose(terms.total, forms.consistency_bound, **tolerance)
    difference = np.asarray(terms.total - forms.denoising_bound, np.float64)
    assert abs(difference.mean()) < 4 * difference.std(ddof=1) / np.sqrt(40)
