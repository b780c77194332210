"""The claims of the source, what the rows say about each, and a verdict computed from them."""

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
    """Measured rows, grouped by the part of their name before the first slash."""

    rows: Sequence[Row]

    def of(self, part: str, **where: object) -> list[Row]:
        """The rows of a part that have the given values."""
        mine = [row for row in self.rows if row["name"].split("/")[0] == part]
        return [row for row in mine if all(row.get(k) == v for k, v in where.items())]

    def range(self, part: str, key: str, **where: object) -> tuple[float, float]:
        """The smallest and the largest value of a key over these rows."""
        values = [row[key] for row in self.of(part, **where)]
        return min(values), max(values)

    def falls(self, part: str, key: str) -> bool:
        """Whether the key falls from row to row for each density, in the order of the rows, to
        within 1e-12."""
        lines: dict[str, list[float]] = {}
        for row in self.of(part):
            lines.setdefault(row["density"], []).append(row[key])
        return all(
            after < before + 1e-12
            for line in lines.values()
            for before, after in itertools.pairwise(line)
        )


Finding = Callable[[Rows], tuple[str, str]]  # rows -> (what we find, the verdict)
CLAIMS: dict[str, tuple[str, str, Finding]] = {}  # name: (section, claim, finding)


def claim(section: str, text: str) -> Callable[[Finding], Finding]:
    """A decorator that enters a finding in CLAIMS under the name of its function."""

    def enter(finding: Finding) -> Finding:
        CLAIMS[getattr(finding, "__name__")] = (section, text, finding)  # noqa: B009
        return finding

    return enter


def verdict(always: bool, on_condition: bool = False, condition: str = "") -> str:
    """The verdict: "holds" if `always`, otherwise "holds with a condition" if `on_condition`, and
    otherwise "false"."""
    if always:
        return HOLDS
    return f"{CONDITION}: {condition}" if on_condition else FALSE


def between(low_high: tuple[float, float], digits: int = 3) -> str:
    """Formats "low to high" with that many digits, or a single number if both are the same."""
    low, high = (f"{value:.{digits}g}" for value in low_high)
    return low if low == high else f"{low} to {high}"


def within(error: float) -> str:
    """The smallest power of ten, at least 1e-12, that is above an error: rounding differs between
    machines."""
    return f"{10.0 ** math.ceil(math.log10(max(error, 1e-12))):.0e}"


def listed(values: Sequence[float], form: str = ".2g") -> str:
    """Formats values as "a, b, c"."""
    return ", ".join(f"{value:{form}}" for value in values)


def judge(measured: Sequence[Row]) -> list[Row]:
    """Makes one row for each claim from the measured rows; bars are escaped for a Markdown
    table."""
    judged = []
    for name, (section, text, finding) in CLAIMS.items():
        cells = (section, text, *finding(Rows(measured)))
        escaped = [cell.replace("|", "\\|") for cell in cells]
        judged.append({"name": f"claim/{name}"} | dict(zip(TABLE, escaped, strict=True)))
    return judged
