"""How close does the size of a file come to the bound, and how long does coding take, for each
number of steps?"""

import dataclasses
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.compression.others import measure
from experiments.results import Row, format_table, identity, write_results
from experiments.sweep import CONFIGS, finish, parse_flags, seeded
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
    and the bound on them from `draws` draws each."""

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
            Case(
                "digits",
                297,
                steps,
                4,
                400,
                kernel="mixture",
                decoder="network",
                grid="least_bound",
            )
            for steps in (10, 20)
        ),
        Case("digits", 20, 100, 2, 400),
        Case("digits", 20, 100, 2, 400, "top_down"),
        *(Case("fashion_mnist", 1000, steps, 1, 30) for steps in (10, 20, 50)),
        Case("fashion_mnist", 20, 1000, 1, 1000),
    ),
    "full": tuple(Case("cifar10", 10_000, steps, 1, 20, lanes=512) for steps in (100, 250, 1000)),
}
COLUMNS = (
    "name", "net", "bpd", "stderr", "net_stderr", "path", "step_cost", "gross", "initial_bits",
    "encode_secs", "decode_secs",
)  # fmt: skip


def row_of(case: Case, model: api.Model) -> Row:
    """Codes the images, decodes them, and evaluates the bound of T steps on them."""
    images = model.run.source.load("test").examples[: case.count].astype(np.uint8)
    model = model.using(case.kernel, case.decoder)
    grid = GRIDS[case.grid]()
    model = dataclasses.replace(model, run=dataclasses.replace(model.run, compress_grid=grid))
    options = CompressOptions(case.num_steps, case.lanes, 1, case.order, 0, "", "")
    source = compress.Trained(model.run, model.params, model.step)
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
    bound = model.bpd(images, num_steps=case.num_steps, draws=case.draws, grid=grid)
    return {
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
    sets = sorted({row["name"].split()[0] for row in rows})
    figure, all_axes = make_figure(6.75, 2.6, len(sets))
    for data, axes in zip(sets, all_axes, strict=True):
        most = max(row["images"] for row in rows if row["name"].startswith(data))
        own = [row for row in rows if row["name"].startswith(data) and "net" in row]
        own = [row for row in own if row["images"] == most]
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
        axes.set_title(f"{title}, {most:,} images")
        axes.set_xlabel("steps $T$")
    all_axes[0].set_ylabel("bits/dim")
    handles, labels = all_axes[0].get_legend_handles_labels()
    shown = ("bound", "bound, mixture", "net rate", "whole file")
    order = [labels.index(label) for label in shown if label in labels]
    all_axes[0].legend([handles[i] for i in order], [labels[i] for i in order], frameon=False)
    save_figure(figure, path)


def main() -> None:
    """Trains and codes, then writes results.json and compression.png."""
    flags = parse_flags(__file__)
    rows: list[Row] = []
    cases = SCALES[flags.scale]
    jobs = {
        data: seeded(data, api.load_config(CONFIGS / f"{data}.py"), (0,))[0]
        for data in dict.fromkeys(case.data for case in cases)
    }
    if not finish(list(jobs.values()), flags):
        return
    for data, job in jobs.items():
        workdir = flags.outdir / "runs" / job.name
        identified = identity(job.config, "experiments.compression.run", flags.scale)
        identified["train_commit"] = read_json(workdir / "environment.json")["commit"]
        model, own = api.load(workdir), [case for case in cases if case.data == data]
        for case in own:
            rows.append(identified | row_of(case, model))
            print(format_table(rows[-1:], COLUMNS).splitlines()[-1], flush=True)
        most = max(case.count for case in own)
        rows += [identified | row for row in others(data, most, model)]
    write_results(flags.outdir, rows)
    plot(flags.outdir / "compression.png", rows)
    print(format_table([row for row in rows if "net" in row], COLUMNS))
    print(format_table([row for row in rows if "net" not in row],
                       ("name", "bpd_each", "bpd_mosaic")))  # fmt: skip


if __name__ == "__main__":
    main()
