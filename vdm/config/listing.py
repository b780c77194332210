"""Prints a config: every field with its meaning, or only what differs from the defaults.

The lines are assignments such as a config file has, `config.seed = 0`. The meanings are the
comments of `vdm.config.defaults`, read from its source. Nothing heavy is imported, so that
--print_config answers at once.
"""

import ast
import functools
import io
import json
import tokenize
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vdm.config import defaults
from vdm.config.options import field_at

WIDEST_VALUE = 46
"""Columns up to which the comments of a listing are aligned."""


def every_field(config: ConfigDict) -> str:
    """Returns one line for each field of the config, with its meaning."""
    known, lines = meanings(), []
    for field, value in sorted(flatten(config.to_dict()).items(), key=_rank):
        group = field.partition(".kwargs.")[0]
        own = ":" in str(field_at(config, group).get("name")) if ".kwargs." in field else False
        meaning = "" if own else known.get(field, "")  # it describes the built-in component
        line = f"config.{field} = {value!r}"
        lines.append(f"{line:<{WIDEST_VALUE}}  # {meaning}" if meaning else line)
    return "\n".join(lines)


def changes(config: ConfigDict) -> str:
    """Returns the assignments that turn `defaults.get_config()` into this config. A group that
    lacks a default field is assigned as a whole."""
    changed = _changes(config.to_dict(), defaults.get_config().to_dict(), "")
    return "\n".join(f"config.{field} = {value!r}" for field, value in sorted(changed, key=_rank))


def as_json(config: ConfigDict) -> str:
    """Returns the config in the form of config.json."""
    return json.dumps(config.to_dict(), indent=2)


FORMS: Mapping[str, Callable[[ConfigDict], str]] = {
    "fields": every_field,
    "changes": changes,
    "json": as_json,
}
"""The FORM of --print_config=FORM -> the function that prints it."""


@functools.cache
def meanings() -> Mapping[str, str]:
    """Returns the dotted name of every default field -> the comments beside and above it."""
    source = Path(defaults.__file__).read_text(encoding="utf-8")
    groups = {name: _returned(function) for name, function in _functions().items()}
    beside, alone = {}, {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            where = beside if token.line[: token.start[1]].strip() else alone
            where[token.start[0]] = token.string.removeprefix("#").strip()

    def meaning(line: int) -> str:
        parts = [beside[line]] if line in beside else []
        while (line := line - 1) in alone:
            parts.insert(0, alone[line])
        return " ".join(parts)

    return {field: meaning(line) for field, line in _lines(groups["get_config"], groups, "")}


def group_meanings() -> Mapping[str, str]:
    """Returns the name of every group of fields -> the docstring of its function."""
    functions = _functions()
    whole = _returned(functions["get_config"])
    return {
        ast.literal_eval(key): str(ast.get_docstring(functions[value.func.id]))
        for key, value in zip(whole.keys, whole.values, strict=True)
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and key is not None
    }


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns dotted name -> value. An empty group counts as a value."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        inner = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _functions() -> Mapping[str, ast.FunctionDef]:
    """Returns the functions of the module `defaults` by name."""
    source = Path(defaults.__file__).read_text(encoding="utf-8")
    return {f.name: f for f in ast.parse(source).body if isinstance(f, ast.FunctionDef)}


def _returned(function: ast.FunctionDef) -> ast.Dict:
    """Returns the dict that a function of the defaults returns, without a ConfigDict around it."""
    last = function.body[-1]
    returned = last.value if isinstance(last, ast.Return) else None
    returned = returned.args[0] if isinstance(returned, ast.Call) else returned
    assert isinstance(returned, ast.Dict), function.name
    return returned


def _lines(node: ast.Dict, groups: Mapping[str, ast.Dict], prefix: str) -> Iterator[tuple]:
    """Yields (dotted name, line in the source) of every field in a dict of the defaults."""
    for key, value in zip(node.keys, node.values, strict=True):
        assert key is not None
        field = f"{prefix}{ast.literal_eval(key)}"
        if isinstance(value, ast.Call):
            value = groups[value.func.id] if isinstance(value.func, ast.Name) else value
        if isinstance(value, ast.Dict) and value.keys:
            yield from _lines(value, groups, f"{field}.")
        else:
            yield field, key.lineno


def _changes(fields: Mapping[str, Any], other: Mapping[str, Any], prefix: str) -> Iterator[tuple]:
    """Yields (dotted name, value) of each field that differs."""
    for key, value in fields.items():
        before = other.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and not before.keys() - value:
            yield from _changes(value, before, f"{prefix}{key}.")
        elif key not in other or value != before:
            yield f"{prefix}{key}", value


def _rank(item: tuple[str, Any]) -> tuple[int, str]:
    """Returns a sort key: the order of the defaults, other fields at the end of their group."""
    field, names = item[0], list(meanings())
    if field in names:
        return names.index(field), ""
    group = field.rpartition(".")[0]
    inside = [i for i, name in enumerate(names) if name.startswith(f"{field}.")]
    beside = [i for i, name in enumerate(names) if name.startswith(f"{group}.")]
    return (inside or beside or [len(names)])[-1], field
