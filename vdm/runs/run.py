"""A run: the objects that a config names, together with the workdir of the run."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm.config import build as configs
from vdm.config import checks
from vdm.config import options as all_options
from vdm.config.build import build_estimator
from vdm.config.compatibility import differing_fields
from vdm.config.options import Options
from vdm.data.sources import Source
from vdm.data.transforms import Augmentation
from vdm.devices import sharding
from vdm.devices.keys import root_key
from vdm.diffusion.grids import Grid
from vdm.diffusion.samplers import Sampler
from vdm.diffusion.weightings import Weighting
from vdm.evaluation.estimators import Estimator
from vdm.evaluation.guided import Guidance
from vdm.io.atomic import read_json, write_json
from vdm.io.checkpoints import Checkpoints
from vdm.io.environment import describe
from vdm.io.metrics_log import MetricsHook, read_metrics
from vdm.io.orbax_paths import check_shared
from vdm.io.places import check_local
from vdm.models.classifier import NoisyClassifier
from vdm.models.interface import has_noise_levels
from vdm.models.latent_variable import AnyModel
from vdm.models.vdm import VDM
from vdm.runs.data import open_source
from vdm.training.gradient import Objective
from vdm.training.optim import Averaging
from vdm.training.step import TrainStep, make_train_step


@dataclasses.dataclass(frozen=True)
class Run:
    """The objects that a config names, and a workdir.

    resolved: the config itself, with every field, as plain values.
    """

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
    eval_grid: Grid
    compress_grid: Grid
    guidance: Guidance
    classifier: NoisyClassifier | None
    estimator: Estimator
    open_metrics_hook: Callable[[], MetricsHook | None]
    mesh: Mesh

    @property
    def vdm(self) -> VDM:
        """The model as a VDM. ValueError for a model without a noise schedule."""
        if not has_noise_levels(self.model):
            name = self.resolved["model"]["name"]
            raise ValueError(f"model.name = {name!r} has no noise schedule: choose 'vdm'")
        return self.model

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.workdir / "checkpoints", self.options.train.keep_checkpoints)

    @property
    def classifier_checkpoints(self) -> Checkpoints:
        """The checkpoints of the noise-conditioned classifier."""
        return Checkpoints(self.workdir / "classifier", self.options.train.keep_checkpoints)

    @property
    def init_key(self) -> jax.Array:
        """The key for the initial parameters."""
        return jax.random.split(root_key(self.options.seed))[0]

    @property
    def step_key(self) -> jax.Array:
        """The key from which the key of every training step is folded."""
        # Not the root key itself, because fold_in(key, 0) equals split(key)[0].
        return jax.random.split(root_key(self.options.seed, self.options.train.prng_impl))[1]

    def train_step(self) -> TrainStep:
        """Returns the compiled training step of this run."""
        options = self.options
        return make_train_step(
            self.model,
            self.optimizer,
            self.step_key,
            Objective(options.bound_steps, options.train_schedule, self.weighting),
            Averaging(options.ema_rate, options.ema_warmup),
            options.train.accumulate,
            self.mesh,
        )

    def describe(self) -> None:
        """Writes config.json and environment.json."""
        write_json(self.workdir / "environment.json", describe(self.options.seed))
        write_json(self.workdir / "config.json", self.resolved)

    def trained_secs(self, step: int) -> float:
        """Returns the seconds of training up to `step`, from the log in the workdir."""
        times = [
            line["time_secs"]
            for line in read_metrics(self.workdir)
            if line["step"] <= step and line.get("time_secs") is not None
        ]
        return float(times[-1]) if times else 0.0


def open_run(config: ConfigDict, workdir: str | Path, init_from: str | None = None) -> Run:
    """Opens the run of a config in a workdir, which must be new or belong to the same config.

    init_from: a run or checkpoint whose parameters are used instead of those in the workdir.
    Nothing is written. ValueError for a workdir of another config; it names the differing fields.
    """
    check_local("--workdir", workdir)
    check_local("--init_from", init_from)
    check_shared(Path(workdir).absolute())
    network = Path(workdir) / "classifier" / "config.json"
    if network.is_file():  # its checkpoints are of this network, whatever the config says
        config = all_options.complete(config)
        config.classifier.update(ConfigDict(read_json(network)))
    trained = bool(Checkpoints(Path(workdir) / "checkpoints").steps())
    saved = Path(workdir).absolute() / "config.json"
    run = build_run(
        config, workdir, lambda config: open_source(config, Path(workdir), init_from, trained),
        own_fields=saved.is_file(),
    )  # fmt: skip
    if run.workdir.exists() and not run.workdir.is_dir():
        raise ValueError(f"--workdir={run.workdir} is a file: name a folder")
    # Without a checkpoint there is nothing that another config could damage.
    if saved.is_file() and run.checkpoints.steps():
        differing = differing_fields(run.resolved, read_json(saved))
        if differing:
            raise ValueError(
                f"--workdir={run.workdir} belongs to another config ({'; '.join(differing)}): "
                "choose another workdir, or restore those values"
            )
    return run


def build_run(
    config: ConfigDict,
    workdir: str | Path,
    open_source: Callable[[ConfigDict], Source] = lambda config: configs.build_source(config.data),
    own_fields: bool = False,
) -> Run:
    """Checks the config and builds everything that it names. Of data files, it reads at most the
    headers. own_fields: whether fields that no config has are left alone."""
    if jnp.result_type(float) == jnp.float64:
        raise ValueError(
            "JAX_ENABLE_X64 is set, and models here are float32: unset it, or call this in "
            "`with jax.enable_x64(False):`"
        )
    config, options = all_options.resolve(config, own_fields)
    sharding.start()
    built = configs.build_all(config, open_source(config))
    checks.check(config, options, built)
    folder = Path(workdir).absolute()
    return Run(
        resolved=config.to_dict(),
        options=options,
        workdir=folder,
        **{field.name: getattr(built, field.name) for field in dataclasses.fields(built)},
        estimator=build_estimator(options.eval, built.model),
        open_metrics_hook=functools.partial(
            configs.open_metrics_hook, config.metrics, config.to_dict(), folder
        ),
        mesh=sharding.build_mesh(options.train.num_devices, options.train.fsdp),
    )


def with_kernel(run: Run, kernel: str | None, decoder: str | None) -> Run:
    """Returns the run with another reverse kernel or decoder; None leaves it. ValueError if its
    model does not have it, or was trained for T steps of its own."""
    config = ConfigDict(run.resolved)
    own = dict(config.model)
    config.compress.kernel = "model"
    config.model.update(kernel=kernel or own["kernel"], decoder=decoder or own["decoder"])
    if config.model.num_steps and own != dict(config.model):
        raise ValueError(
            f"this model was trained for {config.model.num_steps} steps of kernel "
            f"{own['kernel']!r} with decoder {own['decoder']!r}: these are part of it"
        )
    return build_run(config, run.workdir, lambda _: run.source, own_fields=True)
