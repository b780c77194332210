"""Checks that the groups of a config fit together, once its objects are built and before anything
is written. Each check raises a ValueError of one line that names the fields.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vdm.config.build import Built
from vdm.config.options import EvalOptions, Options, SampleOptions
from vdm.config.own_components import check_own
from vdm.config.registry import MODELS
from vdm.data.sources import Source
from vdm.diffusion.grids import Grid, equal_times, least_bound
from vdm.diffusion.samplers import Sampler
from vdm.evaluation.features import check_features
from vdm.evaluation.guided import check_guided_codes
from vdm.evaluation.samples import check_samples
from vdm.evaluation.step_costs import check_choosable, check_steppable
from vdm.models.interface import (
    OWN_LATENTS,
    has_noise_levels,
    num_classes,
    require,
    supports,
)
from vdm.models.latent_variable import AnyModel, check_methods, param_shapes
from vdm.training import schedule_objectives as train_schedule


def check(config: ConfigDict, options: Options, built: Built) -> None:
    """Checks that a complete config, its plain values and its objects fit together."""
    check_labels(config, built.source)
    check_likelihood(config, built.source)
    check_augmented_flag(config)
    check_capabilities(config, built)
    check_kernel(config, built.model)
    check_grids(config, options, built)
    check_shapes(config, built.model)
    check_own(config, built)
    if has_noise_levels(built.model):  # other models have no guidance
        built.guidance.check(built.model)
        check_guided_codes(built.guidance, built.model, built.sampler)
    classes = num_classes(built.model) or built.guidance.num_classes
    check_sample(options.sample, built.sampler, classes)
    if options.sample.features:
        check_features(options.sample.features, built.source.shape, built.source.num_codes)


def check_labels(config: ConfigDict, source: Source) -> None:
    """Checks that a conditional model has labels, and a way to drop them."""
    if config.model.class_conditional and not source.num_classes:
        own = {"folder": "labels = True", "npy": "num_classes = N"}.get(config.data.name)
        remedy = f"set data.kwargs.{own}" if own else "choose one that has, or set it to False"
        raise ValueError(
            f"model.class_conditional: data set {source.name!r} has no labels; {remedy}"
        )
    if config.model.label_dropout and config.network.kwargs.get("label_as_scalar"):
        raise ValueError(
            "model.label_dropout: with network.kwargs.label_as_scalar no number can stand for a "
            "dropped label: set one of them to 0 or False"
        )


def check_likelihood(config: ConfigDict, source: Source) -> None:
    """Checks that likelihood and prediction suit the data, integer codes or real numbers."""
    needs_codes = config.model.prediction == "codes" or config.likelihood.name == "discretised"
    if not source.num_codes and needs_codes:
        raise ValueError(
            f"data set {source.name!r} is real-valued: likelihood.name = 'discretised' and "
            "model.prediction = 'codes' need integer codes; choose 'gaussian' and 'eps'"
        )
    if source.num_codes and config.likelihood.name == "gaussian":
        raise ValueError(
            f"data set {source.name!r} has integer codes: likelihood.name = 'gaussian' is for "
            "real-valued data; choose 'discretised'"
        )


def check_augmented_flag(config: ConfigDict) -> None:
    """Checks that a network which is told which images are augmented sees both kinds, and can
    distinguish the flag from a label."""
    if not config.model.augmented_flag:
        return
    chosen = config.data.augmentation
    if chosen.name == "none":
        raise ValueError(
            "model.augmented_flag tells the network which images are augmented, but with "
            "data.augmentation.name = 'none' no image is: choose 'images', or set it to False"
        )
    if chosen.name == "images" and chosen.kwargs.get("share", 1.0) == 1:
        raise ValueError(
            "model.augmented_flag with data.augmentation.kwargs.share = 1: the network would never "
            "be trained on an image that is not augmented, as the test images are; "
            "set share to 0.5, or the flag to False"
        )
    if config.model.class_conditional and config.network.kwargs.get("label_as_scalar"):
        raise ValueError(
            "network.kwargs.label_as_scalar has only one number for both the label and the "
            "augmentation flag: set it, model.class_conditional or model.augmented_flag to False"
        )


def check_capabilities(config: ConfigDict, built: Built) -> None:
    """Checks that the model has the capabilities that the config uses (`vdm.models.interface`)."""
    model = built.model
    if has_noise_levels(model):
        require(model, built.sampler.needs, f"sample.name = {config.sample.name!r}")
    elif not supports(model) >= OWN_LATENTS:  # a subclass of VDM without a bound of its own
        require(model, "noise_levels", f"model.name = {config.model.name!r}")
    else:
        check_without_schedule(config)


def check_kernel(config: ConfigDict, model: AnyModel) -> None:
    """Checks that the model has what the reverse kernel and the decoder need."""
    kernel, decoder = config.model.kernel, config.model.decoder
    if has_noise_levels(model) and (model.reverse, model.decoder_rule) != (kernel, decoder):
        raise ValueError(
            f"model.kernel = {kernel!r}, model.decoder = {decoder!r}: model.name = "
            f"{config.model.name!r} does not take them; let it have the parameters reverse and "
            "decoder_rule, or choose 'gaussian' and 'bayes'"
        )
    if not has_noise_levels(model) or (kernel, decoder) == ("gaussian", "bayes"):
        return  # `check_without_schedule` refuses these fields for other models
    field = f"model.kernel = {kernel!r}" if kernel != "gaussian" else f"model.decoder = {decoder!r}"
    if kernel.startswith("gaussian_fitted"):
        if config.model.num_steps:
            raise ValueError(
                f"{field} is fitted to a trained network: it is for evaluation, with "
                "model.num_steps = 0 and eval.num_steps = T"
            )
        if model.multivariate:
            raise ValueError(
                f"{field} needs one omega for all dimensions, but in this schedule each has its "
                "own: choose 'gaussian' or 'mixture'"
            )
    if kernel == "mixture" or decoder == "network":
        if config.model.prediction != "codes":
            raise ValueError(
                f"{field} needs the probability of each code, which a network of "
                f"model.prediction = {config.model.prediction!r} does not give: choose 'codes'"
            )
        require(model, "code_probabilities", field)
    if config.model.num_steps and config.weighting.name != "bound":
        raise ValueError(
            f"weighting.name = {config.weighting.name!r} weights squared errors, which the bound "
            f"of {field} in T steps is not made of: choose 'bound', or model.num_steps = 0"
        )


def check_grids(config: ConfigDict, options: Options, built: Built) -> None:
    """Checks that the levels of T steps can be chosen where the config says so."""
    field = f"eval.grid.name = {config.eval.grid.name!r}"
    check_eval_grid(field, options.eval, built.eval_grid, built.model)
    if built.grid is least_bound:
        field = "sample.grid.name = 'least_bound'"
        check_choosable(built.model, field, options.sample.num_steps)
    if built.compress_grid is not equal_times:
        field = f"compress.grid.name = {config.compress.grid.name!r}"
        _check_grid(field, built.compress_grid, built.model, options.compress.num_steps)


def check_eval_grid(field: str, options: EvalOptions, grid: Grid, model: AnyModel) -> None:
    """Raises ValueError unless the bound has steps whose levels the grid can choose. field: what
    chose the grid."""
    if grid is equal_times:
        return
    if options.bound.startswith("ode"):
        raise ValueError(
            f"{field}: eval.bound = {options.bound!r} has no levels of steps: set eval.grid.name = "
            "'equal_times'"
        )
    if not options.num_steps:
        raise ValueError(
            f"{field} is for a bound of finitely many steps: set eval.num_steps to their number, "
            "such as 10, or eval.grid.name = 'equal_times'"
        )
    _check_grid(field, grid, model, options.num_steps)


def _check_grid(field: str, grid: Grid, model: AnyModel, num_steps: int) -> None:
    if grid is least_bound:
        check_choosable(model, field, num_steps)
    else:
        check_steppable(model, field)


def check_without_schedule(config: ConfigDict) -> None:
    """Raises ValueError for a field that needs noise levels or labels, which this model lacks."""
    defaults = {
        "model.class_conditional": False,
        "model.augmented_flag": False,
        "model.num_steps": 0,
        "model.kernel": "gaussian",
        "model.decoder": "bayes",
        "weighting.name": "bound",
        "eval.bound": "elbo",
        "eval.num_steps": 0,
        "eval.grid.name": "equal_times",
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
                f"{field} = {value!r} needs a model with a noise schedule and labels, and "
                f"model.name = {config.model.name!r} has neither: set it to {needed!r}, or choose "
                "'vdm'"
            )


def check_shapes(config: ConfigDict, model: AnyModel) -> None:
    """Traces the model with shapes only, so that a mistake in a component of the user's own is
    reported in one line before anything is written."""
    try:
        params = param_shapes(model)
        if not has_noise_levels(model):
            check_methods(model, params)
            return
        if model.multivariate and "noisy_data" not in model.supports:
            raise ValueError(
                f"schedule.name = {config.schedule.name!r} has an omega for each dimension of the "
                "data, but the latents of this model are not data: choose one omega for all"
            )
        train_schedule.check(
            config.schedule.train, model.schedule, config.model.num_steps, model.interior_matters
        )
        if model.prediction == "next_mean":
            train_schedule.check_next_mean(
                config.schedule.train, model.num_steps, model.multivariate
            )
    except (TypeError, AttributeError) as error:
        names = f"network {config.network.name!r} or schedule {config.schedule.name!r}"
        if config.model.name not in MODELS:
            names = f"model {config.model.name!r}, {names}"
        raise ValueError(f"{names} cannot be called as vdm/README.md describes: {error}") from error


def check_sample(options: SampleOptions, sampler: Sampler, num_classes: int) -> None:
    """Raises ValueError for options that would make sampling fail, perhaps only after training."""
    check_samples(sampler, options.num_images, options.num_steps, options.interpolate)
    if options.label >= 0 and not num_classes:
        raise ValueError(
            f"sample.label = {options.label}: nothing is conditional on labels here; train with "
            "model.class_conditional = True, or choose a classifier as guidance"
        )
    if options.label >= max(1, num_classes):
        raise ValueError(
            f"sample.label = {options.label}: labels are 0 to {num_classes - 1}, and -1 takes the "
            "classes in turn"
        )
    least = 4 if options.precision_recall else 3
    if options.features and options.num_images < least:
        raise ValueError(
            f"sample.num_images = {options.num_images}: sample.features compares {least} images or "
            "more"
        )
    if options.features and not Path(options.features).is_file():
        raise ValueError(
            f"sample.features = {options.features!r}: there is no such file; give an .npz of "
            "vdm.evaluation.features"
        )
