"""Data sources that read files: a folder of pictures, arrays in .npy files, prepared ImageNet.

Unless `shape` is given, `folder` and `npy` read one header for the shape of an example; in either
case every example must have it. Relative paths start at the current folder.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vdm.arguments import constructor_of
from vdm.data import advice, arrays, folders, pictures
from vdm.data.records import resolve_data_dir
from vdm.data.sources import Source, build_source

# Name -> (side in pixels, number of classes).
IMAGENETS: dict[str, tuple[int, int]] = {
    "imagenet32_old": (32, 0),
    "imagenet32_new": (32, 1000),
    "imagenet64_old": (64, 0),
    "imagenet64_new": (64, 1000),
}


def imagenet(name: str, data_dir: str, holdout: int) -> Source:
    """Downsampled ImageNet, memory-mapped, as `vdm.data.prepare` writes it; one of IMAGENETS."""
    side, num_classes = IMAGENETS[name]
    shape = (side, side, 3)

    def stored(split: str) -> arrays.Stored:
        return arrays.read_split(resolve_data_dir(data_dir) / name, split, shape, num_classes)

    def read(split: str) -> tuple[np.ndarray, np.ndarray | None]:
        read_arrays = stored(split)
        return read_arrays.examples, read_arrays.labels

    def fingerprint(split: str) -> str:
        return stored(split).fingerprint

    return build_source(name, shape, 256, num_classes, holdout, read, fingerprint)


@dataclasses.dataclass(frozen=True)
class Npy:
    """Arrays of uint8 codes [N, *shape] in .npy files, memory-mapped.

    Attributes:
        path: a folder with train.npy and test.npy and, for num_classes > 0, train_labels.npy and
            test_labels.npy.
        train, test, train_labels, test_labels: single files, which replace those in `path`.
        shape: the shape of an example; () reads it from the header of the training file.
        num_codes: codes are 0 ... num_codes - 1.
        num_classes: integer labels are 0 ... num_classes - 1; 0 means no labels.
    """

    data_dir: str
    holdout: int
    path: str = ""
    train: str = ""
    test: str = ""
    train_labels: str = ""
    test_labels: str = ""
    shape: Sequence[int] = ()
    num_codes: int = 256
    num_classes: int = 0

    def source(self) -> Source:
        """The data source.

        Raises ValueError if a file is not named, cannot be read, or holds something else.
        """
        files = self._files()
        num_codes, num_classes = self.num_codes, self.num_classes
        if not 2 <= num_codes <= 256:
            raise ValueError(
                f"data.kwargs.num_codes is {num_codes}; codes are uint8, set it to 2 ... 256"
            )
        shape = tuple(self.shape) or arrays.map_codes(files["train"], num_codes).shape[1:]

        def read(split: str) -> tuple[np.ndarray, np.ndarray | None]:
            codes = arrays.map_codes(files[split], num_codes)
            if codes.shape[1:] != shape:
                raise ValueError(
                    f"{files[split]} holds examples of shape {codes.shape[1:]}, not {shape}: all "
                    "splits must have one shape; set data.kwargs.shape to it"
                )
            largest = arrays.largest(codes) if num_codes < 256 else 0
            if largest >= num_codes:
                raise ValueError(
                    f"{files[split]} has codes up to {largest}: set data.kwargs.num_codes to "
                    f"{largest + 1} or more"
                )
            if not num_classes:
                return codes, None
            return codes, arrays.read_labels(files[f"{split}_labels"], len(codes), num_classes)

        def notes(split: str) -> tuple[str, ...]:
            if split == "test":  # the notes on the training examples apply to these, too
                return ()
            advised = (
                advice.note_few_codes(arrays.map_codes(files[split]), num_codes),
                advice.note_channels_first(shape),
            )
            return tuple(f"{files[split]}: {note}" for note in advised if note)

        return build_source("npy", shape, num_codes, num_classes, self.holdout, read, notes=notes)

    def _files(self) -> dict[str, Path]:
        given = {
            "train": self.train,
            "test": self.test,
            "train_labels": self.train_labels,
            "test_labels": self.test_labels,
        }
        needed = list(given) if self.num_classes else ["train", "test"]
        missing = [name for name in needed if not (given[name] or self.path)]
        if missing:
            raise ValueError(
                f"data.name = 'npy' has no file for {', '.join(missing)}: set data.kwargs.path to "
                f"a folder with {missing[0]}.npy, or data.kwargs.{missing[0]} to the file"
            )
        return {
            name: Path(given[name] or Path(self.path) / f"{name}.npy").expanduser().absolute()
            for name in needed
        }


@dataclasses.dataclass(frozen=True)
class Folder:
    """The pictures in a folder and its subfolders, or in a .zip, decoded into memory.

    Pictures are 8-bit grey [H, W, 1] or RGB [H, W, 3], all of one shape, and rotated upright as
    EXIF says. They are sorted by a hash of their paths; with one folder per class, every split and
    the held-out examples then contain all classes. Links are followed; hidden files and folders
    are skipped.

    Attributes:
        path: the folder or zip. If it contains folders train/ and test/, these are the splits.
        shape: the shape of every picture; () takes that of the first. A palette of greys is read
            as grey, or as RGB if other pictures are RGB.
        size: n > 0 cuts each picture to the largest square in its middle and averages areas to
            resize it to n x n; 0 leaves the pictures unchanged.
        num_test: without train/ and test/, the last num_test pictures are "test".
        num_codes: codes are 0 ... num_codes - 1. Below 256, the greys of all pictures must be codes
            or, up to 16 codes, num_codes levels evenly spaced from 0 to 255 (2 for 1-bit pictures).
        labels: whether the folders that the pictures lie in (inside train/ and test/, if there are
            any) are classes, with labels 0, 1, ... in the order of their names.
        num_classes: the required number of classes; 0 counts them.
        duplicates: what to do with pictures of equal pixels. "keep" keeps them all and reports how
            many test and held-out pictures are also training examples; "drop" keeps the first, a
            training example if there is one, so that no picture is in two splits.
    """

    data_dir: str
    holdout: int
    path: str = ""
    shape: Sequence[int] = ()
    size: int = 0
    num_test: int = 0
    num_codes: int = 256
    labels: bool = False
    num_classes: int = 0
    duplicates: str = "keep"

    def source(self) -> Source:
        """The data source.

        Raises ValueError if there are no pictures, or they differ from these settings.
        """
        self._check()
        reader = _FolderReader(self)
        return build_source(
            "folder",
            reader.shape,
            self.num_codes,
            reader.num_classes,
            self.holdout,
            reader.read,
            notes=reader.notes,
        )

    def _check(self) -> None:
        if not self.path:
            raise ValueError("data.name = 'folder' needs a folder: set data.kwargs.path to one")
        if self.size < 0 or self.num_test < 0:
            raise ValueError(
                f"data.kwargs.size is {self.size} and num_test {self.num_test}: set them to 0 or "
                "more"
            )
        if not 2 <= self.num_codes <= 256:
            raise ValueError(
                f"data.kwargs.num_codes is {self.num_codes}; pictures have 8 bits, set it to "
                "2 ... 256"
            )
        if self.size and self.num_codes < 256:
            raise ValueError(
                f"data.kwargs.size = {self.size} averages pixels, which gives other greys than the "
                f"{self.num_codes} codes: set size to 0, or num_codes to 256"
            )
        if self.num_classes and not self.labels:
            raise ValueError(
                f"data.kwargs.num_classes is {self.num_classes}, but pictures have classes only "
                "with data.kwargs.labels = True: set that, or num_classes to 0"
            )
        if self.duplicates not in ("keep", "drop"):
            raise ValueError(
                f"data.kwargs.duplicates is {self.duplicates!r}: set it to 'keep' or 'drop'"
            )


class _FolderReader:
    """Reads the pictures of a `Folder` and keeps what it has decoded or hashed."""

    def __init__(self, options: Folder) -> None:
        self._options = options
        self._root = Path(options.path).expanduser().absolute()
        self._decoded = functools.cache(self._decode)
        self._digests = functools.cache(self._digest)
        self._is_first = functools.cache(self._find_first)
        shape = options.shape or pictures.shape_of_set(self._files, options.size)
        self.shape = tuple(shape)
        self.num_classes = options.num_classes
        if options.labels and not options.num_classes:
            self.num_classes = len(self._splits.classes)

    @functools.cached_property
    def _splits(self) -> folders.Splits:
        return folders.split(self._root, self._options.num_test, self._options.labels)

    @property
    def _files(self) -> list[pictures.File]:
        return [*self._splits.train.values(), *self._splits.test.values()]

    @functools.cached_property
    def _all_codes(self) -> np.ndarray:
        """The codes of both splits. They are decoded together, as only the whole set shows whether
        its greys are codes or levels."""
        options = self._options
        return pictures.decode(self._files, self.shape, options.size, options.num_codes)

    def _decode(self, split: str) -> np.ndarray:
        if self._options.num_codes == 256:
            files = list(getattr(self._splits, split).values())
            return pictures.decode(files, self.shape, self._options.size)
        in_training = len(self._splits.train)
        return self._all_codes[:in_training] if split == "train" else self._all_codes[in_training:]

    def _digest(self, split: str) -> list[bytes]:
        return [hashlib.sha256(image).digest() for image in self._decoded(split)]

    def _find_first(self, split: str) -> np.ndarray:
        """For each picture, whether no earlier one has equal pixels; "train" is before "test"."""
        seen = set() if split == "train" else set(self._digests("train"))
        return np.array([not (d in seen or seen.add(d)) for d in self._digests(split)])

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray | None]:
        """The codes of a split, and its labels if it has classes."""
        codes, labels = self._decoded(split), self._options.labels
        if labels and len(self._splits.classes) != self.num_classes:
            raise ValueError(
                f"{self._root} has {len(self._splits.classes)} folders of classes, and "
                f"data.kwargs.num_classes is {self.num_classes}: set it to their number, or to 0 "
                "to count them"
            )
        classes = np.array(self._splits.labels(split), np.int32) if labels else None
        if self._options.duplicates == "keep":
            return codes, classes
        kept = self._is_first(split)
        if not kept.any():
            raise ValueError(
                f"{self._root}: every test picture is a training example too: set "
                "data.kwargs.duplicates = 'keep', or add other test pictures"
            )
        return codes[kept], None if classes is None else classes[kept]

    def notes(self, split: str) -> tuple[str, ...]:
        """Lines for the user about a split."""
        lines = [f"{self._root}: {self._splits.describe()}"]
        if split == "test":  # comparing it with training would decode that, which may be large
            return tuple(lines)
        train, test = self._digests("train"), self._digests("test")
        if self._options.duplicates == "keep":
            kept = len(train) - self._options.holdout
            for name, part, others in (
                ("test pictures", test, set(train[:kept])),
                ("held-out pictures", train[kept:], set(train[:kept])),
            ):
                if twice := sum(digest in others for digest in part):
                    lines.append(
                        f"{twice} of {len(part)} {name} have exactly the pixels of a training "
                        "picture, so their bits/dim are training results; "
                        "data.kwargs.duplicates = 'drop' keeps one picture of each"
                    )
        elif dropped := sum(int((~self._is_first(half)).sum()) for half in ("train", "test")):
            lines.append(f"{dropped} of these have the pixels of another one and are dropped")
        if self._options.num_codes == 256:
            lines.append(advice.note_few_greys(self._decoded("train")))
        return tuple(line for line in lines if line)


npy = constructor_of(Npy, Npy.source)
folder = constructor_of(Folder, Folder.source)
