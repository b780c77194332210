"""How many bits/dim does the main job reach on the digits, compared with simpler models?"""

import shutil

import numpy as np
from ml_collections import ConfigDict

from experiments.results import Row, format_table, identity, write_results
from experiments.sweep import CONFIGS, Job, finish, mean_row, parse_flags, results, seeded
from vdm.api import load_config
from vdm.config.build import build_source
from vdm.data.sources import Split

SEEDS = {"small": (0, 1, 2), "full": (0, 1, 2, 3, 4)}
PICTURES = ("samples.png", "omega.png", "loss_density.png")


def references(config: ConfigDict) -> list[Row]:
    """The rows of three models without a latent, fitted on the training split, with exact bits/dim.

    Every code has one extra count, so that no test image has probability zero.
    """
    source = build_source(config.data)
    train_split, test = source.load("train"), source.load("test")
    v = source.num_codes
    flat = train_split.examples.reshape(len(train_split.examples), -1)
    pixels = flat.shape[1]
    counts = np.ones((pixels, v))
    np.add.at(counts, (np.arange(pixels), flat), 1)
    pooled = 1 + np.bincount(flat.ravel(), minlength=v)
    return [
        reference("uniform", np.full((pixels, v), 1 / v), test),
        reference("histogram", np.tile(pooled / pooled.sum(), (pixels, 1)), test),
        reference("pixel_histograms", counts / counts.sum(1, keepdims=True), test),
    ]


def reference(name: str, probabilities: np.ndarray, test: Split) -> Row:
    """The row of a model of independent pixels with the given probabilities [pixels, codes]."""
    codes = test.examples.reshape(len(test.examples), -1)
    bits = -np.log2(probabilities[np.arange(codes.shape[1]), codes]).mean(axis=1)
    return {
        "name": name,
        "bpd": float(bits.mean()),
        "stderr": 0.0,
        "stderr_images": round(float(bits.std(ddof=1) / np.sqrt(len(bits))), 12),
        "bound": "exact",
        "data_fingerprint": test.fingerprint,
    }


def make_jobs(scale: str) -> list[Job]:
    """One training for each seed."""
    config = load_config(CONFIGS / "digits.py")
    if scale == "full":  # wider and longer, for an accelerator
        config.network.kwargs.width, config.network.kwargs.num_blocks = 128, 4
        config.network.kwargs.dropout, config.train.num_steps = 0.4, 10_000
    return seeded("vdm", config, SEEDS[scale])


def main() -> None:
    """Trains and evaluates, then writes results.json and the first seed's pictures."""
    flags = parse_flags(__file__)
    jobs = make_jobs(flags.scale)
    identified = identity(jobs[0].config, "experiments.digits.run", flags.scale)
    if not finish(jobs, flags):
        return
    rows = [identified | {"seconds": 0.0} | row for row in references(jobs[0].config)]
    evaluated = results(jobs, flags.outdir)
    rows.append(identified | mean_row("vdm", jobs, evaluated, flags.outdir))
    for picture in PICTURES:
        shutil.copy(flags.outdir / "runs" / jobs[0].name / picture, flags.outdir / picture)
    write_results(flags.outdir, rows)
    print(format_table(rows, ("name", "bpd", "stderr", "stderr_images", "bound", "seconds")))


if __name__ == "__main__":
    main()
