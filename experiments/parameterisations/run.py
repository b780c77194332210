"""What should the network predict, and with which weighting of the loss should it be trained?"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.results import Row, format_table, identity, seeds_half_width, write_results
from experiments.sweep import CONFIGS, Job, finish, mean_row, paired, parse_flags, results, seeded
from vdm.api import load_config
from vdm.evaluation.quality import frechet_distance
from vdm.io.plots import BLUE, VERMILLION, make_figure, save_figure
from vdm.runs.run import Run, build_run

SEEDS = (0, 1, 2)
PREDICTIONS = ("eps", "x", "v", "score", "codes")
WEIGHTINGS = ("simple", "min_snr", "sigmoid")
STEPS = 10  # steps of the bound for next_mean, and for the eps that it is compared with
Setting = tuple[str, str, int]  # (model.prediction, weighting.name, model.num_steps)
SETTINGS: tuple[Setting, ...] = (
    *((prediction, "bound", 0) for prediction in PREDICTIONS),
    *(("eps", weighting, 0) for weighting in WEIGHTINGS),
    *((prediction, "bound", STEPS) for prediction in ("eps", "next_mean")),
)


def make_config(scale: str) -> ConfigDict:
    """The config that all settings share: network, steps and evaluation."""
    config = load_config(CONFIGS / ("cifar10.py" if scale == "full" else "digits.py"))
    config.data.holdout = 0
    if scale == "small":
        config.network.kwargs.width, config.network.kwargs.num_blocks = 16, 0
        config.train.num_steps = config.train.save_every = 300
    config.eval.draws = 20
    config.sample.name, config.sample.num_steps = "ancestral", 100
    config.sample.num_images = config.sample.batch_size = 500
    return config


def name_of(setting: Setting) -> str:
    """The name of the setting's row."""
    prediction, weighting, num_steps = setting
    return f"{prediction}, {weighting}" + (f", T = {num_steps}" if num_steps else "")


def make_jobs(scale: str) -> dict[Setting, list[Job]]:
    """The jobs of each setting: one for each seed, evaluated with as many steps as in training."""
    jobs = {}
    for setting in SETTINGS:
        config = make_config(scale)
        config.model.prediction, config.weighting.name, config.model.num_steps = setting
        config.eval.num_steps = config.model.num_steps
        if config.model.num_steps:  # next_mean needs a schedule that stays where it is
            config.schedule.name, config.schedule.train = "linear", "fixed"
        folder = name_of(setting).replace(", ", "-").replace(" ", "")
        jobs[setting] = seeded(folder, config, SEEDS)
    return jobs


def sample_quality(samples: np.ndarray, split: np.ndarray) -> Row:
    """The Frechet distance between samples and a split, both x in [-1, 1] of shape [n, *dims]: that
    of the Gaussians with their means and covariances, in units of x squared."""
    pixels = (images.reshape(len(images), -1) for images in (samples, split))
    return {"frechet_pixels": frechet_distance(*pixels)}


def quality_of(run: Run, examples: np.ndarray) -> Row:
    """`sample_quality` of codes, against the training split."""
    encode = run.model.likelihood.encode
    both = examples, run.source.load("train").examples
    return sample_quality(*(np.asarray(encode(jnp.asarray(codes))) for codes in both))


def row(setting: Setting, jobs: list[Job], reference: list[Job], outdir: Path) -> Row:
    """The row of a setting: means over the seeds, the paired difference from eps trained on the
    bound of as many steps, and the distance of the samples from the training images."""
    evaluated = results(jobs, outdir)
    run = build_run(jobs[0].config, Path())
    samples = [np.load(result.run / "samples.npz")["samples"] for result in evaluated]
    qualities = [quality_of(run, drawn) for drawn in samples]
    prediction, weighting, num_steps = setting
    means = mean_row(name_of(setting), jobs, evaluated, outdir)
    return means | paired(evaluated, results(reference, outdir)) | {
        "prediction": prediction,
        "weighting": weighting,
        "num_steps": num_steps,
        "difference_to": name_of(("eps", "bound", num_steps)),
        **{key: float(np.mean([q[key] for q in qualities])) for key in qualities[0]},
        **{f"{key}_of_seeds": [q[key] for q in qualities] for key in qualities[0]},
        "sampler": f"ancestral, {run.options.sample.num_steps} steps",
        "num_samples": len(samples[0]),
    }  # fmt: skip


def plot(path: Path, rows: list[Row]) -> None:
    """Plots bits/dim by output (trained on the bound) and by weighting, with 95% intervals over
    seeds."""
    figure, (left, right) = make_figure(6.75, 2.4, columns=2)

    def draw(axes: Any, place: float, r: Row, colour: str, mark: str) -> None:
        error = seeds_half_width(r)
        axes.errorbar(r["bpd"], place, xerr=error, fmt=mark, color=colour, ms=4, capsize=2)

    outputs = [r for r in rows if r["weighting"] == "bound"]
    limit = 2 * min(r["bpd"] for r in outputs)  # what is far off is written, not drawn
    for i, r in enumerate(outputs):
        if r["bpd"] < limit:
            draw(left, -i, r, *((VERMILLION, "s") if r["num_steps"] else (BLUE, "o")))
        else:
            place = {"transform": left.get_yaxis_transform(), "ha": "right", "va": "center"}
            left.text(0.98, -i, f"{r['bpd']:.2f} $\\rightarrow$", **place)
    left.set_ylim(0.5 - len(outputs), 0.5)
    labels = [r["name"].replace(", bound", "").replace("_", " ") for r in outputs]
    left.set_yticks(-np.arange(len(outputs)), labels)
    names = ("bound", *WEIGHTINGS)
    mine = {r["weighting"]: r for r in rows if r["prediction"] == "eps" and not r["num_steps"]}
    for i, weighting in enumerate(names):
        draw(right, -i, mine[weighting], BLUE, "o")
    right.set_yticks(-np.arange(len(names)), [n.replace("min_snr", "min-SNR") for n in names])
    right.set_ylim(0.5 - len(names), 0.5)
    for axes, title in ((left, "output, trained on the bound"), (right, "weighting, output eps")):
        axes.set_title(title)
        axes.set_xlabel("test bits/dim (bars: 95% over seeds)")
    save_figure(figure, path)


def main() -> None:
    """Trains, evaluates and samples, then writes results.json and parameterisations.png."""
    flags = parse_flags(__file__)
    jobs = make_jobs(flags.scale)
    first = jobs[SETTINGS[0]][0].config
    identified = identity(first, "experiments.parameterisations.run", flags.scale)
    if not finish([job for setting_jobs in jobs.values() for job in setting_jobs], flags):
        return
    run = build_run(first, Path())
    test_quality = quality_of(run, run.source.load("test").examples)
    identified |= {f"{key}_of_test_split": value for key, value in test_quality.items()}
    rows = [
        identified | row(setting, setting_jobs, jobs["eps", "bound", setting[2]], flags.outdir)
        for setting, setting_jobs in jobs.items()
    ]
    write_results(flags.outdir, rows)
    plot(flags.outdir / "parameterisations.png", rows)
    print(format_table(rows, ("name", "bpd", "stderr", "stderr_images", "difference",
                              "difference_stderr_seeds", "variance", "frechet_pixels",
                              "seconds")))  # fmt: skip
    print(f"the test split against the training split: {test_quality}")


if __name__ == "__main__":
    main()
