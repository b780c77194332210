"""VDM with a learned SNR on scikit-learn's handwritten digits (8 x 8, 17 codes).

Command   python -m vdm.main --config=configs/digits.py --workdir=runs/digits
Cost      256,340 parameters; 3.3 minutes of training on two CPU cores
Expected  1.731 bits/dim on the 297 test images, +- 0.015 over images (experiments/digits)
"""

from ml_collections import ConfigDict

from vdm.config import defaults


def get_config() -> ConfigDict:
    """The config of `make demo`."""
    config = defaults.get_config()
    config.data.name = "digits"
    config.model.prediction = "codes"
    config.schedule.kwargs.omega_0 = -8.0
    config.network.kwargs.update(width=32, num_blocks=2, dropout=0.2, omega_scale=100.0, film=True)
    config.optim.kwargs.update(learning_rate=4e-3, decay="cosine", weight_decay=0.2, clip=1.0)
    config.optim.ema_rate = 0.999
    config.train.update(num_steps=2000, log_every=50, save_every=500, eval_every=0, eval_draws=4)
    config.eval.draws = 100
    config.sample.num_steps = 250
    config.compress.update(num_steps=64, kernel="mixture")
    return config
