"""How far is each bound from the exact -log p(x), for data with a known ideal denoiser?"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from experiments.oracles.estimates import SOLVER, elbo_rows, iw_rows, ode_rows
from experiments.oracles.figure import plot_gaps
from experiments.oracles.oracles import Oracle, build_oracles
from experiments.results import Row, format_table, parse_flags, write_results
from vdm.diffusion.elbo import to_bpd
from vdm.io.environment import commit

TIGHT, USUAL = (-16.0, 14.0), (-8.0, 5.0)
NUM_DATA = {"small": {"iw": 4_000, "ode": 4_000}, "full": {"iw": 100_000, "ode": 40_000}}


def rows_of(oracle: Oracle, scale: str) -> list[Row]:
    """All rows of one oracle. Importance weighting uses only the usual ends: between the tight ends
    ten steps are 3 wide in omega, which gives no useful model of these data."""
    num, rows = NUM_DATA[scale], list[Row]()
    for ends in (TIGHT, USUAL):
        rows += finished(oracle, ends, 0, elbo_rows)
        if ends == USUAL:
            rows += finished(oracle, ends, num["iw"], iw_rows)
        rows += finished(oracle, ends, num["ode"], ode_rows)
    return rows


def finished(
    oracle: Oracle,
    ends: tuple[float, float],
    num: int,
    make: Callable[[Oracle, tuple[float, float], int], Iterator[Row]],
) -> Iterator[Row]:
    """Makes rows and adds their names, gaps, settings and the seconds of all of them together.

    num: number of data that are drawn; 0 for a quadrature, which needs none.
    """
    start, exact = time.monotonic(), oracle.exact_nats()
    rows = list(make(oracle, ends, num))
    seconds = time.monotonic() - start
    for row in rows:
        steps = f"-T{row['num_steps'] or 'inf'}" if "num_steps" in row else ""
        settings: Row = {
            "name": f"{oracle.name}/{row['bound']}{steps}/{ends[0]:g}..{ends[1]:g}",
            "oracle": oracle.name,
            "dim": oracle.dim,
            "omega_0": ends[0],
            "omega_1": ends[1],
            "num_data": num or None,
        }
        text = json.dumps(settings | {"solver": repr(SOLVER)}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        row = settings | row | {"exact_nats": exact, "config_hash": digest, "seconds": seconds}
        if "nats" in row:
            row["gap_nats"] = row["nats"] - exact
            if oracle.discrete:
                row["bpd"] = float(to_bpd(jnp.float64(row["nats"]), oracle.dim))
        yield row


def claims(rows: list[Row]) -> Iterator[Row]:
    """The claims that the rows must fulfil, each of the form value <= limit."""
    table = {row["name"]: row for row in rows}

    def claim(name: str, value: float, limit: float) -> Row:
        holds = bool(value <= limit)
        return {"name": f"claim/{name}", "value": value, "limit": limit, "holds": holds}

    for oracle in dict.fromkeys(row["oracle"] for row in rows):
        mine = [row for row in rows if row["oracle"] == oracle]
        gap: Row = {
            name.removeprefix(f"{oracle}/"): row.get("gap_nats")
            for name, row in table.items()
            if row["oracle"] == oracle
        }
        yield claim(f"{oracle}/elbo-inf-is-exact", abs(gap["elbo-Tinf/-16..14"]), 1e-4)
        for row in mine:
            if row["bound"] == "elbo-slope":
                name = row["name"].rpartition("/")[2]
                yield claim(f"{oracle}/slope-is-minus-one/{name}", abs(row["slope"] + 1), 0.03)
            if row["bound"] == "elbo-closed-form":
                other = table[row["name"].replace("-closed-form", "")]
                name = row["name"].partition("/")[2]
                error = abs(row["nats"] - other["nats"]) / abs(other["nats"])
                yield claim(f"{oracle}/quadrature-equals/{name}", error, 1e-9)
        falls = [row["step_nats"] / row["step_stderr"] for row in mine if "step_nats" in row]
        yield claim(f"{oracle}/iw-is-non-increasing", max(falls), 2.0)
        left = gap["iw-64-T10/-8..5"] / gap["elbo-T10/-8..5"]
        yield claim(f"{oracle}/iw-64-goes-half-way", left, 0.5)
        exact_row = table.get(f"{oracle}/exact-of-steps-T10/-8..5")
        if exact_row:
            last = table[f"{oracle}/iw-64-T10/-8..5"]
            below = (exact_row["nats"] - last["nats"]) / last["stderr"]
            yield claim(f"{oracle}/iw-64-bounds-its-model", below, 3.0)
        first = table[f"{oracle}/iw-1-T10/-8..5"]
        error = abs(first["gap_nats"] - gap["elbo-T10/-8..5"]) / first["stderr"]
        yield claim(f"{oracle}/iw-1-is-the-elbo", error, 3.0)
        decoder = table[f"{oracle}/ode-decoder/-16..14"]
        error = abs(decoder["gap_nats"]) / decoder["stderr"]
        yield claim(f"{oracle}/ode-decoder-is-exact", error, 3.0)


def main() -> None:
    """Computes all rows, then writes results.json and the figure."""
    flags = parse_flags(__file__)
    jax.config.update("jax_enable_x64", True)
    command = f"python -m experiments.oracles.run --scale={flags.scale}"
    identified = {"commit": commit(), "command": command}
    rows = [row for oracle in build_oracles() for row in rows_of(oracle, flags.scale)]
    plot_gaps(flags.outdir / "oracles.png", rows)
    shared = {"config_hash": rows[0]["config_hash"], "seconds": 0.0}
    rows += [shared | row for row in claims(rows)]
    write_results(flags.outdir, [identified | row for row in rows])
    shown = [row for row in rows if row.get("num_steps", 10) in (0, 10)]
    print(format_table(shown, ("name", "nats", "stderr", "gap_nats", "value", "limit", "holds")))


if __name__ == "__main__":
    main()
