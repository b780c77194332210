"""The bounds that an evaluation can compute, each as one estimate for every example of a batch.

The expectation of each estimate is an upper bound of -log p(x). Results carry the name of the
bound: elbo, iw-K, ode-decoder, ode-uniform, ode-truncated-normal.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vdm.diffusion import bounds
from vdm.diffusion.elbo import Draws, ElboTerms
from vdm.diffusion.ode import EVALUATIONS_PER_STEP, Solver
from vdm.evaluation.statistics import num_strata
from vdm.models.interface import check_terms
from vdm.models.latent_variable import LatentVariableModel
from vdm.models.vdm import VDM
from vdm.typing import Params, PRNGKey

TERMS = ElboTerms._fields[:3]
"""The terms that every bound over noise levels has."""

BOUNDS = ("elbo", "iw-K", *(f"ode-{kind}" for kind in bounds.DEQUANTISATIONS))

NOT_FINITE = (
    "the parameters or the data are not finite, or the network overflows: try an earlier "
    "checkpoint (eval.step)"
)


class Place(NamedTuple):
    """Which draw of which examples is estimated; the noise may depend on nothing else.

    draw: the number of this draw among num_draws. index: [batch], the numbers of the examples in a
    split of num_examples.
    """

    key: PRNGKey
    draw: Array
    num_draws: int
    index: Array
    num_examples: int


class Estimator(Protocol):
    """A bound with its settings. It is frozen and hashable, so that it is compiled once."""

    @property
    def name(self) -> str:
        """The name of the bound in results."""
        ...

    @property
    def num_steps(self) -> int | None:
        """T of the bound; 0 for continuous time, None for a model without a noise schedule."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """Extra fields for eval.json."""
        ...

    @property
    def remedy(self) -> str:
        """What the user should try if an estimate is not finite."""
        ...

    @property
    def independent(self) -> bool:
        """Whether the noise of each example is independent of that of the others."""
        ...

    def passes(self, num_dims: int) -> int:
        """Returns roughly how many network passes each example of num_dims dimensions takes."""
        ...

    def strata(self, num_draws: int) -> int:
        """Returns the number of parts that the draws are spread over: draw k lies in part k mod
        strata. 1 if all draws are alike."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """The names that `estimate` returns, "total" or the terms of which it is the sum first."""
        ...

    def estimate(
        self, model: Any, params: Params, data: Array, labels: Array | None, place: Place
    ) -> dict[str, Array]:
        """Returns column -> [batch], one estimate for each example."""
        ...


@dataclasses.dataclass(frozen=True)
class Elbo:
    """The evidence lower bound in num_steps steps; 0 for continuous time.

    num_steps may differ from the number used in training. more_terms: the terms that the model's
    bound has besides the usual three. The columns also hold omega_t and the loss density there.

    Within a draw the times are low-discrepancy over the split; over the draws every example has
    equally many times, two or more, in each of `strata(draws)` equal parts of [0, 1).
    """

    num_steps: int = 0
    more_terms: tuple[str, ...] = ()
    name = "elbo"
    independent = False  # the times of a draw share one offset
    remedy = NOT_FINITE

    def __post_init__(self) -> None:
        if self.num_steps < 0:
            raise ValueError(
                f"num_steps = {self.num_steps}: 0 is continuous time, T > 0 is T steps"
            )

    @property
    def facts(self) -> dict[str, Any]:
        """No extra fields."""
        return {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The terms, then omega_t and the loss density."""
        return (*TERMS, *self.more_terms, "omega_t", "loss_density")

    def passes(self, num_dims: int) -> int:
        """Returns 1."""
        del num_dims
        return 1

    def strata(self, num_draws: int) -> int:
        """Returns `vdm.evaluation.statistics.num_strata`."""
        return num_strata(num_draws)

    def estimate(
        self, model: VDM, params: Params, data: Array, labels: Array | None, place: Place
    ) -> dict[str, Array]:
        """Returns column -> [batch]; the terms are in nats."""
        key_t, key_noise = jax.random.split(jax.random.fold_in(place.key, place.draw))
        strata = self.strata(place.num_draws)
        u = (place.draw % strata + jax.random.uniform(key_t, (), jnp.float32)) / strata
        t = jnp.mod(u + place.index.astype(jnp.float32) / place.num_examples, 1.0)

        def noise(i: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
            key, dims = jax.random.fold_in(key_noise, i), model.latent_dims
            # The largest numbers that can be folded in, which no draw of the noise uses as counter.
            other, key_u = (jax.random.fold_in(key, 2**32 - k) for k in (1, 2))
            u = jax.random.normal(key_u, dims) if model.needs_u(self.num_steps) else None
            return jax.random.normal(key, (2, *dims)), other, u

        noises, keys, u = jax.vmap(noise)(place.index)
        eps, eps_0 = jnp.moveaxis(noises, 1, 0)
        draws = Draws(t, eps, eps_0, keys, u)
        estimate = model.elbo(params, data, draws, self.num_steps, labels)
        check_terms(model, estimate.terms.more)
        return {
            **estimate.terms.by_name,
            "omega_t": estimate.levels.omega_mean,
            "loss_density": estimate.loss_density,
        }


@dataclasses.dataclass(frozen=True)
class ImportanceWeighted:
    """The importance-weighted bound: -log of the mean of K importance weights, each of a path with
    num_steps steps. K = 1 is the ELBO.

    It falls with K, towards -log p(x) of the model with that many steps.
    """

    num_steps: int
    num_weights: int
    independent = True
    columns = ("total",)
    remedy = NOT_FINITE

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(
                f"eval.bound = {self.name!r} is for a chain of finitely many steps: set "
                "eval.num_steps to their number, such as 10"
            )

    @property
    def name(self) -> str:
        """The name, such as iw-64."""
        return f"iw-{self.num_weights}"

    @property
    def facts(self) -> dict[str, Any]:
        """K, the number of paths."""
        return {"K": self.num_weights}

    def passes(self, num_dims: int) -> int:
        """Returns one pass for each step of each path."""
        del num_dims
        return self.num_steps * self.num_weights

    def strata(self, num_draws: int) -> int:
        """Returns 1, because all draws are alike."""
        del num_draws
        return 1

    def estimate(
        self, model: VDM, params: Params, data: Array, labels: Array | None, place: Place
    ) -> dict[str, Array]:
        """Returns total [batch], nats."""
        path_log_weight = model.path_log_weight(params, data, self.num_steps, labels)
        keys = _keys(place)

        def one_path(_: None, k: Array) -> tuple[None, Array]:
            path_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, k)
            return None, path_log_weight(path_keys)

        # One path at a time: memory does not grow with K.
        _, log_weights = jax.lax.scan(one_path, None, jnp.arange(self.num_weights))
        return {"total": bounds.importance_bound(log_weights)}


@dataclasses.dataclass(frozen=True)
class ProbabilityFlow:
    """The bound by the density of the probability-flow ODE; discrete data are dequantised.

    The ODE is solved for each example separately. With adaptive steps their number may depend on
    rounding, and so on the batch, within the tolerance; with fixed steps it does not.
    """

    dequantisation: str
    solver: Solver
    num_steps = 0
    independent = True
    remedy = (
        "the ODE solver gave up: raise eval.ode.num_steps, or for adaptive steps eval.ode.tolerance"
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """total, nats; network evaluations; the variance from the random probes, if any."""
        probed = self.solver.divergence == "hutchinson"
        return ("total", "num_evaluations", *(("probe_variance",) if probed else ()))

    @property
    def name(self) -> str:
        """The name, such as ode-decoder."""
        return f"ode-{self.dequantisation}"

    @property
    def facts(self) -> dict[str, Any]:
        """How the ODE is solved, and how its divergence is computed."""
        solver = self.solver
        steps = f"{solver.num_steps} steps" if solver.num_steps else f"tolerance {solver.rtol:g}"
        probes = {"probes": solver.probes} if solver.divergence == "hutchinson" else {}
        return {"divergence": solver.divergence, **probes, "ode_solver": steps}

    def passes(self, num_dims: int) -> int:
        """Counts one pass for each value and two for each directional derivative; assumes 100
        steps if they are adaptive."""
        solver = self.solver
        directions = solver.probes if solver.divergence == "hutchinson" else num_dims
        return EVALUATIONS_PER_STEP * (solver.num_steps or 100) * (1 + 2 * directions)

    def strata(self, num_draws: int) -> int:
        """Returns 1, because all draws are alike."""
        del num_draws
        return 1

    def estimate(
        self, model: VDM, params: Params, data: Array, labels: Array | None, place: Place
    ) -> dict[str, Array]:
        """Returns the columns, each [batch]."""
        bound = model.flow_bound(params, self.dequantisation, self.solver)
        return jax.vmap(bound)(_keys(place), data, labels)._asdict()


@dataclasses.dataclass(frozen=True)
class PathElbo:
    """The evidence lower bound of a model without a noise schedule, by one path of latents."""

    num_levels: int
    name = "elbo"
    num_steps = None
    independent = True
    columns = TERMS
    remedy = NOT_FINITE

    @property
    def facts(self) -> dict[str, Any]:
        """The number of latents in a path."""
        return {"num_levels": self.num_levels}

    def passes(self, num_dims: int) -> int:
        """Returns 1."""
        del num_dims
        return 1

    def strata(self, num_draws: int) -> int:
        """Returns 1, because all draws are alike."""
        del num_draws
        return 1

    def estimate(
        self,
        model: LatentVariableModel,
        params: Params,
        data: Array,
        labels: Array | None,
        place: Place,
    ) -> dict[str, Array]:
        """Returns column -> [batch], nats."""
        del labels
        return model.elbo(params, data, _keys(place)).by_name


def _keys(place: Place) -> Array:
    """Returns a key for each example."""
    key = jax.random.fold_in(place.key, place.draw)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, place.index)
