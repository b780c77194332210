"""Builds the objects that a config names: one function for each component, which reads its group.

Only this module, `vdm.config.options` (plain values) and `vdm.config.registry` (a name and its
kwargs) read a ConfigDict. `vdm.config.checks` checks that the objects fit together, once all of
them are built.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import optax
from ml_collections import ConfigDict

from vdm.arguments import check_choice, check_count
from vdm.config.options import EvalOptions
from vdm.config.registry import (
    AUGMENTATIONS,
    CLASSIFIERS,
    GRIDS,
    GUIDANCES,
    HEADS,
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
    check_kind,
)
from vdm.data import sources, transforms
from vdm.diffusion import code_heads, grids, samplers, weightings
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
from vdm.models.interface import has_noise_levels, require
from vdm.models.latent_variable import AnyModel


@dataclasses.dataclass(frozen=True)
class Built:
    """The objects that a config names, for one data set."""

    source: sources.Source
    augmentation: transforms.Augmentation | None
    model: AnyModel
    weighting: weightings.Weighting
    optimizer: optax.GradientTransformation
    sampler: samplers.Sampler
    grid: grids.Grid
    eval_grid: grids.Grid
    compress_grid: grids.Grid
    guidance: guided.Guidance
    classifier: NoisyClassifier | None


def build_all(config: ConfigDict, source: sources.Source) -> Built:
    """Builds the objects that a complete config names, for the examples of the source. It does not
    check that they fit together."""
    classifier = build_classifier(config.classifier, source)
    return Built(
        source=source,
        augmentation=build_augmentation(config.data.augmentation, source),
        model=build_model(config, source),
        weighting=build_weighting(config.weighting),
        optimizer=build_optimizer(config.optim, config.train.num_steps),
        sampler=build_sampler(config.sample),
        grid=build_grid("sample.grid", config.sample.grid),
        eval_grid=build_grid("eval.grid", config.eval.grid),
        compress_grid=build_grid("compress.grid", config.compress.grid),
        guidance=build_guidance(config.sample.guidance, classifier),
        classifier=classifier,
    )


def build_source(data: ConfigDict) -> sources.Source:
    """Builds the data set that the group `data` names, without reading its examples yet."""
    holdout = check_count("data.holdout", data.holdout, 0)
    if data.name in SOURCES:  # a source of the user's own may read from anywhere
        for key, value in data.kwargs.items():
            check_local(f"data.kwargs.{key}", value if isinstance(value, str) else None)
    source = build("data", data, SOURCES, data_dir=data.data_dir, holdout=holdout)
    fits = isinstance(source, sources.Source)
    check_kind("data", data.name, source, fits, "a vdm.data.sources.Source")
    return source


def build_augmentation(
    augmentation: ConfigDict, source: sources.Source
) -> transforms.Augmentation | None:
    """Builds the augmentation of the source's training examples; None if there is none."""
    built = build("data.augmentation", augmentation, AUGMENTATIONS, dims=source.shape)
    if built is not None and not isinstance(built, transforms.Augmentation):
        raise ValueError(
            f"data.augmentation.name = {augmentation.name!r} gives a {type(built).__name__}: it "
            "must give a vdm.data.transforms.Augmentation, or None"
        )
    return built


def build_model(config: ConfigDict, source: sources.Source) -> AnyModel:
    """Builds the model from the groups `model`, `schedule`, `network` and `likelihood`, for the
    examples of the source."""
    chosen = config.model
    head = build_head(chosen.head, source.num_codes)
    codes = chosen.prediction == "codes" and source.num_codes
    facts = {
        "dims": source.shape,
        "num_codes": source.num_codes,
        "num_classes": source.num_classes if chosen.class_conditional else 0,
        "outputs_per_dim": head.outputs_per_dim(source.num_codes) if codes else 1,
        "augmented": chosen.augmented_flag,
    }
    parts = {
        "schedule": build("schedule", config.schedule, SCHEDULES, **facts),
        "network": build("network", config.network, NETWORKS, **facts),
        "likelihood": build("likelihood", config.likelihood, LIKELIHOODS, **facts),
        "prediction": chosen.prediction,
        "label_dropout": chosen.label_dropout,
        "augmented_flag": chosen.augmented_flag,
        "num_steps": chosen.num_steps,
        "reverse": chosen.kernel,
        "decoder_rule": chosen.decoder,
        "head": head,
    }
    for name in facts | parts:
        if name in chosen.kwargs:
            group = "model" if name in chosen else name if name in config else "data"
            raise ValueError(
                f"model.kwargs.{name}: the model gets this from the {group} group of the config; "
                "set it there"
            )
    return build("model", chosen, MODELS, **facts, **parts)


def build_head(head: ConfigDict, num_codes: int) -> code_heads.CodeHead:
    """Builds the head, which makes probabilities of codes from the network's outputs."""
    built = build("model.head", head, HEADS, num_codes=num_codes)
    fits = all(hasattr(built, name) for name in ("outputs_per_dim", "eps_hat", "log_probs"))
    check_kind("model.head", head.name, built, fits, "a vdm.diffusion.code_heads.CodeHead")
    return built


def build_weighting(weighting: ConfigDict) -> weightings.Weighting:
    """Builds the weighting of the network's loss."""
    return build("weighting", weighting, WEIGHTINGS)


def build_optimizer(optim: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """Builds the optimiser, whose learning rate may decay over num_steps."""
    optimizer = build("optim", optim, OPTIMIZERS, num_steps=num_steps)
    fits = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    check_kind("optim", optim.name, optimizer, fits, "an optax.GradientTransformation")
    return optimizer


def build_sampler(sample: ConfigDict) -> samplers.Sampler:
    """Builds the sampler that the group `sample` names."""
    sampler = build("sample", sample, SAMPLERS)
    fits = isinstance(sampler, samplers.Sampler)
    check_kind("sample", sample.name, sampler, fits, "a vdm.diffusion.samplers.Sampler")
    return sampler


def build_grid(group: str, grid: ConfigDict) -> grids.Grid:
    """Builds the grid of steps that a group such as "sample.grid" names."""
    return build(group, grid, GRIDS)


def build_classifier(classifier: ConfigDict, source: sources.Source) -> NoisyClassifier | None:
    """Builds the classifier of noisy examples; None for data without labels."""
    if not source.num_classes:
        return None
    facts = {"dims": source.shape, "num_classes": source.num_classes}
    network = build("classifier", classifier, CLASSIFIERS, **facts)
    fits = hasattr(network, "init") and hasattr(network, "apply")
    check_kind("classifier", classifier.name, network, fits, "a flax module")
    return NoisyClassifier(network, source.shape, source.num_classes)


def build_guidance(
    guidance: ConfigDict, classifier: NoisyClassifier | None, model: AnyModel | None = None
) -> guided.Guidance:
    """Builds the guidance of the samples. With a model, raises ValueError if it cannot be guided
    in this way."""
    built = build("sample.guidance", guidance, GUIDANCES, classifier=classifier)
    fits = all(hasattr(built, field) for field in ("passes", "num_classes", "check"))
    check_kind("sample.guidance", guidance.name, built, fits, "a vdm.evaluation.guided.Guidance")
    if has_noise_levels(model):  # other models have no guidance
        built.check(model)
    return built


def open_metrics_hook(
    metrics: ConfigDict, resolved: dict[str, Any], workdir: Path
) -> MetricsHook | None:
    """Opens the user's experiment tracker, which may read the resolved config; None if there is
    none. Only training calls this: evaluating or loading a model opens no tracker."""
    return build("metrics", metrics, METRICS, config=resolved, workdir=workdir)


EXACT_DIVERGENCE = 16  # eval.ode.divergence = "auto" is exact up to this many dimensions


def build_estimator(options: EvalOptions, model: AnyModel) -> Estimator:
    """Builds the bound that options.bound names. ValueError for a model that does not have it."""
    if not has_noise_levels(model):
        if options.bound != "elbo" or options.num_steps:
            raise ValueError(
                f"eval.bound = {options.bound!r}, eval.num_steps = {options.num_steps}: a model "
                "without a noise schedule needs 'elbo' and 0"
            )
        return PathElbo(model.num_levels)
    weights = re.fullmatch(r"iw-([1-9]\d*)", options.bound)
    if options.bound == "elbo":
        return Elbo(options.num_steps, model.more_terms)
    if weights:
        require(model, "importance_weighted", f"eval.bound = {options.bound!r}")
        return ImportanceWeighted(options.num_steps, int(weights[1]))
    if options.bound.startswith("iw"):
        raise ValueError(
            f"eval.bound = {options.bound!r}: iw-K takes a positive number of paths for K, such as "
            "iw-64"
        )
    check_choice("eval.bound", options.bound, BOUNDS)
    require(model, "probability_flow", f"eval.bound = {options.bound!r}")
    if model.network_decodes:
        raise ValueError(
            f"eval.bound = {options.bound!r}: the flow ends with the likelihood's own rule, so set "
            "model.decoder = 'bayes', or choose 'elbo' or 'iw-K'"
        )
    if model.multivariate:
        raise ValueError(
            f"eval.bound = {options.bound!r}: the flow is solved in one omega for all dimensions, "
            "but in this schedule each has its own: choose 'elbo' or 'iw-K'"
        )
    kind, ode = options.bound.removeprefix("ode-"), options.ode
    if options.num_steps:
        raise ValueError(
            f"eval.bound = {options.bound!r} is for continuous time: set eval.num_steps = 0 (the "
            "number of solver steps is eval.ode.num_steps)"
        )
    if kind != "decoder" and "noisy_data" not in model.supports:
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
