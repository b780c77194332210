"""The tables of built-in components, and `build`, which makes one from its name and kwargs.

In a config a component is {"name": ..., "kwargs": {...}}. The name is an entry of the table, or a
dotted path "my_package.module:Thing" to a component of your own. Its constructor gets the kwargs,
and those facts about the data (num_codes, num_classes, ...) that it has parameters for. Kwargs that
only other built-in components accept are ignored.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from vdm.arguments import suggest
from vdm.data import generated, sources, transforms, user_files
from vdm.diffusion import code_heads, flow, grids, langevin, likelihood, samplers, weightings
from vdm.evaluation import guided
from vdm.io.canonical import with_tuples
from vdm.io.errors import describe
from vdm.models.vdm import VDM
from vdm.nn import classifiers, mlp, published_schedules, schedules, unet
from vdm.training import optim

HEADS: Mapping[str, Callable] = {"table": code_heads.Table, "normals": code_heads.Normals}
SOURCES: Mapping[str, Callable] = {
    "digits": sources.digits,
    "tfds": sources.tfds_images,
    **{name: partial(sources.named_tfds, name) for name in sources.TFDS_FACTS},
    **{name: partial(user_files.imagenet, name) for name in user_files.IMAGENETS},
    "folder": user_files.folder,
    "npy": user_files.npy,
    "swirl": generated.swirl,
    "mixture": generated.mixture,
    "synthetic": generated.synthetic,
}
AUGMENTATIONS: Mapping[str, Callable] = {"none": lambda: None, "images": transforms.images}
MODELS: Mapping[str, Callable] = {"vdm": VDM}
SCHEDULES: Mapping[str, Callable] = {
    "linear": schedules.Linear,
    "cosine": schedules.Cosine,
    "beta_linear": schedules.BetaLinear,
    "ddpm_linear": schedules.DDPMLinear,
    "monotone": schedules.Monotone,
    "polynomial": schedules.Polynomial,
    "tabulated": schedules.Tabulated,
    "vdm_nnet": published_schedules.VDMNet,
    "vdm_scalar": published_schedules.VDMScalar,
}
NETWORKS: Mapping[str, Callable] = {"unet": unet.UNet, "mlp": mlp.MLP}
LIKELIHOODS: Mapping[str, Callable] = {
    "discretised": likelihood.Discretised,
    "gaussian": likelihood.Gaussian,
}
WEIGHTINGS: Mapping[str, Callable] = {
    "bound": lambda: weightings.bound,
    "simple": lambda: weightings.simple,
    "min_snr": weightings.min_snr,
    "sigmoid": weightings.sigmoid,
}
OPTIMIZERS: Mapping[str, Callable] = {"adamw": optim.adamw, "sgd": optim.sgd}
SAMPLERS: Mapping[str, Callable] = {
    "ancestral": samplers.ancestral,
    "mixture_ancestral": samplers.mixture_ancestral,
    "ddim": samplers.ddim,
    "heun": samplers.heun,
    "dpm_solver": samplers.dpm_solver,
    "euler_maruyama": samplers.euler_maruyama,
    "predictor_corrector": langevin.predictor_corrector,
    "annealed_langevin": langevin.annealed_langevin,
    "flow": flow.flow,
}
GRIDS: Mapping[str, Callable] = {
    "equal_times": lambda: grids.equal_times,
    "equal_omegas": lambda: grids.equal_omegas,
    "karras": grids.karras,
    "least_bound": lambda: grids.least_bound,
}
GUIDANCES: Mapping[str, Callable] = {
    "none": guided.Unguided,
    "classifier_free": guided.ClassifierFree,
    "classifier": guided.Classified,
}
CLASSIFIERS: Mapping[str, Callable] = {
    "convnet": classifiers.ConvNet,
    "perceptron": classifiers.Perceptron,
}
METRICS: Mapping[str, Callable] = {"none": lambda: None}

TABLES: Mapping[str, Mapping[str, Callable]] = {
    "data": SOURCES,
    "data.augmentation": AUGMENTATIONS,
    "model": MODELS,
    "model.head": HEADS,
    "schedule": SCHEDULES,
    "network": NETWORKS,
    "likelihood": LIKELIHOODS,
    "weighting": WEIGHTINGS,
    "optim": OPTIMIZERS,
    "sample": SAMPLERS,
    "eval.grid": GRIDS,
    "compress.grid": GRIDS,
    "sample.grid": GRIDS,
    "sample.guidance": GUIDANCES,
    "classifier": CLASSIFIERS,
}
"""Group of the config -> the table of the components that it can name."""


def build(what: str, component: ConfigDict, table: Mapping[str, Callable], **facts: Any) -> Any:
    """Builds the component that the group `what` of the config names.

    facts: values that the data and other groups determine; the constructor receives those that are
    among its parameters. ValueError for an unknown name, an unknown kwarg or a missing one.
    """
    constructor = lookup(what, component.name, table)
    kwargs = dict(component.kwargs)
    parameters = inspect.signature(constructor).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in [k for k in kwargs if k not in parameters and not takes_any]:
        # A config lists the parameters of all built-in components, so that changing the name is
        # enough for an ablation. A parameter that no component has is a mistake.
        if any(key in inspect.signature(other).parameters for other in table.values()):
            del kwargs[key]
            continue
        known = [p for p in parameters if p not in facts and p not in ("parent", "name")]
        raise ValueError(
            f"{what}.kwargs.{key} is not a parameter of {component.name!r}; {suggest(key, known)}"
        )
    accepted = {k: v for k, v in facts.items() if k in parameters and k not in kwargs}
    missing = [
        f"{what}.kwargs.{p.name}"
        for p in parameters.values()
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.name not in accepted | kwargs
    ]
    if missing:
        raise ValueError(f"{what}.name = {component.name!r} also needs {', '.join(missing)}")
    return constructor(**accepted, **{key: with_tuples(value) for key, value in kwargs.items()})


def check_kind(what: str, name: str, built: Any, fits: bool, kind: str) -> None:
    """Raises ValueError if the object built for a component does not fit; kind: what it must be."""
    if not fits:
        raise ValueError(
            f"{what}.name = {name!r} gives an object of type {type(built).__name__}: it must give "
            f"{kind}; see vdm/README.md"
        )


def lookup(what: str, name: str, table: Mapping[str, Callable]) -> Callable:
    """Returns the constructor of that name in the table, or the one at that dotted path."""
    if name in table:
        return table[name]
    if ":" not in name:
        raise ValueError(
            f"unknown {what}.name {name!r}; {suggest(name, table)}; "
            "or your own as 'package.module:Thing'"
        )
    module, _, attribute = name.partition(":")
    try:
        constructor = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        text = str(error) if isinstance(error, ImportError | AttributeError) else describe(error)
        top = module.partition(".")[0]
        absent = isinstance(error, ModuleNotFoundError) and error.name == top
        remedy = f"; PYTHONPATH must have the folder that {top} is in" if absent else ""
        raise ValueError(f"{what}.name = {name!r} cannot be imported: {text}{remedy}") from error
    if not callable(constructor):
        kind = type(constructor).__name__
        raise ValueError(f"{what}.name = {name!r} is a {kind}, not callable")
    return constructor


FACTS = ("dims", "num_codes", "num_classes", "outputs_per_dim", "augmented")
"""Facts about the data; a schedule, network or likelihood gets those it has parameters for."""
