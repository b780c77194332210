"""From a config to objects: what is built of it, and for which data.

With `vdm.config.options`, which reads the plain values, and `vdm.config.registry`, which reads a
name and its kwargs, the only reader of a ConfigDict.
"""

import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vdm.arguments import check_choice
from vdm.config import checks
from vdm.config.checks import check_kind
from vdm.config.options import EvalOptions, count
from vdm.config.registry import (
    AUGMENTATIONS,
    CLASSIFIERS,
    GRIDS,
    GUIDANCES,
    LIKELIHOODS,
    METRICS,
    MODELS,
    NETWORKS,
    OPTIMIZERS,
    SAMPLERS,
    SCHEDULES,
    SOURCES,
    WEIGHTINGS,
    build,
)
from vdm.data import sources, transforms
from vdm.devices.keys import root_key
from vdm.diffusion import grids, samplers, weightings
from vdm.diffusion.ode import Solver
from vdm.evaluation import guided
from vdm.evaluation.estimators import (
    BOUNDS,
    Elbo,
    Estimator,
    ImportanceWeighted,
    PathElbo,
    ProbabilityFlow,
)
from vdm.io.metrics_log import MetricsHook
from vdm.io.places import check_local
from vdm.models.classifier import NoisyClassifier
from vdm.models.latent_variable import AnyModel, check_methods
from vdm.models.vdm import VDM
from vdm.training import schedule_objectives as train_schedule


def build_source(config: ConfigDict) -> sources.Source:
    """The data set: its facts; nothing is read yet."""
    data_dir, holdout = config.data.data_dir, count(config, "data.holdout", 0)
    if config.data.name in SOURCES:  # one of the user's own may read what it likes
        for key, value in config.data.kwargs.items():
            check_local(f"data.kwargs.{key}", value if isinstance(value, str) else None)
    found = build("data", config.data, SOURCES, data_dir=data_dir, holdout=holdout)
    fits = isinstance(found, sources.Source)
    check_kind("data", config.data.name, found, fits, "a vdm.data.sources.Source")
    return found


def build_augmentation(
    config: ConfigDict, source: sources.Source
) -> transforms.Augmentation | None:
    """What is done to training examples of that source; None for nothing. ValueError for one of the
    user's own that is no Augmentation."""
    chosen = config.data.augmentation
    found = build("data.augmentation", chosen, AUGMENTATIONS, dims=source.shape)
    if found is not None and not isinstance(found, transforms.Augmentation):
        raise ValueError(
            f"data.augmentation.name = {chosen.name!r} gives a {type(found).__name__}: it must "
            "give a vdm.data.transforms.Augmentation, or None"
        )
    if found is not None:
        transforms.check(found, f"data.augmentation.name = {chosen.name!r}")
    return found


def build_model(config: ConfigDict, source: sources.Source) -> AnyModel:
    """The model for examples of that source."""
    num_classes = source.num_classes if config.model.class_conditional else 0
    if config.model.class_conditional and not num_classes:
        own = {"folder": "labels = True", "npy": "num_classes = N"}.get(config.data.name)
        remedy = f"set data.kwargs.{own}" if own else "choose one that has, or set it to False"
        raise ValueError(
            f"model.class_conditional: data set {source.name!r} has no labels; {remedy}"
        )
    if config.model.label_dropout and config.network.kwargs.get("label_as_scalar"):
        raise ValueError(
            "model.label_dropout: with network.kwargs.label_as_scalar there is no number for a "
            "label that is withheld: set one of them to 0 or False"
        )
    by_codes = config.model.prediction == "codes"
    if not source.num_codes and (by_codes or config.likelihood.name == "discretised"):
        raise ValueError(
            f"data set {source.name!r} is real-valued: likelihood.name = 'discretised' and "
            "model.prediction = 'codes' need integer codes; choose 'gaussian' and 'eps'"
        )
    if source.num_codes and config.likelihood.name == "gaussian":
        raise ValueError(
            f"data set {source.name!r} has integer codes: likelihood.name = 'gaussian' is for "
            "real-valued data; choose 'discretised'"
        )
    facts = {
        "dims": source.shape,
        "num_codes": source.num_codes,
        "num_classes": num_classes,
        "outputs_per_dim": source.num_codes if by_codes else 1,
        "augmented": config.model.augmented_flag,
    }
    if config.model.augmented_flag and config.data.augmentation.name == "none":
        raise ValueError(
            "model.augmented_flag tells the network which images are augmented, and with "
            "data.augmentation.name = 'none' no image is: choose 'images', or set it to False"
        )
    if config.model.augmented_flag and _augments_all(config):
        raise ValueError(
            "model.augmented_flag with data.augmentation.kwargs.share = 1: the network would never "
            "see an image of which it is told that it is not augmented, as the test images are; "
            "set share to 0.5, or the flag to False"
        )
    told_both = config.model.augmented_flag and config.model.class_conditional
    if told_both and config.network.kwargs.get("label_as_scalar"):
        raise ValueError(
            "network.kwargs.label_as_scalar has one number for the label and the flag of "
            "augmentation: set it, model.class_conditional or model.augmented_flag to False"
        )
    parts = {
        "schedule": build("schedule", config.schedule, SCHEDULES, **facts),
        "network": build("network", config.network, NETWORKS, **facts),
        "likelihood": build("likelihood", config.likelihood, LIKELIHOODS, **facts),
        "prediction": config.model.prediction,
        "label_dropout": config.model.label_dropout,
        "augmented_flag": config.model.augmented_flag,
        "num_steps": config.model.num_steps,
    }
    for name in facts | parts:
        if name in config.model.kwargs:
            group = "model" if name in config.model else name if name in config else "data"
            raise ValueError(
                f"model.kwargs.{name}: the model is told this by the {group} group of the config; "
                "set it there"
            )
    model = build("model", config.model, MODELS, **facts, **parts)
    if not isinstance(model, VDM):
        check_without_schedule(config)
    return model


def _augments_all(config: ConfigDict) -> bool:
    """Whether the house's augmentation leaves no image as it is, which it does without a share."""
    chosen = config.data.augmentation
    return chosen.name == "images" and chosen.kwargs.get("share", 1.0) == 1


def check_without_schedule(config: ConfigDict) -> None:
    """ValueError for a field that asks for noise levels, or labels, of a model that has none."""
    defaults = {
        "model.class_conditional": False,
        "model.augmented_flag": False,
        "model.num_steps": 0,
        "weighting.name": "bound",
        "eval.bound": "elbo",
        "eval.num_steps": 0,
        "sample.guidance.name": "none",
        "sample.interpolate": 0,
        "sample.num_frames": 0,
    }
    for field, needed in defaults.items():
        value: Any = config
        for part in field.split("."):
            value = value[part]
        if value != needed:
            raise ValueError(
                f"{field} = {value!r} is nothing for model.name = {config.model.name!r}, which has "
                f"no schedule of noise and no labels: set it to {needed!r}, or choose 'vdm'"
            )


def check_shapes(config: ConfigDict, model: AnyModel) -> None:
    """Runs the networks on shapes alone, so that a slip in one of the user's own is one line before
    anything is written."""
    try:
        params = jax.eval_shape(model.init, root_key(0))
        if not isinstance(model, VDM):
            check_methods(model, params)
            return
        if model.multivariate and not model.latents_are_data:
            raise ValueError(
                f"schedule.name = {config.schedule.name!r} has an omega for each dimension of the "
                "data, and the latents of this model are none: choose one omega for all"
            )
        train_schedule.check(config.schedule.train, model.schedule, config.model.num_steps)
        if model.prediction == "next_mean":
            train_schedule.check_next_mean(
                config.schedule.train, model.num_steps, model.multivariate
            )
    except (TypeError, AttributeError) as error:
        names = f"network {config.network.name!r} or schedule {config.schedule.name!r}"
        if config.model.name not in MODELS:
            names = f"model {config.model.name!r}, {names}"
        raise ValueError(f"{names} cannot be called as the README says: {error}") from error


def check_own(config: ConfigDict, source: sources.Source, model: AnyModel) -> None:
    """ValueError for a schedule, network, likelihood or grid of the user's own that does not give
    what it should, as far as it is known before training."""
    likelihood, num_codes = config.likelihood.name, source.num_codes
    if likelihood not in LIKELIHOODS:
        checks.check_likelihood(likelihood, model.likelihood, source.shape, num_codes)
    if not isinstance(model, VDM):
        return
    if config.schedule.name not in SCHEDULES:
        checks.check_schedule(config.schedule.name, model)
    if config.network.name not in NETWORKS and config.model.name in MODELS:
        checks.check_network(config.network.name, model, num_codes)
    if config.sample.grid.name not in GRIDS:
        checks.check_grid(config.sample.grid.name, build_grid(config), model)


def build_weighting(config: ConfigDict) -> weightings.Weighting:
    """The weighting of the network's loss. ValueError for one of the user's own that is no function
    (omega_t, weight)."""
    weighting = build("weighting", config.weighting, WEIGHTINGS)
    of_batch = jax.ShapeDtypeStruct((2,), jnp.float32)
    try:
        shape = jax.eval_shape(weighting, of_batch, of_batch).shape
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"weighting.name = {config.weighting.name!r} gives no function (omega_t, weight) -> "
            f"multiplier: {error}"
        ) from error
    if shape != of_batch.shape:
        raise ValueError(
            f"weighting.name = {config.weighting.name!r} gives shape {shape} for omega_t and "
            f"weight of shape {of_batch.shape}: it must give one multiplier for each"
        )
    return weighting


def build_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimiser; its learning rate decays over train.num_steps."""
    found = build("optim", config.optim, OPTIMIZERS, num_steps=config.train.num_steps)
    fits = hasattr(found, "init") and hasattr(found, "update")
    check_kind("optim", config.optim.name, found, fits, "an optax.GradientTransformation")
    return found


def build_sampler(config: ConfigDict) -> samplers.Sampler:
    """The chosen sampler."""
    found = build("sample", config.sample, SAMPLERS)
    fits = isinstance(found, samplers.Sampler)
    check_kind("sample", config.sample.name, found, fits, "a vdm.diffusion.samplers.Sampler")
    return found


def build_grid(config: ConfigDict) -> grids.Grid:
    """Where it steps."""
    return build("sample.grid", config.sample.grid, GRIDS)


def build_classifier(config: ConfigDict, source: sources.Source) -> NoisyClassifier | None:
    """The classifier of noisy examples; None for data without labels."""
    if not source.num_classes:
        return None
    facts = {"dims": source.shape, "num_classes": source.num_classes}
    network = build("classifier", config.classifier, CLASSIFIERS, **facts)
    fits = hasattr(network, "init") and hasattr(network, "apply")
    check_kind("classifier", config.classifier.name, network, fits, "a flax module")
    return NoisyClassifier(network, source.shape, source.num_classes)


def build_guidance(
    config: ConfigDict, model: AnyModel, classifier: NoisyClassifier | None
) -> guided.Guidance:
    """What the samples are guided by, for that model."""
    chosen = config.sample.guidance
    guidance = build("sample.guidance", chosen, GUIDANCES, classifier=classifier)
    fits = all(hasattr(guidance, field) for field in ("passes", "num_classes", "check"))
    check_kind("sample.guidance", chosen.name, guidance, fits, "a vdm.evaluation.guided.Guidance")
    if isinstance(model, VDM):  # else there is none
        guidance.check(model)
    return guidance


def open_metrics_hook(config: ConfigDict, workdir: Path) -> MetricsHook | None:
    """The user's own record of the metrics. Only a training asks for it: what evaluates a model or
    loads it needs no tracker."""
    return build("metrics", config.metrics, METRICS, config=config.to_dict(), workdir=workdir)


EXACT_DIVERGENCE = 16  # dimensions up to which eval.ode.divergence = "auto" is exact


def build_estimator(options: EvalOptions, model: AnyModel) -> Estimator:
    """The bound that options.bound names, for that model."""
    if not isinstance(model, VDM):
        if options.bound != "elbo" or options.num_steps:
            raise ValueError(
                f"eval.bound = {options.bound!r}, eval.num_steps = {options.num_steps}: a model "
                "without a schedule of noise has 'elbo' and 0"
            )
        return PathElbo(model.num_levels)
    weights = re.fullmatch(r"iw-([1-9]\d*)", options.bound)
    if options.bound == "elbo":
        return Elbo(options.num_steps)
    if weights:
        return ImportanceWeighted(options.num_steps, int(weights[1]))
    if options.bound.startswith("iw"):
        raise ValueError(
            f"eval.bound = {options.bound!r}: iw-K takes a positive number of paths for K, such as "
            "iw-64"
        )
    check_choice("eval.bound", options.bound, BOUNDS)
    if model.multivariate:
        raise ValueError(
            f"eval.bound = {options.bound!r}: the flow is solved in one omega for all dimensions, "
            "and each has its own in this schedule: choose 'elbo' or 'iw-K'"
        )
    kind, ode = options.bound.removeprefix("ode-"), options.ode
    if options.num_steps:
        raise ValueError(
            f"eval.bound = {options.bound!r} is of continuous time: set eval.num_steps = 0 (the "
            "steps of its solver are eval.ode.num_steps)"
        )
    if kind != "decoder" and not model.latents_are_data:
        raise ValueError(
            f"eval.bound = {options.bound!r}: the flow of this model is of latents, not of the "
            "data: choose 'ode-decoder'"
        )
    if kind != "decoder" and not hasattr(model.likelihood, "num_codes"):
        raise ValueError(
            f"eval.bound = {options.bound!r} is for integer codes: choose 'ode-decoder' for "
            "real-valued data"
        )
    divergence = ode.divergence
    if divergence == "auto":
        exact = math.prod(model.latent_dims) <= EXACT_DIVERGENCE
        divergence = "exact" if exact else "hutchinson"
    solver = Solver(ode.num_steps, ode.tolerance, ode.tolerance, divergence, ode.probes)
    return ProbabilityFlow(kind, solver)
