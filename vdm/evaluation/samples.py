"""Samples from trained parameters."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vdm.devices import sharding
from vdm.devices.keys import root_key
from vdm.devices.waiting import wait
from vdm.diffusion.grids import Grid, equal_times
from vdm.diffusion.samplers import Sampler, first_latent
from vdm.evaluation.calls import call_size
from vdm.evaluation.guided import Guidance, Unguided
from vdm.models.latent_variable import AnyModel
from vdm.models.vdm import VDM, Drawn
from vdm.typing import Params

UNGUIDED = Unguided()

KEY_STREAM = 1_000_002
"""Keeps the noise of samples apart from that of training and evaluation of the same seed."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """data [num_samples, *dims], codes (uint8 where all fit) or float32; labels [num_samples] that
    they were asked for; network_evaluations: passes through the network for each, their mean;
    frames [frames, num_samples, *dims] of the way from noise, if asked for."""

    data: np.ndarray
    labels: np.ndarray
    network_evaluations: float
    frames: np.ndarray


def check_samples(sampler: Sampler, num_samples: int, num_steps: int, interpolate: int) -> None:
    """ValueError for settings of `draw_samples` that do not go together."""
    if num_samples < 1 or num_steps < 1:
        raise ValueError(
            f"sample.num_images = {num_samples} in sample.num_steps = {num_steps}: "
            "both must be positive"
        )
    if interpolate and not sampler.deterministic:
        raise ValueError(
            f"sample.interpolate = {interpolate}: this sampler adds noise on the way, so that z_1 "
            "does not say what comes out; choose sample.name = 'ddim', 'heun', 'dpm_solver' or "
            "'flow'"
        )
    if interpolate and (interpolate < 2 or num_samples % interpolate):
        raise ValueError(
            f"sample.interpolate = {interpolate} does not divide sample.num_images = {num_samples} "
            "into rows of two or more"
        )


def sample_dtype(model: AnyModel, num_steps: int, num_frames: int) -> np.dtype:
    """One sample as a record: data, evaluations of the denoiser, frames."""
    num_codes = getattr(model.likelihood, "num_codes", 0)
    value = np.min_scalar_type(num_codes - 1) if num_codes else np.dtype(np.float32)
    frames = min(num_frames, num_steps) if isinstance(model, VDM) else 0
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
    *,
    sampler: Sampler,
    num_steps: int,
    guidance: Guidance,
    batch_size: int,
) -> int:
    """Samples that `draw_samples` draws at a time: batch_size of them, or fewer where that would
    take long (`vdm.evaluation.calls`)."""
    passes = 1
    if isinstance(model, VDM):  # an adaptive sampler finds out on the way: say 100
        passes = num_steps * (sampler.evaluations or 100) * guidance.passes
    return call_size(model, params, min(batch_size, num_samples), passes, mesh)


def draw_samples(
    model: AnyModel,
    params: Params,
    num_samples: int,
    mesh: Mesh,
    *,
    sampler: Sampler,
    num_steps: int,
    grid: Grid = equal_times,
    guidance: Guidance = UNGUIDED,
    batch_size: int = 256,
    seed: int = 0,
    labels: np.ndarray | None = None,
    interpolate: int = 0,
    num_frames: int = 0,
    finished: Sequence[np.ndarray] = (),
    on_part: Callable[[np.ndarray], None] = lambda part: None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Samples:
    """Samples of the model, in num_steps steps.

    Sample i depends on (seed, i) alone, not on the batch size but for rounding. on_part is called
    with each finished part, records of `sample_dtype`; `finished` are the parts that on_part got
    from a call with the same arguments that was cut off, and are not drawn again. labels
    [num_samples] are for a conditional or guided model; None takes the classes in turn. params live
    on the mesh, with an entry for the guidance if it has parameters.

    A model without a schedule takes one step, and no heed of sampler, grid and guidance.

    interpolate = K > 0: each row of K samples leads from one latent z_1 to another, over a quarter
    of a circle, so that each is a draw of N(0, I); for deterministic samplers.
    """
    check_samples(sampler, num_samples, num_steps, interpolate)
    row = np.arange(num_samples) // max(1, interpolate)
    if labels is None:
        classes = getattr(model, "num_classes", 0) or guidance.num_classes
        labels = row % max(1, classes)
    labels = np.asarray(labels, np.int32)

    @jax.jit
    def draw(params: Params, index: jax.Array, labels: jax.Array) -> Drawn:
        key = jax.random.fold_in(root_key(seed), KEY_STREAM)

        def keys_of(index: jax.Array) -> jax.Array:
            return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)

        if not isinstance(model, VDM):
            data, is_finite = model.sample(params, keys_of(index))
            frames = jnp.zeros((0, *data.shape), data.dtype)
            return Drawn(data, is_finite, jnp.ones_like(index), frames)
        z_1, dims = None, model.latent_dims
        if interpolate:
            row, place = index // interpolate, index % interpolate
            angle = 0.5 * jnp.pi * place / (interpolate - 1)
            angle = angle.reshape(-1, *(1,) * len(dims))
            first, last = (first_latent(keys_of(2 * row + end), dims) for end in (0, 1))
            z_1 = jnp.cos(angle) * first + jnp.sin(angle) * last
        omegas = grid(model.schedule_fn(params), num_steps)
        denoiser = guidance(model, params, labels)
        return model.sample(params, keys_of(index), omegas, sampler, denoiser, z_1, num_frames)

    size = samples_per_call(
        model, params, num_samples, mesh,
        sampler=sampler, num_steps=num_steps, guidance=guidance, batch_size=batch_size,
    )  # fmt: skip
    kind, parts = sample_dtype(model, num_steps, num_frames), list(finished)
    first = min(size * len(parts), num_samples)
    on_batch(first, num_samples)
    for start in range(first, num_samples, size):
        index = np.minimum(np.arange(start, start + size), num_samples - 1)
        columns = {"index": index.astype(np.int32), "labels": labels[index]}
        batch = sharding.put_whole_batch(columns, mesh)
        result = draw(params, batch["index"], batch["labels"])
        wait(result)
        drawn = sharding.fetch(result)
        if not drawn.finite.all():
            remedy = (
                "with sample.name = 'flow' raise sample.kwargs.tolerance, else take more "
                "steps or less guidance"
                if isinstance(model, VDM)
                else "the parameters are not, or the decoder overflows: try an earlier "
                "checkpoint (eval.step)"
            )
            raise ValueError(f"samples are not finite: {remedy}")
        end = min(start + size, num_samples)
        parts.append(_records(drawn, kind)[: end - start])
        on_part(parts[-1])
        on_batch(end, num_samples)
    records = np.concatenate(parts)
    return Samples(
        data=records["data"],
        labels=labels,
        network_evaluations=float(records["evaluations"].mean()) * guidance.passes,
        frames=np.moveaxis(records["frames"], 1, 0),
    )


def _records(drawn: Drawn, kind: np.dtype) -> np.ndarray:
    """A batch as records. ValueError for codes that the likelihood cannot have given."""
    records = np.zeros(len(drawn.data), kind)
    records["evaluations"] = drawn.evaluations
    for name, values in (
        ("data", np.asarray(drawn.data)),
        ("frames", np.moveaxis(np.asarray(drawn.frames), 0, 1)),
    ):
        records[name] = values
        if kind["data"].base.kind == "u" and (records[name] != values).any():
            raise ValueError(
                f"samples from {values.min()} to {values.max()}: the likelihood's num_codes says "
                "that codes are 0 to num_codes - 1; correct the one or the other"
            )
    return records
