"""The tables of components, and how one of them is made from a config's name and kwargs.

A component is {"name": ..., "kwargs": {...}}. The name is one of the table's, or a dotted path
"my_package.module:Thing" to a component of your own. The kwargs go to its constructor; facts
about the data (num_codes, num_classes, ...) go to the parameters that are named for them. Kwargs
that only another component of the table has are left out.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from vdm.arguments import suggest
from vdm.data import generated, sources, transforms, user_files
from vdm.diffusion import flow, grids, langevin, likelihood, samplers, weightings
from vdm.evaluation import guided
from vdm.io.canonical import with_tuples
from vdm.io.errors import describe
from vdm.models.vdm import VDM
from vdm.nn import classifiers, mlp, published_schedules, schedules, unet
from vdm.training import optim

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
    "schedule": SCHEDULES,
    "network": NETWORKS,
    "likelihood": LIKELIHOODS,
    "weighting": WEIGHTINGS,
    "optim": OPTIMIZERS,
    "sample": SAMPLERS,
    "sample.grid": GRIDS,
    "sample.guidance": GUIDANCES,
    "classifier": CLASSIFIERS,
}
"""By the group of the config that names one of them."""


def build(what: str, component: ConfigDict, table: Mapping[str, Callable], **facts: Any) -> Any:
    """The component `config[what]`, with those facts that its constructor has parameters for."""
    constructor = lookup(what, component.name, table)
    kwargs = dict(component.kwargs)
    parameters = inspect.signature(constructor).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in [k for k in kwargs if k not in parameters and not takes_any]:
        # Another component's parameter: a config lists them all, so that changing the name is
        # enough for an ablation. A parameter that none has is a slip.
        if any(key in inspect.signature(other).parameters for other in table.values()):
            del kwargs[key]
            continue
        known = [p for p in parameters if p not in facts and p not in ("parent", "name")]
        raise ValueError(
            f"{what}.kwargs.{key} is no parameter of {component.name!r}; {suggest(key, known)}"
        )
    wanted = {k: v for k, v in facts.items() if k in parameters and k not in kwargs}
    missing = [
        f"{what}.kwargs.{p.name}"
        for p in parameters.values()
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.name not in wanted | kwargs
    ]
    if missing:
        raise ValueError(f"{what}.name = {component.name!r} also needs {', '.join(missing)}")
    return constructor(**wanted, **{key: with_tuples(value) for key, value in kwargs.items()})


def check_kind(what: str, name: str, found: Any, fits: bool, kind: str) -> None:
    """`found` must fit what it should be, a `kind`."""
    if not fits:
        raise ValueError(
            f"{what}.name = {name!r} gives an object of type {type(found).__name__}: it must give "
            f"{kind}; see vdm/README.md"
        )


def lookup(what: str, name: str, table: Mapping[str, Callable]) -> Callable:
    """The constructor of that name in the table, or at that dotted path."""
    if name in table:
        return table[name]
    if ":" not in name:
        raise ValueError(
            f"unknown {what}.name {name!r}; {suggest(name, table)}; "
            "or your own as 'package.module:Thing'"
        )
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a module of the user's may raise anything
        text = str(error) if isinstance(error, ImportError | AttributeError) else describe(error)
        top = module.partition(".")[0]
        absent = isinstance(error, ModuleNotFoundError) and error.name == top
        remedy = f"; PYTHONPATH must have the folder that {top} is in" if absent else ""
        raise ValueError(f"{what}.name = {name!r} cannot be imported: {text}{remedy}") from error
    if not callable(found):
        raise ValueError(f"{what}.name = {name!r} is a {type(found).__name__}, not callable")
    return found


FACTS = ("dims", "num_codes", "num_classes", "outputs_per_dim", "augmented")
"""What the data set says of itself to a schedule, network or likelihood that asks for it."""
