"""A small model of another family: an encoder of the data in time (DiffEnc, arXiv:2310.19789).

    q(z_t | x) = N(alpha_t x_t, sigma_t^2),  x_t = (1 + strength sigmoid(omega_t)) x
    q(z_s | z_t, x) = N(A z_t + B x_t + alpha_s (x_s - x_t), sigma_Q^2)

with A, B and sigma_Q of the VDM. Its denoiser estimates y = x_t - d x_t / d omega, and its reverse
steps are the VDM's with y_hat in the place of x_hat.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdm.diffusion.elbo import ElboTerms, Estimate, denoising_matching, prior_matching
from vdm.diffusion.noise import alpha, diffuse, expand, sigma
from vdm.models.vdm import VDM


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderInTime(VDM):
    """config.model.name = "tests.families.encoder_in_time:EncoderInTime"."""

    # p(z_s | z_t) is the kernel of the base class, and so the ancestral sampler is this model's.
    keeps: ClassVar = frozenset({"reverse_steps"})

    def init(self, key):
        """{"network": {"denoiser": .., "strength": ()}, "schedule": ..}."""
        params = super().init(key)
        network = {"denoiser": params["network"], "strength": jnp.zeros((), jnp.float32)}
        return params | {"network": network}

    def denoiser(self, params, labels=None, dropout_key=None, augmented=None):
        """eps_hat = (z_t - alpha_t y_hat) / sigma_t."""
        own = params | {"network": params["network"]["denoiser"]}
        return super().denoiser(own, labels, dropout_key, augmented)

    def encode(self, params, data, omega):
        """x_t."""
        x = self.likelihood.encode(data)
        return (1 + params["network"]["strength"] * jax.nn.sigmoid(expand(omega, x))) * x

    def elbo_at(self, params, data, draws, levels, labels=None, dropout_key=None, augmented=None):
        """The squared norm of B (x_t - y_hat) + alpha_s (x_s - x_t), over 2 sigma_Q^2."""

        def encode(omega):
            return self.encode(params, data, omega)

        omega_t = levels.omega_t
        x_t, slope = jax.jvp(encode, (omega_t,), (jnp.ones_like(omega_t),))
        root = jnp.exp(-0.5 * expand(omega_t, x_t))
        if levels.omega_s is None:
            shift = -root * slope
        else:
            share = -jnp.expm1(levels.omega_s - omega_t)  # B = alpha_s share
            shift = root * (encode(levels.omega_s) - x_t) / expand(share, x_t)
        z_t = diffuse(x_t, draws.eps, omega_t)
        eps_hat = self.denoiser(params, labels, dropout_key, augmented)(z_t, omega_t)
        denoising, density = denoising_matching(draws.eps - shift, eps_hat, levels.weight)
        omega_0, omega_1 = levels.omega_0, levels.omega_1
        # z_0 = alpha_0 x_0 + sigma_0 eps_0, with the noise counted from x instead.
        moved = alpha(omega_0) / sigma(omega_0) * (encode(omega_0) - self.likelihood.encode(data))
        terms = ElboTerms(
            self.likelihood.reconstruction(data, draws.eps_0 + moved, omega_0),
            prior_matching(encode(omega_1), omega_1),
            denoising,
        )
        return Estimate(terms, density, levels)


class Linear(nn.Module):
    """eps_hat = slope(omega) z: the ideal denoiser of y for x ~ N(0, std^2) and that strength."""

    std: float = 1.5
    strength: float = 0.6

    @nn.compact
    def __call__(self, z, omega, labels=None, train=False):
        share = jax.nn.sigmoid(expand(omega, z))
        encoded = 1 + self.strength * share
        target = encoded - self.strength * share * (1 - share)
        a, variance = jnp.sqrt(1 - share), self.std**2
        x_of_z = a * encoded * variance / ((a * encoded) ** 2 * variance + share)
        return (1 - a * target * x_of_z) / jnp.sqrt(share) * z
