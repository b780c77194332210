"""Makes the results page, experiments/README.md, from the committed results of all experiments.

python -m experiments.page   (make results)
"""

import json
import re
import sys
from pathlib import Path

from experiments.contents import SECTIONS, Entry, Paper
from experiments.results import Row, format_table
from vdm.io.streams import write

FOLDER = Path(__file__).parent
PAGE = FOLDER / "README.md"
HEAD = """# Results

`make results` generates this page from the `results.json` of each experiment. Do not edit it by
hand: changes would be overwritten, and a test compares the two.

- Tables headed **Ours** show the *small* scale of each experiment, which runs on a CPU. Every row
  of `results.json` records its command, commit, config hash, machine and seconds.
- Tables headed **The paper's** show published figures, which are not ours. They are for the paper's
  data set and scale, and were copied from secondary sources that quote the paper, so look them up
  before you cite them. The command for that scale is given below each table; **we have not run any
  full-scale command**.
- `bpd` is the bound in bits/dim on the test split. `stderr` is its Monte-Carlo error,
  `stderr_images` its error over images, and `stderr_seeds` its error over trainings. A `difference`
  is paired image by image, and its page says whether the noise is shared too. The page that each
  section links to explains the other columns.
- `stderr_degrees` are the degrees of freedom of `stderr`. A 95% interval extends to each side by
  `stderr` times Student's quantile: 12.7 for 1 degree, 4.3 for 2, 2.2 for 10, 2.0 for 60. An error
  over three seeds has 2 degrees. The error bars of the pictures are such intervals.
- An experiment that trains is a list of jobs. It resumes, skips jobs that are done, and can be
  divided among processes and hosts: see `python -m experiments.NAME.run --help`
  ([sweep.py](sweep.py)).
- Continuous integration repeats one training and compares it with its row. It draws the job at
  random from the rows that take minutes and are not marked stale (`tests/test_rerun.py`).
- Some rows are older than the recording of machines, job names and degrees of freedom. These were
  added later, the first two from the pages and the last from the number of draws. Hashes of older
  rows are of the config at that time, which had fewer fields.
"""


def main() -> None:
    """Writes the page to experiments/README.md."""
    PAGE.write_text(render())
    write(sys.stdout, f"wrote {PAGE}\n")


def render() -> str:
    """The text of the page. Raises ValueError if an experiment has results but no entry in
    contents.py, or an entry but no results."""
    listed = {entry.name for entries in SECTIONS.values() for entry in entries}
    existing = {path.parent.name for path in FOLDER.glob("*/results.json")}
    if listed != existing:
        raise ValueError(
            f"experiments/contents.py and results.json differ in {listed ^ existing}: add the "
            "entry or the results that are missing"
        )
    parts = [HEAD, "| | |\n| --- | --- |\n" + "\n".join(map(contents_line, SECTIONS))]
    for title, entries in SECTIONS.items():
        parts.append(f"## {title}")
        parts += [section(entry) for entry in entries]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def contents_line(title: str) -> str:
    """The row of one section in the table of contents."""
    return f"| {title} | {', '.join(f'[{e.name}](#{e.name})' for e in SECTIONS[title])} |"


def section(entry: Entry) -> str:
    """The text on one experiment: its question, our tables with their provenance, and the paper's
    figures."""
    rows = json.loads((FOLDER / entry.name / "results.json").read_text())
    parts = [f"### {entry.name}", f"{question(entry.name)} ([page]({entry.name}/README.md))"]
    parts.append("**Ours**")
    for table in entry.tables:
        shown = table.rows(rows)
        if not shown:
            raise ValueError(
                f"experiments/contents.py: {entry.name} has no row for {table.columns}: correct "
                "the columns, or make the rows again"
            )
        parts.append(format_table(shown, [c for c in table.columns if any(c in r for r in shown)]))
    timed = any("seconds" in table.columns for table in entry.tables)
    parts.append(provenance(entry.name, rows) + ("" if timed else f"; {total(rows):.0f} seconds"))
    parts += sorted({f"Stale: {row['stale']}" for row in rows if "stale" in row})
    if entry.paper is not None:
        parts.append(published(entry.paper))
    full = f"`python -m experiments.{entry.name}.run --scale=full`"
    if entry.name != "parity":  # Golden files have no scale.
        parts.append(f"Full scale, not run by us: {full}")
    return "\n\n".join(parts)


def question(name: str) -> str:
    """The question on the experiment's own page, on one line."""
    page = (FOLDER / name / "README.md").read_text()
    match = re.search(r"\*\*Question\.\*\*(.*?)\n\n", page, re.DOTALL)
    if match is None:
        raise ValueError(f"experiments/{name}/README.md has no **Question.**")
    return " ".join(match.group(1).split())


def provenance(name: str, rows: list[Row]) -> str:
    """The command, machine and commits of the rows."""
    module = f"python -m experiments.{name}.run"
    commands = sorted({row["command"] for row in rows})
    golden = all(" --golden " in command for command in commands)
    shown = f"{module} --golden FOLDER/*.npz" if golden else " ".join(commands)
    machines = ", ".join(sorted({row["machine"] for row in rows}))
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    return f"`{shown}`; {machines}; commit {commits}"


def total(rows: list[Row]) -> float:
    """The seconds of all rows: those of a row named "all", or the sum over the rows."""
    of_all = [row["seconds"] for row in rows if row["name"] == "all"]
    return of_all[0] if of_all else sum(row["seconds"] for row in rows)


def published(paper: Paper) -> str:
    """The table of a paper's figures, labelled as not ours."""
    rows = [dict(zip(paper.columns, row, strict=True)) for row in paper.rows]
    return f"**The paper's** ({paper.source}; not ours)\n\n{format_table(rows, paper.columns)}"


if __name__ == "__main__":
    main()
