"""How close does the size of a file come to the bound, and how long does coding take, for each
number of steps?"""

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.compression.others import measure
from experiments.results import Row, format_table, identity, write_results
from experiments.sweep import CONFIGS, Job, finish, kept, parse_flags, seeded
from vdm import api
from vdm.config.options import CompressOptions
from vdm.config.registry import GRIDS
from vdm.data.sources import Split
from vdm.evaluation.statistics import half_width
from vdm.io.atomic import read_json
from vdm.io.plots import BLUE, GREEN, VERMILLION, make_figure, save_figure
from vdm.runs import compress


class Case(NamedTuple):
    """One setting: the first `count` test images of a data set, coded `seeds` times with T steps,
    and the bound on them from `draws` draws each. data: a config with its preset, if any."""

    data: str
    count: int
    num_steps: int
    seeds: int
    draws: int
    order: str = "bit_swap"
    lanes: int = 64
    kernel: str = "gaussian"
    decoder: str = "bayes"
    grid: str = "equal_times"

    @property
    def name(self) -> str:
        """The name of the row."""
        usual = ("bit_swap", "gaussian", "bayes", "equal_times")
        given = (self.order, self.kernel, self.decoder, self.grid)
        changed = "".join(f" {a}" for a, b in zip(given, usual, strict=True) if a != b)
        return f"{self.data} {self.count} T={self.num_steps}{changed}"


SCALES = {
    "small": (
        *(Case("digits", 297, steps, 4, 400) for steps in (10, 20, 50, 100)),
        Case("digits", 297, 250, 2, 400),
        *(Case("digits", 297, steps, 1, 400) for steps in (500, 1000)),
        *(Case("digits", 297, steps, 4, 400, kernel="mixture") for steps in (10, 20, 64)),
        *(
            Case("digits", 297, steps, 4, 400, "bit_swap", 64, "mixture", "network", "least_bound")
            for steps in (10, 20)
        ),
        Case("digits", 20, 100, 2, 400),
        Case("digits", 20, 100, 2, 400, "top_down"),
        *(Case("fashion_mnist", 1000, steps, 1, 30) for steps in (10, 20, 50)),
        Case("fashion_mnist", 20, 1000, 1, 1000),
        Case("fashion_mnist", 250, 50, 1, 30),
        Case("fashion_mnist:codes", 250, 50, 1, 30, kernel="mixture"),
    ),
    "full": tuple(Case("cifar10", 10_000, steps, 1, 20, lanes=512) for steps in (100, 250, 1000)),
}
TIMED = ("digits 297 T=1000", "digits 297 T=64 mixture")
"""The former default of configs/digits.py and its present one, timed by turns."""
TURNS, TURN_IMAGES = 3, 32
COLUMNS = (
    "name", "net", "bpd", "stderr", "net_stderr", "path", "step_cost", "gross", "initial_bits",
    "encode_secs", "decode_secs",
)  # fmt: skip


def codec_of(case: Case, model: api.Model) -> tuple[compress.Trained, CompressOptions]:
    """The model with the kernel, decoder and grid of the case, and the options of its file."""
    model = model.using(case.kernel, case.decoder)
    run = dataclasses.replace(model.run, compress_grid=GRIDS[case.grid]())
    options = CompressOptions(case.num_steps, case.lanes, 1, case.order, 0, "", "")
    return compress.Trained(run, model.params, model.step), options


def row_of(case: Case, model: api.Model) -> list[Row]:
    """Codes the images, decodes them, and evaluates the bound of T steps on them."""
    images = model.run.source.load("test").examples[: case.count].astype(np.uint8)
    source, options = codec_of(case, model)
    start = time.monotonic()
    coded = [
        compress.pack(source, images, dataclasses.replace(options, seed=seed))
        for seed in range(case.seeds)
    ]
    encoded = time.monotonic()
    exact = (compress.unpack(source, coded[0][0]).images == images).all()
    decoded = time.monotonic()
    assert exact, case.name
    nets = [bits.net_bits / images.size for _, bits in coded]
    path = [bits.ideal_bits / images.size for _, bits in coded]
    content, bits = coded[0]
    bound = model.using(case.kernel, case.decoder).bpd(
        images, num_steps=case.num_steps, draws=case.draws, grid=source.run.compress_grid
    )
    row = {
        "name": case.name,
        "images": case.count,
        "num_steps": case.num_steps,
        "kernel": case.kernel,
        "decoder": case.decoder,
        "grid": case.grid,
        "bpd": bound.mean,
        "stderr": bound.stderr_monte_carlo,
        "stderr_degrees": bound.stderr_degrees,
        "stderr_images": bound.stderr_images,
        "bound": "elbo",
        "draws_per_example": case.draws,
        "data_fingerprint": Split("first", images, None).fingerprint,
        "exact": bool(exact),
        "net": statistics.fmean(nets),
        "net_stderr": statistics.stdev(nets) / len(nets) ** 0.5 if len(nets) > 3 else None,
        "path": statistics.fmean(path),
        "net_minus_bound": statistics.fmean(nets) - bound.mean,
        "step_cost": (statistics.fmean(nets) - statistics.fmean(path)) / case.num_steps,
        "gross": 8 * len(content) / images.size,
        "initial_bits": 32 * bits.num_initial / (images.size / len(images)),
        "bytes": len(content),
        "batches": list(bits.batches),
        "encode_secs": (encoded - start) / len(coded) / len(images),
        "decode_secs": (decoded - encoded) / len(images),
        "seconds": time.monotonic() - start,
        "seeds": list(range(case.seeds)),
    }
    return [row]


def by_turns(pair: list[Case], model: api.Model) -> list[Row]:
    """The time in which the second case codes and decodes some images, against that of the first:
    medians over rounds in which the two take turns, after one that compiles."""
    slow, fast = pair
    images = model.run.source.load("test").examples[:TURN_IMAGES].astype(np.uint8)
    start, times = time.monotonic(), []
    for _ in range(TURNS + 1):
        times.append([])
        for case in (slow, fast):
            source, options = codec_of(case, model)
            before = time.monotonic()
            content = compress.pack(source, images, options)[0]
            compress.unpack(source, content)
            times[-1].append((time.monotonic() - before) / len(images))
    slow_secs, fast_secs = np.median(times[1:], axis=0)
    ratios = [fast / slow for slow, fast in times[1:]]
    row = {
        "name": f"{fast.name} against {slow.name}, by turns",
        "images": len(images),
        "time_ratio": statistics.median(ratios),
        "time_ratios": ratios,
        "coding_secs": float(fast_secs),
        "slow_coding_secs": float(slow_secs),
        "seconds": time.monotonic() - start,
    }
    return [row]


def others(data: str, count: int, model: api.Model) -> list[Row]:
    """The rows of the general-purpose codecs on the same images."""
    images = model.run.source.load("test").examples[:count].astype(np.uint8)
    start = time.monotonic()
    measured = measure(images)
    seconds = time.monotonic() - start
    return [
        {"name": f"{data} {codec}", "images": count, "seconds": seconds / len(measured)} | sizes
        for codec, sizes in measured.items()
    ]


def plot(path: Path, rows: list[Row]) -> None:
    """Plots bits/dim against T: the bound, the net rate, and the whole file."""
    sets = sorted({row["name"].split()[0].partition(":")[0] for row in rows})
    figure, all_axes = make_figure(6.75, 2.6, len(sets))
    for data, axes in zip(sets, all_axes, strict=True):
        own = [row for row in rows if row["name"].startswith(data) and "net" in row]
        most: dict[str, int] = {}  # the larger of two sets of images of each kernel
        for row in own:
            kernel = row.get("kernel", "gaussian")
            most[kernel] = max(row["images"], most.get(kernel, 0))
        own = [row for row in own if row["images"] == most[row.get("kernel", "gaussian")]]
        for kernel, line, colour in (("gaussian", "-", BLUE), ("mixture", "--", GREEN)):
            mine = [row for row in own if row.get("kernel", "gaussian") == kernel]
            mine = [row for row in mine if row.get("grid", "equal_times") == "equal_times"]
            steps = [row["num_steps"] for row in mine]
            named = "bound" if kernel == "gaussian" else "bound, mixture"
            axes.plot(steps, [row["bpd"] for row in mine], color="black", linewidth=1.0,
                      linestyle=line, label=named)  # fmt: skip
            widths = [half_width(row["net_stderr"], len(row["seeds"]) - 1) for row in mine]
            axes.errorbar(steps, [row["net"] for row in mine], widths, fmt="o", color=colour,
                          markersize=7, markerfacecolor="none", label="net rate")  # fmt: skip
            axes.plot(steps, [row["gross"] for row in mine], "s", markersize=3.5,
                      color=VERMILLION, label="whole file")  # fmt: skip
        steps = sorted({row["num_steps"] for row in own})
        axes.set_xscale("log")
        axes.set_xticks(steps, [str(step) for step in steps])
        axes.minorticks_off()
        title = {"fashion_mnist": "Fashion-MNIST"}.get(data, data)
        counts = " and ".join(f"{count:,}" for count in dict.fromkeys(most.values()))
        axes.set_title(f"{title}, {counts} images")
        axes.set_xlabel("steps $T$")
    all_axes[0].set_ylabel("bits/dim")
    handles, labels = all_axes[0].get_legend_handles_labels()
    shown = ("bound", "bound, mixture", "net rate", "whole file")
    order = [labels.index(label) for label in shown if label in labels]
    all_axes[0].legend([handles[i] for i in order], [labels[i] for i in order], frameon=False)
    save_figure(figure, path)


def rows_of(data: str, job: Job, cases: Sequence[Case], flags: argparse.Namespace) -> list[Row]:
    """The rows of one trained model: its cases, the other codecs, and the times by turns."""
    workdir = flags.outdir / "runs" / job.name
    identified = identity(job.config, "experiments.compression.run", flags.scale)
    identified["train_commit"] = read_json(workdir / "environment.json")["commit"]
    model, same, rows = api.load(workdir), {"config": identified["config_hash"]}, []
    for case in cases:
        measure = functools.partial(row_of, case, model)
        rows += kept(flags.outdir, case.name, case._asdict() | same, identified, measure)
        print(format_table(rows[-1:], COLUMNS).splitlines()[-1], flush=True)
    most = max(case.count for case in cases)
    if ":" not in data:
        rows += [identified | row for row in others(data, most, model)]
    pair = [case for case in cases if case.name in TIMED]
    if pair:
        settings = {"rounds": TURNS, "images": TURN_IMAGES, "pair": pair} | same
        measure = functools.partial(by_turns, pair, model)
        rows += kept(flags.outdir, "by turns", settings, identified, measure)
    return rows


def main() -> None:
    """Trains and codes, then writes results.json and compression.png."""
    flags = parse_flags(__file__)
    cases = SCALES[flags.scale]
    jobs = {}
    for data in dict.fromkeys(case.data for case in cases):
        name, _, preset = data.partition(":")
        config = api.load_config(CONFIGS / f"{name}.py", *([preset] if preset else []))
        jobs[data] = seeded(data.replace(":", "_"), config, (0,))[0]
    if not finish(list(jobs.values()), flags):
        return
    rows: list[Row] = []
    for data, job in jobs.items():
        rows += rows_of(data, job, [case for case in cases if case.data == data], flags)
    write_results(flags.outdir, rows)
    plot(flags.outdir / "compression.png", rows)
    for key, columns in (
        ("net", COLUMNS),
        ("bpd_each", ("name", "bpd_each", "bpd_mosaic")),
        ("time_ratio", ("name", "time_ratio", "coding_secs", "slow_coding_secs")),
    ):
        print(format_table([row for row in rows if key in row], columns))


if __name__ == "__main__":
    main()
