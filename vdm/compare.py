"""Compare evaluated runs in a table and a figure, with paired differences from the first run.

python -m vdm.compare runs/a runs/b runs/c
python -m vdm.compare runs/a runs/b --outdir=comparison

RUN           a workdir with eval.json and eval_examples.npz, which --mode=eval writes
--outdir=DIR  where to write compare.json and compare.png (default: the current folder)

A difference is run - first in bits/dim, computed image by image on the same images. Its standard
error `+- images` is for other images of the same kind, `+- noise` for the same images with other
noise. A 95% interval extends 1.96 standard errors to each side with many images or degrees of
freedom (`df`), 4.3 with two degrees and 12.7 with one. Runs evaluated with the same eval.seed and
eval.draws share their noise, which makes both errors smaller.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vdm.data.arrays import UNREADABLE
from vdm.evaluation.statistics import (
    Error,
    difference_error,
    monte_carlo_error,
    standard_error,
    student_quantile,
)
from vdm.io.atomic import read_json, write_json
from vdm.io.places import check_local
from vdm.io.plots import plot_comparison
from vdm.io.streams import forgiving

COLUMNS = ("run", "bound", "T", "step", "bits/dim", "+- images", "+- noise", "df", "difference",
           "+- images", "+- noise", "df")  # fmt: skip

NEEDED = ("bpd", "stderr_images", "stderr_monte_carlo", "bound", "num_steps", "step", "num_dims",
          "num_examples", "draws_per_example", "strata", "data_fingerprint")  # fmt: skip

USUAL = {"kernel": "gaussian", "decoder": "bayes", "grid": "equal_times"}
"""What a report says of T steps, or means if it does not say it. Each has a column beside T if one
of the runs differs."""

Row = dict[str, Any]


@forgiving()
def main(argv: Sequence[str]) -> int:
    """Runs the program; returns exit status 0, or 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m vdm.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--outdir", type=Path, default=Path())
    flags = parser.parse_args(argv)
    try:
        check_local("--outdir", flags.outdir)
        rows = compare([Result(run) for run in flags.runs])
        print(table(rows))
        write_json(flags.outdir / "compare.json", rows)
        quantile = float(student_quantile(rows[0]["num_examples"] - 1))
        plot_comparison(flags.outdir / "compare.png", rows, quantile)
    except (ValueError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename:
            text = f"--outdir={flags.outdir} cannot be written: {error.strerror}"
        print(f"error: {' '.join(text.split())}", file=sys.stderr)
        return 2
    print(f"wrote compare.json, compare.png in {flags.outdir.absolute()}")
    return 0


class Result:
    """The last evaluation of a workdir.

    Attributes:
        run: the workdir.
        report: the content of eval.json.
        bpd: bits/dim [draws, images].
        noise: the Monte-Carlo error of the mean of `bpd`, computed anew from the draws, because
            eval.json has the one of the version that wrote it.
    """

    def __init__(self, run: Path) -> None:
        missing = [n for n in ("eval.json", "eval_examples.npz") if not (run / n).is_file()]
        if missing:
            raise ValueError(f"{run} has no {missing[0]}: evaluate it first with --mode=eval")
        self.run = run
        self.report: dict[str, Any] = read_json(run / "eval.json")
        known = self.report if isinstance(self.report, dict) else {}
        absent = [key for key in NEEDED if key not in known]
        if absent:
            raise ValueError(
                f"{run}/eval.json is not an evaluation (it has no {absent[0]}): evaluate {run} "
                "again with --mode=eval"
            )
        try:
            with np.load(run / "eval_examples.npz") as examples:
                nats = examples["total_of_draws"]
        except (KeyError, OSError, *UNREADABLE) as error:
            raise ValueError(
                f"{run}/eval_examples.npz is damaged: evaluate {run} again with --mode=eval"
            ) from error
        self.bpd = nats / (self.report["num_dims"] * math.log(2))
        shape = (self.report["draws_per_example"], self.report["num_examples"])
        mean = self.report["bpd"]
        if nats.shape != shape or abs(self.bpd.mean() - mean) > 1e-9 * max(1.0, abs(mean)):
            raise ValueError(
                f"eval.json and eval_examples.npz in {run} are from different evaluations: "
                "evaluate it again with --mode=eval"
            )
        self.noise = self.error_of(self.bpd)

    def error_of(self, bpd: np.ndarray) -> Error:
        """The Monte-Carlo error of the mean of `bpd` [draws, images], evaluated with this noise."""
        # With the bound "elbo" and a model with a schedule, draws share the offset of their times.
        independent = self.report["bound"] != "elbo" or "num_levels" in self.report
        return monte_carlo_error(bpd, self.report["strata"], independent)


def compare(results: Sequence[Result]) -> list[Row]:
    """Makes a row for each result; raises ValueError if their data or bounds differ."""
    first = results[0]
    for other in results[1:]:
        for key, remedy in (
            ("data_fingerprint", "evaluate them on the same data"),
            ("bound", "evaluate them with the same eval.bound"),
        ):
            ours, theirs = first.report.get(key), other.report.get(key)
            if ours == theirs:
                continue
            names = [result.report.get("dataset") for result in (first, other)]
            if key == "data_fingerprint" and names[0] != names[1]:  # names tell more than hashes
                key, (ours, theirs) = "dataset", names
                remedy = "bits/dim on different data sets cannot be compared"
            raise ValueError(
                f"{first.run} and {other.run} differ in {key} ({ours} and {theirs}): {remedy}"
            )
    rows = []
    for result in results:
        row = {"run": str(result.run)} | result.report | _named("", result.noise)
        if result is not first:
            row |= difference(result, first)
        rows.append(row)
    return rows


def difference(result: Result, first: Result) -> Row:
    """result - first in bits/dim, with its standard errors over images and over noise."""
    per_image = result.bpd.mean(axis=0) - first.bpd.mean(axis=0)
    row = {
        "difference": float(per_image.mean()),
        "difference_stderr_images": standard_error(per_image),
        "shared_noise": shares_noise(result.report, first.report),
    }
    if row["shared_noise"]:
        return row | _named("difference_", first.error_of(result.bpd - first.bpd))
    return row | _named("difference_", difference_error(result.noise, first.noise))


def _named(prefix: str, error: Error) -> Row:
    """A Monte-Carlo error with the field names of eval.json."""
    return {
        f"{prefix}stderr_monte_carlo": error.stderr,
        f"{prefix}stderr_degrees": error.degrees or None,
    }


def shares_noise(report: Row, other: Row) -> bool:
    """Whether two evaluations drew the same noise for every image."""
    return all(
        report.get(key) == other.get(key)
        for key in ("eval_seed", "draws_per_example", "num_steps", "probes")
    )


def table(rows: Sequence[Row]) -> str:
    """Formats the rows as a table."""
    of_steps = {
        name: [str(row.get(name, usual)) for row in rows]
        for name, usual in USUAL.items()
        if any(row.get(name, usual) != usual for row in rows)
    }
    cells = [[*COLUMNS[:3], *of_steps, *COLUMNS[3:]]] + [
        [
            row["run"],
            row["bound"],
            {None: "", 0: "inf"}.get(row["num_steps"], str(row["num_steps"])),
            *(values[place] for values in of_steps.values()),
            str(row["step"]),
            f"{row['bpd']:.4f}",
            _number(row["stderr_images"]),
            _number(row["stderr_monte_carlo"]),
            _degrees(row["stderr_degrees"]),
            f"{row['difference']:+.4f}" if "difference" in row else "",
            _number(row.get("difference_stderr_images", "")),
            _number(row.get("difference_stderr_monte_carlo", "")),
            _degrees(row.get("difference_stderr_degrees")),
        ]
        for place, row in enumerate(rows)
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))]).rstrip()
        for row in cells
    ]
    apart = [row["run"] for row in rows if row.get("shared_noise") is False]
    if apart:
        lines.append(
            f"noise differs from that of the first run (eval.seed, draws or T): {', '.join(apart)}"
        )
    return "\n".join(lines)


def _number(value: float | str | None) -> str:
    if value == "":
        return ""
    return "unknown" if value is None or math.isnan(float(value)) else f"{float(value):.4f}"


def _degrees(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
