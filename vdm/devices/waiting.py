"""Waits for computed arrays while Python can still handle signals."""

import time
from collections.abc import Callable

import jax

from vdm.typing import PyTree


class Abandoned(Exception):
    """The work was abandoned because `stop()` was true; parts reported as finished are valid."""


def wait(tree: PyTree, stop: Callable[[], bool] = lambda: False) -> None:
    """Returns once all arrays are computed, or raises Abandoned if stop() is true before.

    Unlike in jax.block_until_ready, Python handles signals in the meantime.
    """
    delay = 1e-4
    for leaf in jax.tree.leaves(tree):
        while not leaf.is_ready():
            if stop():
                raise Abandoned
            time.sleep(delay)
            delay = min(1.5 * delay, 0.05)
