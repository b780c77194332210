"""Checks components of the user's own before anything is written.

Without these checks a mistake would show as a traceback in the middle of a run, or as bits/dim that
are silently wrong: a network output of another shape is broadcast against the noise, and a
decreasing schedule has a negative loss. Each check raises a ValueError that begins with the field.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vdm.config.build import Built
from vdm.config.options import field_at
from vdm.config.registry import GRIDS, LIKELIHOODS, MODELS, NETWORKS, SCHEDULES
from vdm.data import transforms
from vdm.devices.keys import root_key
from vdm.diffusion.grids import Grid
from vdm.diffusion.weightings import Weighting
from vdm.models.interface import check_terms, has_noise_levels, num_codes
from vdm.models.latent_variable import param_shapes
from vdm.models.vdm import VDM, compiled_schedule
from vdm.training.gradient import Objective, make_gradient
from vdm.typing import Likelihood, Params


def check_own(config: ConfigDict, built: Built) -> None:
    """Checks every component that is not built in, as far as is possible before training."""
    model = built.model
    if config.likelihood.name not in LIKELIHOODS:
        name = config.likelihood.name
        check_likelihood(name, model.likelihood, built.source.shape, built.source.num_codes)
    check_weighting(config.weighting.name, built.weighting)
    if built.augmentation is not None:
        name = config.data.augmentation.name
        transforms.check(built.augmentation, f"data.augmentation.name = {name!r}")
    if not has_noise_levels(model):
        return
    if config.schedule.name not in SCHEDULES:
        check_schedule(config.schedule.name, model)
    if config.model.name not in MODELS:
        check_family(config.model.name, model, config.model.num_steps)
    if config.network.name not in NETWORKS and config.model.name in MODELS:
        check_network(config.network.name, model)
    for group, grid in (
        ("sample.grid", built.grid), ("eval.grid", built.eval_grid),
        ("compress.grid", built.compress_grid),
    ):  # fmt: skip
        name = field_at(config, group).name
        if name not in GRIDS:
            check_grid(group, name, grid, model)


def check_family(name: str, model: VDM, num_steps: int) -> None:
    """Checks that a model's bound can be estimated and differentiated, and that its terms have
    names; on shapes alone."""
    with _named("model", name):
        params = param_shapes(model)
        dtype = jnp.int32 if num_codes(model) else jnp.float32
        batch = {"examples": jax.ShapeDtypeStruct((2, *model.dims), dtype)}
        if model.num_classes:
            batch["labels"] = jax.ShapeDtypeStruct((2,), jnp.int32)
        if model.augmented_flag:
            batch["augmented"] = jax.ShapeDtypeStruct((2,), jnp.bool_)
        gradient = make_gradient(model, Objective(num_steps))
        _, metrics, _ = jax.eval_shape(gradient, params, batch, root_key(0))
        known = {"bpd_reconstruction", "bpd_prior", "bpd_denoising"}
        terms = {key for key in metrics if key.startswith("bpd_")} - known
        check_terms(model, [term.removeprefix("bpd_") for term in terms])


def check_weighting(name: str, weighting: Weighting) -> None:
    """Checks that it is a function (omega_t, weight) -> one multiplier for each example."""
    batch = jax.ShapeDtypeStruct((2,), jnp.float32)
    try:
        shape = jax.eval_shape(weighting, batch, batch).shape
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"weighting.name = {name!r} gives no function (omega_t, weight) -> multiplier: {error}"
        ) from error
    if shape != batch.shape:
        raise ValueError(
            f"weighting.name = {name!r} gives shape {shape} for omega_t and weight of shape "
            f"{batch.shape}: it must give one multiplier for each"
        )


def check_schedule(name: str, model: VDM) -> None:
    """Checks that omega has t's shape, perhaps with the axes of an example appended, and that it
    increases with t for the initial parameters."""
    with _named("schedule", name):
        shapes = jax.eval_shape(model.init_schedule, root_key(0))
        for shape in ((), (2, 3)):
            t = jax.ShapeDtypeStruct(shape, jnp.float32)
            omega_shape = jax.eval_shape(
                lambda params, t: model.schedule_fn({"schedule": params})(t), shapes, t
            ).shape
            if omega_shape not in (shape, shape + model.dims):
                raise ValueError(
                    f"gives omega of shape {omega_shape} for t of shape {shape}: it must be that "
                    f"of t, or {shape + model.dims}"
                )
        schedule = jax.jit(model.init_schedule)(root_key(0))
        omega = compiled_schedule(model)(schedule, jnp.linspace(0.0, 1.0, 101))
        if not bool(jnp.all(jnp.diff(omega, axis=0) > 0)):  # false for NaN too
            raise ValueError("gives an omega that does not increase with t from 0 to 1")


def check_network(name: str, model: VDM) -> None:
    """Checks that the output has z's shape, or for prediction "codes" one more axis with what the
    head reads."""
    with _named("network", name):
        z = jax.ShapeDtypeStruct((2, *model.latent_dims), jnp.float32)
        omega = jax.ShapeDtypeStruct(z.shape if model.multivariate else (2,), jnp.float32)
        labels = jax.ShapeDtypeStruct((2,), jnp.int32) if model.num_classes else None
        params = param_shapes(model)["network"]

        def output(params: Params, z: Any, omega: Any, labels: Any) -> Any:
            return model.network.apply({"params": params}, z, omega, labels, train=False)

        shape = jax.eval_shape(output, params, z, omega, labels).shape
        outputs = model.head.outputs_per_dim(num_codes(model))
        expected = (*z.shape, outputs) if model.prediction == "codes" else z.shape
        if shape != expected:
            raise ValueError(
                f"gives shape {shape} for z of shape {z.shape}: for model.prediction = "
                f"{model.prediction!r} it must be {expected}"
            )


def check_likelihood(
    name: str, likelihood: Likelihood, dims: tuple[int, ...], num_codes: int
) -> None:
    """Checks that its methods return the shapes that `vdm.typing.Likelihood` states, and that it is
    hashable."""
    with _named("likelihood", name):
        if num_codes and not hasattr(likelihood, "num_codes"):
            raise ValueError(
                "has no num_codes, which a likelihood of integer codes must have: give it a "
                "parameter of that name"
            )
        try:
            hash(likelihood)
        except TypeError as error:
            raise ValueError(
                f"{error}: make it a frozen dataclass of numbers, strings and tuples"
            ) from error
        codes = jax.ShapeDtypeStruct((2, *dims), jnp.int32 if num_codes else jnp.float32)
        real = jax.ShapeDtypeStruct((2, *dims), jnp.float32)
        omega_0 = jax.ShapeDtypeStruct((), jnp.float32)
        for method, arguments, expected in [
            (likelihood.encode, (codes,), real.shape),
            (likelihood.decode, (real, omega_0), real.shape),
            (likelihood.log_prob, (codes, real, omega_0), (2,)),
            (likelihood.reconstruction, (codes, real, omega_0), (2,)),
        ]:
            shape = jax.eval_shape(method, *arguments).shape
            if shape != expected:
                raise ValueError(
                    f"{method.__name__} of two examples of shape {dims} gives shape {shape}: it "
                    f"must be {expected}"
                )


def check_grid(group: str, name: str, grid: Grid, model: VDM) -> None:
    """Checks that it returns T + 1 values of omega, or as many for each dimension."""
    with _named(group, name):
        params = jax.eval_shape(model.init_schedule, root_key(0))
        shape = jax.eval_shape(
            lambda params: grid(model.schedule_fn({"schedule": params}), 3), params
        ).shape
        if shape not in ((4,), (4, *model.dims)):
            raise ValueError(f"gives shape {shape} for 3 steps: it must be (4,)")


@contextmanager
def _named(what: str, name: str) -> Iterator[None]:
    """Adds to an error the name of the component that it is about."""
    try:
        yield
    except (TypeError, AttributeError, ValueError, LookupError, AssertionError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, LookupError | AssertionError):  # its text alone may be one word
            text = f"{type(error).__name__}: {text}"
        raise ValueError(f"{what}.name = {name!r}: {text}; see vdm/README.md") from error
