"""From a config to objects: the tables of components, and the only reader of a ConfigDict.

`read` gives the options of training, evaluation and sampling; `build_*` the components.

A component is {"name": ..., "kwargs": {...}}. The name is one of the table's, or a dotted path
"my_package.module:Thing" to a component of your own. The kwargs go to its constructor; facts
about the data (num_codes, num_classes, ...) go to the parameters that are named for them. Kwargs
that only another component of the table has are left out.
"""

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import optax
from ml_collections import ConfigDict

from vdm.data import sources
from vdm.diffusion import likelihood, samplers
from vdm.model import VDM
from vdm.nn import mlp, schedules, unet
from vdm.training import optim

SOURCES: Mapping[str, Callable] = {
    "digits": sources.digits,
    "tfds": sources.tfds_images,
    "swirl": sources.swirl,
    "mixture": sources.mixture,
    "synthetic": sources.synthetic,
}
SCHEDULES: Mapping[str, Callable] = {
    "linear": schedules.Linear,
    "cosine": schedules.Cosine,
    "beta_linear": schedules.BetaLinear,
    "monotone": schedules.Monotone,
}
NETWORKS: Mapping[str, Callable] = {"unet": unet.UNet, "mlp": mlp.MLP}
LIKELIHOODS: Mapping[str, Callable] = {
    "discretised": likelihood.Discretised,
    "gaussian": likelihood.Gaussian,
}
OPTIMIZERS: Mapping[str, Callable] = {"adamw": optim.adamw, "sgd": optim.sgd}
SAMPLERS: Mapping[str, Callable] = {
    "ancestral": lambda: samplers.ancestral_step,
    "ddim": lambda: samplers.ddim_step,
}
PREDICTIONS = ("eps", "x", "v", "score", "codes")  # 'next_mean' belongs to a finite step
BOUNDS = ("elbo",)
SCHEDULE_TRAINING = ("bound", "fixed")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """config.train; intervals are in steps, 0 devices are all there are."""

    num_steps: int
    batch_size: int
    num_devices: int
    log_every: int
    save_every: int
    eval_every: int
    eval_draws: int
    keep_checkpoints: int


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """config.eval; num_steps is the T of the bound (0: continuous time), step the checkpoint's."""

    bound: str
    num_steps: int
    draws: int
    batch_size: int
    seed: int
    params: str
    step: int


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """config.sample without the sampler itself."""

    num_steps: int
    num_images: int
    batch_size: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Options:
    """What is not a component: bound_steps is the T trained on, 0 for continuous time."""

    seed: int
    bound_steps: int
    ema_rate: float
    ema_warmup: bool
    train: TrainOptions
    eval: EvalOptions
    sample: SampleOptions


T = TypeVar("T", TrainOptions, EvalOptions, SampleOptions)

# The fields that every config has beside those of the options.
REQUIRED_FIELDS = """
data.name data.kwargs data.data_dir data.holdout model.prediction model.class_conditional
schedule.name schedule.kwargs schedule.train network.name network.kwargs likelihood.name
likelihood.kwargs optim.name optim.kwargs sample.name sample.kwargs
"""

# Fields that shape the trained state: a workdir belongs to one choice of them.
STATE_FIELDS = (
    "seed", "model", "schedule", "network", "likelihood", "data", "optim", "train.batch_size"
)  # fmt: skip
# ... but where the data lie does not change what they are.
NOT_STATE_FIELDS = ("data.data_dir",)


def suggest(name: str, known: Any) -> str:
    """The part of a message that helps after a typo: the nearest known name, and all."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}known: {', '.join(known)}"


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
    kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    return constructor(**wanted, **kwargs)


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
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what}.name = {name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"{what}.name = {name!r} is a {type(found).__name__}, not callable")
    return found


def check_choice(field: str, value: Any, known: tuple) -> Any:
    """The value, which must be one of a few."""
    if value not in known:
        raise ValueError(f"unknown {field} {value!r}; {suggest(str(value), known)}")
    return value


def read(config: ConfigDict) -> Options:
    """The options of a config. ValueError for a missing field or a value of no use."""
    for field in REQUIRED_FIELDS.split():
        _field(config, field)
    check_choice("schedule.train", config.schedule.train, SCHEDULE_TRAINING)
    check_choice("model.prediction", config.model.prediction, PREDICTIONS)
    check_choice("eval.bound", _field(config, "eval.bound"), BOUNDS)
    check_choice("eval.params", _field(config, "eval.params"), ("ema", "raw"))
    options = Options(
        seed=_count(config, "seed", 0),
        bound_steps=_count(config, "model.num_steps", 0),
        ema_rate=_field(config, "optim.ema_rate"),
        ema_warmup=_field(config, "optim.ema_warmup"),
        train=_group(config, "train", TrainOptions, num_devices=0, eval_every=0),
        eval=_group(config, "eval", EvalOptions, num_steps=0, seed=0, step=-1),
        sample=_group(config, "sample", SampleOptions, seed=0),
    )
    if not 0 <= options.ema_rate < 1:
        raise ValueError(f"optim.ema_rate = {options.ema_rate}: it must be in [0, 1)")
    return options


def _field(config: ConfigDict, field: str) -> Any:
    """config.a.b for "a.b"; ValueError where there is none."""
    value: Any = config
    for part in field.split("."):
        if part not in value:
            raise ValueError(f"the config has no {field}; configs/digits.py shows every field")
        value = value[part]
    return value


def _group(config: ConfigDict, group: str, kind: type[T], **least: int) -> T:
    """The options of one group; its integers are at least 1, or what `least` says."""
    values = {}
    for field in dataclasses.fields(kind):
        name = f"{group}.{field.name}"
        is_text = field.type is str
        values[field.name] = (
            _field(config, name) if is_text else _count(config, name, least.get(field.name, 1))
        )
    return kind(**values)


def _count(config: ConfigDict, field: str, least: int) -> int:
    """An integer field that must be `least` or more."""
    value = _field(config, field)
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{field} = {value!r}: it must be an integer of at least {least}")
    return value


def build_source(config: ConfigDict) -> sources.Source:
    """The data set: its facts; nothing is read yet."""
    data_dir, holdout = config.data.data_dir, _count(config, "data.holdout", 0)
    return build("data", config.data, SOURCES, data_dir=data_dir, holdout=holdout)


def build_model(config: ConfigDict, source: sources.Source) -> VDM:
    """The model for examples of that source."""
    num_classes = source.num_classes if config.model.class_conditional else 0
    if config.model.class_conditional and not num_classes:
        raise ValueError(f"model.class_conditional: data set {source.name!r} has no labels")
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
    }
    return VDM(
        schedule=build("schedule", config.schedule, SCHEDULES, **facts),
        network=build("network", config.network, NETWORKS, **facts),
        likelihood=build("likelihood", config.likelihood, LIKELIHOODS, **facts),
        dims=source.shape,
        num_classes=num_classes,
        prediction=config.model.prediction,
        train_schedule=config.schedule.train != "fixed",
    )


def check_shapes(config: ConfigDict, model: VDM) -> None:
    """Runs schedule and network on shapes alone, so that a slip in one of the user's own is one
    line before anything is written."""
    try:
        jax.eval_shape(model.init, jax.random.key(0))
    except (TypeError, AttributeError) as error:
        names = f"network {config.network.name!r} or schedule {config.schedule.name!r}"
        raise ValueError(f"{names} cannot be called as the README says: {error}") from error


def build_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimiser; its learning rate decays over train.num_steps."""
    return build("optim", config.optim, OPTIMIZERS, num_steps=config.train.num_steps)


def build_sampler(config: ConfigDict) -> samplers.Step:
    """One reverse step of the chosen sampler."""
    return build("sample", config.sample, SAMPLERS)


def differing_fields(config: Mapping, other: Mapping) -> list[str]:
    """Fields that shape the trained state and differ, as "a.b: here x, there y"."""
    ours, theirs = _flatten(config), _flatten(other)
    return [
        f"{field}: here {ours.get(field, 'absent')!r}, there {theirs.get(field, 'absent')!r}"
        for field in sorted(ours.keys() | theirs.keys())
        if ours.get(field, _ABSENT) != theirs.get(field, _ABSENT)
        and any(field == f or field.startswith(f + ".") for f in STATE_FIELDS)
        and field not in NOT_STATE_FIELDS
    ]


_ABSENT = object()


def _flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
