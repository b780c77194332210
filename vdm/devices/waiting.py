"""How computed arrays are waited for, so that signals are handled meanwhile."""

import time
from collections.abc import Callable

import jax

from vdm.typing import PyTree


class Abandoned(Exception):
    """The work was given up because `stop` said so; what was reported as finished is finished."""


def wait(tree: PyTree, stop: Callable[[], bool] = lambda: False) -> None:
    """Returns once all arrays are computed. Python handles signals meanwhile, which it does not in
    jax.block_until_ready. Raises Abandoned when stop() is true first."""
    delay = 1e-4
    for leaf in jax.tree.leaves(tree):
        while not leaf.is_ready():
            if stop():
                raise Abandoned
            time.sleep(delay)
            delay = min(1.5 * delay, 0.05)
