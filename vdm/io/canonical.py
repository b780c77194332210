"""One form for whatever is hashed or compared, as it is before it is saved and after it is read."""

import json
from collections.abc import Mapping
from typing import Any

from vdm.io.atomic import to_json


def canonical(value: Any) -> Any:
    """`value` as JSON gives it back, with one form for equal numbers.

    Tuples are lists, NumPy's numbers Python's; 1.0 and True are 1, as Python calls them equal; keys
    are text. So `canonical(json.loads(saved))` is `canonical(value)`.
    """
    return _one_number(to_json(value))


def canonical_text(value: Any) -> str:
    """The same as text, to be hashed."""
    return json.dumps(canonical(value), sort_keys=True)


def with_tuples(value: Any) -> Any:
    """`value` as a Python file has it: tuples, which can be hashed, for lists, as JSON has them."""
    if isinstance(value, list | tuple):
        return tuple(map(with_tuples, value))
    if isinstance(value, dict):
        return {key: with_tuples(item) for key, item in value.items()}
    return value


def _one_number(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _one_number(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_one_number(item) for item in value]
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value
