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


def both(x, eps, omegas):
    """log p - log q of the hierarchy and of the DDPM; the bound of the hierarchy and the two forms
    of `vdm.diffusion.consistency`; all along the path of one noise."""
    likelihood = Gaussian()
    encoders, decoders = ddpm.as_hierarchy(omegas, DATA.eps_hat)
    path = hierarchy.encode_path(x, encoders, eps)
    log_likelihood = likelihood.log_prob(x, path.latents[0], omegas[0])
    weight = hierarchy.log_weight(path, decoders, log_likelihood)
    terms = hierarchy.negative_elbo(path, decoders, log_likelihood)
    expected = ddpm.log_weight(x, path.latents, omegas, DATA.eps_hat, log_likelihood)
    stacked = jnp.stack(eps)
    forms = consistency.path_terms(x, lambda i: stacked[i], omegas, DATA.eps_hat, likelihood)
    return (weight, expected), (terms.total, forms.consistency_bound, forms.denoising_bound)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_hierarchy_with_the_fixed_linear_encoder_is_the_ddpm_along_a_path(dtype):
    # The DDPM's log p - log q factors q from the top, q(z_1|x) prod q(z_s|z_t, x); the hierarchy's
    # factors it from the data. Both are evaluated along the same path.
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.uniform(-1, 1, (40, 1)), dtype)
    eps = list(rng.standard_normal((len(OMEGAS), 40, 1)).astype(dtype))
    log_weights, bounds = jax.jit(both)(x, eps, jnp.asarray(OMEGAS, dtype))
    tolerance = {"rtol": 1e-11} if dtype == np.float64 else {"rtol": 1e-5, "atol": 1e-4}
    np.testing.assert_allclose(*log_weights, **tolerance)
    total, consistency_bound, denoising_bound = bounds
    np.testing.assert_allclose(total, consistency_bound, **tolerance)
    difference = np.asarray(total - denoising_bound, np.float64)
    assert abs(difference.mean()) < 4 * difference.std(ddof=1) / np.sqrt(40)
