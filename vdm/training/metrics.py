"""What training logs: means of the metrics since the last log line, seconds and speed. Also the
checks that metrics and parameters are finite."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm.training.state import TrainState

LAST_VALUES = ("omega_0", "omega_1")
"""Metrics whose last value is logged, instead of their mean since the last log line."""


class NonFiniteError(RuntimeError):
    """Raised when a term of the bound, its gradient or a parameter is NaN or infinite."""


def summarise(steps: Sequence[Mapping[str, Any]], last_step: int) -> dict[str, float]:
    """Returns the means of the metrics of successive steps, with "train/" before their names; for
    those in LAST_VALUES, the last value.

    steps: the metrics of each step, scalars in memory. last_step: the number of the last step.
    NonFiniteError names the first metric and step that is not finite.
    """
    for index, metrics in enumerate(steps):
        # Terms come before their sum and the gradient, so that the message names the cause.
        for name in sorted(metrics, key=lambda name: name in ("bpd", "grad_norm")):
            if not math.isfinite(metrics[name]):
                bad = last_step - len(steps) + 1 + index
                raise NonFiniteError(f"train/{name} is {metrics[name]} at step {bad}")
    means = {f"train/{name}": float(np.mean([m[name] for m in steps])) for name in steps[0]}
    last = {name: steps[-1][name] for name in LAST_VALUES if name in steps[-1]}
    return means | {f"train/{name}": float(value) for name, value in last.items()}


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def check_finite(state: TrainState, step: int) -> None:
    """Raises NonFiniteError, naming the parameter, if one is not finite after `step`.

    An update can overflow although the bound and its gradient, which were computed from the
    parameters before the update, are finite.
    """
    # The optimiser's state is not checked: optax.contrib.reduce_on_plateau begins with an infinite
    # best loss.
    trees = {"ema_params": state.ema_params, "params": state.params}
    if _all_finite(trees):
        return
    leaves = jax.tree.leaves_with_path(trees)
    path = next(path for path, leaf in leaves if not _all_finite(leaf))
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    raise NonFiniteError(f"{name} is not finite after step {step}")


class Stopwatch:
    """Measures the total seconds of training, and the speed since the last start()."""

    def __init__(self, secs: float) -> None:
        """secs: seconds of training in earlier starts of the run."""
        self._secs = secs
        self.start()

    def start(self) -> None:
        """Starts or resumes, for example after an evaluation or a save, which do not count."""
        self._start = self._rate_start = time.monotonic()
        self._unrated = 0

    def leave_out(self, images: int) -> None:
        """Excludes the images since the start from the speed, because of a compilation."""
        self._rate_start, self._unrated = time.monotonic(), images

    def stop(self, images: int) -> dict[str, float]:
        """Stops, and returns time_secs in total and images_per_sec since the start.

        images: the number of images since the start.
        """
        now = time.monotonic()
        self._secs += now - self._start
        rate = (images - self._unrated) / (now - self._rate_start)
        return {"time_secs": self._secs, "images_per_sec": rate}
