"""A small model of another family: a schedule that depends on the data (MuLAN, arXiv:2312.13236).

    c ~ q(c | x) = N(slope mean(x) + offset, exp(log_std)^2),  p(c) = N(0, 1)
    omega(t; c) = omega(t^exp(tanh(c)))

with the ends of the schedule for every c. The denoiser is given c, and KL(q(c | x) || p(c)) is the
fourth term of the bound.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vdm.diffusion.elbo import NoiseLevels, estimate_elbo
from vdm.diffusion.noise import expand, fresh_noise
from vdm.diffusion.samplers import first_latent, run_chain
from vdm.diffusion.timesteps import step_interval
from vdm.models.vdm import VDM, Drawn, finite

TERM = "auxiliary"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSchedule(VDM):
    """config.model.name = "tests.families.data_schedule:DataSchedule"."""

    @property
    def more_terms(self):
        """KL(q(c | x) || p(c))."""
        return (TERM,)

    def init(self, key):
        """{"network": {"denoiser": .., "context_gain": ()}, "schedule": .. with "posterior"}."""
        params = super().init(key)
        network = {"denoiser": params["network"], "context_gain": jnp.zeros((), jnp.float32)}
        return params | {"network": network}

    def init_schedule(self, key):
        """That of the base class, and q(c | x)."""
        posterior = {name: jnp.zeros((), jnp.float32) for name in ("slope", "offset", "log_std")}
        return super().init_schedule(key) | {"posterior": posterior}

    def omega(self, params, t, c):
        """omega(t; c)."""
        safe = jnp.where(t > 0, t, 1.0)  # 0^a has no derivative in a
        warped = jnp.where(t > 0, safe ** jnp.exp(jnp.tanh(c)), 0.0)
        return self.schedule_fn(params)(warped)

    def levels(self, params, t, num_steps, data=None, key=None):
        """omega(t; c) of a c for each example, with its KL."""
        posterior = params["schedule"]["posterior"]
        x = self.likelihood.encode(data).reshape(len(data), -1)
        mean = posterior["slope"] * x.mean(axis=1) + posterior["offset"]
        std = jnp.exp(posterior["log_std"])
        c = mean + std * jax.vmap(lambda k: jax.random.normal(k, ()))(key)
        nats = {TERM: 0.5 * (mean**2 + std**2 - 1) - posterior["log_std"]}
        omega_0, omega_1 = self.schedule_fn(params)(jnp.array([0.0, 1.0]))

        def at(t):
            return self.omega(params, t, c)

        if not num_steps:
            omega_t, slope = jax.jvp(at, (t,), (jnp.ones_like(t),))
            return NoiseLevels(omega_0, omega_1, omega_t, slope, context=c, nats=nats)
        s, t = step_interval(t, num_steps)
        omega_s, omega_t = at(s), at(t)
        weight = num_steps * jnp.expm1(omega_t - omega_s)
        return NoiseLevels(omega_0, omega_1, omega_t, weight, omega_s, c, nats)

    def denoiser(self, params, labels=None, dropout_key=None, augmented=None):
        """Without c."""
        own = params | {"network": params["network"]["denoiser"]}
        return super().denoiser(own, labels, dropout_key, augmented)

    @staticmethod
    def given_context(params, denoiser, c):
        """The denoiser that also reads c."""

        def eps_hat(z, omega):
            return denoiser(z, omega) + params["network"]["context_gain"] * expand(c, z)

        return eps_hat

    def elbo_at(self, params, data, draws, levels, labels=None, dropout_key=None, augmented=None):
        """The bound with c given to the denoiser."""
        denoiser = self.denoiser(params, labels, dropout_key, augmented)
        given = self.given_context(params, denoiser, levels.context)
        return estimate_elbo(data, draws, levels, given, self.likelihood)

    def sample(self, params, keys, sampler, grid, num_steps, denoiser, z_1=None, num_frames=0):
        """With a c ~ p(c) for each example, which has a grid of its own."""
        starts = first_latent(keys, self.latent_dims) if z_1 is None else z_1

        def one(key, z_1):
            c = jax.random.normal(jax.random.fold_in(key, 2**32 - 1), (1,))
            omegas = grid(lambda t: self.omega(params, t, c[0]), num_steps)
            noise = fresh_noise(key[None], self.latent_dims)
            given = self.given_context(params, denoiser, c)
            chain = run_chain(z_1[None], noise, omegas, given, sampler, num_frames, self.kernel)
            return chain, omegas[0]

        chain, omega_0 = jax.vmap(one)(keys, starts)
        z_0, frames = chain.z_0[:, 0], jnp.moveaxis(chain.frames[:, :, 0], 1, 0)
        decode = jax.vmap(lambda z: self.likelihood.decode(z, omega_0[0]))  # the end of every c
        return Drawn(decode(z_0[None])[0], finite(z_0), chain.evaluations[:, 0], decode(frames))
