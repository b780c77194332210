"""A run: a config made into objects, the folder that belongs to it, and its states."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm import config as configs
from vdm import sharding
from vdm.data.sources import Source
from vdm.io.checkpoints import CheckpointError, Checkpoints, restore_params
from vdm.io.console import say
from vdm.io.metrics import read_metrics
from vdm.model import VDM
from vdm.training.state import TrainState, init_state
from vdm.typing import Params


@dataclasses.dataclass(frozen=True)
class Run:
    """What `open_run` makes of a config and a workdir."""

    config: ConfigDict
    workdir: Path
    source: Source
    model: VDM
    mesh: Mesh

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.workdir / "checkpoints", self.config.train.keep_checkpoints)

    @property
    def init_key(self) -> jax.Array:
        """For the initial parameters."""
        return jax.random.split(jax.random.key(self.config.seed))[0]

    @property
    def step_key(self) -> jax.Array:
        """What the key of every step is folded from."""
        # Not the root key itself: fold_in(key, 0) and split(key)[0] are one and the same.
        return jax.random.split(jax.random.key(self.config.seed))[1]

    def initial_state(self) -> TrainState:
        """The state before the first step, on every device."""
        return jax.jit(self._init, out_shardings=sharding.replicated(self.mesh))(self.init_key)

    def abstract_state(self) -> Any:
        """Shapes, dtypes and shardings of the state."""
        everywhere = sharding.replicated(self.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
            jax.eval_shape(self._init, self.init_key),
        )

    def _init(self, key: jax.Array) -> TrainState:
        return init_state(self.model, configs.build_optimizer(self.config), key)

    def chosen(self, state: TrainState) -> Params:
        """The parameters that are evaluated: config.eval.params, "ema" or "raw"."""
        return state.ema_params if self.config.eval.params == "ema" else state.params

    def first_state(self, init_from: str | None) -> TrainState:
        """Where training begins: the newest readable checkpoint, else the parameters of the run
        or checkpoint `init_from`, else the seed."""
        if self.checkpoints.steps():
            return self._resumed_state(init_from)
        state = self.initial_state()
        if init_from is None:
            return state
        like = {"params": state.params, "ema_params": state.ema_params}
        folder, found = restore_params(init_from, like, on_unreadable=say)
        say(f"starting from the parameters in {folder}")
        return dataclasses.replace(state, **found)

    def _resumed_state(self, init_from: str | None) -> TrainState:
        step, state = self.checkpoints.restore(self.abstract_state(), on_unreadable=say)
        note = "; --init_from is for a new workdir and not used" if init_from else ""
        say(f"resuming {self.workdir} at step {step}{note}")
        saved = self.workdir / "config.json"
        before = json.loads(saved.read_text())["train"]["num_steps"] if saved.is_file() else None
        now = self.config.train.num_steps
        if before not in (None, now):
            say(
                f"train.num_steps was {before} and is {now}: a learning rate that decays over "
                f"the run follows the new length from step {step} on"
            )
        return state

    def trained_params(self) -> tuple[int, Params]:
        """(step, parameters) to evaluate: of checkpoint eval.step, or of the newest readable."""
        wanted = self.config.eval.step
        field = "ema_params" if self.config.eval.params == "ema" else "params"
        like = {field: getattr(self.abstract_state(), field)}
        source = self.workdir
        if wanted >= 0:
            source = self.checkpoints.path(wanted)
            if wanted not in self.checkpoints.steps():
                there = ", ".join(map(str, self.checkpoints.steps())) or "none"
                raise CheckpointError(f"eval.step = {wanted}: {self.workdir} has {there}")
        folder, found = restore_params(source, like, on_unreadable=say)
        return int(folder.name), found[field]

    def trained_secs(self, step: int) -> float:
        """Seconds of training up to `step`, by the workdir's log."""
        times = [
            line["time_secs"]
            for line in read_metrics(self.workdir)
            if line["step"] <= step and line.get("time_secs") is not None
        ]
        return float(times[-1]) if times else 0.0


def open_run(config: ConfigDict, workdir: str | Path) -> Run:
    """Checks the config and that workdir belongs to it; builds source, model and mesh.

    Nothing is written. ValueError for a workdir of another config, with the keys that differ.
    """
    configs.check(config)
    workdir = Path(workdir).absolute()
    saved = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir} is a file: name a folder")
    if saved.is_file():
        differing = configs.differing_fields(config.to_dict(), json.loads(saved.read_text()))
        if differing:
            raise ValueError(
                f"--workdir={workdir} belongs to another config ({'; '.join(differing)}): choose "
                "another workdir, or go back to those values"
            )
    sharding.split_host(config.train.num_devices)
    source = configs.build_source(config)
    model = configs.build_model(config, source)
    return Run(config, workdir, source, model, sharding.build_mesh(config.train.num_devices))
