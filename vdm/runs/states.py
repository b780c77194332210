"""The states of a run (initial, restored or from another run), and the parameters to evaluate."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import optax
from jax.sharding import Mesh

from vdm.config.registry import OPTIMIZERS
from vdm.devices import sharding
from vdm.devices.keys import root_key
from vdm.diffusion.interning import kept
from vdm.io.atomic import read_json
from vdm.io.checkpoints import CheckpointError, restore_params
from vdm.io.console import say
from vdm.io.interop import is_published, read_published
from vdm.io.step_folder import saved_step
from vdm.models.latent_variable import AnyModel
from vdm.nn.stacks import stack_blocks, unstack_blocks
from vdm.nn.unet import UNet
from vdm.runs.run import Run
from vdm.training.state import TrainState, init_state
from vdm.typing import Params

Tree = TypeVar("Tree")


def initial_state(run: Run) -> TrainState:
    """Returns the state before the first step, on the devices."""
    init, _ = _initialiser(run)
    return looped(run, init(run.init_key))


def stacked_blocks(run: Run) -> dict[str, int]:
    """Returns the block stacks that the train state stores stacked (name -> number of blocks).

    There are none with an optimiser of the user's own, which may treat each array as a unit, by its
    norm or its name.
    """
    network = getattr(run.model, "network", None)
    known = run.resolved["optim"]["name"] in OPTIMIZERS
    return network.loops if known and isinstance(network, UNet) else {}


def looped(run: Run, tree: Tree) -> Tree:
    """Converts a state or a part of it from the form of checkpoints to that of the train state."""
    if not stacked_blocks(run):
        return tree
    stacked = functools.partial(stack_blocks, loops=stacked_blocks(run))
    places = sharding.split_state(jax.eval_shape(stacked, tree), run.mesh)
    return jax.jit(stacked, out_shardings=places)(tree)


def save_state(run: Run, step: int, state: TrainState) -> None:
    """Writes the checkpoint of `step`."""
    run.checkpoints.save(step, unstack_blocks(state, stacked_blocks(run)))


def abstract_state(run: Run) -> Any:
    """Returns the shapes, dtypes and shardings of the state, in the form of checkpoints."""
    return _initialiser(run)[1]


def on_every_device(run: Run, shapes: Any) -> Any:
    """Returns the shapes with a sharding that keeps a whole copy on every device."""
    everywhere = sharding.replicated(run.mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes
    )


def _initialiser(run: Run) -> tuple[Callable[[jax.Array], TrainState], Any]:
    """The compiled function from a key to the state before the first step; shapes, dtypes and
    shardings of that state."""
    return _compiled_initialiser(run.model, run.optimizer, run.mesh)


@kept  # compiled once for the runs of a model
def _compiled_initialiser(
    model: AnyModel, optimizer: optax.GradientTransformation, mesh: Mesh
) -> tuple[Callable[[jax.Array], TrainState], Any]:
    init = functools.partial(init_state, model, optimizer)
    shapes = jax.eval_shape(init, root_key(0))
    places = sharding.split_state(shapes, mesh)
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        places,
    )
    return jax.jit(init, out_shardings=places), abstract


def chosen(run: Run, state: TrainState) -> Params:
    """Returns the parameters to evaluate, "ema" or "raw" as options.eval.params says, on every
    device, in the form of the train state."""
    chosen = state.ema_params if run.options.eval.params == "ema" else state.params
    return sharding.gather(chosen, run.mesh)


def first_state(run: Run, init_from: str | None) -> TrainState:
    """Returns the state from which training starts: the newest readable checkpoint, otherwise the
    parameters of the run or checkpoint `init_from`, otherwise fresh parameters."""
    if run.checkpoints.steps():
        return _resumed_state(run, init_from)
    state = initial_state(run)
    if init_from is None:
        return state
    shapes = abstract_state(run)
    like = {"params": shapes.params, "ema_params": shapes.ema_params}
    _, loaded = _foreign_params(run, init_from, like)
    return dataclasses.replace(state, **{key: looped(run, tree) for key, tree in loaded.items()})


def _resumed_state(run: Run, init_from: str | None) -> TrainState:
    step, state = run.checkpoints.restore(abstract_state(run), on_unreadable=say)
    note = "; --init_from is for a new workdir and not used" if init_from else ""
    say(f"resuming {run.workdir} at step {step}{note}")
    saved = run.workdir / "config.json"
    before = read_json(saved)["train"]["num_steps"] if saved.is_file() else None
    now = run.options.train.num_steps
    if before not in (None, now):
        say(
            f"train.num_steps was {before} and is {now}: a learning rate that decays over "
            f"the run follows the new length from step {step} on"
        )
    return looped(run, state)


def _foreign_params(
    run: Run, path: str | Path, like: dict[str, Params]
) -> tuple[int, dict[str, Params]]:
    """Loads (step, parameters) from another run, a checkpoint, or a published VDM checkpoint."""
    if is_published(path):
        step, loaded = read_published(path, like)
        say(f"parameters of step {step} of the published VDM, in {path}")
        return step, loaded
    folder, loaded = restore_params(path, like, on_unreadable=say)
    say(f"parameters in {folder}")
    return saved_step(folder), loaded


def trained_params(run: Run, init_from: str | None = None) -> tuple[int, Params]:
    """Loads (step, parameters) to evaluate: from checkpoint eval.step, or the newest readable one.
    In a workdir without checkpoints, `init_from` is used instead."""
    requested = run.options.eval.step
    field = "ema_params" if run.options.eval.params == "ema" else "params"
    like = {field: on_every_device(run, getattr(abstract_state(run), field))}
    if init_from is not None:
        if run.checkpoints.steps():
            raise ValueError(
                f"--workdir={run.workdir} has checkpoints of its own: choose another one "
                f"for the parameters in {init_from}"
            )
        step, loaded = _foreign_params(run, init_from, like)
        return step, loaded[field]
    source = run.workdir
    if requested >= 0:
        source = run.checkpoints.path(requested)
        if requested not in run.checkpoints.steps():
            there = ", ".join(map(str, run.checkpoints.steps())) or "none"
            raise CheckpointError(f"eval.step = {requested}: {run.workdir} has {there}")
    folder, loaded = restore_params(source, like, on_unreadable=say)
    return saved_step(folder), loaded[field]


def guided_params(run: Run, params: Params) -> Params:
    """Returns the parameters, with those of the classifier added if it guides the samples."""
    if not run.guidance.num_classes or run.classifier is None:
        return params
    if not run.classifier_checkpoints.steps():
        raise ValueError(
            "sample.guidance.name = 'classifier' needs a classifier of noisy examples, which "
            f"{run.workdir} does not have: train it with the same command and --mode=classifier"
        )
    shapes = jax.eval_shape(run.classifier.init, run.init_key)
    like = {"ema_params": on_every_device(run, shapes)}
    _, loaded = restore_params(run.workdir / "classifier", like, on_unreadable=say)
    return params | {"classifier": loaded["ema_params"]}
