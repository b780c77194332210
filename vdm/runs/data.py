"""What a workdir keeps of the data that its run is trained on: `data.json`.

With it a trained model needs no data to be loaded, to sample, and to compress, and a resumed run
notices other data than it was begun with.
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
    """data.json: the facts of a source and the fingerprint of its training split."""
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
    """data.json of a folder; None where there is none, as in workdirs of earlier versions.
    ValueError where it is damaged."""
    path = folder / FILENAME
    if not path.is_file():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or any(key not in found for key in ("name", *_FACTS)):
        raise ValueError(f"{path} is damaged: remove it, and train on to have it written again")
    return found


def settle(
    folder: Path, source: Source, split: Split, step: int | None, accept_new_data: bool
) -> dict[str, Any]:
    """The data.json of a training in `folder` that goes on from `step` (None: it begins).

    ValueError where its data are not those that it was begun with, unless they are accepted: then
    "earlier" has what it was trained on before, each until which step.
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
            f"{theirs} and are {ours} ({counts}); bring the former back, choose another --workdir, "
            "or go on with the new ones by --accept_new_data"
        )
    say(f"the {what} were {theirs} and are {ours} ({counts}): going on with the new ones")
    return now | {"earlier": [*earlier, before | {"until_step": step}]}


def check_split(model: AnyModel, source: Source, split: Split) -> None:
    """ValueError for examples or labels that the model cannot be trained or evaluated on."""
    examples = split.examples
    # Of what cannot be wrong, such as large mapped sets, nothing is read.
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
            f"the {split.name} split of data set {source.name!r} cannot be used: {error}; mend its "
            "files, or name others in config.data"
        ) from error


def open_source(config: ConfigDict, workdir: Path, init_from: str | None, trained: bool) -> Source:
    """The data set of a config, for a run in `workdir`.

    Of a run that is trained the facts are those that it was trained with: where the data are gone,
    or are others now, the source has them still, and says so when it is asked for a split.
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
        f"{'; '.join(differing)}): bring those back, or choose another --workdir"
    )
    return dataclasses.replace(source, **facts, load=_gone(reason))


def _facts(kept: dict[str, Any]) -> dict[str, Any]:
    return {key: kept[key] for key in _FACTS} | {"shape": tuple(kept["shape"])}


def _gone(reason: str) -> Callable[[str], Split]:
    def load(split: str) -> Split:
        raise ValueError(reason)

    return load


def _of_origin(init_from: str | None) -> dict[str, Any] | None:
    """data.json of the run that parameters come from: of its workdir, or of a folder in it."""
    if init_from is None:
        return None
    path = Path(init_from).absolute()
    workdirs = [path, *(c.parent for c in (path, path.parent) if c.name == "checkpoints")]
    return next((kept for workdir in workdirs if (kept := read(workdir))), None)


def _rebuilt(config: ConfigDict, workdir: Path, trained: bool, error: Exception) -> Source:
    """The source where neither the data nor data.json say the shape of an example: by the samples
    of a run that an earlier version trained. Raises the error, with a remedy, where there are none.
    """
    constructor = SOURCES.get(config.data.name)
    takes_shape = constructor and "shape" in inspect.signature(constructor).parameters
    if not trained or not takes_shape or config.data.kwargs.get("shape"):
        raise error
    samples = workdir / "samples.npz"
    with contextlib.suppress(Exception):  # it may be absent, or damaged in a hundred ways
        fields = config.data.to_dict()
        with np.load(samples) as found:
            fields["kwargs"]["shape"] = found["samples"].shape[1:]
        return configs.build_source(ConfigDict(fields))
    raise ValueError(
        f"{error}; to use the model without its data, set data.kwargs.shape to the shape of an "
        f"example, on the command line or in {workdir / 'config.json'}"
    ) from error
