"""A claim of the source, what the rows say of it, and a verdict computed from them."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from experiments.results import Row

TABLE = ("section", "claim of the source", "what we find", "verdict")
HOLDS, CONDITION, FALSE = "holds", "holds with a condition", "false"
UNDECIDED = "not decided by these numbers"


@dataclasses.dataclass(frozen=True)
class Rows:
    """Measured rows, by the part of the name before its first stroke."""

    rows: Sequence[Row]

    def of(self, part: str, **where: object) -> list[Row]:
        """The rows of a part that have these values."""
        mine = [row for row in self.rows if row["name"].split("/")[0] == part]
        return [row for row in mine if all(row.get(k) == v for k, v in where.items())]

    def range(self, part: str, key: str, **where: object) -> tuple[float, float]:
        """The least and the largest value of a key over these rows."""
        found = [row[key] for row in self.of(part, **where)]
        return min(found), max(found)

    def falls(self, part: str, key: str) -> bool:
        """Whether the key falls from row to row of each density, in their order, to 1e-12."""
        lines: dict[str, list[float]] = {}
        for row in self.of(part):
            lines.setdefault(row["density"], []).append(row[key])
        return all(
            after < before + 1e-12
            for line in lines.values()
            for before, after in itertools.pairwise(line)
        )


Finding = Callable[[Rows], tuple[str, str]]  # what we find, the verdict
CLAIMS: dict[str, tuple[str, str, Finding]] = {}  # name: section, claim, finding


def claim(section: str, text: str) -> Callable[[Finding], Finding]:
    """Enters a finding in CLAIMS under its function's name."""

    def enter(finding: Finding) -> Finding:
        CLAIMS[getattr(finding, "__name__")] = (section, text, finding)  # noqa: B009
        return finding

    return enter


def verdict(always: bool, on_condition: bool = False, condition: str = "") -> str:
    """`always` decides; where that is false, `on_condition` whether the condition is enough."""
    if always:
        return HOLDS
    return f"{CONDITION}: {condition}" if on_condition else FALSE


def between(low_high: tuple[float, float], digits: int = 3) -> str:
    """`low to high`, with so many digits, one of them where they agree."""
    low, high = (f"{value:.{digits}g}" for value in low_high)
    return low if low == high else f"{low} to {high}"


def within(error: float) -> str:
    """The power of ten from 1e-12 on that an error stays below: rounding differs by machine."""
    return f"{10.0 ** math.ceil(math.log10(max(error, 1e-12))):.0e}"


def listed(values: Sequence[float], form: str = ".2g") -> str:
    """`a, b, c`."""
    return ", ".join(f"{value:{form}}" for value in values)


def judge(measured: Sequence[Row]) -> list[Row]:
    """One row for each claim, from the measured rows; strokes escaped for a Markdown table."""
    found = []
    for name, (section, text, finding) in CLAIMS.items():
        cells = (section, text, *finding(Rows(measured)))
        escaped = [cell.replace("|", "\\|") for cell in cells]
        found.append({"name": f"claim/{name}"} | dict(zip(TABLE, escaped, strict=True)))
    return found
