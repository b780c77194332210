"""The results page, experiments/README.md, from the committed results.json of every experiment.

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

Made by `make results` from the `results.json` of each experiment; what is changed here by hand is
lost, and a test compares the two.

- Tables headed **Ours** are at the *small* scale of each experiment, which runs on a CPU. Every row
  of `results.json` has the command, commit, hash of the config, machine and seconds.
- Tables headed **The paper's** are not ours: figures of the publication named there, of its data
  set and its scale, copied from secondary sources that quote it (look them up before you cite
  them). The command for that scale stands below; **no full-scale command has been run by us**.
- `bpd` is the bound in bits/dim on the test split. `stderr` is its Monte-Carlo error,
  `stderr_images` that over images, `stderr_seeds` that over trainings; a `difference` is paired
  image by image, and its page says whether the noise is shared too. The other columns are explained
  on the page that each section links to.
- `stderr_degrees` are the degrees of freedom of `stderr`. A 95% interval is `stderr` times
  Student's quantile for them to each side: 12.7 for 1, 4.3 for 2, 2.2 for 10, 2.0 for 60. An error
  over three seeds has 2. Bars of 95% are drawn so.
- An experiment that trains is a list of jobs: it resumes, skips what is done and can be shared out
  over processes and hosts, `python -m experiments.NAME.run --help` ([sweep.py](sweep.py)).
- Continuous integration trains one job again, drawn at random from the rows that take minutes and
  are not marked stale, and compares it with its row (`tests/test_rerun.py`).
- Rows made before machines, names of jobs and degrees of freedom were recorded got them afterwards,
  the first two from their pages and the last from their draws; their hashes are of the config as it
  was, which has got fields since.
"""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(render())
    write(sys.stdout, f"wrote {PAGE}\n")


def render() -> str:
    """The page; ValueError for an experiment that has results and no entry."""
    named = {entry.name for entries in SECTIONS.values() for entry in entries}
    found = {path.parent.name for path in FOLDER.glob("*/results.json")}
    if named != found:
        raise ValueError(f"experiments/contents.py and results.json differ in {named ^ found}")
    parts = [HEAD, "| | |\n| --- | --- |\n" + "\n".join(map(contents_line, SECTIONS))]
    for title, entries in SECTIONS.items():
        parts.append(f"## {title}")
        parts += [section(entry) for entry in entries]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def contents_line(title: str) -> str:
    """A row of the table of contents."""
    return f"| {title} | {', '.join(f'[{e.name}](#{e.name})' for e in SECTIONS[title])} |"


def section(entry: Entry) -> str:
    """The question, our tables and where they come from, and the paper's."""
    rows = json.loads((FOLDER / entry.name / "results.json").read_text())
    parts = [f"### {entry.name}", f"{question(entry.name)} ([page]({entry.name}/README.md))"]
    parts.append("**Ours**")
    for table in entry.tables:
        shown = table.rows(rows)
        if not shown:
            raise ValueError(
                f"experiments/contents.py: {entry.name} has no row for {table.columns}"
            )
        parts.append(format_table(shown, [c for c in table.columns if any(c in r for r in shown)]))
    timed = any("seconds" in table.columns for table in entry.tables)
    parts.append(provenance(entry.name, rows) + ("" if timed else f"; {total(rows):.0f} seconds"))
    parts += sorted({f"Stale: {row['stale']}" for row in rows if "stale" in row})
    if entry.paper is not None:
        parts.append(of_paper(entry.paper))
    full = f"`python -m experiments.{entry.name}.run --scale=full`"
    if entry.name != "parity":  # golden files have no scale
        parts.append(f"Full scale, not run by us: {full}")
    return "\n\n".join(parts)


def question(name: str) -> str:
    """The paragraph of the experiment's own page that asks it, on one line."""
    page = (FOLDER / name / "README.md").read_text()
    match = re.search(r"\*\*Question\.\*\*(.*?)\n\n", page, re.DOTALL)
    if match is None:
        raise ValueError(f"experiments/{name}/README.md has no **Question.**")
    return " ".join(match.group(1).split())


def provenance(name: str, rows: list[Row]) -> str:
    """Command, machine and commits of the rows."""
    module = f"python -m experiments.{name}.run"
    commands = sorted({row["command"] for row in rows})
    golden = all(" --golden " in command for command in commands)
    shown = f"{module} --golden FOLDER/*.npz" if golden else " ".join(commands)
    machines = ", ".join(sorted({row["machine"] for row in rows}))
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    return f"`{shown}`; {machines}; commit {commits}"


def total(rows: list[Row]) -> float:
    """Seconds of all rows: of the one that is named so, or their sum."""
    named = [row["seconds"] for row in rows if row["name"] == "all"]
    return named[0] if named else sum(row["seconds"] for row in rows)


def of_paper(paper: Paper) -> str:
    """Its figures, labelled as its own."""
    rows = [dict(zip(paper.columns, row, strict=True)) for row in paper.rows]
    return f"**The paper's** ({paper.source}; not ours)\n\n{format_table(rows, paper.columns)}"


if __name__ == "__main__":
    main()
