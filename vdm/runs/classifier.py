"""--mode=classifier: trains the noise-conditioned classifier of a run."""

import jax
import jax.numpy as jnp
import optax

from vdm.data.pipeline import train_batches
from vdm.data.sources import Split
from vdm.devices import processes, sharding
from vdm.devices.keys import root_key
from vdm.io import lock
from vdm.io.atomic import write_json
from vdm.io.console import say
from vdm.models.classifier import NoisyClassifier
from vdm.models.interface import require, supports
from vdm.runs import states
from vdm.runs.data import FILENAME as DATA
from vdm.runs.data import settle
from vdm.runs.run import Run
from vdm.runs.train import training_split
from vdm.training.classifier_step import make_classifier_step
from vdm.training.loop import Plan, take_steps
from vdm.training.optim import adamw
from vdm.training.state import TrainState, init_state
from vdm.typing import Params


def train_classifier(run: Run, init_from: str | None = None, accept_new_data: bool = False) -> None:
    """Trains p(label | z_t) on the run's data, at noise levels between the ends of its schedule.

    Everything is written to the folder classifier/ of the workdir, which is locked and keeps a
    record of its data like the workdir of a training. A stopped training resumes. ValueError for
    data without labels, or a model whose latents are not noisy data.
    """
    options, classifier = run.options.classifier, run.classifier
    if classifier is None:
        raise ValueError(
            f"--mode=classifier: data set {run.source.name!r} has no labels; choose one with labels"
        )
    require(run.model, "schedule", "--mode=classifier")
    if "noisy_data" not in supports(run.model):
        raise ValueError(
            "--mode=classifier reads noisy data, which the latents of this model are not; "
            "sample.guidance.name = 'classifier_free' needs no classifier"
        )
    sharding.check_batch(options.batch_size, run.mesh, field="classifier.batch_size")
    split = training_split(run)
    _, params = states.trained_params(run, init_from)
    with lock.held(run.workdir / "classifier", "training of a classifier"):
        _train_classifier(run, classifier, split, params, accept_new_data)


def _train_classifier(
    run: Run, classifier: NoisyClassifier, split: Split, params: Params, accept_new_data: bool
) -> None:
    options, folder = run.options.classifier, run.workdir / "classifier"
    trained = bool(run.classifier_checkpoints.steps())
    ends = run.vdm.schedule_fn(params)(jnp.array([0.0, 1.0]))
    state = first_state(run)
    first = int(state.step)
    data = settle(folder, run.source, split, first if trained else None, accept_new_data)
    _keep_config(run)
    write_json(folder / DATA, data)
    processes.agree("the step at which the classifier resumes", first)
    train_step = make_classifier_step(
        classifier,
        run.vdm.likelihood,
        (ends[0], ends[1]) if ends[0].ndim == 0 else (ends[0][None], ends[1][None]),
        _optimizer(run),
        _keys(run)[1],
        run.mesh,
    )
    batches = train_batches(
        split, options.batch_size, run.options.seed, first,
        jax.process_index(), jax.process_count(),
    )  # fmt: skip

    def log(step: int, scalars: dict[str, float]) -> str:
        return (
            f"classifier step {step}/{options.num_steps}: cross-entropy "
            f"{scalars['train/cross_entropy']:.4f} nats, accuracy "
            f"{scalars['train/accuracy']:.3f} over all noise levels"
        )

    checkpoints = run.classifier_checkpoints
    plan = Plan(
        name="classifier",
        step=train_step,
        num_steps=options.num_steps,
        batch_size=options.batch_size,
        save_every=run.options.train.save_every,
        log=log,
        save=checkpoints.save,
        checkpoints=checkpoints,
        watchdog_secs=run.options.train.watchdog_secs,
    )
    state = take_steps(plan, state, (sharding.put_batch(batch, run.mesh) for batch in batches))
    say(f"the classifier is in {checkpoints.path(int(state.step))}")


def first_state(run: Run) -> TrainState:
    """Returns the state from which the classifier is trained: its newest readable checkpoint, or a
    fresh one."""
    assert run.classifier is not None
    classifier, optimizer = run.classifier, _optimizer(run)

    def init(key: jax.Array) -> TrainState:
        return init_state(classifier, optimizer, key)

    key, _ = _keys(run)
    if run.classifier_checkpoints.steps():
        like = states.on_every_device(run, jax.eval_shape(init, key))
        return run.classifier_checkpoints.restore(like, on_unreadable=say)[1]
    return jax.jit(init, out_shardings=sharding.replicated(run.mesh))(key)


def _keep_config(run: Run) -> None:
    """Records which network the classifier's checkpoints belong to."""
    fields = {key: run.resolved["classifier"][key] for key in ("name", "kwargs")}
    write_json(run.workdir / "classifier" / "config.json", fields)


def _keys(run: Run) -> tuple[jax.Array, jax.Array]:
    """Returns the keys for the classifier's initial parameters and for its training steps."""
    # fold_in(key, 2) differs from both keys of split(key), which the model's training uses.
    init, steps = jax.random.split(jax.random.fold_in(root_key(run.options.seed), 2))
    return init, steps


def _optimizer(run: Run) -> optax.GradientTransformation:
    """Returns AdamW, whose learning rate decays to 0 along a half cosine."""
    options = run.options.classifier
    return adamw(options.num_steps, options.learning_rate, decay="cosine")
