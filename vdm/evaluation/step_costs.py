"""What the parts of a T-step bound of a trained model cost, measured on training images.

`vdm.diffusion.least_bound` chooses the levels of T steps by these costs, and the errors are those
of the fitted Gaussian kernels (`vdm.diffusion.kernels.FittedGaussian`). The network is called once
for each level and image. An image has the same noise at every level, so that the costs are smooth
in the levels and their differences more exact than they are.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from vdm.data.pipeline import evaluation_batches
from vdm.data.sources import Split
from vdm.devices import sharding
from vdm.devices.keys import root_key
from vdm.devices.waiting import wait
from vdm.diffusion.codes import log_prob_of
from vdm.diffusion.elbo import prior_matching
from vdm.diffusion.interning import kept
from vdm.diffusion.kernels import MIXTURE, Guess, Step, guess
from vdm.diffusion.least_bound import COARSE, FINE, MOST_STEPS, StepCosts, fine_levels
from vdm.diffusion.noise import diffuse
from vdm.evaluation.calls import call_size
from vdm.models.interface import num_classes, num_codes, require, supports
from vdm.models.latent_variable import AnyModel
from vdm.models.vdm import VDM, compiled_schedule
from vdm.typing import Params, PRNGKey

KEY_STREAM = 1_000_003
"""Makes this noise differ from that of training, evaluation and samples with the same seed."""

MOST_IMAGES, LEAST_IMAGES, NUMBERS, TERMS = 1024, 32, 2**18, 2**24
"""Costs are means over the first MOST_IMAGES training images, or over fewer where these have more
than NUMBERS dimensions together or, of a model that predicts codes, TERMS probabilities: its costs
of steps take two sums over the codes for each pair of levels. Levels chosen by 64 digits, which
have as many dimensions as 5 images of Fashion-MNIST, cost at most 0.003 bits/dim more."""

TERMS_OF_CALL = 2**24
"""The largest number of probabilities of codes in a call, for each device: 64 MB."""


def check_choosable(model: AnyModel, asked_by: str, num_steps: int = 1) -> None:
    """Raises ValueError unless the levels of that many steps of the model can be chosen by its
    costs. asked_by: the setting, such as "eval.grid.name = 'least_bound'"."""
    check_steppable(model, asked_by)
    if num_steps > MOST_STEPS:
        raise ValueError(
            f"{asked_by} chooses the levels of at most {MOST_STEPS} steps, not of {num_steps}: "
            "choose 'equal_times', which is as good for so many"
        )


def check_steppable(model: AnyModel, asked_by: str) -> None:
    """Raises ValueError unless steps of the model may lead between any levels."""
    for capability in ("schedule", "lossless_codec"):  # omega(t), and q and p of a single step
        require(model, capability, asked_by)
    assert isinstance(model, VDM)
    if model.multivariate:
        raise ValueError(
            f"{asked_by} needs one omega for all dimensions, but in this schedule each has its "
            "own: choose 'equal_times', or schedule.kwargs.per_dimension = False"
        )
    if model.prediction == "next_mean":
        raise ValueError(
            f"{asked_by}: a network of model.prediction = 'next_mean' predicts one step of its own "
            "schedule, so the levels are given: choose 'equal_times'"
        )


def schedule_ends(model: VDM, params: Params) -> tuple[float, float]:
    """Returns omega_0 and omega_1 of the schedule, float32 as Python floats."""
    ends = compiled_schedule(model)(params["schedule"], np.array([0.0, 1.0], np.float32))
    omega_0, omega_1 = map(float, jax.device_get(ends))
    return omega_0, omega_1


def num_images(model: AnyModel, split: Split) -> int:
    """Returns how many images of the split are measured."""
    codes = num_codes(model) if "code_probabilities" in supports(model) else 1
    most = min(NUMBERS, TERMS // codes) // math.prod(model.dims)
    return min(max(most, LEAST_IMAGES), MOST_IMAGES, len(split.examples))


class Measured(NamedTuple):
    """Costs at the 65 levels `omegas`, means over images, float64, nats per image.

    errors: E (eps - eps_hat)^2 of each dimension, [levels, *dims], without a unit. prior: of the
    prior's term. bayes, network: of a decoder at each level; network is None unless the model
    predicts codes. mixture: K(s, t) of the mixture kernel [s, t] for s < t, otherwise 0; or None.
    """

    omegas: np.ndarray
    errors: np.ndarray
    prior: np.ndarray
    bayes: np.ndarray
    network: np.ndarray | None = None
    mixture: np.ndarray | None = None

    def costs(self, kernel: str, decoder: str) -> StepCosts:
        """Returns the costs of a model with this kernel and decoder, names of config.model. The
        cost of a fitted Gaussian is E 1/2 sum log f, as E (1 + delta^2) / f = 1 for its errors."""
        apart = self.omegas[None, :] - self.omegas[:, None]  # [s, t]
        sums = self.errors.reshape(len(self.errors), -1)  # [t, dimension]
        if kernel == "mixture":
            assert self.mixture is not None
            nats = self.mixture
        else:
            odds = np.expm1(np.maximum(apart, 0.0))
            nats = np.stack([_of_step(kernel, o, e) for o, e in zip(odds.T, sums, strict=True)], 1)
        rates = np.divide(nats, apart, out=np.zeros_like(nats), where=apart > 0)
        np.fill_diagonal(rates, 0.5 * sums.sum(axis=1))
        decoder_costs = self.network if decoder == "network" else self.bayes
        assert decoder_costs is not None
        return StepCosts(self.omegas, rates, decoder_costs, self.prior)

    def fitted(self, kernel: str) -> dict[str, np.ndarray]:
        """Returns the parameters of a fitted Gaussian kernel, by the fields of `FittedGaussian`."""
        errors = self.errors
        if kernel == "gaussian_fitted":
            errors = errors.reshape(len(errors), -1).mean(axis=1)
        return {"omegas": self.omegas.astype(np.float32), "errors": errors.astype(np.float32)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays that there are, by name."""
        return {name: array for name, array in self._asdict().items() if array is not None}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], model: VDM) -> Self:
        """Makes it of `arrays()`. ValueError if they are not of this model, or not finite."""
        measured = cls(**{name: arrays[name] for name in cls._fields if name in arrays})
        points, codes = COARSE + 1, "code_probabilities" in model.supports
        shapes = {"errors": (points, *model.latent_dims), "mixture": (points, points)}
        names = set(cls._fields) - (set() if codes else {"network", "mixture"})
        if set(measured.arrays()) != names or any(
            array.shape != shapes.get(name, (points,)) or not np.isfinite(array).all()
            for name, array in measured.arrays().items()
        ):
            raise ValueError("these are not the costs of this model")
        return measured


def _of_step(kernel: str, odds: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The cost of the steps of a Gaussian kernel from one level, with the given expm1(omega_t -
    omega_s) [s] and mean squared errors [dimension]; nats [s]."""
    if kernel == "gaussian":
        return 0.5 * odds * errors.sum()
    if kernel == "gaussian_fitted":
        return 0.5 * errors.size * np.log1p(odds * errors.mean())
    return 0.5 * np.log1p(odds[:, None] * errors).sum(axis=1)


@kept  # compiled once for the parameters of a model
def _make_measure(
    model: VDM,
) -> Callable[[Params, dict, PRNGKey, jax.Array, jax.Array], dict[str, jax.Array]]:
    """Compiles a function (params, batch, key, omegas, number of the level) -> what `Measured` has
    of that level, summed over the batch."""
    of_codes = "code_probabilities" in model.supports

    def measure(
        params: Params, batch: dict, key: PRNGKey, omegas: jax.Array, level: jax.Array
    ) -> dict[str, jax.Array]:
        data, mask, omega_t = batch["examples"], batch["mask"], omegas[level]
        x = model.encode(params, data, omega_t)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
        noise = jax.vmap(lambda key: jax.random.normal(key, (2, *model.latent_dims)))(keys)
        eps, u = noise[:, 0], noise[:, 1]
        denoiser = model.denoiser(params, batch["labels"] if num_classes(model) else None)
        said = guess(denoiser, diffuse(x, eps, omega_t), omega_t, of_codes)

        def total(values: Array) -> Array:
            weight = mask.reshape(-1, *(1,) * (values.ndim - 1))
            return jnp.sum(jnp.where(weight, values, 0.0), axis=0)

        sums = {
            "errors": total(jnp.square(eps - said.eps_hat)),
            "prior": total(prior_matching(x, omega_t)),
            "bayes": total(model.likelihood_of(params).reconstruction(data, eps, omega_t)),
        }
        if said.log_probs is None:
            return sums

        def flat(values: Array) -> Array:
            """With one axis for all dimensions, the loop takes a fifth of the time on a CPU."""
            return values.reshape(len(x), -1, *values.shape[x.ndim :])

        in_a_row = Guess(flat(said.eps_hat), flat(said.log_probs))

        def cost(s: Array, nats: Array) -> Array:
            step = Step(flat(x), flat(eps), omegas[s], omega_t)
            of_dims = MIXTURE.divergence(in_a_row, step, flat(u))
            return nats.at[:, s].set(jnp.sum(of_dims, axis=1))

        # One lower level at a time: the terms of all codes are the largest arrays here.
        nats = jax.lax.fori_loop(0, level, cost, jnp.zeros((len(x), omegas.size)))
        network = -log_prob_of(said.log_probs, data)
        return sums | {"network": total(network), "mixture": total(nats)}

    return jax.jit(measure)


def measure(
    model: VDM,
    params: Params,
    split: Split,
    mesh: Mesh,
    on_level: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> Measured:
    """Measures the costs of a model on the first images of a split. params live on the mesh;
    on_level is called with (amount done, total); stop as of `wait`. ValueError for costs that are
    not finite."""
    count = num_images(model, split)
    labels = None if split.labels is None else split.labels[:count]
    first = Split(split.name, split.examples[:count], labels)
    of_image = math.prod(model.dims) * max(1, num_codes(model))
    most = max(1, TERMS_OF_CALL // of_image) * mesh.devices.size
    size = call_size(model, params, min(most, count), 1, mesh)
    omegas = fine_levels(*schedule_ends(model, params))[:: FINE // COARSE]
    run, key, points = _make_measure(model), root_key(KEY_STREAM), len(omegas)
    on_devices = sharding.put_everywhere({"omegas": jnp.asarray(omegas)}, mesh)["omegas"]
    sums: list[Any] = [None] * points
    for place, batch in enumerate(evaluation_batches(first, size)):
        whole = sharding.put_whole_batch(batch, mesh)
        for level in range(points):
            result = run(params, whole, key, on_devices, jnp.int32(level))
            wait(result, stop)
            part = jax.tree.map(lambda a: np.asarray(a, np.float64), sharding.fetch(result))
            sums[level] = part if place == 0 else jax.tree.map(np.add, sums[level], part)
            on_level(place * points + level + 1, points * math.ceil(count / size))
    means = {name: np.stack([s[name] for s in sums]) / count for name in sums[0]}
    if "mixture" in means:
        means["mixture"] = means["mixture"].T  # [s, t]
    if not all(np.isfinite(mean).all() for mean in means.values()):
        raise ValueError(
            "the costs of steps are not finite: the parameters or the data are not finite, or the "
            "network overflows: try an earlier checkpoint (eval.step)"
        )
    return Measured(omegas.astype(np.float64), **means)
