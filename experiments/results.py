"""What every experiment shares: its flags, the identity of a row, results.json and its table."""

import argparse
import hashlib
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
    """--scale=small|full and --outdir=DIR; without either the committed results are rewritten."""
    return parsed(make_parser(script), script)


def make_parser(script: str) -> argparse.ArgumentParser:
    """The same, to which an experiment adds flags of its own."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument(
        "--scale", choices=("small", "full"), default="small", help="full: for accelerators"
    )
    parser.add_argument(
        "--outdir", type=Path, default=None,
        help="of results.json, pictures and runs/ (default: the experiment's folder, and its "
        "folder full/ with --scale=full)",
    )  # fmt: skip
    return parser


def parsed(parser: argparse.ArgumentParser, script: str) -> argparse.Namespace:
    """The flags, with a folder of its own for each scale, so that neither takes the other's runs
    for its own. The start of a program: its output cannot end it, and the CPU is as many devices
    as it has cores."""
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


def config_hash(config: ConfigDict) -> str:
    """Twelve hex digits of the resolved config without its seeds, its places on this machine and
    where its metrics go."""
    fields = config.to_dict()
    fields.pop("seed")
    fields.pop("metrics")
    fields["eval"].pop("seed")
    fields["sample"].pop("seed")
    fields["data"].pop("data_dir")
    return settings_hash(fields)


def settings_hash(settings: Row) -> str:
    """Twelve hex digits of plain values."""
    return hashlib.sha256(canonical_text(settings).encode()).hexdigest()[:12]


def identity(config: ConfigDict, module: str, scale: str) -> Row:
    """The keys that let a row be traced and run again. Called before anything is written, which
    would make the checkout differ from its commit."""
    return row_identity({}, module, scale) | {"config_hash": config_hash(config)}


def row_identity(settings: Row, module: str, scale: str) -> Row:
    """The same for an experiment whose settings are no config."""
    command = f"python -m {module} --scale={scale}"
    return {"config_hash": settings_hash(settings), "commit": commit(), "command": command}


def seeds_half_width(row: Row) -> float:
    """Half of the 95% interval over the seeds of a row, bits/dim; NaN for one seed."""
    of_seeds = np.array(row["bpd_of_seeds"])
    return half_width(standard_error(of_seeds), len(of_seeds) - 1)


def write_results(outdir: Path, rows: Sequence[Row]) -> None:
    """outdir/results.json, one row per name, with the machine where it says none."""
    write_json(outdir / "results.json", [{"machine": machine()} | row for row in rows])


def format_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A Markdown table; numbers with four significant digits, nothing where a row has no key."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4g}"
        return "" if value is None else str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(row.get(c)) for c in columns) + " |" for row in rows]
    return "\n".join(lines)
