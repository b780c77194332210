"""What should the network output, and which weighting of its loss should it be trained on?"""

import copy
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.results import Row, format_table, identity, parse_flags, write_results
from vdm.api import load_config
from vdm.compare import Result
from vdm.evaluation.quality import frechet_distance
from vdm.evaluation.statistics import standard_error
from vdm.io.plots import BLUE, VERMILLION, make_figure, save_figure
from vdm.loops import train
from vdm.run import Run, open_run

FOLDER = Path(__file__).parent.parent.parent / "configs"
SEEDS = (0, 1, 2)
PREDICTIONS = ("eps", "x", "v", "score", "codes")
WEIGHTINGS = ("simple", "min_snr", "sigmoid")
STEPS = 10  # of the bound of next_mean, and of the eps that it is compared with
Setting = tuple[str, str, int]  # model.prediction, weighting.name, model.num_steps
SETTINGS: tuple[Setting, ...] = (
    *((prediction, "bound", 0) for prediction in PREDICTIONS),
    *(("eps", weighting, 0) for weighting in WEIGHTINGS),
    *((prediction, "bound", STEPS) for prediction in ("eps", "next_mean")),
)


def make_config(scale: str) -> ConfigDict:
    """The budget that all settings share."""
    config = load_config(FOLDER / ("cifar10.py" if scale == "full" else "digits.py"))
    config.data.holdout = 0
    if scale == "small":
        config.network.kwargs.width, config.network.kwargs.num_blocks = 16, 0
        config.train.num_steps = config.train.save_every = 300
    config.eval.draws = 20
    config.sample.name, config.sample.num_steps = "ancestral", 100
    config.sample.num_images = config.sample.batch_size = 500
    return config


def name_of(setting: Setting) -> str:
    """The name of a row."""
    prediction, weighting, num_steps = setting
    return f"{prediction}, {weighting}" + (f", T = {num_steps}" if num_steps else "")


def trained_runs(config: ConfigDict, setting: Setting, outdir: Path) -> list[Run]:
    """One training for each seed, evaluated with the number of steps that it was trained with."""
    config.model.prediction, config.weighting.name, config.model.num_steps = setting
    config.eval.num_steps = config.model.num_steps
    if config.model.num_steps:  # next_mean needs a schedule that stays where it is
        config.schedule.name, config.schedule.train = "linear", "fixed"
    found = []
    for seed in SEEDS:
        config.seed = config.eval.seed = config.sample.seed = seed
        folder = f"{name_of(setting).replace(', ', '-').replace(' ', '')}-seed{seed}"
        found.append(open_run(config, outdir / "runs" / folder))
        train(found[-1])
    return found


def sample_quality(samples: np.ndarray, split: np.ndarray) -> Row:
    """Of samples against a split, both x in [-1, 1] of shape [n, *dims]: the Frechet distance of
    the Gaussians with their means and covariances, in units of x squared."""
    pixels = (images.reshape(len(images), -1) for images in (samples, split))
    return {"frechet_pixels": frechet_distance(*pixels)}


def quality_of(run: Run, examples: np.ndarray) -> Row:
    """`sample_quality` of codes against the training split."""
    encode = run.model.likelihood.encode
    both = examples, run.source.load("train").examples
    return sample_quality(*(np.asarray(encode(jnp.asarray(codes))) for codes in both))


def row(setting: Setting, runs: list[Run], reference: list[Run]) -> Row:
    """Means over the seeds, and the paired difference to eps trained on the bound of as many
    steps, with its error over seeds."""
    ours, theirs = ([Result(run.workdir) for run in of] for of in (runs, reference))
    bpds = np.array([result.bpd.mean() for result in ours])
    difference = bpds - np.array([result.bpd.mean() for result in theirs])
    noise = [result.report["stderr_monte_carlo"] for result in ours]
    samples = [np.load(run.workdir / "samples.npz")["samples"] for run in runs]
    qualities = [quality_of(run, drawn) for run, drawn in zip(runs, samples, strict=True)]
    variances = [result.report["denoising_variance"] for result in ours]
    prediction, weighting, num_steps = setting
    return {
        "name": name_of(setting),
        "prediction": prediction,
        "weighting": weighting,
        "num_steps": num_steps,
        "bpd": float(bpds.mean()),
        "stderr": math.hypot(*noise) / len(noise),
        "stderr_images": float(np.mean([result.report["stderr_images"] for result in ours])),
        "bpd_of_seeds": bpds.tolist(),
        "difference": float(difference.mean()),
        "difference_stderr_seeds": standard_error(difference),
        "difference_to": name_of(("eps", "bound", num_steps)),
        "variance": float(np.mean(variances)),
        **{key: float(np.mean([q[key] for q in qualities])) for key in qualities[0]},
        **{f"{key}_of_seeds": [q[key] for q in qualities] for key in qualities[0]},
        "sampler": f"ancestral, {runs[0].options.sample.num_steps} steps",
        "num_samples": len(samples[0]),
        "seeds": list(SEEDS),
        "seconds": sum(result.report["train_secs"] for result in ours),
        **{key: ours[0].report[key] for key in (
            "bound", "num_examples", "draws_per_example", "params", "step", "data_fingerprint")},
    }  # fmt: skip


def plot(path: Path, rows: list[Row]) -> None:
    """Bits/dim by the output trained on the bound, and by the weighting; bars: 95% over seeds."""
    figure, (left, right) = make_figure(6.75, 2.6, columns=2)

    def draw(axes: Any, place: float, r: Row, colour: str) -> None:
        error = 1.96 * standard_error(np.array(r["bpd_of_seeds"]))
        axes.errorbar(r["bpd"], place, xerr=error, fmt="o", color=colour, ms=4)

    outputs = [r for r in rows if r["weighting"] == "bound"]
    limit = 2 * min(r["bpd"] for r in outputs)  # what is far off is written, not drawn
    for i, r in enumerate(outputs):
        if r["bpd"] < limit:
            draw(left, -i, r, VERMILLION if r["num_steps"] else BLUE)
        else:
            place = {"transform": left.get_yaxis_transform(), "ha": "right", "va": "center"}
            left.text(0.98, -i, f"{r['bpd']:.3g} $\\rightarrow$", fontsize=8, **place)
    left.set_ylim(0.5 - len(outputs), 0.5)
    labels = [r["name"].replace(", bound", "") for r in outputs]
    left.set_yticks(-np.arange(len(outputs)), labels)
    names = ("bound", *WEIGHTINGS)
    mine = {r["weighting"]: r for r in rows if r["prediction"] == "eps" and not r["num_steps"]}
    for i, weighting in enumerate(names):
        draw(right, -i, mine[weighting], BLUE)
    right.set_yticks(-np.arange(len(names)), names)
    for axes, title in ((left, "output, trained on the bound"), (right, "weighting, output eps")):
        axes.set_title(title)
        axes.set_xlabel("test bits/dim")
    save_figure(figure, path)


def main() -> None:
    """Trains, evaluates, samples; writes results.json and parameterisations.png."""
    flags = parse_flags(__file__)
    config = make_config(flags.scale)
    identified = identity(config, "experiments.parameterisations.run", flags.scale)
    found = {s: trained_runs(copy.deepcopy(config), s, flags.outdir) for s in SETTINGS}
    run = found[SETTINGS[0]][0]
    of_test = quality_of(run, run.source.load("test").examples)
    identified |= {f"{key}_of_test_split": value for key, value in of_test.items()}
    rows = [
        identified | row(setting, runs, found["eps", "bound", setting[2]])
        for setting, runs in found.items()
    ]
    write_results(flags.outdir, rows)
    plot(flags.outdir / "parameterisations.png", rows)
    print(format_table(rows, ("name", "bpd", "stderr", "stderr_images", "difference",
                              "difference_stderr_seeds", "variance", "frechet_pixels",
                              "seconds")))  # fmt: skip
    print(f"the test split against the training split: {of_test}")


if __name__ == "__main__":
    main()
