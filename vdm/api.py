"""The Python interface: a model from a config or a workdir, its bits/dim, samples and files.

import vdm
trained = vdm.load("runs/digits")
trained.bpd(images).mean, trained.sample(16), trained.compress(images)
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from vdm.arguments import check_choice, check_count
from vdm.compression.limits import ORDERS
from vdm.config import build as configs
from vdm.config.checks import check_eval_grid
from vdm.config.files import load_config as load_config
from vdm.config.given import check_given
from vdm.config.options import complete
from vdm.data.sources import Split
from vdm.diffusion.grids import Grid, equal_times
from vdm.diffusion.samplers import Sampler
from vdm.evaluation.bits_per_dim import BitsPerDim as BitsPerDim
from vdm.evaluation.bits_per_dim import evaluate
from vdm.evaluation.calls import Parts
from vdm.evaluation.guided import Guidance, check_guided_codes
from vdm.evaluation.samples import Sampling, draw_samples
from vdm.io.atomic import read_json
from vdm.io.places import check_local
from vdm.models import interface
from vdm.models.inputs import check_codes, check_labels
from vdm.models.latent_variable import AnyModel
from vdm.models.vdm import VDM, compiled_schedule, count_parameters
from vdm.nn.stacks import unstack_blocks
from vdm.runs import compress, levels, states
from vdm.runs.run import Run, build_run, open_run, with_kernel
from vdm.typing import Params

P = ParamSpec("P")
T = TypeVar("T")


def _in_float32(function: Callable[P, T]) -> Callable[P, T]:
    """Wraps a function to run with jax_enable_x64 off, whatever the calling process has set."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return wrapped


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A model with its parameters: what `build` and `load` return."""

    run: Run
    params: Params
    step: int

    def __repr__(self) -> str:
        numbers = f"{count_parameters(self.params):,} parameters"
        return f"<vdm.Model of {self.run.source.name}: {numbers} of step {self.step}>"

    @property
    def model(self) -> AnyModel:
        """The model without its parameters."""
        return self.run.model

    @property
    def vdm(self) -> VDM:
        """`model`, as a VDM. ValueError for a model without a noise schedule."""
        return self.run.vdm

    @property
    def num_classes(self) -> int:
        """The number of label classes; 0 for an unconditional model."""
        return interface.num_classes(self.model)

    @_in_float32
    def using(self, kernel: str | None = None, decoder: str | None = None) -> "Model":
        """Returns the model with another reverse kernel or decoder, by the names that model.kernel
        and model.decoder take; None leaves it. ValueError for one that the model does not have, or
        if it was trained for T steps of its own."""
        return dataclasses.replace(self, run=with_kernel(self.run, kernel, decoder))

    def split(self, name: str = "test") -> Split:
        """Reads a split of the config's data: "train", "test" or, with data.holdout > 0,
        "holdout". It has `examples` [N, *dims] and `labels`, [N] or None. ValueError for missing
        data."""
        return self.run.source.load(name)

    @_in_float32
    def bpd(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        bound: str = "elbo",
        num_steps: int = 0,
        grid: Grid | str | None = None,
        draws: int | None = None,
        batch_size: int = 256,
        seed: int = 0,
    ) -> BitsPerDim:
        """Estimates the bits/dim of data [N, *dims], integer codes or real numbers.

        bound: as eval.bound: elbo, iw-K, ode-decoder, ode-uniform, ode-truncated-normal. num_steps:
        T; 0 for continuous time. grid: as eval.grid; None for "equal_times". draws: None takes the
        config's number. ValueError for another shape, codes out of range, missing labels, or an
        argument without effect.
        """
        draws = self.run.options.eval.draws if draws is None else draws
        draws, batch_size = check_count("draws", draws, 1), check_count("batch_size", batch_size, 1)
        num_steps, seed = check_count("num_steps", num_steps, 0), check_count("seed", seed, 0)
        options = dataclasses.replace(self.run.options.eval, bound=bound, num_steps=num_steps)
        estimator = configs.build_estimator(options, self.model)
        chosen = self._grid("eval.grid", grid) if grid else equal_times
        check_eval_grid("this grid", options, chosen, self.model)
        images = check_codes(self.model, np.asarray(images))
        split = Split("given", images, check_labels(labels, len(images), self.num_classes))
        run, params = levels.for_evaluation(self.run, self.params, num_steps, chosen)
        result = evaluate(
            run.model, params, split, run.mesh, estimator=estimator, draws=draws, seed=seed,
            parts=Parts(batch_size),
        )  # fmt: skip
        return result.bits_per_dim()

    @_in_float32
    def sample(
        self,
        num_samples: int,
        *,
        sampler: Sampler | str | None = None,
        num_steps: int | None = None,
        grid: Grid | str | None = None,
        guidance: Guidance | str | None = None,
        labels: np.ndarray | None = None,
        batch_size: int = 256,
        seed: int = 0,
    ) -> np.ndarray:
        """Draws samples [num_samples, *dims], int32 codes or float32.

        Arguments that are None are taken from config.sample; labels then go through the classes in
        turn. sampler (of `vdm.diffusion.samplers`), grid (of `vdm.diffusion.grids`) and guidance
        (of `vdm.evaluation.guided`) may be given by name, and then get the kwargs in config.sample.
        ValueError for an argument without effect.
        """
        if not interface.has_noise_levels(self.model) and (
            sampler or num_steps or grid or guidance
        ):
            raise ValueError(
                "this model has no steps: leave out sampler, num_steps, grid and guidance"
            )
        run = self._sampled_with(sampler, grid, guidance)
        if interface.has_noise_levels(model := self.model):
            run.guidance.check(model)
            check_guided_codes(run.guidance, model, run.sampler)
            interface.require(model, run.sampler.needs, "this sampler")
        num_samples = check_count("num_samples", num_samples, 1)
        num_steps = run.options.sample.num_steps if num_steps is None else num_steps
        classes = self.num_classes or run.guidance.num_classes
        if labels is not None and not classes:
            raise ValueError("labels: this model has no classes to draw from; leave them out")
        num_steps = check_count("num_steps", num_steps, 1)
        run, params = levels.for_samples(run, states.guided_params(run, self.params), num_steps)
        drawn = draw_samples(
            run.model, params, num_samples, run.mesh,
            Sampling(run.sampler, num_steps, run.grid, run.guidance),
            parts=Parts(check_count("batch_size", batch_size, 1)),
            seed=check_count("seed", seed, 0),
            labels=None if labels is None else check_labels(labels, num_samples, classes),
        ).data  # fmt: skip
        return drawn.astype(np.int32) if drawn.dtype.kind == "u" else drawn

    def _grid(self, group: str, grid: Grid | str) -> Grid:
        """Returns a grid by its name, with the kwargs of that group of the config, or as given."""
        if not isinstance(grid, str):
            return grid
        named = ConfigDict(functools.reduce(operator.getitem, group.split("."), self.run.resolved))
        named.name = grid
        return configs.build_grid(group, named)

    def _sampled_with(self, sampler: Any, grid: Any, guidance: Any) -> Run:
        """Returns the run with these components, objects or names, instead of the config's."""
        config, changes = ConfigDict(self.run.resolved), {}
        fields: dict[str, tuple[Any, bool, ConfigDict, Callable[[], Any]]] = {
            "sampler": (sampler, isinstance(sampler, Sampler), config.sample,
                        lambda: configs.build_sampler(config.sample)),
            "grid": (grid, callable(grid), config.sample.grid,
                     lambda: configs.build_grid("sample.grid", config.sample.grid)),
            "guidance": (guidance, hasattr(guidance, "passes"), config.sample.guidance,
                         lambda: configs.build_guidance(
                             config.sample.guidance, self.run.classifier, self.model)),
        }  # fmt: skip
        for field, (given, fits, group, make) in fields.items():
            if isinstance(given, str):
                group.name = given
                changes[field] = make()
            elif fits:
                changes[field] = given
            elif given is not None:
                raise ValueError(
                    f"{field} = {given!r}: give a name that config.sample takes, or an object of "
                    "the kind that Model.sample describes"
                )
        return dataclasses.replace(self.run, **changes)

    @_in_float32
    def compress(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        num_steps: int | None = None,
        lanes: int | None = None,
        order: str | None = None,
        grid: Grid | str | None = None,
        seed: int | None = None,
    ) -> bytes:
        """Compresses integer codes [N, *dims] into the content of a file. Arguments that are None
        are taken from config.compress. ValueError for invalid codes or settings."""
        given = {"num_steps": num_steps, "lanes": lanes, "seed": seed}
        changes: Any = {
            key: check_count(key, value, 0 if key == "seed" else 1)
            for key, value in given.items()
            if value is not None
        }
        if order is not None:
            changes["order"] = check_choice("order", order, ORDERS)
        options = dataclasses.replace(self.run.options.compress, **changes)
        run = self.run
        if grid is not None:
            run = dataclasses.replace(run, compress_grid=self._grid("compress.grid", grid))
        trained = compress.Trained(run, self.params, self.step)
        return compress.pack(trained, np.asarray(images), options, labels=labels)[0]

    @_in_float32
    def decompress(self, content: bytes) -> np.ndarray:
        """Restores the compressed images, with their dtype (`vdm.runs.compress.unpack` restores
        labels too). ValueError for content that is damaged or was written by another model."""
        trained = compress.Trained(self.run, self.params, self.step)
        return compress.unpack(trained, content).images

    @_in_float32
    def omega(self, t: np.ndarray) -> np.ndarray:
        """Returns omega(t) = -log SNR(t) for times t in [0, 1], any shape. ValueError for a model
        whose noise level does not depend on the time alone."""
        interface.require(self.model, "schedule", "Model.omega")
        schedule = compiled_schedule(self.vdm)
        return np.asarray(schedule(self.params["schedule"], np.asarray(t, np.float32)))


@_in_float32
def build(config: ConfigDict) -> Model:
    """Builds the model of a config, with freshly initialised parameters."""
    run = build_run(_on_every_device(config), Path())
    check_given(config)
    params = states.chosen(run, states.initial_state(run))
    return Model(run, unstack_blocks(params, states.stacked_blocks(run)), 0)


@_in_float32
def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    init_from: str | Path | None = None,
    accept_new_data: bool = False,
) -> Model:
    """Trains the model of a config in a workdir and writes what `python -m vdm.main` writes there.

    A stopped run resumes; a finished one is only loaded. init_from: a workdir or checkpoint whose
    parameters training starts from. accept_new_data: whether to resume although the training data
    have changed. The result has the parameters that config.eval.params names.

    ValueError for a workdir that belongs to another config, is being trained by another process, or
    was trained on other data. vdm.training.loop.Interrupted if a signal stopped the run, whose
    state is then saved. vdm.training.metrics.NonFiniteError if the training diverged.
    """
    from vdm.runs.train import train as train_run  # only this function needs the trainer

    origin = None if init_from is None else str(init_from)
    run = open_run(config, workdir, origin)
    if not run.checkpoints.steps():  # a run that exists cannot change these
        check_given(config)
    train_run(run, origin, accept_new_data)
    return load(workdir, params=config.eval.params)


@_in_float32
def load(workdir: str | Path, step: int | None = None, params: str = "ema") -> Model:
    """Loads the trained model of a workdir. step: of the checkpoint; None takes the newest. params:
    "ema", the moving average of the parameters, or "raw", the trained parameters themselves."""
    check_local("workdir", workdir)
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} is not a workdir: it has no config.json")
    config = ConfigDict(read_json(path))
    config.eval.step = -1 if step is None else check_count("step", step, 0)
    config.eval.params = check_choice("params", params, ("ema", "raw"))
    config.sample.features = ""  # not needed here, and the file may be gone
    run = open_run(_on_every_device(config), workdir)
    loaded_step, parameters = states.trained_params(run)
    return Model(run, parameters, loaded_step)


def _on_every_device(config: ConfigDict) -> ConfigDict:
    """Returns the config for all devices of this machine, each with all of the parameters."""
    config = complete(config)
    if "train" in config:
        config.train.num_devices, config.train.fsdp = 0, 1
    return config
