"""Code that all experiments share: flags, the identity of a row, results.json and its table."""

import argparse
import functools
import hashlib
import operator
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vdm.devices import sharding
from vdm.evaluation.statistics import half_width, standard_error
from vdm.io import streams
from vdm.io.atomic import write_json
from vdm.io.canonical import canonical_text
from vdm.io.environment import commit, machine
from vdm.io.places import check_local

Row = dict[str, Any]


def parse_flags(script: str) -> argparse.Namespace:
    """Reads --scale=small|full and --outdir=DIR. Without them it replaces the committed results."""
    return parsed(make_parser(script), script)


def make_parser(script: str) -> argparse.ArgumentParser:
    """Makes the parser of these flags, to which an experiment may add its own."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument(
        "--scale", choices=("small", "full"), default="small", help="full: for accelerators"
    )
    parser.add_argument(
        "--outdir", type=Path, default=None,
        help="folder for results.json, pictures and runs/ (default: the experiment's folder, or "
        "its subfolder full/ with --scale=full)",
    )  # fmt: skip
    return parser


def parsed(parser: argparse.ArgumentParser, script: str) -> argparse.Namespace:
    """Reads the flags and starts the program: a closed output does not end it, and the CPU is
    divided into one device per core. Each scale has its own folder, so that it cannot mistake the
    runs of the other scale for its own."""
    flags = parser.parse_args()
    streams.forgive()
    sharding.split_host()
    try:
        check_local("--outdir", flags.outdir)
    except ValueError as error:
        parser.error(str(error))
    if flags.outdir is None:
        folder = Path(script).parent
        flags.outdir = folder / "full" if flags.scale == "full" else folder
    return flags


LATER_FIELDS: tuple[tuple[str, str, Any], ...] = (
    ("model", "kernel", "gaussian"),
    ("model", "decoder", "bayes"),
    ("eval", "grid", {"name": "equal_times", "kwargs": {"rho": 7.0}}),
    ("compress", "kernel", "model"),
    ("compress", "grid", {"name": "equal_times", "kwargs": {"rho": 7.0}}),
    ("sample.kwargs", "noisy_below", 100.0),
    ("model", "head", {"name": "table", "kwargs": {"components": 4}}),
)
"""Group, name and default of the fields that are younger than the oldest committed rows. At their
default they leave a hash as it was before they existed."""


def config_hash(config: ConfigDict) -> str:
    """A hash, twelve hex digits, of the resolved config without its seeds, its local paths and the
    destinations of its metrics."""
    fields = config.to_dict()
    fields.pop("seed")
    fields.pop("metrics")
    fields["eval"].pop("seed")
    fields["sample"].pop("seed")
    fields["data"].pop("data_dir")
    for place, name, default in LATER_FIELDS:
        group = functools.reduce(operator.getitem, place.split("."), fields)
        if group.get(name) == default:
            del group[name]
    return settings_hash(fields)


def settings_hash(settings: Row) -> str:
    """A hash, twelve hex digits, of plain values."""
    return hashlib.sha256(canonical_text(settings).encode()).hexdigest()[:12]


def identity(config: ConfigDict, module: str, scale: str) -> Row:
    """The keys by which a row can be traced and repeated: config_hash, commit and command. Call
    this before writing anything, as files would make the checkout differ from its commit."""
    return row_identity({}, module, scale) | {"config_hash": config_hash(config)}


def row_identity(settings: Row, module: str, scale: str) -> Row:
    """The same keys for an experiment whose settings are not a config."""
    command = f"python -m {module} --scale={scale}"
    return {"config_hash": settings_hash(settings), "commit": commit(), "command": command}


def seeds_half_width(row: Row) -> float:
    """Half the width of the 95% interval over the seeds of a row, bits/dim; NaN for one seed."""
    bpds = np.array(row["bpd_of_seeds"])
    return half_width(standard_error(bpds), len(bpds) - 1)


def write_results(outdir: Path, rows: Sequence[Row]) -> None:
    """Writes outdir/results.json; rows that do not name their machine get this one."""
    write_json(outdir / "results.json", [{"machine": machine()} | row for row in rows])


def format_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Makes a Markdown table, with numbers to four significant digits; a cell is empty if its row
    lacks the key."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4g}"
        return "" if value is None else str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(row.get(c)) for c in columns) + " |" for row in rows]
    return "\n".join(lines)
