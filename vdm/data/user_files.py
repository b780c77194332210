"""Sources of images in files: a folder of pictures, arrays in .npy files, prepared ImageNet.

`folder` and `npy` read one header for the shape of an example, unless `shape` says it; it is
checked against every example either way. Relative paths are relative to the folder you are in.
"""

import functools
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vdm.data import advice, arrays, folders, pictures
from vdm.data.records import resolve_data_dir
from vdm.data.sources import Source, build_source

# Side and number of classes.
IMAGENETS: dict[str, tuple[int, int]] = {
    "imagenet32_old": (32, 0),
    "imagenet32_new": (32, 1000),
    "imagenet64_old": (64, 0),
    "imagenet64_new": (64, 1000),
}


def imagenet(name: str, data_dir: str, holdout: int) -> Source:
    """Downsampled ImageNet as `vdm.data.prepare` writes it, memory-mapped; "old" or "new"."""
    side, num_classes = IMAGENETS[name]
    shape = (side, side, 3)

    def stored(split: str) -> arrays.Stored:
        return arrays.read_split(resolve_data_dir(data_dir) / name, split, shape, num_classes)

    def read(split: str) -> tuple[np.ndarray, np.ndarray | None]:
        found = stored(split)
        return found.examples, found.labels

    def fingerprint(split: str) -> str:
        return stored(split).fingerprint

    return build_source(name, shape, 256, num_classes, holdout, read, fingerprint)


def npy(
    data_dir: str,
    holdout: int,
    path: str = "",
    train: str = "",
    test: str = "",
    train_labels: str = "",
    test_labels: str = "",
    shape: Sequence[int] = (),
    num_codes: int = 256,
    num_classes: int = 0,
) -> Source:
    """Arrays of uint8 codes [N, *shape] in .npy files, memory-mapped.

    Args:
        path: a folder with train.npy and test.npy and, for num_classes > 0, train_labels.npy and
            test_labels.npy.
        train, test, train_labels, test_labels: single files instead.
        shape: of an example; () reads the header of the training file.
        num_codes: codes are 0 ... num_codes - 1.
        num_classes: integer labels are 0 ... num_classes - 1; 0 means no labels.

    Raises:
        ValueError: a file is not named, cannot be read, or holds something else.
    """
    del data_dir  # the files are where they are
    given = {"train": train, "test": test, "train_labels": train_labels, "test_labels": test_labels}
    needed = list(given) if num_classes else ["train", "test"]
    missing = [name for name in needed if not (given[name] or path)]
    if missing:
        raise ValueError(
            f"data.name = 'npy' has no file for {', '.join(missing)}: set data.kwargs.path to a "
            f"folder with {missing[0]}.npy, or data.kwargs.{missing[0]} to the file"
        )
    files = {
        name: Path(given[name] or Path(path) / f"{name}.npy").expanduser().absolute()
        for name in needed
    }
    if not 2 <= num_codes <= 256:
        raise ValueError(
            f"data.kwargs.num_codes is {num_codes}; codes are uint8, set it to 2 ... 256"
        )
    shape = tuple(shape) or arrays.map_codes(files["train"], num_codes).shape[1:]

    def read(split: str) -> tuple[np.ndarray, np.ndarray | None]:
        codes = arrays.map_codes(files[split], num_codes)
        if codes.shape[1:] != shape:
            raise ValueError(
                f"{files[split]} holds examples of shape {codes.shape[1:]}, not {shape}: all "
                "splits have one shape; set data.kwargs.shape to it"
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
        if split == "test":  # what is told of the training examples goes for them too
            return ()
        levels = advice.of_levels(arrays.map_codes(files[split]), num_codes)
        return tuple(f"{files[split]}: {said}" for said in (levels, advice.of_axes(shape)) if said)

    return build_source("npy", shape, num_codes, num_classes, holdout, read, notes=notes)


def folder(
    data_dir: str,
    holdout: int,
    path: str = "",
    shape: Sequence[int] = (),
    size: int = 0,
    num_test: int = 0,
    num_codes: int = 256,
    labels: bool = False,
    num_classes: int = 0,
    duplicates: str = "keep",
) -> Source:
    """The pictures in a folder and the folders in it, or in a .zip; 8-bit grey [H, W, 1] or RGB
    [H, W, 3], all of one shape, upright as EXIF says, decoded into memory. Their order is that of
    a hash of their paths, so that a folder for each class leaves every class in each split, and
    held out. Links are followed, hidden files and folders skipped.

    Args:
        path: the folder or zip. With folders train/ and test/ in it, these are the splits.
        shape: of every picture; () takes that of the first. A palette of greys is read as grey, or
            as RGB among pictures that are.
        size: n > 0 cuts each picture to the largest square in its middle, and averages that over
            areas to n x n; 0 takes the pictures as they are.
        num_test: without train/ and test/, the last num_test pictures are "test".
        num_codes: codes are 0 ... num_codes - 1. Below 256 the greys of all pictures must be these
            or, up to 16 codes, those of all as many levels evenly spaced from 0 to 255: 2 for 1-bit
            pictures.
        labels: whether the folders that the pictures lie in (those in train/ and test/, if there
            are such) are classes: labels 0, 1, ... in the order of their names.
        num_classes: how many classes these must be; 0 counts them.
        duplicates: what to do with pictures of equal pixels: "keep" them all, wherever they are,
            and tell how many of the others are training examples too; "drop" all but the first, a
            training example if there is one, so that no split has a picture of another one.

    Raises:
        ValueError: there are no pictures, or they are not as stated.
    """
    del data_dir  # the pictures are where they are
    if not path:
        raise ValueError("data.name = 'folder' has no folder: set data.kwargs.path to one")
    if size < 0 or num_test < 0:
        raise ValueError(
            f"data.kwargs.size is {size} and num_test {num_test}: set them to 0 or more"
        )
    if not 2 <= num_codes <= 256:
        raise ValueError(
            f"data.kwargs.num_codes is {num_codes}; pictures have 8 bits, set it to 2 ... 256"
        )
    if size and num_codes < 256:
        raise ValueError(
            f"data.kwargs.size = {size} averages pixels, which makes other greys than "
            f"{num_codes} codes: set size to 0, or num_codes to 256"
        )
    if num_classes and not labels:
        raise ValueError(
            f"data.kwargs.num_classes is {num_classes}, and pictures have classes only with "
            "data.kwargs.labels = True: set that, or num_classes to 0"
        )
    if duplicates not in ("keep", "drop"):
        raise ValueError(f"data.kwargs.duplicates is {duplicates!r}: set it to 'keep' or 'drop'")
    root = Path(path).expanduser().absolute()
    splits = functools.cache(lambda: folders.split(root, num_test, labels))
    if not shape:
        files = itertools.chain(splits().train.values(), splits().test.values())
        shape = pictures.shape_of_set(files, size)
    shape = tuple(shape)

    @functools.cache
    def all_codes() -> np.ndarray:
        """The codes of both splits, decoded together: only the whole set shows whether its greys
        are codes or levels."""
        files = [*splits().train.values(), *splits().test.values()]
        return pictures.decode(files, shape, size, num_codes)

    @functools.cache
    def decoded(split: str) -> np.ndarray:
        files = getattr(splits(), split)
        if num_codes == 256:
            return pictures.decode(list(files.values()), shape, size)
        in_training = len(splits().train)
        return all_codes()[:in_training] if split == "train" else all_codes()[in_training:]

    @functools.cache
    def digests(split: str) -> list[bytes]:
        return [hashlib.sha256(image).digest() for image in decoded(split)]

    @functools.cache
    def is_first(split: str) -> np.ndarray:
        """Whether a picture is the first one with its pixels, those of training being before."""
        seen = set() if split == "train" else set(digests("train"))
        return np.array([not (d in seen or seen.add(d)) for d in digests(split)])

    def read(split: str) -> tuple[np.ndarray, np.ndarray | None]:
        codes = decoded(split)
        if labels and len(splits().classes) != num_classes:
            raise ValueError(
                f"{root} has {len(splits().classes)} folders of classes, and "
                f"data.kwargs.num_classes is {num_classes}: set it to how many they are, or to 0"
            )
        classes = np.array(splits().labels(split), np.int32) if labels else None
        if duplicates == "keep":
            return codes, classes
        kept = is_first(split)
        if not kept.any():
            raise ValueError(
                f"{root}: every test picture is a training example too: set "
                "data.kwargs.duplicates = 'keep', or give it others"
            )
        return codes[kept], None if classes is None else classes[kept]

    def notes(split: str) -> tuple[str, ...]:
        lines = [f"{root}: {splits().describe()}"]
        if split == "test":  # without a look at the others, which may be many
            return tuple(lines)
        train, test = digests("train"), digests("test")
        if duplicates == "keep":
            kept = len(train) - holdout
            for name, part, others in (
                ("test pictures", test, set(train[:kept])),
                ("held-out pictures", train[kept:], set(train[:kept])),
            ):
                if twice := sum(digest in others for digest in part):
                    lines.append(
                        f"{twice} of {len(part)} {name} have the very pixels of a training "
                        "picture: bits/dim of these are those of training; "
                        "data.kwargs.duplicates = 'drop' keeps one picture of each"
                    )
        elif dropped := sum(int((~is_first(split)).sum()) for split in ("train", "test")):
            lines.append(f"{dropped} of these have the pixels of another one and are left out")
        if num_codes == 256:
            lines.append(advice.of_greys(decoded("train")))
        return tuple(line for line in lines if line)

    if labels and not num_classes:
        num_classes = len(splits().classes)
    return build_source("folder", shape, num_codes, num_classes, holdout, read, notes=notes)
