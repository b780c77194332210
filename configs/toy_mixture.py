"""VDM with a learned SNR on a 2-D Gaussian mixture: the exact density is known.

Command   python -m vdm.main --config=configs/toy_mixture.py --workdir=runs/toy_mixture
Cost      629,509 parameters; about a minute on two CPU cores
Expected  -0.502 bits/dim, +- 0.026 over points, +- 0.015 Monte Carlo; exact: -0.537
          (differential: bits of a density, which may be negative)
"""

from ml_collections import ConfigDict

from vdm.config import defaults


def get_config() -> ConfigDict:
    """Three components of unequal weight, whose exact density `vdm.diffusion.exact` knows."""
    config = defaults.get_config()
    config.data.name = "mixture"
    config.data.kwargs = {"num_train": 10_000, "num_test": 2_000, "std": 0.1}
    config.schedule.kwargs.omega_0 = -10.0
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
