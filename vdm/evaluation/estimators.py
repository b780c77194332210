"""The kinds of number that an evaluation can give: one estimate for each example of a batch.

Every one is an upper bound of -log p(x) in expectation, under the name that results carry:
elbo, iw-K, ode-decoder, ode-uniform, ode-truncated-normal.
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
    """Which draw of which examples: all that the noise of an estimate may depend on."""

    key: PRNGKey
    draw: Array
    num_draws: int
    index: Array
    num_examples: int


class Estimator(Protocol):
    """A bound with its settings; frozen and hashable, so that it is compiled once."""

    @property
    def name(self) -> str:
        """What kind of number it is."""
        ...

    @property
    def num_steps(self) -> int | None:
        """T of the bound, 0 for continuous time, None for a model without a schedule."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What else eval.json says of it."""
        ...

    @property
    def remedy(self) -> str:
        """What to try when an estimate is not finite."""
        ...

    @property
    def independent(self) -> bool:
        """Whether the noise of an example is independent of that of the others."""
        ...

    def passes(self, num_dims: int) -> int:
        """Of each example of num_dims dimensions through the network, about."""
        ...

    def strata(self, num_draws: int) -> int:
        """Parts that the draws are spread over, draw k in part k mod strata; 1: all are alike."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """What `estimate` gives: "total" (nats) or the three terms whose sum it is, and more."""
        ...

    def estimate(
        self, model: Any, params: Params, data: Array, labels: Array | None, place: Place
    ) -> dict[str, Array]:
        """Column -> [batch]: one estimate for each example. model: of the kind it was made for."""
        ...


@dataclasses.dataclass(frozen=True)
class Elbo:
    """The evidence lower bound in num_steps steps, which need not be those trained with; 0:
    continuous time. Its three terms and those that the model's family has beside them, where its
    denoising term was taken and how dense it is there.

    Within a draw the times are low-discrepancy over the split; over the draws every example has
    equally many, two or more, in each of `strata(draws)` equal parts of [0, 1).
    """

    num_steps: int = 0
    more_terms: tuple[str, ...] = ()
    name = "elbo"
    independent = False  # the times of a draw have one offset
    remedy = NOT_FINITE

    def __post_init__(self) -> None:
        if self.num_steps < 0:
            raise ValueError(
                f"num_steps = {self.num_steps}: 0 is continuous time, T > 0 is T steps"
            )

    @property
    def facts(self) -> dict[str, Any]:
        """Nothing more."""
        return {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The terms, then omega_t and the loss density."""
        return (*TERMS, *self.more_terms, "omega_t", "loss_density")

    def passes(self, num_dims: int) -> int:
        """One."""
        del num_dims
        return 1

    def strata(self, num_draws: int) -> int:
        """Those of `vdm.evaluation.statistics.num_strata`."""
        return num_strata(num_draws)

    def estimate(
        self, model: VDM, params: Params, data: Array, labels: Array | None, place: Place
    ) -> dict[str, Array]:
        """Column -> [batch]; the terms in nats."""
        key_t, key_noise = jax.random.split(jax.random.fold_in(place.key, place.draw))
        strata = self.strata(place.num_draws)
        u = (place.draw % strata + jax.random.uniform(key_t, (), jnp.float32)) / strata
        t = jnp.mod(u + place.index.astype(jnp.float32) / place.num_examples, 1.0)

        def noise(i: jax.Array) -> tuple[jax.Array, jax.Array]:
            key = jax.random.fold_in(key_noise, i)
            # The largest number that can be folded in: no draw of the noise has it as its counter.
            other = jax.random.fold_in(key, 2**32 - 1)
            return jax.random.normal(key, (2, *model.latent_dims)), other

        noises, keys = jax.vmap(noise)(place.index)
        eps, eps_0 = jnp.moveaxis(noises, 1, 0)
        draws = Draws(t, eps, eps_0, keys)
        estimate = model.elbo(params, data, draws, self.num_steps, labels)
        return {
            **estimate.terms.by_name,
            "omega_t": estimate.levels.omega_mean,
            "loss_density": estimate.loss_density,
        }


@dataclasses.dataclass(frozen=True)
class ImportanceWeighted:
    """-log (1/K) sum of K importance weights of paths with num_steps steps; K = 1 is the ELBO.

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
                f"eval.bound = {self.name!r} is of a chain of finitely many steps: set "
                "eval.num_steps to their number, such as 10"
            )

    @property
    def name(self) -> str:
        """Such as iw-64."""
        return f"iw-{self.num_weights}"

    @property
    def facts(self) -> dict[str, Any]:
        """K."""
        return {"K": self.num_weights}

    def passes(self, num_dims: int) -> int:
        """One for each step of each path."""
        del num_dims
        return self.num_steps * self.num_weights

    def strata(self, num_draws: int) -> int:
        """One: the draws are alike."""
        del num_draws
        return 1

    def estimate(
        self, model: VDM, params: Params, data: Array, labels: Array | None, place: Place
    ) -> dict[str, Array]:
        """total [batch], nats."""
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
    """The density of the probability-flow ODE, carried to discrete data by a dequantisation.

    Every example is solved for itself. Adaptive steps are its own, and depend on the rounding of
    a batch within the tolerance; the number of fixed steps does not.
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
        """total [nats]; evaluations of the network; the variance from the probes, if there are."""
        probed = self.solver.divergence == "hutchinson"
        return ("total", "num_evaluations", *(("probe_variance",) if probed else ()))

    @property
    def name(self) -> str:
        """Such as ode-decoder."""
        return f"ode-{self.dequantisation}"

    @property
    def facts(self) -> dict[str, Any]:
        """How the ODE was solved, and how its divergence was taken."""
        solver = self.solver
        steps = f"{solver.num_steps} steps" if solver.num_steps else f"tolerance {solver.rtol:g}"
        probes = {"probes": solver.probes} if solver.divergence == "hutchinson" else {}
        return {"divergence": solver.divergence, **probes, "ode_solver": steps}

    def passes(self, num_dims: int) -> int:
        """One for each value, two for each directional derivative; of adaptive steps say 100."""
        solver = self.solver
        directions = solver.probes if solver.divergence == "hutchinson" else num_dims
        return EVALUATIONS_PER_STEP * (solver.num_steps or 100) * (1 + 2 * directions)

    def strata(self, num_draws: int) -> int:
        """One: the draws are alike."""
        del num_draws
        return 1

    def estimate(
        self, model: VDM, params: Params, data: Array, labels: Array | None, place: Place
    ) -> dict[str, Array]:
        """total [batch], nats; its variance from the probes; evaluations of the network."""
        bound = model.flow_bound(params, self.dequantisation, self.solver)
        return jax.vmap(bound)(_keys(place), data, labels)._asdict()


@dataclasses.dataclass(frozen=True)
class PathElbo:
    """The evidence lower bound of a model without a schedule, by one path through its latents."""

    num_levels: int
    name = "elbo"
    num_steps = None
    independent = True
    columns = TERMS
    remedy = NOT_FINITE

    @property
    def facts(self) -> dict[str, Any]:
        """How many latents a path has."""
        return {"num_levels": self.num_levels}

    def passes(self, num_dims: int) -> int:
        """One."""
        del num_dims
        return 1

    def strata(self, num_draws: int) -> int:
        """One: the draws are alike."""
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
        """Column -> [batch], nats."""
        del labels
        return model.elbo(params, data, _keys(place)).by_name


def _keys(place: Place) -> Array:
    """A key for each example."""
    key = jax.random.fold_in(place.key, place.draw)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, place.index)
