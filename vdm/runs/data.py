"""The record of the training data in a workdir: `data.json`.

With this record a trained model can be loaded, sampled and used for compression without its data,
and a resumed run notices that its data have changed.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vdm.config import build as configs
from vdm.config.registry import SOURCES
from vdm.data import arrays
from vdm.data.sources import Source, Split
from vdm.io.atomic import read_json
from vdm.io.console import say
from vdm.models.inputs import check_codes, check_labels
from vdm.models.interface import num_classes
from vdm.models.latent_variable import AnyModel

FILENAME = "data.json"
_FACTS = ("shape", "num_codes", "num_classes")


def describe(source: Source, split: Split) -> dict[str, Any]:
    """Returns data.json: the facts about a source and the fingerprints of its training split."""
    labels = split.labels
    return {
        "name": source.name,
        "shape": list(source.shape),
        "num_codes": source.num_codes,
        "num_classes": source.num_classes,
        "num_examples": len(split.examples),
        "fingerprint": split.fingerprint,
        "labels_fingerprint": None if labels is None else arrays.fingerprint(labels),
    }


def read(folder: Path) -> dict[str, Any] | None:
    """Reads the data.json of a folder; None if there is none, as in workdirs of earlier versions.
    ValueError if it is damaged."""
    path = folder / FILENAME
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or any(key not in content for key in ("name", *_FACTS)):
        raise ValueError(f"{path} is damaged: remove it, and resume training to write it again")
    return content


def settle(
    folder: Path, source: Source, split: Split, step: int | None, accept_new_data: bool
) -> dict[str, Any]:
    """Returns the data.json for a training in `folder` that resumes at `step` (None: a new one).

    ValueError if its data have changed since, unless accept_new_data: then the entry "earlier"
    lists the former data, each with the step until which they were used.
    """
    now, before = describe(source, split), None if step is None else read(folder)
    if before is None:
        return now
    earlier = before.pop("earlier", [])
    keys = [key for key in ("fingerprint", "labels_fingerprint") if before.get(key) != now[key]]
    if not keys:
        return now | ({"earlier": earlier} if earlier else {})
    what = "training labels" if keys == ["labels_fingerprint"] else "training data"
    theirs, ours = (f"{facts.get(keys[0])}" for facts in (before, now))
    counts = f"{before.get('num_examples')} examples then, {now['num_examples']} now"
    if not accept_new_data:
        raise ValueError(
            f"the {what} of {folder} have changed since step {step} was trained on them: they were "
            f"{theirs} and are {ours} ({counts}); restore the former data, choose another "
            "--workdir, or continue with the new data: --accept_new_data"
        )
    say(f"the {what} were {theirs} and are {ours} ({counts}): continuing with the new data")
    return now | {"earlier": [*earlier, before | {"until_step": step}]}


def check_split(model: AnyModel, source: Source, split: Split) -> None:
    """Raises ValueError for examples or labels that the model cannot be trained or evaluated on."""
    examples = split.examples
    # Data that cannot be out of range, such as large memory-mapped sets, are not read.
    in_range = not source.num_codes or (examples.dtype == np.uint8 and source.num_codes == 256)
    try:
        check_codes(model, examples[:1] if in_range else examples)
        check_labels(split.labels, len(examples), num_classes(model))
        if not len(examples):
            raise ValueError("it has no examples")
        if not source.num_codes and not np.isfinite(examples).all():
            raise ValueError("it has numbers that are not finite")
    except ValueError as error:
        raise ValueError(
            f"the {split.name} split of data set {source.name!r} cannot be used: {error}; correct "
            "its files, or name others in config.data"
        ) from error


def open_source(config: ConfigDict, workdir: Path, init_from: str | None, trained: bool) -> Source:
    """Opens the data set of a config, for a run in `workdir`.

    A trained run keeps the facts that it was trained with. If the data are missing or have changed,
    its source still has these facts, and raises ValueError only when a split is loaded.
    """
    kept = read(workdir) if trained else None
    try:
        source = configs.build_source(config.data)
    except (ValueError, OSError) as error:
        kept = kept or _of_origin(init_from)
        if kept is None:
            return _rebuilt(config, workdir, trained, error)
        facts = _facts(kept)
        evaluated = "holdout" if config.data.holdout else "test"
        return Source(kept["name"], **facts, load=_gone(str(error)), evaluation_split=evaluated)
    if kept is None:
        return source
    facts = _facts(kept)
    checked = [key for key in _FACTS if key != "num_classes" or config.model.class_conditional]
    differing = [
        f"{key} {getattr(source, key)}, not {facts[key]}"
        for key in checked
        if getattr(source, key) != facts[key]
    ]
    if not differing:
        return source
    reason = (
        f"the data of {workdir} are not those that it was trained on (they have "
        f"{'; '.join(differing)}): restore those, or choose another --workdir"
    )
    return dataclasses.replace(source, **facts, load=_gone(reason))


def _facts(kept: dict[str, Any]) -> dict[str, Any]:
    return {key: kept[key] for key in _FACTS} | {"shape": tuple(kept["shape"])}


def _gone(reason: str) -> Callable[[str], Split]:
    def load(split: str) -> Split:
        raise ValueError(reason)

    return load


def _of_origin(init_from: str | None) -> dict[str, Any] | None:
    """Reads data.json of the run that init_from names by its workdir or by a folder in it."""
    if init_from is None:
        return None
    path = Path(init_from).absolute()
    workdirs = [path, *(c.parent for c in (path, path.parent) if c.name == "checkpoints")]
    return next((kept for workdir in workdirs if (kept := read(workdir))), None)


def _rebuilt(config: ConfigDict, workdir: Path, trained: bool, error: Exception) -> Source:
    """Builds the source without data and data.json: takes the shape of an example from the samples
    of a run that an earlier version trained. Raises the error, with a remedy, if there are none.
    """
    constructor = SOURCES.get(config.data.name)
    takes_shape = constructor and "shape" in inspect.signature(constructor).parameters
    if not trained or not takes_shape or config.data.kwargs.get("shape"):
        raise error
    samples = workdir / "samples.npz"
    with contextlib.suppress(Exception):  # the file may be missing or damaged in many ways
        fields = config.data.to_dict()
        with np.load(samples) as archive:
            fields["kwargs"]["shape"] = archive["samples"].shape[1:]
        return configs.build_source(ConfigDict(fields))
    raise ValueError(
        f"{error}; to use the model without its data, set data.kwargs.shape to the shape of an "
        f"example, on the command line or in {workdir / 'config.json'}"
    ) from error
