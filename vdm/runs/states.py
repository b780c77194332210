"""The states of a run: initial, restored, foreign; and the parameters that are chosen of them."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, TypeVar

import jax

from vdm.config.registry import OPTIMIZERS
from vdm.devices import sharding
from vdm.io.atomic import read_json
from vdm.io.checkpoints import CheckpointError, restore_params
from vdm.io.console import say
from vdm.io.interop import is_published, read_published
from vdm.io.step_folder import saved_step
from vdm.nn.stacks import stack_blocks, unstack_blocks
from vdm.nn.unet import UNet
from vdm.runs.run import Run
from vdm.training.state import TrainState, init_state
from vdm.typing import Params

Tree = TypeVar("Tree")


def initial_state(run: Run) -> TrainState:
    """The state before the first step, on the devices."""
    shapes = jax.eval_shape(functools.partial(_init, run), run.init_key)
    places = sharding.split_state(shapes, run.mesh)
    return looped(run, jax.jit(functools.partial(_init, run), out_shardings=places)(run.init_key))


def stacked_blocks(run: Run) -> dict[str, int]:
    """The stacks of blocks that the train state has as a loop reads them. With an optimiser of
    the user's own there are none: it may treat each array as one, by its norm or its name."""
    network = getattr(run.model, "network", None)
    known = run.resolved["optim"]["name"] in OPTIMIZERS
    return network.loops if known and isinstance(network, UNet) else {}


def looped(run: Run, tree: Tree) -> Tree:
    """A state, or a part of it, as checkpoints have it, in the form of the train state."""
    if not stacked_blocks(run):
        return tree
    stacked = functools.partial(stack_blocks, loops=stacked_blocks(run))
    places = sharding.split_state(jax.eval_shape(stacked, tree), run.mesh)
    return jax.jit(stacked, out_shardings=places)(tree)


def save_state(run: Run, step: int, state: TrainState) -> None:
    """Writes the checkpoint of `step`."""
    run.checkpoints.save(step, unstack_blocks(state, stacked_blocks(run)))


def abstract_state(run: Run) -> Any:
    """Shapes, dtypes and shardings of the state, as checkpoints have it."""
    shapes = jax.eval_shape(functools.partial(_init, run), run.init_key)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        sharding.split_state(shapes, run.mesh),
    )


def on_every_device(run: Run, shapes: Any) -> Any:
    everywhere = sharding.replicated(run.mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes
    )


def _init(run: Run, key: jax.Array) -> TrainState:
    return init_state(run.model, run.optimizer, key)


def chosen(run: Run, state: TrainState) -> Params:
    """The parameters that are evaluated: options.eval.params, "ema" or "raw"; on every
    device, in the form of the train state."""
    chosen = state.ema_params if run.options.eval.params == "ema" else state.params
    return sharding.gather(chosen, run.mesh)


def first_state(run: Run, init_from: str | None) -> TrainState:
    """Where training begins: the newest readable checkpoint, else the parameters of the run
    or checkpoint `init_from`, else the seed."""
    if run.checkpoints.steps():
        return _resumed_state(run, init_from)
    state = initial_state(run)
    if init_from is None:
        return state
    shapes = abstract_state(run)
    like = {"params": shapes.params, "ema_params": shapes.ema_params}
    _, found = _foreign_params(run, init_from, like)
    return dataclasses.replace(state, **{key: looped(run, of) for key, of in found.items()})


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
    """(step, parameters) of another run, a checkpoint, or one of the published VDM."""
    if is_published(path):
        step, found = read_published(path, like)
        say(f"parameters of step {step} of the published VDM, in {path}")
        return step, found
    folder, found = restore_params(path, like, on_unreadable=say)
    say(f"parameters in {folder}")
    return saved_step(folder), found


def trained_params(run: Run, init_from: str | None = None) -> tuple[int, Params]:
    """(step, parameters) to evaluate: of checkpoint eval.step, or of the newest readable; of
    `init_from` instead in a workdir without checkpoints."""
    wanted = run.options.eval.step
    field = "ema_params" if run.options.eval.params == "ema" else "params"
    like = {field: on_every_device(run, getattr(abstract_state(run), field))}
    if init_from is not None:
        if run.checkpoints.steps():
            raise ValueError(
                f"--workdir={run.workdir} has checkpoints of its own: choose another one "
                f"for the parameters in {init_from}"
            )
        step, found = _foreign_params(run, init_from, like)
        return step, found[field]
    source = run.workdir
    if wanted >= 0:
        source = run.checkpoints.path(wanted)
        if wanted not in run.checkpoints.steps():
            there = ", ".join(map(str, run.checkpoints.steps())) or "none"
            raise CheckpointError(f"eval.step = {wanted}: {run.workdir} has {there}")
    folder, found = restore_params(source, like, on_unreadable=say)
    return saved_step(folder), found[field]


def guided_params(run: Run, params: Params) -> Params:
    """The parameters, and those of the classifier where the samples are guided by one."""
    if not run.guidance.num_classes or run.classifier is None:
        return params
    if not run.classifier_checkpoints.steps():
        raise ValueError(
            "sample.guidance.name = 'classifier' needs a classifier of noisy examples, which "
            f"{run.workdir} has not: train it by the same command with --mode=classifier"
        )
    shapes = jax.eval_shape(run.classifier.init, run.init_key)
    like = {"ema_params": on_every_device(run, shapes)}
    _, found = restore_params(run.workdir / "classifier", like, on_unreadable=say)
    return params | {"classifier": found["ema_params"]}
