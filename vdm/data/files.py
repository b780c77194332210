"""Sources of images in files: a folder of pictures, arrays in .npy files, prepared ImageNet.

`folder` and `npy` read one header for the shape of an example, unless `shape` says it; it is
checked against every example either way. Relative paths are relative to the folder you are in.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vdm.data import arrays, pictures
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
    shape = tuple(shape) or arrays.map_codes(files["train"]).shape[1:]

    def read(split: str) -> tuple[np.ndarray, np.ndarray | None]:
        codes = arrays.map_codes(files[split])
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

    return build_source("npy", shape, num_codes, num_classes, holdout, read)


def folder(
    data_dir: str,
    holdout: int,
    path: str = "",
    shape: Sequence[int] = (),
    size: int = 0,
    num_test: int = 0,
) -> Source:
    """The pictures in a folder and the folders in it, without labels; 8-bit grey [H, W, 1] or RGB
    [H, W, 3], all of one shape, decoded into memory. Their order is that of a hash of their paths,
    so that a folder for each class leaves every class in each split, and held out.

    Args:
        path: the folder. With folders train/ and test/ in it, these are the splits.
        shape: of every picture; () takes that of the first.
        size: n > 0 cuts each picture to the largest square in its middle, and averages that over
            areas to n x n; 0 takes the pictures as they are.
        num_test: without train/ and test/, the last num_test pictures are "test".

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
    root = Path(path).expanduser().absolute()
    shape = tuple(shape) or pictures.shape_of(pictures.listed(root, "train", num_test)[0], size)

    def read(split: str) -> tuple[np.ndarray, None]:
        return pictures.decode(pictures.listed(root, split, num_test), shape, size), None

    return build_source("folder", shape, 256, 0, holdout, read)
