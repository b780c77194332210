"""A canonical form of values to be hashed or compared, the same before saving and after reading."""

import json
from collections.abc import Mapping
from typing import Any

from vdm.io.atomic import to_json


def canonical(value: Any) -> Any:
    """`value` as JSON would return it, with one form for equal numbers.

    Tuples become lists, NumPy numbers become Python numbers, 1.0 and True become 1 (Python calls
    them equal), and keys become text. So `canonical(json.loads(saved))` is `canonical(value)`.
    """
    return _one_number(to_json(value))


def canonical_text(value: Any) -> str:
    """The canonical form as text, for hashing."""
    return json.dumps(canonical(value), sort_keys=True)


def with_tuples(value: Any) -> Any:
    """`value` with lists, which JSON has in place of tuples, converted to hashable tuples."""
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
