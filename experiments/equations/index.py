"""Finds out which test checks which equation of the sources, from the markers in tests/.

The markers are read from the source text, without importing the tests, so this takes a fraction of
a second and gives the same index in every process. Their arguments must therefore be literals or
names that the file gives to strings.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent.parent
EQUATION_ID = re.compile(r"S[0-4] \d+(\.\d+)?")  # "S1 1.63"
_NUMBER = r"\d+(\.\d+)*"
# For example "S1 1.124-1.125", "S4 113, 116", or a section, "S4 §3.4.5".
ERRATUM_ID = re.compile(rf"S[0-4] §?{_NUMBER}((, |-){_NUMBER})*")


@dataclass(frozen=True)
class Mark:
    """One marker of one test function: @pytest.mark.<kind>(id, ...)."""

    kind: str  # "equation" or "erratum"
    id: str
    path: str  # file of the test, from the root
    test: str
    function: str = ""  # for an equation: "module:qualname" of what implements it
    what: str = ""  # for an erratum: what is wrong
    number: float = 0.0  # for an erratum: the number that shows it
    slow: bool = False


def read_marks(folder: Path = ROOT / "tests") -> list[Mark]:
    """Reads every marker below `folder`, in the order of files and lines.

    Raises:
      ValueError: names the place of a marker that is not on a test function or has wrong arguments.
    """
    texts = {path: path.read_text() for path in sorted(folder.rglob("test_*.py"))}
    marked = [path for path, text in texts.items() if "pytest.mark.e" in text]
    return [mark for path in marked for mark in marks_of(texts[path], _relative(path))]


def marks_of(text: str, path: str) -> Iterator[Mark]:
    """The markers in the text of one test file."""
    tree, seen = ast.parse(text), set[ast.AST]()
    names = {node.targets[0].id: node.value for node in tree.body
             if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            slow = any("pytest.mark.slow" in ast.unparse(mark) for mark in node.decorator_list)
            for decorator in node.decorator_list:
                for call in _marker_calls(decorator):
                    seen.add(call)
                    mark = _mark(call, names, path, node.name, slow)
                    takes = {argument.arg for argument in node.args.args}
                    if mark.kind == "erratum" and "erratum_number" not in takes:
                        raise ValueError(
                            f"{path}:{call.lineno}: {node.name} must take the fixture "
                            "erratum_number, and assert that what it computes is that number"
                        )
                    yield mark
    for call in _marker_calls(tree):
        if call not in seen:
            raise ValueError(f"{path}:{call.lineno}: put the marker on a test function")


def _marker_calls(tree: ast.AST) -> list[ast.Call]:
    kinds = ("pytest.mark.equation", "pytest.mark.erratum")
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Attribute)]
    return [call for call in named if ast.unparse(call.func) in kinds]


def _value(node: ast.expr, names: Mapping[str, ast.expr]) -> Any:
    """The value of a literal, or of an f-string made of literals and of names for literals."""
    match node:
        case ast.JoinedStr():
            return "".join(str(_value(part, names)) for part in node.values)
        case ast.FormattedValue():
            return _value(node.value, names)
        case ast.Name() if node.id in names:
            return _value(names[node.id], names)
    return ast.literal_eval(node)


def _mark(call: ast.Call, names: Mapping[str, ast.expr], path: str, test: str, slow: bool) -> Mark:
    kind, place = ast.unparse(call.func).rpartition(".")[2], f"{path}:{call.lineno}"
    fields: dict[str, Any] = {"path": path, "test": test, "slow": slow}
    try:
        args = [_value(arg, names) for arg in call.args]
    except ValueError as error:
        raise ValueError(
            f"{place}: the arguments of a marker must be literals, or f-strings of "
            "them and of names that this file gives to strings"
        ) from error
    match kind, args:
        case "equation", [str(id), str(function)] if EQUATION_ID.fullmatch(id):
            return Mark(kind, id, function=function, **fields)
        case "erratum", [str(id), str(what), int() | float() as n] if ERRATUM_ID.fullmatch(id):
            return Mark(kind, id, what=what, number=float(n), **fields)
    raise ValueError(
        f'{place}: {ast.unparse(call)} is neither equation("S1 1.63", "module:qualname") '
        'nor erratum("S1 1.154", "what is wrong", 0.707)'
    )


def source_file(function: str) -> str:
    """The path, from the root, of the file that defines the function, class or property
    "module:qualname".

    Raises:
      ValueError: the name cannot be imported.
    """
    name, _, qualname = function.partition(":")
    try:
        resolved: Any = importlib.import_module(name)
        for part in qualname.split("."):
            resolved = getattr(resolved, part)
        resolved = resolved.fget if isinstance(resolved, property) else resolved
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no {function!r}: a marker names it as module:qualname") from error
    if isinstance(resolved, ModuleType) or not callable(resolved):
        raise ValueError(f"{function!r} is not a function or class")
    return _relative(Path(inspect.getsourcefile(inspect.unwrap(resolved)) or ""))


def _relative(path: Path) -> str:
    return path.resolve().relative_to(ROOT.resolve()).as_posix()


def spread(source: str, reasons: dict[str, str]) -> dict[str, str]:
    """Expands ranges: {"9 to 11": why} -> {"S1 9": why, "S1 10": why, "S1 11": why}; likewise
    "1.9 to 1.11"."""
    expanded = {}
    for numbers, why in reasons.items():
        first, _, last = numbers.partition(" to ")
        chapter, _, start = first.rpartition(".")
        end = (last or first).rpartition(".")[2]
        for number in range(int(start), int(end) + 1):
            expanded[f"{source} {chapter}{'.' * bool(chapter)}{number}"] = why
    return expanded


def number_key(id: str) -> tuple[str, tuple[int, ...]]:
    """A key that sorts ids by source and then by number: S1 1.9 before S1 1.10."""
    source, _, number = id.partition(" ")
    return source, tuple(int(digits) for digits in re.findall(r"\d+", number))
