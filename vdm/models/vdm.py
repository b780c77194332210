"""The variational diffusion model: the bound that schedule, network and likelihood define.

Models hold no parameters. Their methods are pure functions of `params`, a dict with the entry
"network" and, of a `VDM`, "schedule".
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from vdm.devices.keys import root_key
from vdm.diffusion import bounds
from vdm.diffusion.code_heads import TABLE, CodeHead
from vdm.diffusion.elbo import Draws, Estimate, NoiseLevels, estimate_elbo, noise_levels
from vdm.diffusion.grids import Grid, equal_times
from vdm.diffusion.interning import kept
from vdm.diffusion.kernels import GAUSSIAN, MIXTURE, FittedGaussian, ReverseKernel
from vdm.diffusion.noise import fresh_noise, level
from vdm.diffusion.ode import Solver
from vdm.diffusion.samplers import Sampler, first_latent, reverse_step, run_chain
from vdm.models.denoiser import make_denoiser
from vdm.models.drawn import Drawn as Drawn
from vdm.models.drawn import decode
from vdm.models.drawn import finite as finite
from vdm.models.interface import capabilities_of
from vdm.typing import Denoiser, EndPoint, Likelihood, Params, PRNGKey, ScheduleFn


@dataclasses.dataclass(frozen=True)
class VDM:
    """A diffusion model of examples of shape `dims`.

    num_classes: the number of label classes; 0 for an unconditional model.
    prediction: what the network's output means, a name of `diffusion.predictions`, or "codes"
    for those of the V codes of each dimension, from which `head` makes probabilities.
    label_dropout: the share of labels that are dropped during training (NO_LABEL).
    augmented_flag: whether the network is told which training examples are augmented; outside
    training it is told that none is.
    num_steps: T, used by prediction "next_mean" only: the network predicts the mean of the step
    s = t - 1/T, on whatever grid it is used. The schedule must then be fixed and shared by all
    dimensions.
    reverse: p(z_s | z_t) of T steps, a name of `diffusion.kernels.KERNELS`; a fitted one reads its
    errors from params["kernel"]. In continuous time all kernels have the same bound.
    decoder_rule: of p(data | z_0): "bayes" for that of the likelihood, "network" for what the
    network says of the codes at z_0.
    head: how outputs of the network become probabilities of codes.
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
    reverse: str = "gaussian"
    decoder_rule: str = "bayes"
    head: CodeHead = TABLE

    HAS_ALL_CAPABILITIES: ClassVar = True

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """The shape of z_t."""
        return self.dims

    @property
    def supports(self) -> frozenset[str]:
        """The capabilities of the model, names of `vdm.models.interface.CAPABILITIES`. A subclass
        loses those that rest on a method it overrides, except those it lists in `keeps`; only a
        model with prediction "codes" has the probabilities of codes."""
        own = capabilities_of(type(self))
        return own if self.prediction == "codes" else own - {"code_probabilities"}

    @property
    def network_decodes(self) -> bool:
        """Whether p(data | z_0) is what the network says of the codes."""
        return self.decoder_rule == "network"

    def needs_u(self, num_steps: int) -> bool:
        """Whether an estimate of the bound of num_steps steps needs the draws u (`elbo.Draws`)."""
        return num_steps > 0 and self.reverse == "mixture"

    def reverse_kernel(self, params: Params) -> ReverseKernel:
        """Returns p(z_s | z_t) of T steps, as what it costs against q(z_s | z_t, x)."""
        if self.reverse == "gaussian":
            return GAUSSIAN
        if self.reverse == "mixture":
            return MIXTURE
        if "kernel" not in params:
            raise ValueError(
                f"the kernel {self.reverse!r} is fitted to data: it reads its errors from "
                'params["kernel"] (`vdm.runs.levels.with_fitted`)'
            )
        return FittedGaussian(**params["kernel"])

    @property
    def more_terms(self) -> tuple[str, ...]:
        """The names of the terms that the bound has in addition to the three of `ElboTerms`."""
        return ()

    @property
    def interior_matters(self) -> bool:
        """Whether the continuous-time bound depends on the schedule between its ends, as it does
        if each dimension or each example has its own noise level."""
        return self.multivariate or "schedule" not in self.supports

    def likelihood_of(self, params: Params, dropout_key: PRNGKey | None = None) -> Likelihood:
        """The likelihood p(data | z_0), which also encodes the data before noise is added. A model
        whose encoder or decoder has parameters overrides this; with a dropout_key they are in
        training mode."""
        del params, dropout_key
        return self.likelihood

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters {"network": ..., "schedule": ...}, float32."""
        key_network, _ = jax.random.split(key)
        z = jnp.zeros((1, *self.latent_dims), jnp.float32)
        omega = jnp.zeros_like(z) if self.multivariate else jnp.zeros(1, jnp.float32)
        labels = jnp.zeros(1, jnp.int32) if self.num_classes else None
        flag: Any = {"augmented": jnp.zeros(1, bool)} if self.augmented_flag else {}
        network = self.network.init(key_network, z, omega, labels, **flag)
        return {"network": network.get("params", {}), "schedule": self.init_schedule(key)}

    def init_schedule(self, key: PRNGKey) -> Params:
        """Returns the entry "schedule" of `init(key)`."""
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
        """Returns the noise levels of the bound at times t, for num_steps steps (0: continuous
        time).

        A schedule that depends on the data reads `data` and draws its noise from `key`, one key for
        each example. It may read params["schedule"] only, so that its gradient needs no second pass
        through the network.
        """
        del data, key
        return noise_levels(self.schedule_fn(params), t, num_steps, self.network_decodes)

    def encode(
        self, params: Params, data: Shaped[Array, "batch *dims"], omega: Float[Array, "..."]
    ) -> Float[Array, "batch *dims"]:
        """Returns x of q(z | x) = N(alpha x, sigma^2), to which noise is added at level omega."""
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
        """Returns the function omega(t): t of any shape -> that shape, with `dims` appended if the
        schedule is multivariate."""

        def omega(t: Array) -> Array:
            value: Any = self.schedule.apply({"params": params["schedule"]}, t)
            return value

        return omega

    @functools.cached_property
    def multivariate(self) -> bool:
        """Whether each dimension has its own schedule."""

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
        """Returns a function (z_t, omega [batch] or [batch, *dims]) -> eps_hat, whatever the
        network predicts. With prediction "codes" it is a `vdm.diffusion.codes.CodesDenoiser`.

        With a dropout_key the network is in training mode.
        """
        return make_denoiser(self, params, labels, dropout_key, augmented)

    def elbo(
        self,
        params: Params,
        data: Shaped[Array, "batch *dims"],
        draws: Draws,
        num_steps: int = 0,
        labels: Int[Array, " batch"] | None = None,
        dropout_key: PRNGKey | None = None,
    ) -> Estimate:
        """Returns one estimate of the negative bound for each example, nats.

        num_steps: T; 0 for continuous time. It may differ from the number used in training.
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
        """Returns the estimate of `elbo` at the given noise levels. Only the prediction "next_mean"
        still reads params["schedule"]."""
        chex.assert_shape(draws.t, data.shape[:1])
        chex.assert_shape([draws.eps, draws.eps_0], (len(data), *self.latent_dims))
        denoiser = self.denoiser(params, labels, dropout_key, augmented)
        likelihood = self.likelihood_of(params, dropout_key)
        kernel = GAUSSIAN if levels.omega_s is None else self.reverse_kernel(params)
        return estimate_elbo(
            data, draws, levels, denoiser, likelihood, kernel, self.network_decodes
        )

    def path_log_weight(
        self,
        params: Params,
        data: Shaped[Array, "batch *dims"],
        num_steps: int,
        labels: Int[Array, " batch"] | None = None,
    ) -> Callable[[Key[Array, " batch"]], Float[Array, " batch"]]:
        """Returns a function of keys, one for each example, that draws a path of num_steps steps
        and returns log p(x, path) / q(path | x), nats (`vdm.diffusion.bounds.path_log_weight`)."""
        omegas = equal_times(self.schedule_fn(params), num_steps)
        denoiser, likelihood = self.denoiser(params, labels), self.likelihood_of(params)
        kernel = self.reverse_kernel(params)
        return lambda keys: bounds.path_log_weight(
            keys, data, omegas, denoiser, likelihood, kernel, self.network_decodes
        )

    def flow_bound(
        self, params: Params, dequantisation: str, solver: Solver
    ) -> Callable[[PRNGKey, Array, Array | None], bounds.OdeEstimate]:
        """Returns a function (key, example, label) that estimates the bound by the probability-flow
        ODE, nats (`vdm.diffusion.bounds.probability_flow_bound`)."""
        # The points of fixed steps; an adaptive solver uses only the ends.
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
        """Draws one example for each key, in num_steps steps of the sampler.

        grid: the noise levels of the steps; they end at the schedule's omega_0. denoiser: that of
        the model, perhaps guided. z_1: the latents to start from; None draws them from N(0, I).
        """
        omegas = grid(self.schedule_fn(params), num_steps)
        z_1 = first_latent(keys, self.latent_dims) if z_1 is None else z_1
        noise = fresh_noise(keys, self.latent_dims)
        kernel, reverse = self.kernel, self.reverse_kernel(params)
        if isinstance(reverse, FittedGaussian):
            kernel = reverse.widened(kernel)
        chain = run_chain(z_1, noise, omegas, denoiser, sampler, num_frames, kernel)
        last = noise(jnp.int32(num_steps + 1))  # no step has this index
        return decode(
            chain, level(omegas, jnp.int32(0)), last, sampler, denoiser,
            self.likelihood_of(params), self.network_decodes,
        )  # fmt: skip


def count_parameters(params: Params) -> int:
    """Returns the number of scalars in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@kept  # one compiled function instead of fifty operations
def compiled_schedule(model: VDM) -> Callable[[Params, Any], Array]:
    """Returns the function from params["schedule"] and times to omega."""
    return jax.jit(lambda schedule, t: model.schedule_fn({"schedule": schedule})(t))
