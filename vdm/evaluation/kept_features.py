"""Features of many images: in batches, with progress; and those of the data, kept in a folder.

A set of 50,000 images is compared with samples again and again, and Inception takes an hour for it
on a CPU. A file is named after all that its features depend on; one that is damaged is made anew.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vdm.evaluation.features import FeatureFunction
from vdm.io.atomic import save_npz
from vdm.io.console import say

BATCH = 512
"""Images at a time."""

OnBatch = Callable[[int, int], None]


def features_in_batches(
    features: FeatureFunction, codes: np.ndarray, num_codes: int, on_batch: OnBatch
) -> np.ndarray:
    """[N, d] of codes [N, H, W, C]; on_batch(done, total) counts images."""
    found = []
    for start in range(0, len(codes), BATCH):
        found.append(features(codes[start : start + BATCH], num_codes))
        on_batch(min(start + BATCH, len(codes)), len(codes))
    return np.concatenate(found)


def data_features(
    folder: Path,
    fingerprint: str,
    features: FeatureFunction,
    codes: np.ndarray,
    num_codes: int,
    on_batch: OnBatch = lambda done, total: None,
) -> np.ndarray:
    """`features_in_batches` of the first images of the split with that fingerprint, read from the
    folder if they are there, else written to it, if it can be."""
    key = f"{fingerprint} {codes.shape} {num_codes} {features.name}"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    kept = _read(path, key, len(codes))
    if kept is not None:
        on_batch(len(codes), len(codes))
        return kept
    found = features_in_batches(features, codes, num_codes, on_batch)
    exact = found.astype(np.float32)  # as Inception's are: half the bytes
    try:
        save_npz(path, key=key, features=exact if np.array_equal(exact, found) else found)
    except OSError as error:
        say(f"the features of the data are not kept: {error.strerror}: {error.filename}")
    return found


def _read(path: Path, key: str, count: int) -> np.ndarray | None:
    """The features in a file; None where there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:  # checks the checksums of its arrays
            found = np.asarray(file["features"], np.float64)
            if str(file["key"]) == key and found.ndim == 2 and len(found) == count:
                return found
    except FileNotFoundError:
        return None
    except Exception:  # a flipped bit may be a password, or a compression unknown to zipfile
        pass
    say(f"{path} is damaged: computing the features of the data again")
    return None
