"""Which function implements each equation of the sources, and does it pass its tests?"""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.equations.index import ROOT, Mark, number_key, read_marks
from experiments.equations.page import PAGE, problems, with_tables
from experiments.equations.statements import STATEMENTS
from experiments.results import Row, parse_flags, row_identity, write_results
from vdm.io.atomic import write_bytes

Test = tuple[str, str]  # (path, name)
Outcome = tuple[str, float]  # ("passed", "failed" or "skipped"; seconds)


def outcomes(scale: str) -> dict[Test, Outcome]:
    """Runs the marked tests; scale "small" leaves out the slow ones.

    The cases of a parametrised test count as one test, which passed if all of them did.
    """
    marked = "(equation or erratum) and not gpu" + (" and not slow" if scale == "small" else "")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", marked,
                   f"--junit-xml={report}", "-o", "junit_family=xunit1"]  # fmt: skip
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, check=False)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return dict(_outcomes(list(cases)))


def _outcomes(cases: Sequence[ElementTree.Element]) -> Iterator[tuple[Test, Outcome]]:
    of_test = defaultdict(list)
    for case in cases:
        of_test[case.attrib["file"], case.attrib["name"].partition("[")[0]].append(case)
    for test, own in of_test.items():
        marks = {child.tag for case in own for child in case}
        outcome = "failed" if marks & {"failure", "error"} else "passed"
        if "skipped" in marks and outcome == "passed":
            outcome = "skipped"
        yield test, (outcome, sum(float(case.attrib["time"]) for case in own))


def rows_of(marks: Sequence[Mark], ran: dict[Test, Outcome], identified: Row) -> Iterator[Row]:
    """Yields one row for each equation, one for each erratum, and one named "all". `test` and
    `function` are the first of `tests` and `functions`."""

    def tested(name: str, own: Sequence[Mark]) -> Row:
        tests = sorted({(mark.path, mark.test) for mark in own})
        results = [ran[test] for test in tests if test in ran]
        return {
            "name": name,
            **identified,
            "seconds": sum(seconds for _, seconds in results),
            "test": "::".join(tests[0]),
            "tests": [f"{path}::{test}" for path, test in tests],
            "passed": sum(result == "passed" for result, _ in results),
            "failed": sum(result == "failed" for result, _ in results),
            "not_run": len(tests) - sum(result != "skipped" for result, _ in results),
        }

    equations = [mark for mark in marks if mark.kind == "equation"]
    for id in sorted({mark.id for mark in equations}, key=number_key):
        own = [mark for mark in equations if mark.id == id]
        functions = sorted({mark.function for mark in own})
        named = {"equation": id, "function": functions[0], "functions": functions}
        yield tested(id, own) | named | {"states": STATEMENTS.get(id)}
    for mark in marks:
        if mark.kind == "erratum":
            row = tested(f"erratum {mark.id}, {mark.test}", [mark])
            yield row | {"erratum": mark.id, "what": mark.what, "number": mark.number}
    yield tested("all", marks)


def main() -> None:
    """Runs the marked tests, then writes results.json and the tables of README.md."""
    flags = parse_flags(__file__)
    marks = read_marks()
    settings = {"marks": sorted(f"{mark.kind} {mark.id} {mark.test}" for mark in marks)}
    identified = row_identity(settings, "experiments.equations.run", flags.scale)
    rows = list(rows_of(marks, outcomes(flags.scale), identified))
    page = with_tables(PAGE.read_text(), marks)
    write_results(flags.outdir, rows)
    write_bytes(flags.outdir / PAGE.name, page.encode())
    print("\n".join(problems(marks)))
    total = rows[-1]
    print(f"{len(rows) - 1} equations and errata: {total['passed']} tests passed, "
          f"{total['failed']} failed, {total['not_run']} were not run")  # fmt: skip


if __name__ == "__main__":
    main()
