"""--mode=train: trains, then evaluates and samples."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax

from vdm.config.registry import OPTIMIZERS
from vdm.data.pipeline import train_batches
from vdm.data.sources import Split
from vdm.devices import processes, sharding
from vdm.evaluation.guided import Unguided
from vdm.io import lock
from vdm.io.atomic import read_json, to_json, write_json
from vdm.io.console import say
from vdm.io.metrics_log import MetricsWriter, read_metrics
from vdm.models.interface import has_noise_levels
from vdm.models.vdm import count_parameters
from vdm.runs import levels, states
from vdm.runs.data import FILENAME as DATA
from vdm.runs.data import check_split, settle
from vdm.runs.evaluate import eval_scalars, finished_report, report_evaluation, run_evaluation
from vdm.runs.run import Run
from vdm.runs.sample import report_samples
from vdm.training.loop import Plan, take_steps
from vdm.training.schedule_objectives import objective
from vdm.training.state import TrainState
from vdm.training.step import Batch


def train(run: Run, init_from: str | None = None, accept_new_data: bool = False) -> None:
    """Trains the run, then evaluates and samples it. A stopped run resumes; a finished one is left
    unchanged.

    Everything that training needs is read and checked first; until then nothing is written except
    the lock of the workdir.

    Args:
        init_from: a run or checkpoint whose parameters a new run starts from.
        accept_new_data: whether to resume although the training data have changed.

    Raises:
        ValueError: another training holds the lock, or the training data have changed.
    """
    options = run.options.train
    sharding.check_batch(options.batch_size, run.mesh, options.accumulate)
    # The processes act together on what each reads from its disk, so they compare that first.
    finished = finished_report(run)
    if not processes.any_of(not finished):
        say(f"{run.workdir} is finished at step {run.checkpoints.steps()[-1]}: {finished}")
        return
    _check_decoder(run)
    split = training_split(run)
    check_split(run.model, run.source, run.source.load(run.source.evaluation_split))
    with lock.held(run.workdir, "training"):
        _train(run, split, init_from, accept_new_data)


def _check_decoder(run: Run) -> None:
    """Raises ValueError if a run that was trained with one decoder would be trained further with
    another one. Evaluation may choose any decoder, but the ends of the schedule fit only the one
    that they were trained with."""
    saved = run.workdir / "config.json"
    if not run.checkpoints.steps() or not saved.is_file():
        return
    decoder, before = (c["model"].get("decoder", "bayes") for c in (run.resolved, read_json(saved)))
    if decoder != before:
        raise ValueError(
            f"model.decoder = {decoder!r}: {run.workdir} has been trained with {before!r}; train "
            "on with that one, and choose another with --mode=eval"
        )


def training_split(run: Run) -> Split:
    """Loads the training split and checks that the model can be trained on it."""
    split = run.source.load("train")
    check_split(run.model, run.source, split)
    return split


def _train(run: Run, split: Split, init_from: str | None, accept_new_data: bool) -> None:
    options, trained = run.options.train, bool(run.checkpoints.steps())
    processes.agree("the newest checkpoint", max(run.checkpoints.steps(), default=0))
    state = states.first_state(run, init_from)
    processes.agree("the step at which training resumes", int(state.step))
    step = int(state.step) if trained else None
    data = settle(run.workdir, run.source, split, step, accept_new_data)
    with MetricsWriter(run.workdir, int(state.step), run.open_metrics_hook) as writer:
        run.describe()
        write_json(run.workdir / DATA, data)
        _announce(run, split, state)
        batches = train_batches(
            split,
            options.batch_size,
            run.options.seed,
            int(state.step),
            jax.process_index(),
            jax.process_count(),
            run.augmentation,
        )
        on_devices = (sharding.put_batch(batch, run.mesh) for batch in batches)
        state = fit(run, state, on_devices, writer)
        step, params = int(state.step), states.chosen(run, state)
        result = report_evaluation(run, step, params)
        scalars = eval_scalars(result)
        line = to_json({"step": step} | scalars)
        if line not in read_metrics(run.workdir):  # a run that was killed while sampling has it
            writer.write(step, scalars)
    if run.guidance.num_classes and not run.classifier_checkpoints.steps():
        say("no classifier guides these samples: --mode=classifier trains one for --mode=sample")
        unguided = run.resolved["sample"] | {"guidance": {"name": "none", "kwargs": {}}}
        resolved = run.resolved | {"sample": unguided}
        run = dataclasses.replace(run, guidance=Unguided(), resolved=resolved)
    report_samples(run, step, states.guided_params(run, params))


def _announce(run: Run, split: Split, state: TrainState) -> None:
    """Reports what is trained on what, and where the run differs from what the config suggests."""
    say(
        f"{run.source.name}: {len(split.examples)} examples of shape {run.source.shape}; "
        f"{count_parameters(state.params):,} parameters; {sharding.name_devices(run.mesh)}"
    )
    warmup = run.resolved["optim"]["kwargs"].get("warmup_steps", 0)
    if run.resolved["optim"]["name"] in OPTIMIZERS and warmup > run.options.train.num_steps:
        say(
            f"the warm-up of {warmup} steps is longer than the run of "
            f"{run.options.train.num_steps}: the learning rate is never reached"
        )
    for note in split.notes:
        say(note)
    if has_noise_levels(run.model):
        requested, bound_steps = run.options.train_schedule, run.options.bound_steps
        if objective(requested, bound_steps, run.model.interior_matters) != requested:
            of_each = "dimension" if run.model.multivariate else "example"
            why = f"with T = {bound_steps}" if bound_steps else f"with an omega for each {of_each}"
            say(f"{why} the interior of the schedule changes the bound, and is trained on it")
    if run.options.weighting != "bound":
        say(
            f"the network is trained on the {run.options.weighting!r} weighting of the loss, which "
            "is not a bound; train/bpd and eval/bpd are bounds"
        )


def fit(run: Run, state: TrainState, batches: Iterator[Batch], writer: MetricsWriter) -> TrainState:
    """Trains the model until train.num_steps, with logs, evaluations and checkpoints on the way."""
    options, first = run.options.train, int(state.step)
    train_step = run.train_step()

    def log(step: int, scalars: dict[str, float]) -> str:
        writer.write(step, scalars)
        return (
            f"step {step}/{options.num_steps}: train {scalars['train/bpd']:.4f} bits/dim, "
            f"{scalars['images_per_sec']:.0f} images/s"
        )

    def evaluate(step: int, state: TrainState, stop: Callable[[], bool]) -> str:
        chosen = states.chosen(run, state)
        evaluated, params = levels.for_evaluation(
            run, chosen, run.options.eval.num_steps, run.eval_grid, stop
        )
        evaluation = run_evaluation(evaluated, params, options.eval_draws, stop=stop)
        writer.write(step, eval_scalars(evaluation))
        return f"step {step}: eval {evaluation.summary()['bpd']:.4f} bits/dim"

    plan = Plan(
        name="train",
        step=train_step,
        num_steps=options.num_steps,
        batch_size=options.batch_size,
        save_every=options.save_every,
        log=log,
        save=functools.partial(states.save_state, run),
        checkpoints=run.checkpoints,
        watchdog_secs=options.watchdog_secs,
        log_every=options.log_every,
        eval_every=options.eval_every,
        evaluate=evaluate,
        secs=run.trained_secs(first),
    )
    # Checkpoints are saved before evaluations, so a stop may have lost the evaluation of `first`.
    owed = plan.evaluates(first) and not _is_evaluated(run, first)
    return take_steps(plan, state, batches, bool(processes.any_of(owed)))


def _is_evaluated(run: Run, step: int) -> bool:
    return any(r["step"] == step and "eval/bpd" in r for r in read_metrics(run.workdir))
