"""Features of many images, computed in batches, and a cache for the features of the data.

The same 50,000 images are compared with samples again and again, and Inception takes an hour for
them on a CPU. The name of a cache file depends on everything that its features depend on; a damaged
file is computed again.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vdm.evaluation.features import FeatureFunction
from vdm.io.atomic import save_npz
from vdm.io.console import say

BATCH = 512
"""The number of images processed at a time."""

OnBatch = Callable[[int, int], None]


def features_in_batches(
    features: FeatureFunction, codes: np.ndarray, num_codes: int, on_batch: OnBatch
) -> np.ndarray:
    """Returns the features [N, d] of codes [N, H, W, C]; on_batch(done, total) counts images."""
    batches = []
    for start in range(0, len(codes), BATCH):
        batches.append(features(codes[start : start + BATCH], num_codes))
        on_batch(min(start + BATCH, len(codes)), len(codes))
    return np.concatenate(batches)


def data_features(
    folder: Path,
    fingerprint: str,
    features: FeatureFunction,
    codes: np.ndarray,
    num_codes: int,
    on_batch: OnBatch = lambda done, total: None,
) -> np.ndarray:
    """Returns `features_in_batches` of the first images of a split: from the cache in the folder,
    otherwise computed and, if possible, cached.

    fingerprint: of the split.
    """
    key = f"{fingerprint} {codes.shape} {num_codes} {features.name}"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    kept = _read(path, key, len(codes))
    if kept is not None:
        on_batch(len(codes), len(codes))
        return kept
    computed = features_in_batches(features, codes, num_codes, on_batch)
    exact = computed.astype(np.float32)  # Inception's features fit into float32, half the bytes
    try:
        save_npz(path, key=key, features=exact if np.array_equal(exact, computed) else computed)
    except OSError as error:
        say(f"the features of the data are not kept: {error.strerror}: {error.filename}")
    return computed


def _read(path: Path, key: str, count: int) -> np.ndarray | None:
    """Returns the features in a file; None if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:  # checks the checksums of its arrays
            features = np.asarray(file["features"], np.float64)
            if str(file["key"]) == key and features.ndim == 2 and len(features) == count:
                return features
    except FileNotFoundError:
        return None
    except Exception:  # a flipped bit may look like a password, or a compression unknown to zipfile
        pass
    say(f"{path} is damaged: computing the features of the data again")
    return None
