"""Bits/dim of a whole split, with two standard errors.

A draw gives one estimate of the bound for every example (`vdm.evaluation.estimators`). Draws are
independent, so the Monte-Carlo error follows from the differences between draws: of each example if
examples have independent noise, otherwise of the means of whole draws, compared within each part of
[0, 1) that the estimator spreads the times over. The error over images includes the noise that is
left in the mean of each image. The noise depends on (seed, draw, example) alone, not on the batch
size or the devices, and is the same for every checkpoint.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vdm.data.pipeline import evaluation_batches
from vdm.data.sources import Split
from vdm.devices import sharding
from vdm.devices.keys import root_key
from vdm.devices.waiting import wait
from vdm.diffusion.interning import kept
from vdm.evaluation.calls import Parts, call_size
from vdm.evaluation.estimators import TERMS, Estimator, Place
from vdm.evaluation.statistics import Error, monte_carlo_error, standard_error
from vdm.models.interface import has_noise_levels, num_classes
from vdm.models.latent_variable import AnyModel
from vdm.models.vdm import compiled_schedule
from vdm.typing import Params

KEY_STREAM = 1_000_001
"""Makes the noise of evaluation differ from that of training with the same seed."""


@dataclasses.dataclass(frozen=True)
class BitsPerDim:
    """The bits/dim of images: upper bounds of -log2 p(x) / D.

    per_image: [N], each averaged over its draws. mean: their mean. stderr_images: its standard
    error over images; NaN for one image. stderr_monte_carlo: its standard error over the noise of
    the estimate on these images; NaN for one draw. stderr_degrees: the degrees of freedom of
    stderr_monte_carlo (`vdm.evaluation.statistics.half_width`); NaN where it is unknown.
    """

    per_image: np.ndarray
    mean: float
    stderr_images: float
    stderr_monte_carlo: float
    stderr_degrees: float = math.nan


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The estimates of every draw of every example, in the order of the split.

    columns: the estimator's columns, float64 [draws, examples]; "total", or the three terms of the
    negative bound, are in nats. omega_0, omega_1: the ends of the schedule; None without one.
    strata: the number of parts that the draws are spread over; draw k lies in part k mod strata.
    independent: whether the noise of each example is independent of that of the others.
    more_terms: the columns that are further terms of the bound, besides the three.
    """

    columns: dict[str, np.ndarray]
    omega_0: float | None
    omega_1: float | None
    num_dims: int
    strata: int = 1
    independent: bool = False
    more_terms: tuple[str, ...] = ()

    @property
    def total(self) -> np.ndarray:
        """The negative bound, nats."""
        parts = ("total",) if "total" in self.columns else (*TERMS, *self.more_terms)
        return np.sum([self.columns[name] for name in parts], axis=0)

    def bpd(self, nats: np.ndarray) -> np.ndarray:
        """Converts nats per example to bits/dim."""
        return nats / (self.num_dims * math.log(2))

    def monte_carlo_error(self, nats: np.ndarray) -> Error:
        """Returns the Monte-Carlo error, in bits/dim, of the mean of nats [draws, examples]: of
        `total`, or of its difference to another evaluation with the same noise."""
        return monte_carlo_error(self.bpd(nats), self.strata, self.independent)

    def summary(self) -> dict[str, float | None]:
        """Returns bpd, its terms (None if the bound does not have them), and its standard errors
        over images and over Monte-Carlo noise.

        stderr_degrees: degrees of freedom of stderr_monte_carlo; None if unknown.
        stderr_hutchinson: the part of stderr_monte_carlo that comes from the random probes of the
        divergence, if there are any. denoising_variance: the variance of a single draw.
        """
        total = self.bpd(self.total)
        draws, examples = total.shape
        noise = self.monte_carlo_error(self.total)
        summary = {
            "bpd": float(total.mean()),
            "bpd_reconstruction": self._mean_bpd("reconstruction"),
            "bpd_prior": self._mean_bpd("prior_matching"),
            "bpd_denoising": self._mean_bpd("denoising_matching"),
            **{f"bpd_{name}": self._mean_bpd(name) for name in self.more_terms},
            "stderr_images": standard_error(total.mean(axis=0)),
            "stderr_monte_carlo": noise.stderr,
            "stderr_degrees": noise.degrees or None,
            "denoising_variance": self._denoising_variance(),
            "num_examples": examples,
            "draws_per_example": draws,
        }
        if "probe_variance" in self.columns:
            variance = self.bpd(self.bpd(self.columns["probe_variance"]))
            summary["stderr_hutchinson"] = math.sqrt(variance.sum()) / total.size
        return summary

    def bits_per_dim(self) -> BitsPerDim:
        """Returns the bits/dim of each image and their errors."""
        summary, per_image = self.summary(), self.bpd(self.total).mean(axis=0)
        numbers = (
            math.nan if (value := summary[key]) is None else value
            for key in ("bpd", "stderr_images", "stderr_monte_carlo", "stderr_degrees")
        )
        return BitsPerDim(per_image, *numbers)

    def _denoising_variance(self) -> float | None:
        """Returns the variance of the denoising estimate for one image, one t ~ U(0, 1) and one
        eps, (bits/dim)^2, as in VDM's table; None if the bound has no such term."""
        nats = self.columns.get("denoising_matching")
        return None if nats is None or nats.size < 2 else float(self.bpd(nats).var(ddof=1))

    def _mean_bpd(self, term: str) -> float | None:
        return float(self.bpd(self.columns[term]).mean()) if term in self.columns else None


@kept  # compiled once for the evaluations of a run
def make_evaluate_batch(
    model: AnyModel, estimator: Estimator, num_examples: int, num_draws: int
) -> Callable[[Params, dict, jax.Array, jax.Array], jax.Array]:
    """Compiles a function (params, batch, key, draw) -> [estimator.columns, batch], float32."""

    def evaluate_batch(params: Params, batch: dict, key: jax.Array, draw: jax.Array) -> jax.Array:
        place = Place(key, draw, num_draws, batch["index"], num_examples)
        labels = batch["labels"] if num_classes(model) else None
        columns = estimator.estimate(model, params, batch["examples"], labels, place)
        return jnp.stack([columns[name].astype(jnp.float32) for name in estimator.columns])

    return jax.jit(evaluate_batch)


def examples_per_call(
    model: AnyModel,
    params: Params,
    estimator: Estimator,
    num_examples: int,
    mesh: Mesh,
    batch_size: int,
) -> int:
    """Returns how many examples `evaluate` processes at a time: batch_size, or fewer where a call
    would take too long (`vdm.evaluation.calls`)."""
    passes = estimator.passes(math.prod(model.dims))
    return call_size(model, params, min(batch_size, num_examples), passes, mesh)


def evaluate(
    model: AnyModel,
    params: Params,
    split: Split,
    mesh: Mesh,
    *,
    estimator: Estimator,
    draws: int = 20,
    seed: int = 0,
    parts: Parts = Parts(),  # noqa: B008, it is frozen
) -> Evaluation:
    """Evaluates the estimator's bound on every example of the split.

    params live on the mesh. Any batch size works: the last batch is padded and the padding masked.
    A part (`vdm.evaluation.calls.Parts`) is one draw of a batch, [estimator.columns, batch], and
    on_batch counts these. Another seed, or other params of the same shapes, compile nothing new.

    Raises:
        ValueError: an estimate is not finite, or there are no draws or no examples.
    """
    num_examples = len(split.examples)
    if draws < 1 or num_examples < 1:
        raise ValueError(f"{draws} draws of {num_examples} examples: both must be positive")
    batch_size = examples_per_call(model, params, estimator, num_examples, mesh, parts.batch_size)
    evaluate_batch = make_evaluate_batch(model, estimator, num_examples, draws)
    key = jax.random.fold_in(root_key(seed), KEY_STREAM)
    finished = [part.reshape(len(estimator.columns), -1) for part in parts.finished]
    total = draws * math.ceil(num_examples / batch_size)
    parts.on_batch(len(finished), total)

    def keep(result: jax.Array, mask: np.ndarray) -> None:
        wait(result, parts.stop)
        # Contiguous, as parts from a file are, because sums over an array depend on its layout.
        finished.append(np.ascontiguousarray(sharding.fetch(result)[:, mask]))
        parts.on_part(finished[-1])
        parts.on_batch(len(finished), total)

    running: tuple[jax.Array, np.ndarray] | None = None  # the device computes while we write
    for place, batch in enumerate(evaluation_batches(split, batch_size)):
        first = len(parts.finished) - place * draws
        if first >= draws:
            continue
        mask = batch.pop("mask")
        on_device = sharding.put_whole_batch(batch, mesh)
        for k in range(max(0, first), draws):
            result = evaluate_batch(params, on_device, key, jnp.int32(k))
            if running is not None:
                keep(*running)
            running = result, mask
    if running is not None:
        keep(*running)
    batches = [np.stack(finished[i : i + draws], axis=1) for i in range(0, total, draws)]
    columns = np.concatenate(batches, axis=-1).astype(np.float64)  # [column, draw, example]
    return _to_evaluation(model, params, estimator, columns)


def _to_evaluation(
    model: AnyModel, params: Params, estimator: Estimator, columns: np.ndarray
) -> Evaluation:
    """Turns columns [estimator.columns, draws, examples] into an Evaluation. ValueError if an
    estimate is not finite."""
    _, draws, num_examples = columns.shape
    ends: Sequence[float | None] = (None, None)
    if has_noise_levels(model) and "schedule" in model.supports:
        t = np.array([0.0, 1.0], np.float32)
        omega = jax.device_get(compiled_schedule(model)(params["schedule"], t))
        ends = [float(end.mean()) for end in omega]
    evaluation = Evaluation(
        dict(zip(estimator.columns, columns, strict=True)),
        omega_0=ends[0],
        omega_1=ends[1],
        num_dims=math.prod(model.dims),
        strata=estimator.strata(draws),
        independent=estimator.independent,
        more_terms=getattr(model, "more_terms", ()) if "total" not in estimator.columns else (),
    )
    bad = np.flatnonzero(~np.isfinite(evaluation.total).all(axis=0))
    if bad.size:
        raise ValueError(
            f"{estimator.name} is not finite for {bad.size} of {num_examples} examples, the first "
            f"of them example {bad[0]}: {estimator.remedy}"
        )
    return evaluation
