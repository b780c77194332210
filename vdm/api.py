"""The library's front door: a model from a config or a workdir, its bits/dim, its samples.

import vdm
trained = vdm.load("runs/digits")
trained.bpd(images).mean, trained.sample(16)
"""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm import config as configs
from vdm.data.sources import Split
from vdm.evaluation.likelihood import evaluate, standard_error
from vdm.evaluation.samples import draw_samples
from vdm.model import VDM
from vdm.run import Run, open_run
from vdm.typing import Params


@dataclasses.dataclass(frozen=True)
class BitsPerDim:
    """Upper bounds of -log2 p(x) / D.

    per_image [N] is averaged over draws. mean is their mean; stderr_images is its standard
    error over images, stderr_monte_carlo over the noise of the estimate on these images.
    """

    per_image: np.ndarray
    mean: float
    stderr_images: float
    stderr_monte_carlo: float


@dataclasses.dataclass(frozen=True)
class Model:
    """A `VDM` with parameters: what `build` and `load` return."""

    config: ConfigDict
    vdm: VDM
    params: Params
    mesh: Mesh
    step: int

    def bpd(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        num_steps: int = 0,
        draws: int = 20,
        batch_size: int = 256,
        seed: int = 0,
    ) -> BitsPerDim:
        """Bits/dim of data [N, *dims] (integer codes, or real numbers), by the ELBO.

        num_steps = 0 is continuous time. ValueError for another shape or codes out of range.
        """
        split = Split("given", self._checked(np.asarray(images)), labels)
        result = evaluate(
            self.vdm, self.params, split, self.mesh,
            num_steps=num_steps, draws=draws, batch_size=batch_size, seed=seed,
        )  # fmt: skip
        total = result.bpd(result.total)  # [draws, N]
        per_image = total.mean(axis=0)
        return BitsPerDim(
            per_image,
            float(per_image.mean()),
            standard_error(per_image),
            standard_error(total.mean(axis=1)),
        )

    def sample(
        self,
        num_samples: int,
        *,
        num_steps: int | None = None,
        labels: np.ndarray | None = None,
        batch_size: int = 256,
        seed: int = 0,
    ) -> np.ndarray:
        """[num_samples, *dims] from the config's sampler; num_steps defaults to the config's."""
        return draw_samples(
            self.vdm, self.params, num_samples, self.mesh,
            step=configs.build_sampler(self.config),
            num_steps=self.config.sample.num_steps if num_steps is None else num_steps,
            batch_size=batch_size, seed=seed, labels=labels,
        )  # fmt: skip

    def omega(self, t: np.ndarray) -> np.ndarray:
        """omega(t) = -log SNR(t) for times t in [0, 1], any shape."""
        return np.asarray(self.vdm.schedule_fn(self.params)(jnp.asarray(t, jnp.float32)))

    def _checked(self, images: np.ndarray) -> np.ndarray:
        if images.shape[1:] != self.vdm.dims:
            raise ValueError(f"images of shape {images.shape}: expected [N, {self.vdm.dims}]")
        num_codes = getattr(self.vdm.likelihood, "num_codes", 0)
        if not num_codes:
            return images.astype(np.float32)
        if not np.issubdtype(images.dtype, np.integer):
            raise ValueError(f"images of dtype {images.dtype}: expected integer codes")
        if images.size and not 0 <= images.min() <= images.max() < num_codes:
            raise ValueError(
                f"codes from {images.min()} to {images.max()}: expected 0 to {num_codes - 1}"
            )
        return images


def build(config: ConfigDict) -> Model:
    """A freshly initialised model from a config."""
    run = open_run(config, Path())  # reads no workdir: there is no config.json to compare
    return _model(run, run.chosen(run.initial_state()), 0)


def load(workdir: str | Path, step: int | None = None, params: str = "ema") -> Model:
    """The trained model of a workdir: its newest checkpoint, or that of `step`."""
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} is no workdir: it has no config.json")
    config = ConfigDict(json.loads(path.read_text()))
    config.eval.step, config.eval.params = -1 if step is None else step, params
    config.train.num_devices = 0  # those there are, whatever it was trained on
    run = open_run(config, workdir)
    found, parameters = run.trained_params()
    return _model(run, parameters, found)


def load_config(path: str | Path, *args: str) -> ConfigDict:
    """get_config(*args) of a config file."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*args)


def _model(run: Run, params: Params, step: int) -> Model:
    return Model(run.config, run.model, params, run.mesh, step)
