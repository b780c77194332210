"""Does this library compute what VDM's published code computes?"""

import argparse
import glob
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.parity import compare, golden, model, parts
from experiments.results import Row, format_table, write_results
from vdm.io.environment import commit
from vdm.io.streams import forgiving

# (Beginning of a key of the file, function that recomputes such a file from arrays and a dtype).
KINDS: tuple[tuple[str, Callable[[golden.Arrays, Any], dict[str, Any]]], ...] = (
    ("images", model.recompute_model),
    ("cot_gamma", parts.recompute_schedule),
    ("g0/", parts.recompute_optimizer),
    ("v", parts.recompute_decoder),
)
COLUMNS = (
    "name", "arrays", "error", "error_float64", "tolerance_float64", "error_float32",
    "error_float32_to_out32", "peer_float32_error", "tolerance_float32", "ok",
)  # fmt: skip


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads --golden FILE [FILE ...] and --outdir DIR."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--golden", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--outdir", type=Path, default=Path(__file__).parent)
    return parser.parse_args(argv)


def recompute(arrays: golden.Arrays, dtype: Any) -> golden.Arrays:
    """Recomputes every output of a file from its inputs in float32 or float64; names lack
    out64/."""
    for start, recompute_kind in KINDS:
        if any(name.startswith(start) for name in arrays):
            with jax.enable_x64(dtype == np.float64):
                outputs = recompute_kind(arrays, dtype)
                return {name: np.asarray(value) for name, value in outputs.items()}
    raise ValueError("it has no key of a known kind of golden file")


def check(path: Path) -> list[Row]:
    """Compares one golden file and returns its rows. Raises ValueError for any other file."""
    started = time.perf_counter()
    arrays = golden.read(path)
    try:
        in64, in32 = (recompute(arrays, dtype) for dtype in (np.float64, np.float32))
        rows = compare.rows(path.stem, compare.compare(arrays, in64, in32))
    except KeyError as error:
        raise ValueError(f"{path} is not a golden file (it has no {error.args[0]!r})") from error
    except (ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} is not a golden file ({reason})") from error
    shared = {
        "config_hash": hashlib.sha256(str(arrays["config_json"]).encode()).hexdigest()[:12],
        "seconds": round(time.perf_counter() - started, 1),
    }
    return [row | shared for row in rows]


@forgiving()
def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if every tolerance is met, 1 if one is not, 2 if a file is not a golden file."""
    flags = parse_flags(argv)
    paths = [Path(name) for given in flags.golden for name in sorted(glob.glob(given)) or [given]]
    made_by, rows = commit(), []
    try:
        for path in paths:
            command = f"python -m experiments.parity.run --golden {path}"
            rows += [row | {"commit": made_by, "command": command} for row in check(path)]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    write_results(flags.outdir, rows)
    print(format_table(rows, COLUMNS))
    missed = [row["name"] for row in rows if not row["ok"]]
    for row in rows:
        if row["name"] in missed:
            print(f"MISSED {row['name']}: {row['worst_array']} {row['reason']}")
    print(f"{len(rows) - len(missed)} of {len(rows)} quantities within tolerance")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
