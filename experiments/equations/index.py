"""Which test checks which equation of the sources: read from the markers in tests/.

The markers are read from the source text, not by importing the tests, so the index is made in a
fraction of a second and is the same in every process. Their arguments are literals therefore.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent.parent
EQUATION_ID = re.compile(r"S[0-4] \d+(\.\d+)?")  # "S1 1.63"
_NUMBER = r"\d+(\.\d+)?"
ERRATUM_ID = re.compile(rf"S[0-4] (§ ?[\d.]+|{_NUMBER}((, |-){_NUMBER})*)")  # "S1 1.124-1.125"


@dataclass(frozen=True)
class Mark:
    """One marker of one test function: @pytest.mark.<kind>(id, ...)."""

    kind: str  # "equation" or "erratum"
    id: str
    path: str  # of the test, from the root
    test: str
    function: str = ""  # "module:qualname" of an equation
    what: str = ""  # what is wrong, of an erratum
    number: float = 0.0  # and what shows it
    slow: bool = False


def read_marks(folder: Path = ROOT / "tests") -> list[Mark]:
    """Every marker below `folder`, in the order of files and lines.

    Raises:
      ValueError: a marker that is not on a test function, or with wrong arguments; its place.
    """
    paths = sorted(folder.rglob("test_*.py"))
    return [mark for path in paths for mark in marks_of(path.read_text(), _relative(path))]


def marks_of(text: str, path: str) -> Iterator[Mark]:
    """The markers in the text of one test file."""
    tree, seen = ast.parse(text), set[ast.AST]()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            slow = any("pytest.mark.slow" in ast.unparse(mark) for mark in node.decorator_list)
            for decorator in node.decorator_list:
                for call in _marker_calls(decorator):
                    seen.add(call)
                    yield _mark(call, path, node.name, slow)
    for call in _marker_calls(tree):
        if call not in seen:
            raise ValueError(f"{path}:{call.lineno}: put the marker on a test function")


def _marker_calls(tree: ast.AST) -> list[ast.Call]:
    kinds = ("pytest.mark.equation", "pytest.mark.erratum")
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func) in kinds]


def _mark(call: ast.Call, path: str, test: str, slow: bool) -> Mark:
    kind, place = ast.unparse(call.func).rpartition(".")[2], f"{path}:{call.lineno}"
    fields: dict[str, Any] = {"path": path, "test": test, "slow": slow}
    try:
        args = [ast.literal_eval(arg) for arg in call.args]
    except ValueError as error:
        raise ValueError(f"{place}: the arguments of a marker must be literals") from error
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
    """The path, from the root, of the file that defines "module:qualname", a function, class or
    property.

    Raises:
      ValueError: nothing of this name can be imported.
    """
    name, _, qualname = function.partition(":")
    try:
        found: Any = importlib.import_module(name)
        for part in qualname.split("."):
            found = getattr(found, part)
        found = found.fget if isinstance(found, property) else found
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no {function!r}: a marker names it as module:qualname") from error
    if isinstance(found, ModuleType) or not callable(found):
        raise ValueError(f"{function!r} is no function or class")
    return _relative(Path(inspect.getsourcefile(inspect.unwrap(found)) or ""))


def _relative(path: Path) -> str:
    return path.resolve().relative_to(ROOT.resolve()).as_posix()


def spread(source: str, reasons: dict[str, str]) -> dict[str, str]:
    """{"9 to 11": why} -> {"S1 9": why, "S1 10": why, "S1 11": why}; "1.9 to 1.11" likewise."""
    found = {}
    for numbers, why in reasons.items():
        first, _, last = numbers.partition(" to ")
        chapter, _, start = first.rpartition(".")
        end = (last or first).rpartition(".")[2]
        for number in range(int(start), int(end) + 1):
            found[f"{source} {chapter}{'.' * bool(chapter)}{number}"] = why
    return found


def number_key(id: str) -> tuple[str, tuple[int, ...]]:
    """Sorts ids by source and then by number: S1 1.9 before S1 1.10."""
    source, _, number = id.partition(" ")
    return source, tuple(int(digits) for digits in re.findall(r"\d+", number))
