"""What a plain value must be: one line for one that it must not be, beginning with its name."""

import difflib
import operator
from typing import Any


def check_choice(field: str, value: Any, known: tuple) -> Any:
    """The value, which must be one of a few."""
    if value not in known:
        raise ValueError(f"unknown {field} {value!r}; {suggest(str(value), known)}")
    return value


def check_count(name: str, value: Any, least: int) -> int:
    """The value of that name as an int, where it is an integer, Python's or NumPy's, of `least` or
    more."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} = {value!r}: it must be an integer of at least {least}")
    return number


def check_number(name: str, value: Any) -> Any:
    """The value of that name, where it is a number, Python's, NumPy's or JAX's."""
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise ValueError(f"{name} = {value!r}: it must be a number")
    return value


def check_share(name: str, value: Any) -> Any:
    """The value of that name, where it is a number from 0 to below 1."""
    if not 0 <= check_number(name, value) < 1:
        raise ValueError(f"{name} = {value}: it must be in [0, 1)")
    return value


def suggest(name: str, known: Any) -> str:
    """The part of a message that helps after a typo: the nearest known name, and all."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}known: {', '.join(known)}"
