"""--mode=sample: draws samples and writes them to the workdir."""

from typing import Any

import jax
import numpy as np

from vdm.config.compatibility import computed_fields
from vdm.data.records import resolve_data_dir
from vdm.devices import sharding
from vdm.evaluation import quality
from vdm.evaluation.features import read_features
from vdm.evaluation.kept_features import data_features, features_in_batches
from vdm.evaluation.samples import (
    Samples,
    Sampling,
    draw_samples,
    sample_dtype,
    samples_per_call,
)
from vdm.io import images, plots
from vdm.io.atomic import remove, save_npz, write_json
from vdm.io.checksums import params_digest
from vdm.io.console import Progress, say
from vdm.io.journal import Journal
from vdm.models.interface import has_noise_levels
from vdm.runs import levels, states
from vdm.runs.partial import open_journal, parts_in
from vdm.runs.run import Run
from vdm.typing import Params


def sample_run(run: Run, init_from: str | None = None) -> None:
    """Draws samples from a checkpoint, of this run or of init_from, and writes them."""
    step, params = states.trained_params(run, init_from)
    params = states.guided_params(run, params)
    if init_from:
        run.describe()
    report_samples(run, step, params, init_from)


_OF_ANY_MODEL = ("num_images", "batch_size", "seed", "features", "precision_recall")


MAX_REAL = 50_000
"""The number of images that samples are compared with, that of published distances."""


def sampling_of(run: Run) -> Sampling:
    """Returns the settings of config.sample as a `Sampling`."""
    options = run.options.sample
    return Sampling(
        run.sampler,
        options.num_steps,
        run.grid,
        run.guidance,
        options.interpolate,
        options.num_frames,
    )


def run_samples(
    run: Run,
    params: Params,
    journal: Journal | None = None,
    *,
    sampling: Sampling | None = None,
    num_samples: int | None = None,
    seed: int | None = None,
) -> Samples:
    """Draws samples as config.sample says, unless an argument says otherwise.

    params: from `states.guided_params`. journal: samples in it are not drawn again.
    """
    options = run.options.sample
    num_samples = options.num_images if num_samples is None else num_samples
    with Progress("sample", num_samples, unit="image") as progress:
        return draw_samples(
            run.model, params, num_samples, run.mesh, sampling or sampling_of(run),
            seed=options.seed if seed is None else seed,
            labels=None if options.label < 0 else np.full(num_samples, options.label),
            parts=parts_in(journal, batch_size=options.batch_size, on_batch=progress.update),
        )  # fmt: skip


def _samples_identity(run: Run, params: Params) -> dict[str, Any]:
    """Returns everything that samples depend on, to the last bit."""
    options = run.options.sample
    compared_by = ("features", "precision_recall")
    return {
        "params": params_digest(params),
        "computed": computed_fields(run.resolved),
        "data": [run.source.shape, run.source.num_codes, run.source.num_classes],
        "settings": {k: v for k, v in run.resolved["sample"].items() if k not in compared_by},
        "per_call": samples_per_call(
            run.model, params, options.num_images, run.mesh, sampling_of(run), options.batch_size
        ),
        "devices": sharding.name_devices(run.mesh),
        "jax": jax.__version__,
    }  # fmt: skip


def sample_quality(run: Run, samples: np.ndarray) -> dict[str, Any]:
    """Returns how far samples are from the training split; {} if the data are missing.

    Vectors are compared by the sliced Wasserstein distance. Images are compared by the features in
    config.sample.features, if it names a file, with the first 50,000 training images ("num_real"
    says how many there were); the features of these are cached in the data folder.
    """
    source, options = run.source, run.options.sample
    num_codes, are_vectors = source.num_codes, len(source.shape) == 1 and not source.num_codes
    if not (are_vectors or options.features):
        return {}
    try:
        split = source.load("train")
    except (ValueError, OSError) as error:
        say(f"the samples are not compared with the data: {error}")
        return {}
    if are_vectors:
        return {"sliced_wasserstein": quality.sliced_wasserstein(samples, split.examples)}
    features, real = read_features(options.features), split.examples[:MAX_REAL]
    folder = resolve_data_dir(run.resolved["data"]["data_dir"]) / "features"
    with Progress("features of the data", len(real), unit="image") as progress:
        real_features = data_features(
            folder, split.fingerprint, features, real, num_codes, progress.update
        )
    with Progress("features of the samples", len(samples), unit="image") as progress:
        sample_features = features_in_batches(features, samples, num_codes, progress.update)
    with Progress("compare", 1, unit="row") as progress:
        compared = quality.compare(
            sample_features, real_features, options.precision_recall, progress.update
        )
    return {"features": features.name, "num_real": len(real)} | compared


def report_samples(run: Run, step: int, params: Params, init_from: str | None = None) -> None:
    """Draws samples and writes samples.npz and samples.json, samples.png for images and points, and
    samples.gif if config.sample.num_frames asks for it.

    Finished parts are kept in `samples.partial` until everything is written, so killed sampling
    resumes. The samples are written before they are compared with the data. params: from
    `states.guided_params`.
    """
    run, params = levels.for_samples(run, params, run.options.sample.num_steps)
    identity = _samples_identity(run, params)
    kind = sample_dtype(run.model, sampling_of(run))
    with open_journal(run, "samples", "sampling from", identity, kind) as journal:
        if journal.dropped:
            say(f"dropping {journal.dropped} finished parts of other samples")
        if journal.parts:
            done = sum(map(len, journal.parts))
            say(f"resuming the samples in {journal.path}, {done} images done")
        drawn = run_samples(run, params, journal)
        remove(run.workdir / "samples.json")  # it would describe other samples from here on
        written = _write_samples(run, drawn)
        _write_report(run, step, drawn, sample_quality(run, drawn.data), init_from)
        journal.remove()
    say(
        f"wrote {len(drawn.data)} samples in {run.workdir}: {', '.join(written)}, samples.json; "
        f"{drawn.network_evaluations:.4g} network evaluations for each"
    )


def _write_samples(run: Run, drawn: Samples) -> list[str]:
    """Writes samples.npz, and pictures of it where possible. Returns the names of the files."""
    workdir, source, columns = run.workdir, run.source, run.options.sample.interpolate or None
    save_npz(workdir / "samples.npz", samples=drawn.data, labels=drawn.labels, frames=drawn.frames)
    written = ["samples.npz"]
    are_images = len(source.shape) == 3 and source.shape[-1] in (1, 3) and source.num_codes
    if source.shape == (2,):
        try:
            test = source.load(source.evaluation_split).examples
        except (ValueError, OSError):  # the data are missing, which has been reported
            test = drawn.data[:0]
        plots.plot_points(workdir / "samples.png", drawn.data, test)
        written.append("samples.png")
    elif are_images:
        images.save_grid(workdir / "samples.png", drawn.data, source.num_codes, columns)
        written.append("samples.png")
    remove(workdir / "samples.gif")  # it shows other samples
    if are_images and len(drawn.frames):
        images.save_animation(workdir / "samples.gif", drawn.frames, source.num_codes, columns)
        written.append("samples.gif")
    return written


def _write_report(
    run: Run, step: int, drawn: Samples, compared: dict[str, Any], init_from: str | None
) -> None:
    """Writes samples.json."""
    settings = run.resolved["sample"]
    if not has_noise_levels(run.model):  # it ignores the other settings
        settings = {key: settings[key] for key in _OF_ANY_MODEL}
    report = settings | {
        "network_evaluations": drawn.network_evaluations,
        "step": step,
        "params": run.options.eval.params,
        "quality": compared,
    }
    if has_noise_levels(model := run.model):
        report["decoder"] = model.decoder_rule
    if init_from:
        report["init_from"] = str(init_from)
    write_json(run.workdir / "samples.json", report)
