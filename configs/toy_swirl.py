"""VDM with a learned SNR on a 2-D swirl: continuous data, an MLP, a minute on a CPU.

Command   python -m vdm.main --config=configs/toy_swirl.py --workdir=runs/toy_swirl
Cost      629,509 parameters; about a minute on two CPU cores
Expected  -0.475 bits/dim, +- 0.026 over points, +- 0.020 Monte Carlo, seed 0
          (differential: bits of a density, which may be negative)
"""

from ml_collections import ConfigDict

from vdm.config import defaults


def get_config() -> ConfigDict:
    """Points on a spiral with noise of standard deviation 0.02."""
    config = defaults.get_config()
    config.data.name = "swirl"
    config.data.kwargs = {"num_train": 10_000, "num_test": 2_000, "noise": 0.02}
    config.schedule.kwargs.omega_0 = -13.0
    config.network = {
        "name": "mlp",
        "kwargs": {
            "width": 128, "num_blocks": 3, "dropout": 0.0, "fourier": False, "omega_scale": 100.0,
        },
    }  # fmt: skip
    config.likelihood.name = "gaussian"
    config.optim.kwargs.update(learning_rate=2e-3, decay="cosine", clip=1.0)
    config.optim.ema_rate = 0.999
    config.train.update(num_steps=2000, batch_size=512, log_every=500, save_every=1000)
    config.train.update(eval_every=0, eval_draws=4)
    config.eval.update(draws=100, batch_size=2000)
    config.sample.update(num_steps=250, num_images=2000, batch_size=2000)
    config.classifier.name = "perceptron"
    return config
