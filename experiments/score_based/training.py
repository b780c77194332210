"""Trains the networks by denoising score matching on a ladder of noise levels, or on one rung."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from experiments.sweep import CONFIGS, Job, open_runs
from vdm.api import load_config
from vdm.io.atomic import read_json
from vdm.runs import states
from vdm.typing import Denoiser, Params

OMEGA_0, OMEGA_1 = {"mixture": -6.0, "curve": -10.0}, 5.0
RUNG = 0.1  # width in omega of a single level, as the ends of a schedule must differ


class Trained(NamedTuple):
    """The trainings of one config: the params of every seed, and the seconds of all together."""

    denoiser: Callable[[Params], Denoiser]
    params: list[Params]
    seconds: float


def make_config(dataset: str, ladder: str, num_steps: int) -> ConfigDict:
    """The config of a training. ladder: "annealed" is uniform in omega down to the smallest level,
    "plain" has only that level."""
    config = load_config(CONFIGS / "toy_mixture.py")
    config.data.kwargs.num_test = 100  # not used
    if dataset == "curve":
        config.data.name = "swirl"
        config.data.kwargs = {"num_train": 10_000, "num_test": 100, "noise": 0.0}
    omega_0 = OMEGA_0[dataset]
    omega_1 = OMEGA_1 if ladder == "annealed" else omega_0 + RUNG
    config.schedule.name, config.schedule.train = "linear", "fixed"
    config.schedule.kwargs = {"omega_0": omega_0, "omega_1": omega_1, "learn_ends": False}
    config.network.kwargs.width, config.network.kwargs.num_blocks = 64, 2
    config.optim.kwargs.learning_rate, config.optim.ema_rate = 3e-3, 0.99
    config.train.num_steps = config.train.save_every = config.train.log_every = num_steps
    config.train.num_devices = 1
    config.eval.draws, config.sample.num_images, config.sample.num_steps = 2, 4, 2
    return config


def trained(jobs: list[Job], outdir: Path) -> Trained:
    """Loads the finished trainings of all seeds."""
    runs = open_runs(jobs, outdir)
    seconds = sum(read_json(run.workdir / "eval.json")["train_secs"] for run in runs)
    return Trained(runs[0].vdm.denoiser, [states.trained_params(run)[1] for run in runs], seconds)
