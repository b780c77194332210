"""What a component of the user's own must be, checked before anything is written: a slip would
otherwise be a traceback in the middle of a run, or bits/dim that are wrong without a word (a
network's output of another shape is spread over the noise's; a schedule that falls has a negative
loss).

ValueError, beginning with the field, for each of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vdm.config.options import SampleOptions
from vdm.devices.keys import root_key
from vdm.diffusion.grids import Grid
from vdm.diffusion.samplers import Sampler
from vdm.evaluation.samples import check_samples
from vdm.models.vdm import VDM
from vdm.typing import Likelihood, Params


def check_kind(what: str, name: str, found: Any, fits: bool, kind: str) -> None:
    """`found` must fit what it should be, a `kind`."""
    if not fits:
        raise ValueError(
            f"{what}.name = {name!r} gives an object of type {type(found).__name__}: it must give "
            f"{kind}; see vdm/README.md"
        )


def check_schedule(name: str, model: VDM) -> None:
    """omega has t's shape, perhaps with the axes of an example appended, and increases at its first
    parameters."""
    with _named("schedule", name):
        shapes = jax.eval_shape(model.init_schedule, root_key(0))
        for shape in ((), (2, 3)):
            t = jax.ShapeDtypeStruct(shape, jnp.float32)
            found = jax.eval_shape(
                lambda params, t: model.schedule_fn({"schedule": params})(t), shapes, t
            ).shape
            if found not in (shape, shape + model.dims):
                raise ValueError(
                    f"gives omega of shape {found} for t of shape {shape}: it must be that of t, "
                    f"or {shape + model.dims}"
                )
        schedule = model.schedule_fn({"schedule": model.init_schedule(root_key(0))})
        omega = schedule(jnp.linspace(0.0, 1.0, 101))
        if not bool(jnp.all(jnp.diff(omega, axis=0) > 0)):  # NaN is not above 0 either
            raise ValueError("gives an omega that does not increase with t from 0 to 1")


def check_network(name: str, model: VDM, num_codes: int) -> None:
    """The output has z's shape, or logits of the codes on an axis more, for examples that the
    network gets as they are."""
    with _named("network", name):
        z = jax.ShapeDtypeStruct((2, *model.latent_dims), jnp.float32)
        omega = jax.ShapeDtypeStruct(z.shape if model.multivariate else (2,), jnp.float32)
        labels = jax.ShapeDtypeStruct((2,), jnp.int32) if model.num_classes else None
        params = jax.eval_shape(model.init, root_key(0))["network"]

        def output(params: Params, z: Any, omega: Any, labels: Any) -> Any:
            return model.network.apply({"params": params}, z, omega, labels, train=False)

        found = jax.eval_shape(output, params, z, omega, labels).shape
        wanted = (*z.shape, num_codes) if model.prediction == "codes" else z.shape
        if found != wanted:
            raise ValueError(
                f"gives shape {found} for z of shape {z.shape}: for model.prediction = "
                f"{model.prediction!r} it must be {wanted}"
            )


def check_likelihood(
    name: str, likelihood: Likelihood, dims: tuple[int, ...], num_codes: int
) -> None:
    """Its methods give the shapes that `vdm.typing.Likelihood` says, and it can be hashed."""
    with _named("likelihood", name):
        if num_codes and not hasattr(likelihood, "num_codes"):
            raise ValueError(
                "has no num_codes, by which a likelihood of integer codes is told: give it a "
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
        for method, arguments, wanted in [
            (likelihood.encode, (codes,), real.shape),
            (likelihood.decode, (real, omega_0), real.shape),
            (likelihood.log_prob, (codes, real, omega_0), (2,)),
            (likelihood.reconstruction, (codes, real, omega_0), (2,)),
        ]:
            found = jax.eval_shape(method, *arguments).shape
            if found != wanted:
                raise ValueError(
                    f"{method.__name__} of two examples of shape {dims} gives shape {found}: it "
                    f"must be {wanted}"
                )


def check_grid(name: str, grid: Grid, model: VDM) -> None:
    """T + 1 values of omega, or as many for each dimension."""
    with _named("sample.grid", name):
        params = jax.eval_shape(model.init_schedule, root_key(0))
        found = jax.eval_shape(
            lambda params: grid(model.schedule_fn({"schedule": params}), 3), params
        ).shape
        if found not in ((4,), (4, *model.dims)):
            raise ValueError(f"gives shape {found} for 3 steps: it must be (4,)")


@contextmanager
def _named(what: str, name: str) -> Iterator[None]:
    """Says of an error which component it is of."""
    try:
        yield
    except (TypeError, AttributeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{what}.name = {name!r}: {text}; see vdm/README.md") from error


def check_options(options: SampleOptions, sampler: Sampler, num_classes: int) -> None:
    """ValueError for what would stop the samples, at the end of a training perhaps."""
    check_samples(sampler, options.num_images, options.num_steps, options.interpolate)
    if options.label >= 0 and not num_classes:
        raise ValueError(
            f"sample.label = {options.label}: nothing is conditional on labels here; train with "
            "model.class_conditional = True, or guide by a classifier"
        )
    if options.label >= max(1, num_classes):
        raise ValueError(
            f"sample.label = {options.label}: labels are 0 to {num_classes - 1}, and -1 takes the "
            "classes in turn"
        )
    least = 4 if options.precision_recall else 3
    if options.features and options.num_images < least:
        raise ValueError(
            f"sample.num_images = {options.num_images}: sample.features compares {least} or more"
        )
    if options.features and not Path(options.features).is_file():
        raise ValueError(
            f"sample.features = {options.features!r}: there is no such file; it is an .npz of "
            "vdm.evaluation.features"
        )
