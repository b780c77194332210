"""The variational diffusion model: schedule, network and likelihood tied into one bound.

Models hold no parameters. Their methods are pure functions of `params`, a dict with the entry
"network" and, of a `VDM`, "schedule".
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from vdm.devices.keys import root_key
from vdm.diffusion import bounds
from vdm.diffusion.elbo import Draws, Estimate, NoiseLevels, estimate_elbo, noise_levels
from vdm.diffusion.grids import Grid, equal_times
from vdm.diffusion.likelihood import expected_eps
from vdm.diffusion.noise import fresh_noise, level
from vdm.diffusion.ode import Solver
from vdm.diffusion.predictions import convert
from vdm.diffusion.samplers import Sampler, first_latent, reverse_step, run_chain
from vdm.diffusion.schedule_algebra import next_omega
from vdm.models.interface import left_of
from vdm.typing import Denoiser, EndPoint, Likelihood, Params, PRNGKey, ScheduleFn


class Drawn(NamedTuple):
    """Examples; whether z_0 was finite, which codes do not tell; how often the denoiser was called
    for each; and latents on the way to them, decoded as if they were z_0."""

    data: Shaped[Array, "batch *dims"]
    finite: Bool[Array, " batch"]
    evaluations: Int[Array, " batch"]
    frames: Shaped[Array, "frames batch *dims"]


@dataclasses.dataclass(frozen=True)
class VDM:
    """A model of examples of shape `dims`; `num_classes` > 0 if it is conditional on labels.

    prediction: what the network's output means, a name of `diffusion.predictions`, or "codes"
    for logits of the V codes of each dimension (`diffusion.likelihood.expected_eps`).
    label_dropout: the share of labels that training withholds (NO_LABEL).
    augmented_flag: whether the network is told which examples of a training batch are augmented; of
    others it is told that they are not.
    num_steps: T of the step s = t - 1/T whose mean a "next_mean" is, also on another grid; that
    needs one schedule for all dimensions, and a schedule that moves would change the meaning.
    """

    schedule: nn.Module
    network: nn.Module
    likelihood: Likelihood
    dims: tuple[int, ...]
    _: dataclasses.KW_ONLY
    num_classes: int = 0
    prediction: str = "eps"
    label_dropout: float = 0.0
    augmented_flag: bool = False
    num_steps: int = 0

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """The shape of z_t."""
        return self.dims

    @property
    def supports(self) -> frozenset[str]:
        """What the model can do, names of `vdm.models.interface.CAPABILITIES`. A subclass loses
        what rests on a method that it overrides, but for what it names in `keeps`."""
        return left_of(type(self))

    @property
    def more_terms(self) -> tuple[str, ...]:
        """The names of the terms of its bound beside the three of `ElboTerms`."""
        return ()

    @property
    def interior_matters(self) -> bool:
        """Whether the bound of continuous time depends on the noise levels between the ends, as it
        does where each dimension has its own, or each example."""
        return self.multivariate or "schedule" not in self.supports

    def likelihood_of(self, params: Params, dropout_key: PRNGKey | None = None) -> Likelihood:
        """p(data | z_0) and what noise is added to. A model whose own have parameters gives them
        here; with a dropout_key they are in training mode."""
        del params, dropout_key
        return self.likelihood

    def init(self, key: PRNGKey) -> Params:
        """Parameters, float32."""
        key_network, _ = jax.random.split(key)
        z = jnp.zeros((1, *self.latent_dims), jnp.float32)
        omega = jnp.zeros_like(z) if self.multivariate else jnp.zeros(1, jnp.float32)
        labels = jnp.zeros(1, jnp.int32) if self.num_classes else None
        flag: Any = {"augmented": jnp.zeros(1, bool)} if self.augmented_flag else {}
        network = self.network.init(key_network, z, omega, labels, **flag)
        return {"network": network.get("params", {}), "schedule": self.init_schedule(key)}

    def init_schedule(self, key: PRNGKey) -> Params:
        """The entry "schedule" of `init(key)`."""
        _, key_schedule = jax.random.split(key)
        return self.schedule.init(key_schedule, jnp.zeros((), jnp.float32)).get("params", {})

    def levels(
        self,
        params: Params,
        t: Float[Array, " batch"],
        num_steps: int,
        data: Shaped[Array, "batch *dims"] | None = None,
        key: Key[Array, " batch"] | None = None,
    ) -> NoiseLevels:
        """The noise levels of the bound at times t, for num_steps steps (0: continuous time).

        A schedule that depends on the data reads `data` and draws what it needs from `key`, one for
        each example; it reads params["schedule"] alone, so that its gradient needs no second pass
        through the network.
        """
        del data, key
        return noise_levels(self.schedule_fn(params), t, num_steps)

    def encode(
        self, params: Params, data: Shaped[Array, "batch *dims"], omega: Float[Array, "..."]
    ) -> Float[Array, "batch *dims"]:
        """x of q(z | x) = N(alpha x, sigma^2), to which noise is added at level omega."""
        del omega  # the same at every level
        return self.likelihood_of(params).encode(data)

    def kernel(
        self,
        denoiser: Denoiser,
        z_t: Float[Array, "batch *dims"],
        omega_s: EndPoint,
        omega_t: EndPoint,
    ) -> tuple[Float[Array, "batch *dims"], Float[Array, "..."]]:
        """Returns the mean and variance of the reverse step p(z_s | z_t): those of q(z_s | z_t, x)
        at the denoiser's estimate of x (VDM Eq. 31-33)."""
        return reverse_step(denoiser, z_t, omega_s, omega_t)

    def schedule_fn(self, params: Params) -> ScheduleFn:
        """t, any shape -> omega(t), that shape, with `dims` appended if multivariate."""

        def omega(t: Array) -> Array:
            value: Any = self.schedule.apply({"params": params["schedule"]}, t)
            return value

        return omega

    @property
    def multivariate(self) -> bool:
        """Whether every dimension has a schedule of its own."""

        def omega() -> Array:
            params = {"schedule": self.init_schedule(root_key(0))}
            return self.schedule_fn(params)(jnp.zeros((), jnp.float32))

        return jax.eval_shape(omega).ndim > 0

    def denoiser(
        self,
        params: Params,
        labels: Int[Array, " batch"] | None = None,
        dropout_key: PRNGKey | None = None,
        augmented: Bool[Array, " batch"] | None = None,
    ) -> Denoiser:
        """(z_t, omega [batch] or [batch, *dims]) -> eps_hat, whatever the network predicts.

        With a dropout_key the network is in training mode.
        """
        flag: Any = {} if augmented is None else {"augmented": augmented}

        def eps_hat(z_t: Array, omega: Array) -> Array:
            output: Any = self.network.apply(
                {"params": params["network"]},
                z_t,
                omega,
                labels,
                train=dropout_key is not None,
                rngs={} if dropout_key is None else {"dropout": dropout_key},
                **flag,
            )
            if self.prediction == "codes":
                return expected_eps(output, z_t, omega)
            omega_s = None
            if self.prediction == "next_mean":
                if not self.num_steps:
                    raise ValueError(
                        "prediction 'next_mean' is the mean of a step of 1/T: give num_steps = T"
                    )
                omega_s = next_omega(self.schedule_fn(params), omega, self.num_steps)
            return convert(output, self.prediction, "eps", z_t, omega, omega_s)

        return eps_hat

    def elbo(
        self,
        params: Params,
        data: Shaped[Array, "batch *dims"],
        draws: Draws,
        num_steps: int = 0,
        labels: Int[Array, " batch"] | None = None,
        dropout_key: PRNGKey | None = None,
    ) -> Estimate:
        """One estimate of the negative bound for each example, nats.

        num_steps = 0 is continuous time; it need not be the number trained with.
        """
        levels = self.levels(params, draws.t, num_steps, data, draws.keys)
        return self.elbo_at(params, data, draws, levels, labels, dropout_key)

    def elbo_at(
        self,
        params: Params,
        data: Shaped[Array, "batch *dims"],
        draws: Draws,
        levels: NoiseLevels,
        labels: Int[Array, " batch"] | None = None,
        dropout_key: PRNGKey | None = None,
        augmented: Bool[Array, " batch"] | None = None,
    ) -> Estimate:
        """`elbo` with the noise levels given, instead of params["schedule"], which only a
        "next_mean" reads then."""
        denoiser = self.denoiser(params, labels, dropout_key, augmented)
        likelihood = self.likelihood_of(params, dropout_key)
        return estimate_elbo(data, draws, levels, denoiser, likelihood)

    def path_log_weight(
        self,
        params: Params,
        data: Shaped[Array, "batch *dims"],
        num_steps: int,
        labels: Int[Array, " batch"] | None = None,
    ) -> Callable[[Key[Array, " batch"]], Float[Array, " batch"]]:
        """A function of keys, one for each example: log p(x, path) / q(path | x) of a path of
        num_steps steps, nats (`vdm.diffusion.bounds.path_log_weight`)."""
        omegas = equal_times(self.schedule_fn(params), num_steps)
        denoiser, likelihood = self.denoiser(params, labels), self.likelihood_of(params)
        return lambda keys: bounds.path_log_weight(keys, data, omegas, denoiser, likelihood)

    def flow_bound(
        self, params: Params, dequantisation: str, solver: Solver
    ) -> Callable[[PRNGKey, Array, Array | None], bounds.OdeEstimate]:
        """A function (key, example, its label): the bound by the probability-flow ODE, nats
        (`vdm.diffusion.bounds.probability_flow_bound`)."""
        # Where fixed steps lie; an adaptive solver takes only the ends.
        omegas = equal_times(self.schedule_fn(params), max(1, solver.num_steps))
        likelihood = self.likelihood_of(params)

        def one(key: PRNGKey, example: Array, label: Array | None) -> bounds.OdeEstimate:
            denoiser = self.denoiser(params, None if label is None else label[None])
            return bounds.probability_flow_bound(
                key, example, omegas, denoiser, likelihood, dequantisation, solver
            )

        return one

    def sample(
        self,
        params: Params,
        keys: Key[Array, " batch"],
        sampler: Sampler,
        grid: Grid,
        num_steps: int,
        denoiser: Denoiser,
        z_1: Float[Array, "batch *dims"] | None = None,
        num_frames: int = 0,
    ) -> Drawn:
        """Data drawn by a sampler in num_steps steps, one example for each key; from N(0, I), or
        from the latents z_1. grid: where it steps; it ends at the schedule's own omega_0. denoiser:
        the model's, perhaps guided."""
        omegas = grid(self.schedule_fn(params), num_steps)
        z_1 = first_latent(keys, self.latent_dims) if z_1 is None else z_1
        noise = fresh_noise(keys, self.latent_dims)
        chain = run_chain(z_1, noise, omegas, denoiser, sampler, num_frames, self.kernel)
        omega_0, likelihood = level(omegas, jnp.int32(0)), self.likelihood_of(params)
        frames = jax.vmap(lambda z: likelihood.decode(z, omega_0))(chain.frames)
        return Drawn(
            likelihood.decode(chain.z_0, omega_0), finite(chain.z_0), chain.evaluations, frames
        )


def finite(values: Shaped[Array, "batch *dims"]) -> Bool[Array, " batch"]:
    """Whether all numbers of an example are finite."""
    return jnp.all(jnp.isfinite(values), axis=tuple(range(1, values.ndim)))


def count_parameters(params: Params) -> int:
    """Numbers in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
