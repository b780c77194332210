"""The library's front door: a model from a config or a workdir, its bits/dim, samples and files.

import vdm
trained = vdm.load("runs/digits")
trained.bpd(images).mean, trained.sample(16), trained.compress(images)
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdm.arguments import check_choice, check_count
from vdm.compression.limits import ORDERS
from vdm.config import build as configs
from vdm.config.build import build_estimator
from vdm.config.files import load_config as load_config
from vdm.config.given import check_given
from vdm.config.options import complete
from vdm.data.sources import Split
from vdm.diffusion.grids import Grid
from vdm.diffusion.samplers import Sampler
from vdm.evaluation.bits_per_dim import evaluate
from vdm.evaluation.calls import Parts
from vdm.evaluation.guided import Guidance
from vdm.evaluation.samples import Sampling, draw_samples
from vdm.io.atomic import read_json
from vdm.io.places import check_local
from vdm.models import interface
from vdm.models.inputs import check_codes, check_labels
from vdm.models.interface import has_noise_levels, require
from vdm.models.latent_variable import AnyModel
from vdm.models.vdm import VDM, count_parameters
from vdm.nn.stacks import unstack_blocks
from vdm.runs import compress, states
from vdm.runs.run import Run, build_run, open_run
from vdm.typing import Params

P = ParamSpec("P")
T = TypeVar("T")


def _in_float32(function: Callable[P, T]) -> Callable[P, T]:
    """The function with jax_enable_x64 off, whatever the host process has for its own work."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return wrapped


@dataclasses.dataclass(frozen=True)
class BitsPerDim:
    """Upper bounds of -log2 p(x) / D.

    per_image [N] is averaged over draws. mean is their mean; stderr_images is its standard
    error over images, stderr_monte_carlo over the noise of the estimate on these images; NaN
    where one image, or one draw, does not tell it. stderr_degrees: the degrees of freedom of the
    latter, for Student's t (`vdm.evaluation.statistics.half_width`); NaN where it is unknown.
    """

    per_image: np.ndarray
    mean: float
    stderr_images: float
    stderr_monte_carlo: float
    stderr_degrees: float = math.nan


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
        """The same; ValueError for a model without a schedule."""
        return self.run.vdm

    @property
    def num_classes(self) -> int:
        """Of the labels that it is conditional on; 0: none."""
        return interface.num_classes(self.model)

    def split(self, name: str = "test") -> Split:
        """The data of the config, read from its files: "train", "test" or, with data.holdout > 0,
        "holdout"; `examples` [N, *dims], `labels` [N] or None. ValueError for data that are not
        there."""
        return self.run.source.load(name)

    @_in_float32
    def bpd(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        bound: str = "elbo",
        num_steps: int = 0,
        draws: int | None = None,
        batch_size: int = 256,
        seed: int = 0,
    ) -> BitsPerDim:
        """Bits/dim of data [N, *dims] (integer codes, or real numbers), by a bound as eval.bound
        names them: elbo, iw-K, ode-decoder, ode-uniform, ode-truncated-normal.

        num_steps = 0 is continuous time; draws defaults to the config's. ValueError for another
        shape, codes out of range, labels that a conditional model lacks, or an argument of no use.
        """
        draws = self.run.options.eval.draws if draws is None else draws
        draws, batch_size = check_count("draws", draws, 1), check_count("batch_size", batch_size, 1)
        num_steps, seed = check_count("num_steps", num_steps, 0), check_count("seed", seed, 0)
        options = dataclasses.replace(self.run.options.eval, bound=bound, num_steps=num_steps)
        images = check_codes(self.model, np.asarray(images))
        split = Split("given", images, check_labels(labels, len(images), self.num_classes))
        result = evaluate(
            self.model, self.params, split, self.run.mesh,
            estimator=build_estimator(options, self.model),
            draws=draws, seed=seed, parts=Parts(batch_size),
        )  # fmt: skip
        summary, per_image = result.summary(), result.bpd(result.total).mean(axis=0)
        numbers = (
            math.nan if (value := summary[key]) is None else value
            for key in ("bpd", "stderr_images", "stderr_monte_carlo", "stderr_degrees")
        )
        return BitsPerDim(per_image, *numbers)

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
        """[num_samples, *dims], int32 codes or float32; what is not given is as the config says,
        and labels are the classes in turn.

        sampler (of `vdm.diffusion.samplers`), grid (of `vdm.diffusion.grids`) and guidance (of
        `vdm.evaluation.guided`) may be names that config.sample takes, with its kwargs. ValueError
        for an argument of no use.
        """
        if not has_noise_levels(self.model) and (sampler or num_steps or grid or guidance):
            raise ValueError(
                "this model has no steps: leave out sampler, num_steps, grid and guidance"
            )
        run = self._sampled_with(sampler, grid, guidance)
        if has_noise_levels(model := self.model):
            run.guidance.check(model)
            require(model, run.sampler.needs, "this sampler")
        num_samples = check_count("num_samples", num_samples, 1)
        num_steps = run.options.sample.num_steps if num_steps is None else num_steps
        classes = self.num_classes or run.guidance.num_classes
        if labels is not None and not classes:
            raise ValueError("labels: this model has no classes to draw from; leave them out")
        num_steps = check_count("num_steps", num_steps, 1)
        drawn = draw_samples(
            self.model, states.guided_params(run, self.params), num_samples, run.mesh,
            Sampling(run.sampler, num_steps, run.grid, run.guidance),
            parts=Parts(check_count("batch_size", batch_size, 1)),
            seed=check_count("seed", seed, 0),
            labels=None if labels is None else check_labels(labels, num_samples, classes),
        ).data  # fmt: skip
        return drawn.astype(np.int32) if drawn.dtype.kind == "u" else drawn

    def _sampled_with(
        self,
        sampler: Sampler | str | None,
        grid: Grid | str | None,
        guidance: Guidance | str | None,
    ) -> Run:
        """The run with these in place of the config's; a name has the config's kwargs."""
        config, changes = ConfigDict(self.run.resolved), {}
        fields: dict[str, tuple[Any, bool, ConfigDict, Callable[[], Any]]] = {
            "sampler": (sampler, isinstance(sampler, Sampler), config.sample,
                        lambda: configs.build_sampler(config.sample)),
            "grid": (grid, callable(grid), config.sample.grid,
                     lambda: configs.build_grid(config.sample.grid)),
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
                    f"{field} = {given!r}: it must be a name that config.sample takes, or an "
                    "object of the kind that Model.sample names"
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
        seed: int | None = None,
    ) -> bytes:
        """Integer codes [N, *dims] as the content of a file (`vdm.compression.container`); what is
        not given is as config.compress says. ValueError for other codes, or settings of no use."""
        given = {"num_steps": num_steps, "lanes": lanes, "seed": seed}
        changes: Any = {
            key: check_count(key, value, 0 if key == "seed" else 1)
            for key, value in given.items()
            if value is not None
        }
        if order is not None:
            changes["order"] = check_choice("order", order, ORDERS)
        options = dataclasses.replace(self.run.options.compress, **changes)
        trained = compress.Trained(self.run, self.params, self.step)
        return compress.pack(trained, np.asarray(images), options, labels=labels)[0]

    @_in_float32
    def decompress(self, content: bytes) -> np.ndarray:
        """The images again, with their dtype; `vdm.runs.compress.unpack` has their labels too.
        ValueError for content that is damaged or another model's."""
        trained = compress.Trained(self.run, self.params, self.step)
        return compress.unpack(trained, content).images

    @_in_float32
    def omega(self, t: np.ndarray) -> np.ndarray:
        """omega(t) = -log SNR(t) for times t in [0, 1], any shape. ValueError for a model without a
        noise level of the time alone."""
        require(self.model, "schedule", "Model.omega")
        return np.asarray(self.vdm.schedule_fn(self.params)(jnp.asarray(t, jnp.float32)))


@_in_float32
def build(config: ConfigDict) -> Model:
    """A freshly initialised model from a config."""
    run = build_run(_on_every_device(config), Path())
    check_given(config)
    return Model(
        run,
        unstack_blocks(states.chosen(run, states.initial_state(run)), states.stacked_blocks(run)),
        0,
    )


@_in_float32
def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    init_from: str | Path | None = None,
    accept_new_data: bool = False,
) -> Model:
    """The model of a config, trained in a workdir, with all that `python -m vdm.main` leaves there.

    A run that was stopped goes on, and a finished one is left as it is. `init_from` is a run or a
    checkpoint whose parameters to start from. The model has the parameters that config.eval.params
    names. ValueError for a workdir of another config, or where another training is running; also
    for other training data than the run was begun with, unless `accept_new_data`.
    vdm.runs.train.Interrupted where a signal stopped it, saved; vdm.training.metrics.NonFiniteError
    where it diverged.
    """
    from vdm.runs.train import train as train_run  # nothing else here needs the trainer

    origin = None if init_from is None else str(init_from)
    run = open_run(config, workdir, origin)
    if not run.checkpoints.steps():  # what a run was trained with cannot be left out now
        check_given(config)
    train_run(run, origin, accept_new_data)
    return load(workdir, params=config.eval.params)


@_in_float32
def load(workdir: str | Path, step: int | None = None, params: str = "ema") -> Model:
    """The trained model of a workdir: its newest checkpoint, or that of `step`; params are "ema",
    their moving average, or "raw", those that were trained."""
    check_local("workdir", workdir)
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} is no workdir: it has no config.json")
    config = ConfigDict(read_json(path))
    config.eval.step = -1 if step is None else check_count("step", step, 0)
    config.eval.params = check_choice("params", params, ("ema", "raw"))
    config.sample.features = ""  # a file that may have gone, and compares nothing here
    run = open_run(_on_every_device(config), workdir)
    found, parameters = states.trained_params(run)
    return Model(run, parameters, found)


def _on_every_device(config: ConfigDict) -> ConfigDict:
    """The devices that there are, whatever is trained on, each with all of the parameters."""
    config = complete(config)
    if "train" in config:
        config.train.num_devices, config.train.fsdp = 0, 1
    return config
