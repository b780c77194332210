"""Checks of plain values; each raises ValueError with one line that begins with the name."""

import difflib
import functools
import operator
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def check_choice(field: str, value: Any, known: tuple) -> Any:
    """Returns `value`, which must be one of `known`."""
    if value not in known:
        raise ValueError(f"unknown {field} {value!r}; {suggest(str(value), known)}")
    return value


def check_count(name: str, value: Any, least: int) -> int:
    """Returns `value` as an int; it must be an integer (of Python or NumPy) of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} = {value!r}: it must be an integer of at least {least}")
    return number


def check_number(name: str, value: Any) -> Any:
    """Returns `value`, which must be a number (of Python, NumPy or JAX)."""
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise ValueError(f"{name} = {value!r}: it must be a number")
    return value


def check_share(name: str, value: Any) -> Any:
    """Returns `value`, which must be a number in [0, 1)."""
    if not 0 <= check_number(name, value) < 1:
        raise ValueError(f"{name} = {value}: it must be in [0, 1)")
    return value


def suggest(name: str, known: Any) -> str:
    """The part of a message that helps after a typo: the nearest known name and all known names."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}known: {', '.join(known)}"


def constructor_of(record: Callable[P, Any], make: Callable[[Any], T]) -> Callable[P, T]:
    """Returns a function of a record's fields that returns make(record). It has the signature of
    the record, from which a config's kwargs and their defaults are read."""

    @functools.wraps(record, updated=())
    def construct(*args: P.args, **kwargs: P.kwargs) -> T:
        return make(record(*args, **kwargs))

    return construct
