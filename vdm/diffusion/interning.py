"""Results that are kept: of constructors, and of functions that compile for them.

A compiled function is kept for the sampler, grid, weighting or optimiser that it was compiled for
(`vdm.evaluation.samples`, `vdm.training.step`), and functions that a constructor defines anew at
each call are equal to none that it defined before.
"""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def interned(constructor: Callable[P, T]) -> Callable[P, T]:
    """The constructor, made to return the object that it returned before for these arguments,
    whether they were given by position, by name or by default."""
    signature = inspect.signature(constructor)
    kept = functools.lru_cache(typed=True)(constructor)

    @functools.wraps(constructor)
    def construct(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            return kept(*given.args, **given.kwargs)
        except TypeError:  # an argument that has no hash, such as an array, or a wrong one
            return constructor(*args, **kwargs)

    return construct


def kept(function: Callable[P, T]) -> Callable[P, T]:
    """The function, made to keep its last eight results by its arguments. With an argument that has
    no hash, such as a mutable component of a user's own, it is called again each time."""
    cached = functools.lru_cache(maxsize=8)(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            hash((args, *kwargs.items()))
        except TypeError:
            return function(*args, **kwargs)
        return cached(*args, **kwargs)

    vars(call)["cache_clear"] = cached.cache_clear
    return call
