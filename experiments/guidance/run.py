"""Does guidance give the requested digit, and what does it cost in diversity?"""

import dataclasses
import time
from pathlib import Path

import numpy as np
from sklearn.svm import SVC

from experiments.results import Row, format_table, identity, write_results
from experiments.sweep import CONFIGS, finish, open_runs, parse_flags, seeded
from vdm.api import load_config
from vdm.compare import Result
from vdm.data.sources import Split
from vdm.diffusion.samplers import dpm_solver
from vdm.evaluation.bits_per_dim import Evaluation, evaluate
from vdm.evaluation.calls import Parts
from vdm.evaluation.guided import Classified, ClassifierFree, Guidance, Unguided
from vdm.evaluation.statistics import Error, mean_error, standard_error
from vdm.io.images import save_grid
from vdm.io.plots import BLUE, PAGE, VERMILLION, make_figure, save_figure
from vdm.models.classifier import NoisyClassifier
from vdm.runs import states
from vdm.runs.classifier import train_classifier
from vdm.runs.run import Run
from vdm.runs.sample import run_samples, sampling_of
from vdm.typing import NO_LABEL

CONFIG = CONFIGS / "digits.py"
SEEDS = (0, 1, 2)
NUM_STEPS = 25  # steps of DPM-Solver++
SAMPLES_PER_CLASS = {"small": 50, "full": 500}
# kind: strengths. 0 of each is the model without labels, 1 of classifier_free is kind "none".
STRENGTHS = {"classifier_free": (0.0, 1.5, 2.0, 3.0, 5.0), "classifier": (1.0, 2.0, 4.0, 8.0)}


def judge(split: Split) -> SVC:
    """Fits the judge, a support vector machine, to the real training digits (codes / 16)."""
    pixels = split.examples.reshape(len(split.examples), -1) / 16
    return SVC(C=10.0, gamma=0.25).fit(pixels, split.labels)


def diversity(codes: np.ndarray, labels: np.ndarray) -> float:
    """The mean squared distance between two images of the same class, x in [-1, 1], averaged over
    the classes."""
    x = codes.reshape(len(codes), -1) / 8.5
    # twice the variance, unbiased
    return float(np.mean([2 * x[labels == y].var(axis=0, ddof=1).sum() for y in np.unique(labels)]))


def guidances(classifier: NoisyClassifier | None) -> list[tuple[str, float, Guidance]]:
    """(kind, strength, guidance) for every row."""
    free = [("classifier_free", s, ClassifierFree(s)) for s in STRENGTHS["classifier_free"]]
    by_classifier = [("classifier", s, Classified(classifier, s)) for s in STRENGTHS["classifier"]]
    return [("none", 1.0, Unguided()), *free, *by_classifier]


def samples_of_seed(run: Run, svm: SVC, per_class: int, outdir: Path | None) -> dict[str, Row]:
    """The accuracy and diversity of every guidance on one model; with an outdir, also writes the
    pictures."""
    train_classifier(run)
    _, params = states.trained_params(run)
    real = run.source.load("train")
    assert real.labels is not None
    own = diversity(real.examples, real.labels)
    rows = {}
    for kind, strength, guidance in guidances(run.classifier):
        start = time.monotonic()
        guided = dataclasses.replace(run, guidance=guidance)
        drawn = run_samples(
            guided, states.guided_params(guided, params),
            sampling=dataclasses.replace(
                sampling_of(guided), sampler=dpm_solver(), num_steps=NUM_STEPS
            ),
            num_samples=10 * per_class, seed=run.options.seed,
        )  # fmt: skip
        judged = svm.predict(drawn.data.reshape(len(drawn.data), -1) / 16)
        hits = judged == drawn.labels
        rows[f"{kind}/{strength:g}"] = {
            "kind": kind,
            "strength": strength,
            "accuracy": float(hits.mean()),
            "accuracy_of_digits": [float(hits[drawn.labels == y].mean()) for y in range(10)],
            "diversity": diversity(drawn.data, drawn.labels) / own,
            "network_evaluations": drawn.network_evaluations,
            "seconds": time.monotonic() - start,
        }
        print(run.options.seed, kind, strength, rows[f"{kind}/{strength:g}"], flush=True)
        if outdir and f"{kind}/{strength:g}" in ("none/1", "classifier_free/3", "classifier/4"):
            name = f"{kind}_{strength:g}.png"
            save_grid(outdir / name, drawn.data[:80], run.source.num_codes, columns=10)
    return rows


def mean_row(rows: list[Row]) -> Row:
    """The mean over the seeds of one row."""
    first = rows[0]
    accuracies = [r["accuracy"] for r in rows]
    return {
        "name": f"{first['kind']}/{first['strength']:g}",
        "kind": first["kind"],
        "strength": first["strength"],
        "accuracy": float(np.mean(accuracies)),
        "accuracy_of_seeds": accuracies,
        "accuracy_of_digits": np.mean([r["accuracy_of_digits"] for r in rows], axis=0).tolist(),
        "diversity": float(np.mean([r["diversity"] for r in rows])),
        "diversity_of_seeds": [r["diversity"] for r in rows],
        "network_evaluations": first["network_evaluations"],
        "seeds": list(SEEDS),
        "seconds": sum(r["seconds"] for r in rows),
    }


def without_labels(run: Run) -> Evaluation:
    """The bound of the same model without the labels, on the same images and noise."""
    test, (_, params) = run.source.load("test"), states.trained_params(run)
    options = run.options.eval
    return evaluate(
        run.model, params, dataclasses.replace(test, labels=np.full_like(test.labels, NO_LABEL)),
        run.mesh, estimator=run.estimator, draws=options.draws, seed=options.seed,
        parts=Parts(options.batch_size),
    )  # fmt: skip


def likelihood_rows(runs: list[Run]) -> list[Row]:
    """The rows of -log p(x | label) and of -log p(x), in bits/dim, by the same networks with and
    without the label."""
    labelled = [Result(run.workdir) for run in runs]
    reports = [result.report for result in labelled]
    unlabelled = [without_labels(run) for run in runs]
    gains = [e.bpd(e.total) - t.bpd for e, t in zip(unlabelled, labelled, strict=True)]
    shared = {
        "bound": "elbo",
        "data_fingerprint": reports[0]["data_fingerprint"],
        "seeds": list(SEEDS),
    }

    def row(name: str, summaries: list[Row], noise: Error, seconds: float) -> Row:
        return shared | {
            "name": name,
            "bpd": float(np.mean([s["bpd"] for s in summaries])),
            "stderr": noise.stderr,
            "stderr_degrees": noise.degrees,
            "stderr_images": float(np.mean([s["stderr_images"] for s in summaries])),
            "bpd_of_seeds": [s["bpd"] for s in summaries],
            "seconds": seconds,
        }

    image_gains = np.mean([gain.mean(axis=0) for gain in gains], axis=0)
    noise = mean_error([t.error_of(gain) for t, gain in zip(labelled, gains, strict=True)])
    seconds = sum(r["train_secs"] + r["eval_secs"] for r in reports)
    own = [e.monte_carlo_error(e.total) for e in unlabelled]
    return [
        row("class_conditional", reports, mean_error([t.noise for t in labelled]), seconds),
        row("the same without labels", [e.summary() for e in unlabelled], mean_error(own), 0.0)
        | {
            "difference": float(image_gains.mean()),
            "difference_stderr": noise.stderr,
            "difference_stderr_degrees": noise.degrees,
            "difference_stderr_images": standard_error(image_gains),
        },
    ]


def plot(path: Path, rows: list[Row]) -> None:
    """Plots accuracy and diversity against strength; bars: standard deviation over the seeds."""
    figure, panels = make_figure(PAGE, 2.6, columns=2)
    figure.suptitle("bars: one standard deviation over seeds")
    none = next(r for r in rows if r["kind"] == "none")
    for axes, key in zip(panels, ("accuracy", "diversity"), strict=True):
        for kind, colour, dash in (
            ("classifier_free", BLUE, "o-"),
            ("classifier", VERMILLION, "s--"),
        ):
            mine = [r for r in rows if r["kind"] == kind] + [none] * (kind == "classifier_free")
            mine = sorted(mine, key=lambda r: r["strength"])
            spread = [np.std(r[f"{key}_of_seeds"], ddof=1) for r in mine]
            axes.errorbar([r["strength"] for r in mine], [r[key] for r in mine], spread,
                          fmt=dash, color=colour, markersize=4, linewidth=1.2, capsize=2,
                          label=kind.replace("_", "-"))  # fmt: skip
        axes.axhline(none[key], color="black", linewidth=0.8, linestyle=":", label="unguided")
        axes.set_xlabel("guidance strength")
        axes.set_ylim(bottom=0.0)
    panels[0].set_ylabel("share judged to be the digit asked for")
    panels[1].set_ylabel("diversity within a digit (real: 1)")
    panels[0].legend(frameon=False)
    save_figure(figure, path)


def main() -> None:
    """Trains and samples, then writes results.json, guidance.png and grids of samples."""
    flags = parse_flags(__file__)
    config = load_config(CONFIG)
    config.model.class_conditional, config.model.label_dropout = True, 0.1
    if flags.scale == "small":
        config.train.num_steps = 1000
    config.eval.draws, config.sample.num_images, config.sample.batch_size = 20, 20, 250
    identified = identity(config, "experiments.guidance.run", flags.scale)
    jobs = seeded("conditional", config, SEEDS)
    if not finish(jobs, flags):
        return
    runs = open_runs(jobs, flags.outdir)
    real, test = runs[0].source.load("train"), runs[0].source.load("test")
    svm = judge(real)
    own = float(svm.score(test.examples.reshape(len(test.examples), -1) / 16, test.labels))
    per_class = SAMPLES_PER_CLASS[flags.scale]
    per_seed = [
        samples_of_seed(run, svm, per_class, flags.outdir if run is runs[0] else None)
        for run in runs
    ]
    rows: list[Row] = [mean_row([results[name] for results in per_seed]) for name in per_seed[0]]
    shared = identified | {"judge_accuracy": own}
    likelihoods = likelihood_rows(runs)
    write_results(flags.outdir, [shared | row for row in (*rows, *likelihoods)])
    plot(flags.outdir / "guidance.png", rows)
    print(f"the judge's accuracy on the real test digits: {own:.4f}")
    print(format_table(rows, ("name", "accuracy", "diversity", "network_evaluations")))
    print(format_table(likelihoods, ("name", "bpd", "stderr", "stderr_images", "difference",
                                     "difference_stderr", "difference_stderr_images")))  # fmt: skip


if __name__ == "__main__":
    main()
