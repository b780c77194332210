"""How many images per second does a train step process, and how much memory does it need, compared
with the choices of the published code?"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.results import Row, format_table, parse_flags, row_identity, write_results
from experiments.throughput.cases import CASES, CHOICES, SETTINGS, VARIANTS
from vdm.io.plots import (
    BLUE,
    GREEN,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    VERMILLION,
    make_figure,
    save_figure,
)

MODULE = "experiments.throughput"
ROUNDS = 9
SCALES = {
    "small": dict.fromkeys("ABC", ("ours", "published", *CHOICES)),
    "full": {"cifar10": ("ours", "bfloat16", "published")},
}
HEADS = {"small": "AB", "full": ("cifar10",)}
"""The cases in which the network that predicts eps (`ours`) is compared with one that says what it
expects of each of 256 codes (configs/cifar10.py:codes_cpu), in continuous time and for 10 steps of
the mixture kernel."""
SHARING = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # Several workers share one GPU.


class Worker:
    """A separate process that has compiled one step."""

    def __init__(self, case: str, variant: str) -> None:
        command = [sys.executable, "-m", f"{MODULE}.worker", case, variant]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=SHARING
        )
        self.facts = self._answer()
        self.times: list[dict[str, float]] = []

    def step(self) -> dict[str, float]:
        """Runs one step and returns its seconds, and how many of them it waited for the batch."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a worker has ended: see above")
        return json.loads(line)


def measure(case: str, variants: tuple[str, ...], machine: Row, reference: str) -> list[Row]:
    """Makes a row for each variant, whose speed and memory are relative to those of the reference.
    Their steps are timed in turn, so that other work on the machine affects all variants alike."""
    start = time.monotonic()
    workers = {variant: Worker(case, variant) for variant in variants}  # One compiles at a time.
    for measured in range(-2, ROUNDS):  # The first two rounds are warm-up.
        for worker in workers.values():
            times = worker.step()
            if measured >= 0:
                worker.times.append(times)
    for worker in workers.values():
        worker.close()
    rows, compared = [], workers[reference]
    for variant, worker in workers.items():
        step, reading = (
            statistics.median(t[key] for t in worker.times) for key in ("step_secs", "input_secs")
        )
        ratios = [
            theirs["step_secs"] / ours["step_secs"]
            for ours, theirs in zip(worker.times, compared.times, strict=True)
        ]
        facts = worker.facts
        gflops = facts["gflop"] / step
        peak = machine["matrix_bfloat16_gflops" if variant == "bfloat16" else "matrix_gflops"]
        rows.append(
            {
                "name": case,
                "variant": variant,
                "images_per_sec": CASES[case].batch_size / step,
                "speed_ratio": statistics.median(ratios),
                "speed_ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
                "step_secs": step,
                "compile_secs": facts["compile_secs"],
                "temp_mib": facts["temp_mib"],
                "temp_ratio": facts["temp_mib"] / compared.facts["temp_mib"],
                "gflops": gflops,
                "peak_share": gflops / peak,
                "input_share": reading / step,
                "devices": facts["devices"],
                "seconds": time.monotonic() - start,
            }
        )
    return rows


def run_module(module: str, *arguments: str) -> list[dict[str, Any]]:
    """Runs `python -m experiments.throughput.MODULE` and reads its output, one JSON object per
    line."""
    command = [sys.executable, "-m", f"{MODULE}.{module}", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


STYLES = {
    "ours": (BLUE, ""), "one_device": (SKY, "////"), "one_hot_decoder": (ORANGE, "...."),
    "whole_attention": (GREEN, "xxxx"), "flax_norms": (PURPLE, "----"),
    "bfloat16": (VERMILLION, ""),
}  # fmt: skip


def plot(path: Path, rows: list[Row]) -> None:
    """Plots the speed, with quartiles, and the temporary memory of each variant relative to the
    published one."""
    cases = list(dict.fromkeys(row["name"] for row in rows))
    variants = [v for v in dict.fromkeys(row["variant"] for row in rows) if v != "published"]
    width = 0.8 / len(variants)
    figure, panels = make_figure(PAGE, 3.0, columns=2)
    for axes, key in zip(panels, ("speed_ratio", "temp_ratio"), strict=True):
        for i, variant in enumerate(variants):
            chosen = [row for row in rows if row["variant"] == variant]
            places = [
                cases.index(row["name"]) + width * (i - (len(variants) - 1) / 2) for row in chosen
            ]
            heights = np.array([row[key] for row in chosen])
            colour, hatch = STYLES[variant]
            label = variant.replace("_", " ").replace("one hot", "one-hot")
            axes.bar(places, heights, width, label=label, color=colour, hatch=hatch,
                     edgecolor="white", linewidth=0.0)  # fmt: skip
            if key == "speed_ratio":
                low, high = np.array([row["speed_ratio_quartiles"] for row in chosen]).T
                axes.errorbar(places, heights, (heights - low, high - heights), fmt="none",
                              color="black", linewidth=0.8, capsize=1.5)  # fmt: skip
        axes.axhline(1.0, color="black", linewidth=1.0, linestyle="--", label="published")
        sizes = [CASES[name] for name in cases]
        axes.set_xticks(np.arange(len(cases)), [
            f"{name}: {c.shape[0]}×{c.shape[1]}\nwidth {c.width}\nbatch {c.batch_size}"
            for name, c in zip(cases, sizes, strict=True)
        ])  # fmt: skip
        axes.grid(visible=False, axis="x")
    panels[0].set_ylabel("images/s over published (bars: quartiles)")
    panels[1].set_ylabel("memory of temporaries over published")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center",
                  ncols=len(variants) + 1, columnspacing=1.0, handlelength=1.4,
                  frameon=False, fontsize=7)  # fmt: skip
    save_figure(figure, path)


def main() -> None:
    """Measures everything in turn, then writes results.json and throughput.png."""
    flags = parse_flags(__file__)
    settings = {name: dataclasses.asdict(case) for name, case in CASES.items()}
    identified = row_identity(
        settings | {"variants": VARIANTS, "changes": SETTINGS}, f"{MODULE}.run", flags.scale
    )
    start = time.monotonic()
    (machine,) = run_module("machine")
    rows: list[Row] = []
    for case, variants in SCALES[flags.scale].items():
        rows += measure(case, variants, machine, "published")
    plot(flags.outdir / "throughput.png", rows)
    for case in HEADS[flags.scale]:
        heads = measure(case, ("ours", "codes", "codes, T=10"), machine, "ours")
        rows += [row | {"name": f"{case}, heads"} for row in heads]
    rows.append({"name": "machine", "seconds": time.monotonic() - start} | machine)
    for record in run_module("compile_time", "on", "off"):
        secs = record["gradient_secs"]["compile"] + record["step_secs"]["compile"]
        rows.append({"name": f"compile_scan_{record['scan']}", "seconds": secs} | record)
    rows = [identified | row for row in rows]
    write_results(flags.outdir, rows)
    columns = ("name", "variant", "images_per_sec", "speed_ratio", "step_secs", "compile_secs",
               "temp_mib", "temp_ratio", "gflops", "peak_share", "input_share")  # fmt: skip
    print(format_table([row for row in rows if "variant" in row], columns))


if __name__ == "__main__":
    main()
