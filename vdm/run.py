"""A run: a config made into objects, the folder that belongs to it, and its states."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm import config as configs
from vdm import options as all_options
from vdm import sharding
from vdm.classifier import NoisyClassifier
from vdm.components import OPTIMIZERS
from vdm.config_changes import differing_fields
from vdm.data.sources import Source
from vdm.data.transforms import Augmentation
from vdm.diffusion.grids import Grid
from vdm.diffusion.samplers import Sampler
from vdm.diffusion.weightings import Weighting
from vdm.evaluation.bounds import build_estimator
from vdm.evaluation.estimators import Estimator
from vdm.evaluation.features import check_features
from vdm.evaluation.guided import Guidance
from vdm.evaluation.samples import check_options
from vdm.io.checkpoints import CheckpointError, Checkpoints, restore_params, saved_step
from vdm.io.console import say
from vdm.io.files import read_json, write_json
from vdm.io.interop import is_published, read_published
from vdm.io.metrics import MetricsHook, read_metrics
from vdm.io.orbax_paths import check_shared
from vdm.keys import root_key
from vdm.model import VDM, AnyModel
from vdm.nn.stacks import stack_blocks, unstack_blocks
from vdm.nn.unet import UNet
from vdm.options import Options
from vdm.places import check_local
from vdm.run_data import open_source
from vdm.training.optim import adamw
from vdm.training.state import TrainState, init_state
from vdm.training.step import TrainStep, make_train_step
from vdm.typing import Params

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config becomes. `resolved` is the config itself, every field, as plain values."""

    resolved: dict[str, Any]
    options: Options
    workdir: Path
    source: Source
    augmentation: Augmentation | None
    model: AnyModel
    weighting: Weighting
    optimizer: optax.GradientTransformation
    sampler: Sampler
    grid: Grid
    guidance: Guidance
    classifier: NoisyClassifier | None
    estimator: Estimator
    open_metrics_hook: Callable[[], MetricsHook | None]
    mesh: Mesh

    @property
    def vdm(self) -> VDM:
        """The model, of what needs noise levels. ValueError for a model without a schedule."""
        if not isinstance(self.model, VDM):
            name = self.resolved["model"]["name"]
            raise ValueError(f"model.name = {name!r} has no schedule of noise: choose 'vdm'")
        return self.model

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.workdir / "checkpoints", self.options.train.keep_checkpoints)

    @property
    def classifier_checkpoints(self) -> Checkpoints:
        """Those of the noise-conditioned classifier."""
        return Checkpoints(self.workdir / "classifier", self.options.train.keep_checkpoints)

    @property
    def init_key(self) -> jax.Array:
        """For the initial parameters."""
        return jax.random.split(root_key(self.options.seed))[0]

    @property
    def step_key(self) -> jax.Array:
        """What the key of every step is folded from."""
        # Not the root key itself: fold_in(key, 0) and split(key)[0] are one and the same.
        return jax.random.split(root_key(self.options.seed, self.options.train.prng_impl))[1]

    def initial_state(self) -> TrainState:
        """The state before the first step, on the devices."""
        shapes = jax.eval_shape(self._init, self.init_key)
        places = sharding.split_state(shapes, self.mesh)
        return self.looped(jax.jit(self._init, out_shardings=places)(self.init_key))

    @property
    def loops(self) -> dict[str, int]:
        """The stacks of blocks that the train state has as a loop reads them. With an optimiser of
        the user's own there are none: it may treat each array as one, by its norm or its name."""
        network = getattr(self.model, "network", None)
        known = self.resolved["optim"]["name"] in OPTIMIZERS
        return network.loops if known and isinstance(network, UNet) else {}

    def looped(self, tree: Tree) -> Tree:
        """A state, or a part of it, as checkpoints have it, in the form of the train state."""
        if not self.loops:
            return tree
        stacked = functools.partial(stack_blocks, loops=self.loops)
        places = sharding.split_state(jax.eval_shape(stacked, tree), self.mesh)
        return jax.jit(stacked, out_shardings=places)(tree)

    def save(self, step: int, state: TrainState) -> None:
        """Writes the checkpoint of `step`."""
        self.checkpoints.save(step, unstack_blocks(state, self.loops))

    def abstract_state(self) -> Any:
        """Shapes, dtypes and shardings of the state, as checkpoints have it."""
        shapes = jax.eval_shape(self._init, self.init_key)
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            sharding.split_state(shapes, self.mesh),
        )

    def _on_every_device(self, shapes: Any) -> Any:
        everywhere = sharding.replicated(self.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes
        )

    def first_classifier_state(self) -> TrainState:
        """The state where the training of the classifier begins: its newest readable checkpoint,
        else the seed."""
        assert self.classifier is not None
        classifier, optimizer = self.classifier, self.classifier_optimizer

        def init(key: jax.Array) -> TrainState:
            return init_state(classifier, optimizer, key)

        key, _ = self.classifier_keys
        if self.classifier_checkpoints.steps():
            like = self._on_every_device(jax.eval_shape(init, key))
            return self.classifier_checkpoints.restore(like, on_unreadable=say)[1]
        return jax.jit(init, out_shardings=sharding.replicated(self.mesh))(key)

    def keep_classifier_config(self) -> None:
        """Writes which network the classifier's checkpoints are of."""
        fields = {key: self.resolved["classifier"][key] for key in ("name", "kwargs")}
        write_json(self.workdir / "classifier" / "config.json", fields)

    @property
    def classifier_keys(self) -> tuple[jax.Array, jax.Array]:
        """For the initial parameters of the classifier, and what its steps fold from."""
        # fold_in(key, 2) is a third child of the root, after the two of split(key).
        init, steps = jax.random.split(jax.random.fold_in(root_key(self.options.seed), 2))
        return init, steps

    @property
    def classifier_optimizer(self) -> optax.GradientTransformation:
        """AdamW with a half cosine to 0."""
        options = self.options.classifier
        return adamw(options.num_steps, options.learning_rate, decay="cosine")

    def _init(self, key: jax.Array) -> TrainState:
        return init_state(self.model, self.optimizer, key)

    def train_step(self) -> TrainStep:
        """The compiled step of this run."""
        return make_train_step(
            self.model,
            self.optimizer,
            self.step_key,
            self.options.bound_steps,
            self.options.ema_rate,
            self.options.ema_warmup,
            self.options.train_schedule,
            self.weighting,
            self.options.train.accumulate,
            self.mesh,
        )

    def chosen(self, state: TrainState) -> Params:
        """The parameters that are evaluated: options.eval.params, "ema" or "raw"; on every
        device, in the form of the train state."""
        chosen = state.ema_params if self.options.eval.params == "ema" else state.params
        return sharding.gather(chosen, self.mesh)

    def first_state(self, init_from: str | None) -> TrainState:
        """Where training begins: the newest readable checkpoint, else the parameters of the run
        or checkpoint `init_from`, else the seed."""
        if self.checkpoints.steps():
            return self._resumed_state(init_from)
        state = self.initial_state()
        if init_from is None:
            return state
        shapes = self.abstract_state()
        like = {"params": shapes.params, "ema_params": shapes.ema_params}
        _, found = self._foreign_params(init_from, like)
        return dataclasses.replace(state, **{key: self.looped(of) for key, of in found.items()})

    def _resumed_state(self, init_from: str | None) -> TrainState:
        step, state = self.checkpoints.restore(self.abstract_state(), on_unreadable=say)
        note = "; --init_from is for a new workdir and not used" if init_from else ""
        say(f"resuming {self.workdir} at step {step}{note}")
        saved = self.workdir / "config.json"
        before = read_json(saved)["train"]["num_steps"] if saved.is_file() else None
        now = self.options.train.num_steps
        if before not in (None, now):
            say(
                f"train.num_steps was {before} and is {now}: a learning rate that decays over "
                f"the run follows the new length from step {step} on"
            )
        return self.looped(state)

    def _foreign_params(
        self, path: str | Path, like: dict[str, Params]
    ) -> tuple[int, dict[str, Params]]:
        """(step, parameters) of another run, a checkpoint, or one of the published VDM."""
        if is_published(path):
            step, found = read_published(path, like)
            say(f"parameters of step {step} of the published VDM, in {path}")
            return step, found
        folder, found = restore_params(path, like, on_unreadable=say)
        say(f"parameters in {folder}")
        return saved_step(folder), found

    def trained_params(self, init_from: str | None = None) -> tuple[int, Params]:
        """(step, parameters) to evaluate: of checkpoint eval.step, or of the newest readable; of
        `init_from` instead in a workdir without checkpoints."""
        wanted = self.options.eval.step
        field = "ema_params" if self.options.eval.params == "ema" else "params"
        like = {field: self._on_every_device(getattr(self.abstract_state(), field))}
        if init_from is not None:
            if self.checkpoints.steps():
                raise ValueError(
                    f"--workdir={self.workdir} has checkpoints of its own: choose another one "
                    f"for the parameters in {init_from}"
                )
            step, found = self._foreign_params(init_from, like)
            return step, found[field]
        source = self.workdir
        if wanted >= 0:
            source = self.checkpoints.path(wanted)
            if wanted not in self.checkpoints.steps():
                there = ", ".join(map(str, self.checkpoints.steps())) or "none"
                raise CheckpointError(f"eval.step = {wanted}: {self.workdir} has {there}")
        folder, found = restore_params(source, like, on_unreadable=say)
        return saved_step(folder), found[field]

    def guided_params(self, params: Params) -> Params:
        """The parameters, and those of the classifier where the samples are guided by one."""
        if not self.guidance.num_classes or self.classifier is None:
            return params
        if not self.classifier_checkpoints.steps():
            raise ValueError(
                "sample.guidance.name = 'classifier' needs a classifier of noisy examples, which "
                f"{self.workdir} has not: train it by the same command with --mode=classifier"
            )
        shapes = jax.eval_shape(self.classifier.init, self.init_key)
        like = {"ema_params": self._on_every_device(shapes)}
        _, found = restore_params(self.workdir / "classifier", like, on_unreadable=say)
        return params | {"classifier": found["ema_params"]}

    def trained_secs(self, step: int) -> float:
        """Seconds of training up to `step`, by the workdir's log."""
        times = [
            line["time_secs"]
            for line in read_metrics(self.workdir)
            if line["step"] <= step and line.get("time_secs") is not None
        ]
        return float(times[-1]) if times else 0.0


def open_run(config: ConfigDict, workdir: str | Path, init_from: str | None = None) -> Run:
    """The run of a config in a workdir, which must be new or belong to that config; init_from is
    where its parameters come from, if not from there.

    Nothing is written. ValueError for a workdir of another config, with the keys that differ.
    """
    check_local("--workdir", workdir)
    check_local("--init_from", init_from)
    check_shared(Path(workdir).absolute())
    network = Path(workdir) / "classifier" / "config.json"
    if network.is_file():  # its checkpoints are of this one, whatever the config says
        config = all_options.complete(config)
        config.classifier.update(ConfigDict(read_json(network)))
    trained = bool(Checkpoints(Path(workdir) / "checkpoints").steps())
    run = build_run(
        config, workdir, lambda config: open_source(config, Path(workdir), init_from, trained)
    )
    saved = run.workdir / "config.json"
    if run.workdir.exists() and not run.workdir.is_dir():
        raise ValueError(f"--workdir={run.workdir} is a file: name a folder")
    # Without a checkpoint there is nothing that another config could harm.
    if saved.is_file() and run.checkpoints.steps():
        differing = differing_fields(run.resolved, read_json(saved))
        if differing:
            raise ValueError(
                f"--workdir={run.workdir} belongs to another config ({'; '.join(differing)}): "
                "choose another workdir, or go back to those values"
            )
    return run


def build_run(
    config: ConfigDict,
    workdir: str | Path,
    open_source: Callable[[ConfigDict], Source] = configs.build_source,
) -> Run:
    """Checks the config and builds everything that it names; of files, it reads at most a header of
    the user's data."""
    if jnp.result_type(float) == jnp.float64:
        raise ValueError(
            "JAX_ENABLE_X64 is set, and models here are float32: unset it, or call this in "
            "`with jax.enable_x64(False):`"
        )
    config = all_options.complete(config)
    options = all_options.read(config)
    sharding.start()
    source = open_source(config)
    model = configs.build_model(config, source)
    configs.check_shapes(config, model)
    configs.check_own(config, source, model)
    classifier = configs.build_classifier(config, source)
    sampler, guidance = (
        configs.build_sampler(config),
        configs.build_guidance(config, model, classifier),
    )
    num_classes = getattr(model, "num_classes", 0) or guidance.num_classes
    check_options(options.sample, sampler, num_classes)
    if options.sample.features:
        check_features(options.sample.features, source.shape, source.num_codes)
    return Run(
        resolved=config.to_dict(),
        options=options,
        workdir=Path(workdir).absolute(),
        source=source,
        augmentation=configs.build_augmentation(config, source),
        model=model,
        weighting=configs.build_weighting(config),
        optimizer=configs.build_optimizer(config),
        sampler=sampler,
        grid=configs.build_grid(config),
        guidance=guidance,
        classifier=classifier,
        estimator=build_estimator(options.eval, model),
        open_metrics_hook=functools.partial(
            configs.open_metrics_hook, config, Path(workdir).absolute()
        ),
        mesh=sharding.build_mesh(options.train.num_devices, options.train.fsdp),
    )
