"""Makes the tables of README.md from the markers: `python -m experiments.equations.page`."""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from experiments.equations.index import Mark, number_key, read_marks, source_file
from experiments.equations.statements import NOT_COMPUTABLE, NUMBERED, STATEMENTS
from vdm.io.atomic import write_bytes

PAGE = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- generated from the markers -->", "<!-- end of what is generated -->"
TITLES = {
    "S0": "S0, a translation of Luo 2022 as far as hierarchical VAEs",
    "S1": "S1, diffusion models from the evidence bound to DDPM (a rendering of Luo 2022)",
    "S2": "S2, a translation of Luo 2022",
    "S3": "S3, the evidence bound on one page",
    "S4": "S4, from mixtures by EM to diffusion models",
}


def problems(marks: Iterable[Mark]) -> list[str]:
    """Lists what is missing or contradictory in the index; empty if nothing is."""
    tested = {mark.id for mark in marks if mark.kind == "equation"}
    listed = [f"{id}: a test has it, experiments/equations/statements has no text for it"
              for id in tested - set(STATEMENTS)]  # fmt: skip
    listed += [f"{id}: stated, but no test has its marker" for id in set(STATEMENTS) - tested]
    listed += [f"{id}: both computable and not" for id in set(STATEMENTS) & set(NOT_COMPUTABLE)]
    missing = set(NUMBERED) - set(STATEMENTS) - set(NOT_COMPUTABLE)
    listed += [f"{id}: neither stated nor set aside" for id in missing]
    return sorted(listed)


def equation_lines(marks: Sequence[Mark]) -> list[str]:
    """One row for each equation: number, statement, functions, tests."""
    lines = ["| | states | implemented by | checked by |", "| --- | --- | --- | --- |"]
    for id in _ids(marks):
        own = [mark for mark in marks if mark.id == id]
        functions = dict.fromkeys(_function_link(mark.function) for mark in own)
        tests = dict.fromkeys(_test_link(mark) for mark in own)
        cells = (_number(id), _cell(STATEMENTS.get(id, "")), ", ".join(functions), ", ".join(tests))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def set_aside_lines(ids: Sequence[str]) -> list[str]:
    """One row for each run of consecutive equations that have no test for the same reason."""
    lines = ["| | why there is no test of its own |", "| --- | --- |"]
    places = {id: place for place, id in enumerate(NUMBERED)}
    for _, run in groupby(enumerate(ids), lambda at: (NOT_COMPUTABLE[at[1]],
                                                     places.get(at[1], 0) - at[0])):  # fmt: skip
        first, *_, last = [id for _, id in run] * 2
        numbers = _number(first) if first == last else f"{_number(first)} to {_number(last)}"
        lines.append(f"| {numbers} | {_cell(NOT_COMPUTABLE[first])} |")
    return lines


def erratum_lines(marks: Sequence[Mark]) -> list[str]:
    """One row for each error of a source."""
    lines = ["| | what is wrong | number that shows it | shown by |", "| --- | --- | --- | --- |"]
    return lines + [
        f"| {mark.id} | {_cell(mark.what)} | {mark.number:.6g} | {_test_link(mark)} |"
        for mark in sorted(marks, key=lambda mark: (number_key(mark.id), mark.test))
    ]


def tables(marks: Sequence[Mark]) -> str:
    """The text between the two comments of README.md."""
    equations = [mark for mark in marks if mark.kind == "equation"]
    errata = [mark for mark in marks if mark.kind == "erratum"]
    functions = {mark.function for mark in equations}
    tests = {(mark.path, mark.test) for mark in marks}
    lines = [f"{len(_ids(equations))} equations, implemented by {len(functions)} functions and "
             f"classes; {len(tests)} tests check them and show {len(errata)} errata. "
             f"{len(NOT_COMPUTABLE)} more equations are set aside with a reason."]  # fmt: skip
    for source, title in TITLES.items():
        own = [mark for mark in equations if mark.id.startswith(source)]
        aside = sorted((id for id in NOT_COMPUTABLE if id.startswith(source)), key=number_key)
        if own or aside:
            lines += ["", f"## {title}"]
        if own:
            lines += ["", *equation_lines(own)]
        if aside:
            lines += ["", *set_aside_lines(aside)]
    return "\n".join([*lines, "", "## Errata", "", *erratum_lines(errata)])


def with_tables(page: str, marks: Sequence[Mark]) -> str:
    """The text of README.md with new tables."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{tables(marks)}\n\n{END}{after}"


def _ids(marks: Iterable[Mark]) -> list[str]:
    return sorted({mark.id for mark in marks}, key=number_key)


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\|", text)  # A bar, as in p(x|z), would end the cell.


def _number(id: str) -> str:
    return f"({id.partition(' ')[2]})"


def _function_link(function: str) -> str:
    return f"[`{function.partition(':')[2]}`](../../{source_file(function)})"


def _test_link(mark: Mark) -> str:
    return f"[`{mark.test}`](../../{mark.path})"


if __name__ == "__main__":
    write_bytes(PAGE, with_tables(PAGE.read_text(), read_marks()).encode())
