"""Data sources by name: each states its facts at once and reads its splits when asked.

A constructor is called as `fn(data_dir, holdout, **kwargs)` and touches no disk, but that those of
`vdm.data.user_files` read one header where they are not told the shape; `Source.load` reads. Splits
are "train", "test" and, for holdout = h > 0, "holdout": the last h examples of the training split,
which "train" then lacks. Choices are tuned on "holdout", "test" is for the end.

`data_dir` is where prepared sets live; "" means $VDM_DATA_DIR, or ~/.cache/vdm/data without it.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Sequence

import numpy as np

from vdm.data import arrays
from vdm.data.records import find_version, read_records, resolve_data_dir

# Shape and number of classes of the TFDS sets that need no kwargs; all have 256 codes.
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
        stored_fingerprint: what was computed when the set was prepared, of sets too large to hash
            at each start; "" for none.
        notes: lines for the user about how it was read: what was left out, what looks wrong.
    """

    name: str
    examples: np.ndarray
    labels: np.ndarray | None
    stored_fingerprint: str = ""
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """ "sha256:..." of dtype, shape and bytes of the examples in order."""
        return self.stored_fingerprint or arrays.fingerprint(self.examples)


@dataclasses.dataclass(frozen=True)
class Source:
    """What a data set is, known before it is read, and how to read it.

    Attributes:
        name: of the data set.
        shape: of one example.
        num_codes: codes are 0 ... num_codes - 1; 0 means continuous data.
        num_classes: labels are 0 ... num_classes - 1; 0 means no labels.
        load: from the name of a split to the Split; the same object at every call.
            ValueError for an unknown or empty split or data that cannot be read.
        evaluation_split: "holdout" when examples are held out, else "test".
    """

    name: str
    shape: tuple[int, ...]
    num_codes: int
    num_classes: int
    load: Callable[[str], Split]
    evaluation_split: str


def digits(data_dir: str, holdout: int) -> Source:
    """scikit-learn's 8 x 8 digits, 17 codes: 1,500 train, 297 test, in file order.

    The first load writes them as a TFDS set to `<data_dir>/digits` (about a second).
    """
    shape = (8, 8, 1)

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        from vdm.data.digits import DIGITS_VERSION, prepare

        root = resolve_data_dir(data_dir)
        prepare(root)
        return read_records(root, "digits", DIGITS_VERSION, split, shape, sort_by="index")

    return build_source("digits", shape, 17, 10, holdout, read)


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
        dataset: the TFDS name; `TFDS_FACTS` has those that need no shape and num_classes.
        version: such as "3.0.2"; "" takes the newest one prepared in `data_dir`.
        shape, num_classes: of any other set.

    Raises:
        ValueError: the set is unknown and comes without its shape and num_classes; at load, it
            is not prepared (answered from the disk, never by the network) or not as stated.
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
            f"{', '.join(TFDS_FACTS)}; for another one set data.kwargs.shape and num_classes"
        )
    shape = tuple(shape)

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        root = resolve_data_dir(data_dir)
        found = find_version(root, dataset, version)
        return read_records(root, dataset, found, split, shape)

    return build_source(dataset, shape, 256, num_classes, holdout, read)


def named_tfds(dataset: str, data_dir: str, holdout: int, version: str = "") -> Source:
    """One of `TFDS_FACTS`, under its own name."""
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
    """A Source over `read`, which gets "train" or "test" and knows nothing of holding out, as
    `stored_fingerprint` and `notes` do of the same splits."""
    if holdout < 0:
        raise ValueError(f"holdout is {holdout}; set --config.data.holdout to 0 or more")

    @functools.cache  # "train" and "holdout" are parts of one array
    def read_once(split: str) -> tuple[np.ndarray, np.ndarray | None]:
        examples, labels = read(split)
        for array in (examples, labels):
            if array is not None:
                array.setflags(write=False)  # it is shared by everyone who loads
        return examples, labels

    @functools.cache
    def load(split: str) -> Split:
        if split not in ("train", "holdout", "test"):
            raise ValueError(f"unknown split {split!r}; known are 'train', 'holdout', 'test'")
        if split == "holdout" and holdout == 0:
            raise ValueError(
                f"{name} holds nothing out; set --config.data.holdout=N to hold out the last N "
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
