"""Batches: training batches are a pure function of (seed, step), evaluation visits every example
once.

Batches are gathered by index from an array in memory, in the calling thread. A batch of 128 takes
1-3 ms while JAX runs the previous step, so there are no prefetch threads or worker processes whose
state would have to be checkpointed; the step number is enough. Rows of a memory-mapped array that
are not in the system's page cache are read from random places on the disk, at the disk's speed.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from vdm.data.sources import Split
from vdm.data.transforms import Augmentation, Choices, choices_of_step


def train_batches(
    split: Split,
    batch_size: int,
    seed: int,
    first_step: int,
    process_index: int = 0,
    process_count: int = 1,
    augmentation: Augmentation | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's share of every training batch, endlessly, starting at `first_step`.

    The global batch of step n holds entries n B ... (n+1) B - 1 of an endless sequence of epochs,
    each a fresh permutation of the split (B = batch_size); it depends only on (split, batch_size,
    seed, n). Process p gets rows p b ... (p+1) b - 1 of it, b = batch_size / process_count.

    Args:
        split: the examples to draw from; `batch_size` may exceed their number.
        batch_size: size of the global batch.
        seed: 0 or more.
        first_step: 0, or the step at which a run resumes.
        augmentation: applied to the examples; its random choices depend only on the seed, the step
            and the row in the global batch.

    Yields:
        {"examples": [b, *shape], "labels": int32 [b]}, with labels only if the split has them; with
        an augmentation also "augmented": bool [b], whether it was applied to this example.

    Raises:
        ValueError: an argument is out of range (at the call, not at the first batch).
    """
    import grain  # here, because it takes half a second and only training needs it

    _check_batch_size(batch_size)
    if seed < 0:
        raise ValueError(f"seed is {seed}; set --config.seed to 0 or more")
    if first_step < 0:
        raise ValueError(f"first_step is {first_step}; it must not be negative")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not in [0, {process_count})")
    if batch_size % process_count:
        raise ValueError(
            f"a batch of {batch_size} cannot be divided among {process_count} processes; set "
            "--config.train.batch_size to a multiple of that number"
        )
    if len(split.examples) == 0:
        raise ValueError(f"split {split.name!r} has no examples to train on")

    # grain's shuffle has random access, at a cost that grows as 1/N for small N: a batch of 128
    # takes 1 ms out of 50,000 examples, 3 ms out of 1,500, 30 ms out of 100.
    indices: Any = (
        grain.MapDataset.range(len(split.examples))
        .seed(seed)
        .shuffle()
        .repeat(None)
        .batch(batch_size, drop_remainder=True, batch_fn=np.asarray)
    )
    share = batch_size // process_count
    mine = slice(process_index * share, (process_index + 1) * share)
    # A generator expression, not a generator function: the checks above then run at the call.
    steps = itertools.count(first_step)
    if augmentation is None:
        return (_gather(split, indices[step][mine]) for step in steps)
    return (
        _augmented(
            _gather(split, indices[step][mine]),
            augmentation,
            choices_of_step(augmentation, seed, step, batch_size, mine),
        )
        for step in steps
    )


def evaluation_batches(split: Split, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields every example of the split once, in order; the last batch is padded with example 0.

    Yields:
        the keys of `train_batches`; "index": int32 [batch_size], the position in the split;
        "mask": bool [batch_size], False for padding.

    Raises:
        ValueError: batch_size is not positive (at the call, not at the first batch).
    """
    _check_batch_size(batch_size)
    count = len(split.examples)
    return (
        _evaluation_batch(split, np.arange(start, start + batch_size))
        for start in range(0, count, batch_size)
    )


def _evaluation_batch(split: Split, places: np.ndarray) -> dict[str, np.ndarray]:
    mask = places < len(split.examples)
    index = np.where(mask, places, 0).astype(np.int32)
    return {**_gather(split, index), "index": index, "mask": mask}


def _augmented(
    batch: dict[str, np.ndarray], augmentation: Augmentation, choices: Choices
) -> dict[str, np.ndarray]:
    examples = augmentation.apply(batch["examples"], choices)
    return {**batch, "examples": examples, "augmented": choices["augmented"]}


def _gather(split: Split, index: np.ndarray) -> dict[str, np.ndarray]:
    batch = {"examples": split.examples[index]}
    if split.labels is not None:
        batch["labels"] = split.labels[index]
    return batch


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
