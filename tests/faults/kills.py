"""Kill processes of the program at random, restart them, and compare what they leave with what
undisturbed ones leave.

python -m tests.faults.kills --kills=200 --seed=0 --json=FILE

Two fifths of the kills are of trainings (tests/faults/training_kills.py), the others of
evaluations, samples, compression, decompression and the preparation of data in equal parts
(tests/faults/kill_jobs.py).

The summary has for each phase its `kills`, what they `lost` of what was saved, and what was
`wrong`.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults import kill_jobs
from tests.faults.processes import (
    Phase,
    Shared,
    preload,
)
from tests.faults.training_kills import SAVE_EVERY, Tally, command, make_reference, train_with_kills

PHASES = ("training", *kill_jobs.PHASES)


def shares(kills: int, phases: Sequence[str]) -> dict[str, int]:
    """How many of the kills each phase has: trainings twice as many as any other, and what is
    left over."""
    parts = {phase: kills // (len(phases) + ("training" in phases)) for phase in phases}
    first = phases[0]
    return parts | {first: kills - sum(n for phase, n in parts.items() if phase != first)}


def run_kills(
    kills: int,
    seed: int,
    secs: float = float("inf"),
    cache: Path | None = None,
    phases: Sequence[str] = PHASES,
) -> dict[str, Any]:
    """That many kills, or as many as fit; what is written to the file. `cache`: a folder with
    compiled programs, else all are compiled once."""
    begin, tally, rng, shared = time.monotonic(), Tally(), random.Random(seed), Shared()
    of_phases = shares(kills, phases)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        import jax

        jax.config.update("jax_compilation_cache_dir", str(cache or folder / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        preload()
        reference = make_reference(folder, shared, "training" in phases)
        print(
            f"an undisturbed run takes {reference.life:.1f} s, a save {reference.save_secs:.2f} s",
            flush=True,
        )
        jobs = kill_jobs.make_jobs(
            reference.folder, folder, command, [p for p in phases if p != "training"]
        )
        found: dict[str, Phase] = kill_jobs.run_jobs(jobs, of_phases, folder, rng, begin + secs)
        while tally.kills < of_phases.get("training", 0) and time.monotonic() - begin < secs:
            workdir = folder / f"training {tally.trainings}"
            train_with_kills(workdir, reference, shared, tally, of_phases["training"], rng)
            shutil.rmtree(workdir, ignore_errors=True)
    if "training" in phases:
        found = {"training": tally} | found
    return {
        "command": f"python -m tests.faults.kills --kills={kills} --seed={seed}"
        + (f" --secs={secs:g}" if secs < float("inf") else "")
        + (f" --phases={','.join(phases)}" if phases != PHASES else ""),
        "kills": sum(phase.kills for phase in found.values()),
        "lost": sum(phase.lost for phase in found.values()),
        "wrong": [what for phase in found.values() for what in phase.wrong],
        "by_phase": {
            name: {"kills": phase.kills, "lost": phase.lost, "wrong": len(phase.wrong)}
            for name, phase in found.items()
        },
        "by_signal": dict(sorted(sum((p.signals for p in found.values()), Counter()).items())),
        "trainings": tally.trainings,
        "moments_of_training": dict(sorted(tally.moments.items())),
        "aimed_at_saves": tally.aimed_at_saves,
        "save_every": SAVE_EVERY,
        "lost_steps_max": tally.lost_steps_max,
        "secs": round(time.monotonic() - begin),
    }


def main() -> int:
    """The script; 1 when anything was lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--secs", type=float, default=float("inf"), help="begin no training later")
    parser.add_argument("--cache", type=Path, help="folder of compiled programs")
    parser.add_argument("--phases", default=",".join(PHASES), help="of these alone")
    parser.add_argument("--json", type=Path, help="where the summary goes")
    options = parser.parse_args()
    phases = tuple(options.phases.split(","))
    if not {*phases} <= {*PHASES}:
        parser.error(f"--phases={options.phases}: known are {','.join(PHASES)}")
    summary = run_kills(options.kills, options.seed, options.secs, options.cache, phases)
    print(json.dumps(summary, indent=2))
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2) + "\n")
    return 1 if summary["wrong"] or summary["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
