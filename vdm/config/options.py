"""The values of a config that are no components: how long, how often, how many.

`read` checks them; the components are built in `vdm.config.build`.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from vdm.arguments import check_choice, check_count, check_number, check_share, suggest
from vdm.compression.limits import MOST_CELLS, MOST_LANES, MOST_STEPS, ORDERS
from vdm.config import defaults
from vdm.io.places import check_local

PREDICTIONS = ("eps", "x", "v", "score", "next_mean", "codes")
SCHEDULE_TRAINING = ("bound", "variance", "variance_stratified", "adaptive", "fixed")
DIVERGENCES = ("auto", "exact", "hutchinson")
PRNG_IMPLS = ("threefry2x32", "rbg")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """config.train; intervals are in steps, 0 devices are all there are; fsdp of them share each
    array of the state; accumulate microbatches make a batch; after watchdog_secs without a step a
    report says where it hangs, 0: never. prng_impl: the generator of the noise of training; the
    initial parameters and evaluations always have threefry."""

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
    """config.eval.ode: 0 steps are as many as the tolerance asks for; divergence "auto" is exact
    in up to 16 dimensions."""

    num_steps: int
    tolerance: float
    divergence: str
    probes: int


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
    ode: OdeOptions


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """config.sample without its components. label -1: the classes in turn; interpolate: images of
    a row between two latents, 0 for none; num_frames: of an animation, 0 for none; features: the
    file of the features that samples are compared with data by, "" for no comparison;
    precision_recall: whether that comparison has precision and recall, which take longest."""

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
    """config.compress: T of the chain; images coded at once, at most; grid cells per standard
    deviation; the seed of the initial bits, or a file to take them from; a file of labels.
    ValueError for more than a file can say."""

    num_steps: int
    lanes: int
    cells: int
    order: str
    seed: int
    initial_bits: str
    labels: str

    def __post_init__(self) -> None:
        for field, most in (("num_steps", MOST_STEPS), ("lanes", MOST_LANES),
                            ("cells", MOST_CELLS)):  # fmt: skip
            if getattr(self, field) > most:
                raise ValueError(
                    f"compress.{field} = {getattr(self, field)}: it must be at most {most}"
                )


@dataclasses.dataclass(frozen=True)
class ClassifierOptions:
    """config.classifier without its network."""

    num_steps: int
    batch_size: int
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class Options:
    """What is not a component: bound_steps is the T trained on, 0 for continuous time;
    train_schedule is how the schedule learns; weighting names that of the network's loss."""

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

# Fields that the first version had. Every config must state them: for what a run computes, another
# run's value is not a default. The list never grows: what a later version adds has the default of
# `vdm.config.defaults`, which says what was done before.
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

# Folders and files.
PLACES = ("data.data_dir", "sample.features", "compress.labels", "compress.initial_bits")


def complete(config: Mapping | ConfigDict) -> ConfigDict:
    """A copy of a config with the defaults of the fields that an earlier version did not have.

    A kwarg that is missing stays so: it means the default of its component.
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


def check_fields(config: ConfigDict) -> None:
    """Raises ValueError for a field that is missing, or that no config has, such as a misspelt one,
    which would leave the default in force without a word. A note of the user's own may stand beside
    the groups, under a name that resembles none."""
    for field in ORIGINAL_FIELDS:
        _field(config, field)
    _check_known(config, defaults.get_config(), "")


def _check_known(group: ConfigDict, default: ConfigDict, prefix: str) -> None:
    for key, value in group.items():
        if key not in default:
            if not prefix and not difflib.get_close_matches(key, list(default)):
                continue
            raise ValueError(
                f"the config has {prefix}{key}, which is not a field; {suggest(key, default)} "
                "(what a component of your own takes goes into its kwargs)"
            )
        if isinstance(default[key], ConfigDict) and key != "kwargs":
            if not isinstance(value, ConfigDict):
                raise ValueError(
                    f"{prefix}{key} = {value!r}: it must be a group with {', '.join(default[key])}"
                )
            _check_known(value, default[key], f"{prefix}{key}.")


def resolve(config: ConfigDict) -> tuple[ConfigDict, Options]:
    """The complete config and its options. ValueError for a missing field or a value of no use."""
    completed = complete(config)
    return completed, _read(completed)


def read(config: ConfigDict) -> Options:
    """The options of a config. ValueError for a missing field or a value of no use."""
    return resolve(config)[1]


def _read(config: ConfigDict) -> Options:
    check_fields(config)
    for place in PLACES:
        check_local(place, _field(config, place))
    check_choice("schedule.train", config.schedule.train, SCHEDULE_TRAINING)
    check_choice("model.prediction", config.model.prediction, PREDICTIONS)
    check_choice("compress.order", _field(config, "compress.order"), ORDERS)
    check_choice("train.prng_impl", _field(config, "train.prng_impl"), PRNG_IMPLS)
    check_choice("eval.params", _field(config, "eval.params"), ("ema", "raw"))
    check_choice("eval.ode.divergence", _field(config, "eval.ode.divergence"), DIVERGENCES)
    ode = _group(config, "eval.ode", OdeOptions, num_steps=0)
    options = Options(
        seed=count(config, "seed", 0),
        bound_steps=count(config, "model.num_steps", 0),
        train_schedule=config.schedule.train,
        weighting=config.weighting.name,
        ema_rate=_field(config, "optim.ema_rate"),
        ema_warmup=_field(config, "optim.ema_warmup"),
        train=_group(config, "train", TrainOptions, num_devices=0, eval_every=0, watchdog_secs=0),
        eval=_group(config, "eval", EvalOptions, num_steps=0, seed=0, step=-1, ode=ode),
        sample=_group(
            config, "sample", SampleOptions, seed=0, label=-1, interpolate=0, num_frames=0
        ),
        classifier=_group(config, "classifier", ClassifierOptions),
        compress=_group(config, "compress", CompressOptions, seed=0),
    )
    for field in ("seed", "eval.seed", "sample.seed", "compress.seed"):
        if _field(config, field) >= 2**64:
            raise ValueError(f"{field} = {_field(config, field)}: it must be below 2^64")
    rate = check_number("classifier.learning_rate", options.classifier.learning_rate)
    if not 0 <= rate < math.inf:
        raise ValueError(f"classifier.learning_rate = {rate}: it must be 0 or more, and finite")
    check_share("model.label_dropout", config.model.label_dropout)
    if config.model.label_dropout and not config.model.class_conditional:
        raise ValueError(
            f"model.label_dropout = {config.model.label_dropout} withholds labels from a model "
            "that is given none: set model.class_conditional = True"
        )
    if not 0 < check_number("eval.ode.tolerance", ode.tolerance) < 1:
        raise ValueError(f"eval.ode.tolerance = {ode.tolerance}: it must be in (0, 1)")
    check_share("optim.ema_rate", options.ema_rate)
    return options


def _field(config: ConfigDict, field: str) -> Any:
    """config.a.b for "a.b"; ValueError where there is none."""
    value: Any = config
    for part in field.split("."):
        if part not in value:
            raise ValueError(
                f"the config has no {field}: begin with `config = "
                "vdm.config.defaults.get_config()`, which has every field, and change that"
            )
        value = value[part]
    return value


def _group(config: ConfigDict, group: str, kind: type[T], **given: Any) -> T:
    """The options of one group; its integers are at least 1, or what `given` says, which also
    has the groups inside it."""
    values = {}
    for field in dataclasses.fields(kind):
        name = f"{group}.{field.name}"
        if field.type is int:
            values[field.name] = count(config, name, given.get(field.name, 1))
        else:
            values[field.name] = given[field.name] if field.name in given else _field(config, name)
    return kind(**values)


def count(config: ConfigDict, field: str, least: int) -> int:
    """An integer field that must be `least` or more."""
    return check_count(field, _field(config, field), least)
