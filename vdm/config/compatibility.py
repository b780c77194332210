"""Compares configs of one workdir: which differences matter to its trained state and its files."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from vdm.config.listing import flatten
from vdm.config.options import complete
from vdm.config.registry import (
    AUGMENTATIONS,
    FACTS,
    HEADS,
    LIKELIHOODS,
    NETWORKS,
    OPTIMIZERS,
    SCHEDULES,
    SOURCES,
    WEIGHTINGS,
)
from vdm.data.sources import TFDS_FACTS
from vdm.io.atomic import to_json
from vdm.io.canonical import canonical, with_tuples

# Fields that shape the trained state: a workdir belongs to one choice of them.
STATE_FIELDS = (
    "seed", "model", "schedule", "network", "likelihood", "weighting", "data", "optim",
    "train.batch_size", "train.prng_impl",
)  # fmt: skip
# Exceptions: where the data are stored, and how the network is compiled, change no state.
NOT_STATE_FIELDS = ("data.data_dir", "network.kwargs.remat", "network.kwargs.scan")
SHAPE_OF_DATA = "data.kwargs.shape"
# The kwargs of user data sets that say where their files are.
PLACES = {
    "folder": ("path",),
    "npy": ("path", "train", "test", "train_labels", "test_labels"),
}


def differing_fields(config: Mapping, other: Mapping) -> list[str]:
    """Returns the fields that shape the trained state and differ, each as "a.b: here x, there y".

    A kwarg that is not given has the default of its component.
    """
    ours, theirs = (_flat(_with_defaults(complete(c).to_dict())) for c in (config, other))
    # In continuous time these decide how a model is evaluated, not what it is.
    chosen_later = () if config["model"]["num_steps"] else ("model.kernel", "model.decoder")
    return [
        f"{field}: here {_shown(ours, field)}, there {_shown(theirs, field)}"
        for field in sorted(ours.keys() | theirs.keys())
        if canonical(ours.get(field, "absent")) != canonical(theirs.get(field, "absent"))
        and any(field == f or field.startswith(f + ".") for f in STATE_FIELDS)
        and field not in NOT_STATE_FIELDS + chosen_later
        # A shape that is not given is read from the data; `vdm.runs.data` compares those shapes.
        and not (field == SHAPE_OF_DATA and not (ours.get(field) and theirs.get(field)))
    ]


def _shown(fields: Mapping, field: str) -> str:
    return repr(fields[field]) if field in fields else "not set"


# Fields that affect only how a model is trained, not what it computes afterwards.
TRAINING_FIELDS = ("model.label_dropout", "model.augmented_flag", "network.kwargs.dropout",
                   "schedule.train")  # fmt: skip


def model_fields(config: Mapping) -> dict[str, Any]:
    """Returns the fields that determine what the parameters mean, in canonical form.

    Kwargs at their default are left out, so that a parameter added in a later version changes
    nothing.
    """
    return canonical(_model_fields(config, _differs))


def earlier_model_fields(config: Mapping) -> list[dict[str, Any]]:
    """Returns `model_fields` as earlier versions computed it, which distinguished tuples from
    lists: once for the config of a Python file, and once for the same config in config.json, where
    the default () had become [] and no longer counted as the default."""
    plain = to_json(complete(config).to_dict())
    from_file = with_tuples(plain)
    return [_model_fields(form, lambda value, default: value != default)
            for form in (from_file, plain)]  # fmt: skip


def computed_fields(config: Mapping) -> dict[str, Any]:
    """Returns the fields that a model's numbers depend on, besides its parameters, in canonical
    form."""
    filled = _with_defaults(complete(config).to_dict())
    groups = {key: filled[key] for key in ("model", "schedule", "network", "likelihood")}
    return canonical(_flat(groups))


def _differs(value: Any, default: Any) -> bool:
    try:
        return canonical(value) != canonical(default)
    except TypeError:  # no default, or one that a config cannot express
        return True


def _model_fields(config: Mapping, differs: Callable[[Any, Any], bool]) -> dict[str, Any]:
    complete_config = complete(config).to_dict()
    groups = {key: complete_config[key] for key in ("model", "schedule", "network", "likelihood")}
    if groups["model"]["head"]["name"] == "table":  # all there was before this field
        groups["model"] = {k: v for k, v in groups["model"].items() if k != "head"}
    for what, table in (("schedule", SCHEDULES), ("network", NETWORKS)):
        component = groups[what]
        if component["name"] in table:
            parameters = inspect.signature(table[component["name"]]).parameters
            given = {
                name: value
                for name, value in dict(component["kwargs"]).items()
                if name in parameters and differs(value, parameters[name].default)
            }
            groups[what] = component | {"kwargs": given}
    # The kernel and the decoder of a file are in its header.
    left_out = (*NOT_STATE_FIELDS, *TRAINING_FIELDS, "model.kernel", "model.decoder")
    return {field: v for field, v in _flat(groups).items() if field not in left_out}


def _with_defaults(config: Mapping) -> dict[str, Any]:
    """Returns the config with the defaults of its components filled in as kwargs."""
    filled = _fill(config, _COMPONENTS)
    data = _fill(filled["data"], {"augmentation": AUGMENTATIONS})
    filled["model"] = _fill(filled["model"], {"head": HEADS})
    places = PLACES.get(data["name"], ())
    data["kwargs"] = {name: v for name, v in data["kwargs"].items() if name not in places}
    if data["name"] == "tfds" and data["kwargs"]["dataset"] in TFDS_FACTS:
        own = {"name": data["kwargs"]["dataset"], "kwargs": {"version": data["kwargs"]["version"]}}
        data |= own  # the same data set has two names
    return filled | {"data": data}


def _fill(config: Mapping, components: Mapping[str, Mapping]) -> dict[str, Any]:
    filled = dict(config)
    for what, table in components.items():
        component = filled.get(what, {})
        if component.get("name") in table:
            parameters = inspect.signature(table[component["name"]]).parameters.values()
            # For a data set these parameters are settings; the others get them from the data.
            facts = ("parent", "name", *(() if what == "data" else FACTS))
            defaults = {
                p.name: p.default
                for p in parameters
                if p.default is not p.empty and p.name not in facts
            }
            names = {p.name for p in parameters}  # `build` ignores others too
            given = {k: v for k, v in dict(component["kwargs"]).items() if k in names}
            filled[what] = {**component, "kwargs": defaults | given}
    return filled


_COMPONENTS = {
    "schedule": SCHEDULES, "network": NETWORKS, "likelihood": LIKELIHOODS, "data": SOURCES,
    "optim": OPTIMIZERS, "weighting": WEIGHTINGS,
}  # fmt: skip


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dotted name -> value, with a list for a tuple."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in flatten(fields).items()}
