"""How many bits/dim does the main job reach on the digits, against what knows less of them?"""

import json
import shutil
import statistics
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.results import Row, format_table, identity, parse_flags, write_results
from vdm.api import load_config
from vdm.config import build_source
from vdm.data.sources import Split
from vdm.loops import train
from vdm.run import open_run

CONFIG = Path(__file__).parent.parent.parent / "configs" / "digits.py"
SEEDS = {"small": (0, 1, 2), "full": (0, 1, 2, 3, 4)}
PICTURES = ("samples.png", "omega.png", "loss_density.png")


def references(config: ConfigDict) -> list[Row]:
    """Exact bits/dim of three models without a latent, fitted on the training split.

    Counts start at one for each code, so that no test image is impossible.
    """
    source = build_source(config)
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
    """A row of independent pixels with the given probabilities [pixels, codes]."""
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


def trained(config: ConfigDict, seeds: tuple[int, ...], outdir: Path) -> Row:
    """The row of the main job: means over seeds; the runs and the first pictures in outdir.

    Its commit is that of the code which trained: finished runs in outdir are not trained again.
    """
    reports = []
    for seed in seeds:
        # Noise of its own for each evaluation, so that the Monte-Carlo errors are independent.
        config.seed = config.eval.seed = seed
        workdir = outdir / "runs" / f"seed{seed}"
        train(open_run(config, workdir))
        reports.append(json.loads((workdir / "eval.json").read_text()))
    for picture in PICTURES:
        shutil.copy(outdir / "runs" / f"seed{seeds[0]}" / picture, outdir / picture)
    mean = {
        key: statistics.fmean(report[key] for report in reports)
        for key in ("bpd", "stderr_images", "bpd_reconstruction", "bpd_prior", "bpd_denoising",
                    "omega_0", "omega_1", "train_secs")
    }  # fmt: skip
    noise = [report["stderr_monte_carlo"] for report in reports]
    environment = json.loads((outdir / "runs" / f"seed{seeds[0]}" / "environment.json").read_text())
    return mean | {
        "name": "vdm",
        "commit": environment["commit"],
        "stderr": float(np.sqrt(np.sum(np.square(noise))) / len(noise)),
        "bpd_of_seeds": [report["bpd"] for report in reports],
        "seeds": list(seeds),
        "seconds": sum(report["train_secs"] + report["eval_secs"] for report in reports),
        **{key: reports[0][key] for key in (
            "bound", "num_steps", "num_examples", "draws_per_example", "params", "step",
            "data_fingerprint")},
    }  # fmt: skip


def main() -> None:
    """Trains, evaluates, writes results.json and the pictures."""
    flags = parse_flags(__file__)
    config = load_config(CONFIG)
    if flags.scale == "full":  # wider and longer, for an accelerator
        config.network.kwargs.width, config.network.kwargs.num_blocks = 128, 4
        config.network.kwargs.dropout, config.train.num_steps = 0.4, 10_000
    identified = identity(config, "experiments.digits.run", flags.scale)
    rows = [identified | {"seconds": 0.0} | row for row in references(config)]
    rows.append(identified | trained(config, SEEDS[flags.scale], flags.outdir))
    write_results(flags.outdir, rows)
    print(format_table(rows, ("name", "bpd", "stderr", "stderr_images", "bound", "seconds")))


if __name__ == "__main__":
    main()
