"""Draws samples of a trained model."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vdm.devices import sharding
from vdm.devices.keys import root_key
from vdm.devices.waiting import wait
from vdm.diffusion.grids import Grid, equal_times
from vdm.diffusion.interning import kept
from vdm.diffusion.samplers import Sampler, first_latent
from vdm.evaluation.calls import Parts, call_size
from vdm.evaluation.guided import Guidance, Unguided
from vdm.models.drawn import Drawn
from vdm.models.interface import has_noise_levels, num_classes, num_codes
from vdm.models.latent_variable import AnyModel
from vdm.typing import Params, PRNGKey

UNGUIDED = Unguided()

KEY_STREAM = 1_000_002
"""Makes the noise of samples differ from that of training and evaluation with the same seed."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How samples are drawn: everything besides the model that the compiled function depends on.

    A model without a noise schedule takes one step and ignores all of this.

    Attributes:
        sampler: steps from each point of the grid to the one below it.
        num_steps: T, the number of steps.
        grid: the noise levels between which the steps lead.
        guidance: makes the denoiser from the model's parameters and the labels.
        interpolate: K > 0 for rows of K samples, whose latents z_1 lead from one draw to another
            along a quarter of a circle, so that each is distributed as N(0, I). It needs a
            deterministic sampler.
        num_frames: the number of intermediate latents that are decoded too.
    """

    sampler: Sampler
    num_steps: int
    grid: Grid = equal_times
    guidance: Guidance = UNGUIDED
    interpolate: int = 0
    num_frames: int = 0


@dataclasses.dataclass(frozen=True)
class Samples:
    """A set of samples.

    data: [num_samples, *dims], codes (uint8 where all fit) or float32. labels: [num_samples], those
    requested. network_evaluations: the mean number of network passes for each sample. frames:
    [frames, num_samples, *dims], decoded latents between noise and data; none unless requested.
    """

    data: np.ndarray
    labels: np.ndarray
    network_evaluations: float
    frames: np.ndarray


def check_samples(sampler: Sampler, num_samples: int, num_steps: int, interpolate: int) -> None:
    """Raises ValueError for settings of `draw_samples` that contradict each other."""
    if num_samples < 1 or num_steps < 1:
        raise ValueError(
            f"sample.num_images = {num_samples} in sample.num_steps = {num_steps}: "
            "both must be positive"
        )
    if interpolate and not sampler.deterministic:
        raise ValueError(
            f"sample.interpolate = {interpolate}: this sampler adds noise, so that z_1 does not "
            "determine the sample; choose sample.name = 'ddim', 'heun', 'dpm_solver' or "
            "'flow'"
        )
    if interpolate and (interpolate < 2 or num_samples % interpolate):
        raise ValueError(
            f"sample.interpolate = {interpolate} does not divide sample.num_images = {num_samples} "
            "into rows of two or more"
        )


def sample_dtype(model: AnyModel, sampling: Sampling) -> np.dtype:
    """Returns the dtype of one sample as a record: data, evaluations of the denoiser, frames."""
    largest = num_codes(model) - 1
    value = np.min_scalar_type(largest) if largest >= 0 else np.dtype(np.float32)
    frames = min(sampling.num_frames, sampling.num_steps) if has_noise_levels(model) else 0
    return np.dtype(
        [
            ("data", value, model.dims),
            ("evaluations", np.int32),
            ("frames", value, (frames, *model.dims)),
        ]
    )


def samples_per_call(
    model: AnyModel,
    params: Params,
    num_samples: int,
    mesh: Mesh,
    sampling: Sampling,
    batch_size: int,
) -> int:
    """Returns how many samples `draw_samples` draws at a time: batch_size, or fewer where a call
    would take too long (`vdm.evaluation.calls`)."""
    passes = 1
    if has_noise_levels(model):  # for an adaptive sampler assume 100
        evaluations = sampling.sampler.evaluations or 100
        passes = sampling.num_steps * evaluations * sampling.guidance.passes
    return call_size(model, params, min(batch_size, num_samples), passes, mesh)


@kept  # compiled once for all samples of a model
def make_draw(
    model: AnyModel, sampling: Sampling
) -> Callable[[Params, PRNGKey, jax.Array, jax.Array], Drawn]:
    """Compiles a function (params, key, index [batch], labels [batch]) -> the samples with these
    indices, each drawn from its own key fold_in(key, index)."""

    def draw(params: Params, key: PRNGKey, index: jax.Array, labels: jax.Array) -> Drawn:
        def keys_of(index: jax.Array) -> jax.Array:
            return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)

        if not has_noise_levels(model):
            data, is_finite = model.sample(params, keys_of(index))
            frames = jnp.zeros((0, *data.shape), data.dtype)
            return Drawn(data, is_finite, jnp.ones_like(index), frames)
        z_1, dims, interpolate = None, model.latent_dims, sampling.interpolate
        if interpolate:
            row, place = index // interpolate, index % interpolate
            angle = 0.5 * jnp.pi * place / (interpolate - 1)
            angle = angle.reshape(-1, *(1,) * len(dims))
            first, last = (first_latent(keys_of(2 * row + end), dims) for end in (0, 1))
            z_1 = jnp.cos(angle) * first + jnp.sin(angle) * last
        denoiser = sampling.guidance(model, params, labels)
        return model.sample(
            params, keys_of(index), sampling.sampler, sampling.grid, sampling.num_steps, denoiser,
            z_1, sampling.num_frames,
        )  # fmt: skip

    return jax.jit(draw)


def draw_samples(
    model: AnyModel,
    params: Params,
    num_samples: int,
    mesh: Mesh,
    sampling: Sampling,
    *,
    seed: int = 0,
    labels: np.ndarray | None = None,
    parts: Parts = Parts(),  # noqa: B008, it is frozen
) -> Samples:
    """Draws samples of the model.

    Sample i depends on (seed, i) alone, and on the batch size only by rounding. A part
    (`vdm.evaluation.calls.Parts`) is an array of records of `sample_dtype`. labels: [num_samples],
    for a conditional or guided model; None takes the classes in turn. params live on the mesh, with
    an entry for the guidance if it has parameters. Another seed, or other params of the same
    shapes, compile nothing new.

    Raises:
        ValueError: the settings contradict each other, or the samples are not finite.
    """
    check_samples(sampling.sampler, num_samples, sampling.num_steps, sampling.interpolate)
    if labels is None:
        classes = num_classes(model) or sampling.guidance.num_classes
        labels = np.arange(num_samples) // max(1, sampling.interpolate) % max(1, classes)
    labels = np.asarray(labels, np.int32)
    draw = make_draw(model, sampling)
    key = jax.random.fold_in(root_key(seed), KEY_STREAM)
    size = samples_per_call(model, params, num_samples, mesh, sampling, parts.batch_size)
    kind, drawn = sample_dtype(model, sampling), list(parts.finished)
    first = min(size * len(drawn), num_samples)
    parts.on_batch(first, num_samples)
    for start in range(first, num_samples, size):
        index = np.minimum(np.arange(start, start + size), num_samples - 1)
        columns = {"index": index.astype(np.int32), "labels": labels[index]}
        batch = sharding.put_whole_batch(columns, mesh)
        result = draw(params, key, batch["index"], batch["labels"])
        wait(result, parts.stop)
        end = min(start + size, num_samples)
        drawn.append(_records(model, sharding.fetch(result), kind)[: end - start])
        parts.on_part(drawn[-1])
        parts.on_batch(end, num_samples)
    records = np.concatenate(drawn)
    return Samples(
        data=records["data"],
        labels=labels,
        network_evaluations=float(records["evaluations"].mean()) * sampling.guidance.passes,
        frames=np.moveaxis(records["frames"], 1, 0),
    )


def _records(model: AnyModel, drawn: Drawn, kind: np.dtype) -> np.ndarray:
    """Returns a batch as records. ValueError for samples that are not finite, or codes outside the
    range of the likelihood."""
    if not drawn.finite.all():
        remedy = (
            "with sample.name = 'flow' raise sample.kwargs.tolerance, else take more "
            "steps or less guidance"
            if has_noise_levels(model)
            else "the parameters are not finite, or the decoder overflows: try an earlier "
            "checkpoint (eval.step)"
        )
        raise ValueError(f"samples are not finite: {remedy}")
    records = np.zeros(len(drawn.data), kind)
    records["evaluations"] = drawn.evaluations
    for name, values in (
        ("data", np.asarray(drawn.data)),
        ("frames", np.moveaxis(np.asarray(drawn.frames), 0, 1)),
    ):
        records[name] = values
        if kind["data"].base.kind == "u" and (records[name] != values).any():
            raise ValueError(
                f"samples from {values.min()} to {values.max()}: by the likelihood's num_codes, "
                "codes are 0 to num_codes - 1; correct one or the other"
            )
    return records
