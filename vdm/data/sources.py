"""Data sources: each knows its shape and number of codes at once and reads a split when asked.

A constructor is called as `fn(data_dir, holdout, **kwargs)` and does not read the data;
`Source.load` does. (Those in `vdm.data.user_files` read one header if the shape is not given.)
Splits are "train", "test" and, for holdout = h > 0, "holdout": the last h examples of the training
split, which are then removed from "train". Tune on "holdout" and use "test" only at the end.

`data_dir` is where prepared sets live; "" means $VDM_DATA_DIR or, if unset, ~/.cache/vdm/data.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np

from vdm.data import arrays
from vdm.data.records import find_version, read_records, resolve_data_dir, state_of

# (shape, number of classes) of the TFDS sets that need no kwargs; all have 256 codes.
TFDS_FACTS: dict[str, tuple[tuple[int, ...], int]] = {
    "mnist": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A fixed, ordered set of examples, in memory or mapped into it.

    Attributes:
        name: "train", "holdout" or "test".
        examples: uint8 codes [N, *shape], or float32 [N, D] for continuous data.
        labels: int32 [N], or None.
        stored_fingerprint: the fingerprint computed when the set was prepared, for sets too large
            to hash at each start; "" if there is none.
        notes: lines for the user about how it was read: what was skipped, what looks wrong.
    """

    name: str
    examples: np.ndarray
    labels: np.ndarray | None
    stored_fingerprint: str = ""
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """The hash "sha256:..." of the examples' dtype, shape and bytes, in order."""
        return self.stored_fingerprint or arrays.fingerprint(self.examples)


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set: the facts known before it is read, and the function that reads it.

    Attributes:
        name: the data set's name.
        shape: the shape of one example.
        num_codes: codes are 0 ... num_codes - 1; 0 means continuous data.
        num_classes: labels are 0 ... num_classes - 1; 0 means no labels.
        load: name of a split -> Split, the same object at every call. Raises ValueError for an
            unknown or empty split or data that cannot be read.
        evaluation_split: "holdout" if examples are held out, else "test".
    """

    name: str
    shape: tuple[int, ...]
    num_codes: int
    num_classes: int
    load: Callable[[str], Split]
    evaluation_split: str


def digits(data_dir: str, holdout: int) -> Source:
    """scikit-learn's 8 x 8 digits, with 17 codes: 1,500 train, 297 test, in the original order.

    The first load writes them as a TFDS set to `<data_dir>/digits` (about a second).
    """
    shape = (8, 8, 1)

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        from vdm.data.digits import DIGITS_VERSION, prepare

        root = resolve_data_dir(data_dir)
        prepare(root)
        return _read_digits(root, DIGITS_VERSION, split, state_of(root / "digits" / DIGITS_VERSION))

    return build_source("digits", shape, 17, 10, holdout, read)


@functools.lru_cache(maxsize=4)  # two folders, of 150 kB each
def _read_digits(
    root: Path, version: str, split: str, state: Hashable
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a split of the digits, or returns what was read while the files had the same state."""
    found = read_records(root, "digits", version, split, (8, 8, 1), sort_by="index")
    for array in found:
        array.setflags(write=False)  # several readers share it
    return found


def tfds_images(
    data_dir: str,
    holdout: int,
    dataset: str,
    version: str = "",
    shape: Sequence[int] = (),
    num_classes: int = 0,
) -> Source:
    """A prepared TFDS set of uint8 "image" and "label" with splits "train" and "test".

    Args:
        dataset: the TFDS name.
        version: such as "3.0.2"; "" takes the newest one prepared in `data_dir`.
        shape, num_classes: required for sets that are not in `TFDS_FACTS`.

    Raises:
        ValueError: shape or num_classes is missing; at load, the set is not prepared (checked on
            the disk, without the network) or differs from these facts.
    """
    if not dataset:
        raise ValueError("data.name = 'tfds' also needs data.kwargs.dataset, the name of a set")
    if dataset in TFDS_FACTS:
        known_shape, known_classes = TFDS_FACTS[dataset]
        shape, num_classes = tuple(shape) or known_shape, num_classes or known_classes
    elif not shape or not num_classes:
        nearest = difflib.get_close_matches(dataset, TFDS_FACTS, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(
            f"the shape and num_classes of data set {dataset!r} are not known; {hint}known are "
            f"{', '.join(TFDS_FACTS)}; for other sets, set data.kwargs.shape and num_classes"
        )
    shape = tuple(shape)

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        root = resolve_data_dir(data_dir)
        resolved = find_version(root, dataset, version)
        return read_records(root, dataset, resolved, split, shape)

    return build_source(dataset, shape, 256, num_classes, holdout, read)


def named_tfds(dataset: str, data_dir: str, holdout: int, version: str = "") -> Source:
    """A set in `TFDS_FACTS`, which a config can select by its own name."""
    return tfds_images(data_dir, holdout, dataset, version)


def build_source(
    name: str,
    shape: tuple[int, ...],
    num_codes: int,
    num_classes: int,
    holdout: int,
    read: Callable[[str], tuple[np.ndarray, np.ndarray | None]],
    stored_fingerprint: Callable[[str], str] = lambda split: "",
    notes: Callable[[str], tuple[str, ...]] = lambda split: (),
) -> Source:
    """Makes a Source that holds out examples, from functions that know only "train" and "test".

    Args:
        name, shape, num_codes, num_classes: as in Source.
        holdout: how many of the last training examples to hold out.
        read: split -> (examples, labels or None).
        stored_fingerprint: split -> as in Split.
        notes: split -> as in Split.
    """
    if holdout < 0:
        raise ValueError(f"holdout is {holdout}; set --config.data.holdout to 0 or more")

    @functools.cache  # "train" and "holdout" are parts of one array
    def read_once(split: str) -> tuple[np.ndarray, np.ndarray | None]:
        examples, labels = read(split)
        for array in (examples, labels):
            if array is not None:
                array.setflags(write=False)  # all callers of `load` share it
        return examples, labels

    @functools.cache
    def load(split: str) -> Split:
        if split not in ("train", "holdout", "test"):
            raise ValueError(f"unknown split {split!r}; known are 'train', 'holdout', 'test'")
        if split == "holdout" and holdout == 0:
            raise ValueError(
                f"{name} holds out no examples; set --config.data.holdout=N to hold out the last N "
                "training examples"
            )
        if split == "test":
            return Split(split, *read_once("test"), stored_fingerprint("test"), notes("test"))
        examples, labels = read_once("train")
        kept = len(examples) - holdout
        if kept <= 0:
            raise ValueError(
                f"holdout is {holdout}, but {name} has {len(examples)} training examples; set "
                f"--config.data.holdout to less than {len(examples)}"
            )
        if not holdout:
            return Split(split, examples, labels, stored_fingerprint("train"), notes("train"))
        part = slice(None, kept) if split == "train" else slice(kept, None)
        labels = None if labels is None else labels[part]
        return Split(split, examples[part], labels, notes=notes("train"))

    evaluation_split = "holdout" if holdout else "test"
    return Source(name, shape, num_codes, num_classes, load, evaluation_split)
