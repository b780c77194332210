"""The plain values of a config: how long, how often, how many.

`read` checks them; `vdm.config.build` builds the components.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from vdm.arguments import check_choice, check_count, check_number, check_share, suggest
from vdm.compression import limits
from vdm.config import defaults
from vdm.io.places import check_local

PREDICTIONS = ("eps", "x", "v", "score", "next_mean", "codes")
KERNELS = ("gaussian", "mixture", "gaussian_fitted", "gaussian_fitted_per_dim")
SCHEDULE_TRAINING = ("bound", "variance", "variance_stratified", "adaptive", "fixed")
DIVERGENCES = ("auto", "exact", "hutchinson")
PRNG_IMPLS = ("threefry2x32", "rbg")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """The values of config.train. Intervals are in steps.

    num_devices: 0 for all. fsdp: the number of devices that share each array of the state.
    accumulate: the number of microbatches in a batch. watchdog_secs: the time without a step after
    which the watchdog prints where the run hangs; 0 for never. prng_impl: the random generator for
    the noise of training; initial parameters and evaluations always use threefry.
    """

    num_steps: int
    batch_size: int
    num_devices: int
    fsdp: int
    accumulate: int
    log_every: int
    save_every: int
    eval_every: int
    eval_draws: int
    keep_checkpoints: int
    watchdog_secs: int
    prng_impl: str


@dataclasses.dataclass(frozen=True)
class OdeOptions:
    """The values of config.eval.ode. num_steps: 0 for adaptive steps. divergence: "auto" is exact
    in up to 16 dimensions."""

    num_steps: int
    tolerance: float
    divergence: str
    probes: int


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """The values of config.eval. num_steps: T of the bound; 0 for continuous time."""

    bound: str
    num_steps: int
    draws: int
    batch_size: int
    seed: int
    params: str
    step: int
    ode: OdeOptions


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """The values of config.sample, without its components.

    label: -1 for the classes in turn. interpolate: images in a row between two latents; 0 for none.
    num_frames: frames of an animation; 0 for none. features: the file of the feature function by
    which samples are compared with the data; "" for no comparison. precision_recall: whether that
    comparison includes precision and recall, which take longest.
    """

    num_steps: int
    num_images: int
    batch_size: int
    seed: int
    label: int
    interpolate: int
    num_frames: int
    features: str
    precision_recall: bool


@dataclasses.dataclass(frozen=True)
class CompressOptions:
    """The values of config.compress.

    num_steps: T of the chain of latents. lanes: the largest number of images coded at once. cells:
    grid cells per standard deviation. seed: of the initial bits, unless initial_bits names a file
    to take them from. labels: a file of labels. kernel: "model" for the model's own. ValueError for
    numbers too large for the format.
    """

    num_steps: int
    lanes: int
    cells: int
    order: str
    seed: int
    initial_bits: str
    labels: str
    kernel: str = "model"

    def __post_init__(self) -> None:
        for field, most in (("num_steps", limits.MOST_STEPS), ("lanes", limits.MOST_LANES),
                            ("cells", limits.MOST_CELLS)):  # fmt: skip
            if getattr(self, field) > most:
                raise ValueError(
                    f"compress.{field} = {getattr(self, field)}: it must be at most {most}"
                )


@dataclasses.dataclass(frozen=True)
class ClassifierOptions:
    """The values of config.classifier, without its network."""

    num_steps: int
    batch_size: int
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class Options:
    """All plain values of a config.

    bound_steps: T of the bound that is trained; 0 for continuous time. train_schedule: how the
    schedule learns. weighting: the name of the weighting of the network's loss.
    """

    seed: int
    bound_steps: int
    train_schedule: str
    weighting: str
    ema_rate: float
    ema_warmup: bool
    train: TrainOptions
    eval: EvalOptions
    sample: SampleOptions
    classifier: ClassifierOptions
    compress: CompressOptions


T = TypeVar(
    "T",
    TrainOptions, EvalOptions, OdeOptions, SampleOptions, ClassifierOptions, CompressOptions,
)  # fmt: skip

# The fields of the first version. Every config must state them, because no default is right for all
# runs. The list never grows: a field that a later version adds has a default in
# `vdm.config.defaults`, which stands for what was done before the field existed.
ORIGINAL_FIELDS = (
    "seed", "data.name", "data.kwargs", "data.data_dir", "data.holdout", "model.num_steps",
    "model.prediction", "model.class_conditional", "schedule.name", "schedule.kwargs",
    "schedule.train", "network.name", "network.kwargs", "likelihood.name", "likelihood.kwargs",
    "optim.name", "optim.kwargs", "optim.ema_rate", "optim.ema_warmup", "train.num_steps",
    "train.batch_size", "train.num_devices", "train.log_every", "train.save_every",
    "train.eval_every", "train.eval_draws", "train.keep_checkpoints", "eval.bound",
    "eval.num_steps", "eval.draws", "eval.batch_size", "eval.seed", "eval.params", "eval.step",
    "sample.name", "sample.kwargs", "sample.num_steps", "sample.num_images", "sample.batch_size",
    "sample.seed",
)  # fmt: skip

# Fields that name folders and files.
PLACES = ("data.data_dir", "sample.features", "compress.labels", "compress.initial_bits")


def complete(config: Mapping | ConfigDict) -> ConfigDict:
    """Returns a copy of a config, with the defaults of the fields that an earlier version lacked.

    Missing kwargs are not added: each component has its own defaults for them.
    """
    copy = ConfigDict(config.to_dict() if isinstance(config, ConfigDict) else config)
    _fill(copy, defaults.get_config(), "")
    return copy


def _fill(group: ConfigDict, default: ConfigDict, prefix: str) -> None:
    for key, value in default.items():
        field = prefix + key
        if key not in group and not any(f"{f}.".startswith(f"{field}.") for f in ORIGINAL_FIELDS):
            group[key] = ConfigDict() if isinstance(value, ConfigDict) else value
        inside = isinstance(value, ConfigDict) and isinstance(group.get(key), ConfigDict)
        if inside and key != "kwargs":
            _fill(group[key], value, f"{field}.")


def check_fields(config: ConfigDict, own_fields: bool = False) -> None:
    """Raises ValueError for a missing field and, unless own_fields, for an unknown one, such as a
    misspelt name, which would silently leave the default in force. Notes of the user's own are
    allowed beside the groups, under names that do not resemble a group's."""
    for field in ORIGINAL_FIELDS:
        field_at(config, field)
    _check_known(config, defaults.get_config(), "", own_fields)


def _check_known(group: ConfigDict, default: ConfigDict, prefix: str, own_fields: bool) -> None:
    for key, value in group.items():
        if key not in default:
            own_note = not prefix and not difflib.get_close_matches(key, list(default))
            if own_fields or own_note:
                continue
            raise ValueError(
                f"the config has {prefix}{key}, which is not a field; {suggest(key, default)} "
                "(what a component of your own accepts goes into its kwargs)"
            )
        if isinstance(default[key], ConfigDict) and key != "kwargs":
            if not isinstance(value, ConfigDict):
                raise ValueError(
                    f"{prefix}{key} = {value!r}: it must be a group with {', '.join(default[key])}"
                )
            _check_known(value, default[key], f"{prefix}{key}.", own_fields)


def resolve(config: ConfigDict, own_fields: bool = False) -> tuple[ConfigDict, Options]:
    """Returns the complete config and its options. ValueError for a missing or invalid field.

    own_fields: whether fields that no config has are left alone, as in a workdir of an earlier
    version, which did not refuse them.
    """
    completed = complete(config)
    check_fields(completed, own_fields)
    return completed, _read(completed)


def read(config: ConfigDict) -> Options:
    """Returns the options of a config. ValueError for a missing or invalid field."""
    return resolve(config)[1]


def _read(config: ConfigDict) -> Options:
    for place in PLACES:
        check_local(place, field_at(config, place))
    check_choice("schedule.train", config.schedule.train, SCHEDULE_TRAINING)
    check_choice("model.prediction", config.model.prediction, PREDICTIONS)
    check_choice("model.kernel", field_at(config, "model.kernel"), KERNELS)
    check_choice("model.decoder", field_at(config, "model.decoder"), limits.DECODERS)
    check_choice("compress.order", field_at(config, "compress.order"), limits.ORDERS)
    kernels = ("model", *limits.KERNELS)
    check_choice("compress.kernel", field_at(config, "compress.kernel"), kernels)
    check_choice("train.prng_impl", field_at(config, "train.prng_impl"), PRNG_IMPLS)
    check_choice("eval.params", field_at(config, "eval.params"), ("ema", "raw"))
    check_choice("eval.ode.divergence", field_at(config, "eval.ode.divergence"), DIVERGENCES)
    ode = _group(config, "eval.ode", OdeOptions, num_steps=0)
    options = Options(
        seed=count(config, "seed", 0),
        bound_steps=count(config, "model.num_steps", 0),
        train_schedule=config.schedule.train,
        weighting=config.weighting.name,
        ema_rate=field_at(config, "optim.ema_rate"),
        ema_warmup=field_at(config, "optim.ema_warmup"),
        train=_group(config, "train", TrainOptions, num_devices=0, eval_every=0, watchdog_secs=0),
        eval=_group(config, "eval", EvalOptions, num_steps=0, seed=0, step=-1, ode=ode),
        sample=_group(
            config, "sample", SampleOptions, seed=0, label=-1, interpolate=0, num_frames=0
        ),
        classifier=_group(config, "classifier", ClassifierOptions),
        compress=_group(config, "compress", CompressOptions, seed=0),
    )
    for field in ("seed", "eval.seed", "sample.seed", "compress.seed"):
        if field_at(config, field) >= 2**64:
            raise ValueError(f"{field} = {field_at(config, field)}: it must be below 2^64")
    rate = check_number("classifier.learning_rate", options.classifier.learning_rate)
    if not 0 <= rate < math.inf:
        raise ValueError(f"classifier.learning_rate = {rate}: it must be 0 or more, and finite")
    check_share("model.label_dropout", config.model.label_dropout)
    if config.model.label_dropout and not config.model.class_conditional:
        raise ValueError(
            f"model.label_dropout = {config.model.label_dropout} drops labels of a model "
            "that gets none: set model.class_conditional = True"
        )
    if not 0 < check_number("eval.ode.tolerance", ode.tolerance) < 1:
        raise ValueError(f"eval.ode.tolerance = {ode.tolerance}: it must be in (0, 1)")
    check_share("optim.ema_rate", options.ema_rate)
    return options


def field_at(config: ConfigDict, field: str) -> Any:
    """Returns config.a.b for the name "a.b"; ValueError if there is no such field."""
    value: Any = config
    for part in field.split("."):
        if part not in value:
            raise ValueError(
                f"the config has no {field}: start from `config = "
                "vdm.config.defaults.get_config()`, which has every field, and change that"
            )
        value = value[part]
    return value


def _group(config: ConfigDict, group: str, kind: type[T], **given: Any) -> T:
    """Returns the options of one group.

    given: for an integer field its least value, if that is not 1; for a group inside this one, its
    options.
    """
    values = {}
    for field in dataclasses.fields(kind):
        name = f"{group}.{field.name}"
        if field.type is int:
            values[field.name] = count(config, name, given.get(field.name, 1))
        else:
            known = field.name in given
            values[field.name] = given[field.name] if known else field_at(config, name)
    return kind(**values)


def count(config: ConfigDict, field: str, least: int) -> int:
    """Returns an integer field, which must be `least` or more."""
    return check_count(field, field_at(config, field), least)
