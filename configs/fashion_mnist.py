"""VDM with a learned SNR on Fashion-MNIST (28 x 28, 256 codes): presets by budget.

Data      python -m vdm.data.prepare fashion_mnist
Command   python -m vdm.main --config=configs/fashion_mnist.py --workdir=runs/fashion
Cost      182,436 parameters; 2,500 steps of a quarter of a second on two quiet CPU cores
Expected  3.036 bits/dim on the 10,000 test images, +- 0.010 over images
          (experiments/fashion_mnist)

          configs/fashion_mnist.py:peer    the same blocks, as long, with the settings of the
                                           published code: a fixed linear omega, AdamW at 2e-4
          configs/fashion_mnist.py:codes   the same blocks, as long, but the network says what it
                                           expects of each code, by four normals; its bound of T
                                           steps is that of the mixture kernel
          configs/fashion_mnist.py:gpu1h   meant for an hour of a GPU; not run by us
"""

from ml_collections import ConfigDict

from vdm.config import defaults

PRESETS = {
    "cpu": {},
    "peer": {
        "schedule.name": "linear", "schedule.train": "fixed",
        "network.kwargs.film": False, "network.kwargs.omega_scale": 1000.0,
        "network.kwargs.dropout": 0.1,
        "optim.kwargs.learning_rate": 2e-4, "optim.kwargs.decay": "none", "optim.kwargs.clip": 0.0,
        "optim.kwargs.decay_mask": "not_bias",
        "optim.ema_rate": 0.9999, "optim.ema_warmup": False,
        # 0.9999^2500: 78% of that average would still be the initial network.
        "eval.params": "raw",
    },
    "codes": {
        "model.prediction": "codes", "model.head.name": "normals", "model.kernel": "mixture",
    },
    "gpu1h": {
        "network.kwargs.width": 128, "network.kwargs.num_blocks": 8,
        "network.kwargs.dtype": "bfloat16", "network.kwargs.remat": "dots",
        "network.kwargs.dropout": 0.1, "optim.kwargs.learning_rate": 4e-4,
        "train.num_steps": 20_000, "train.batch_size": 256,
        "train.log_every": 200, "train.save_every": 2000, "eval.draws": 20,
    },
}  # fmt: skip


def get_config(preset: str = "cpu") -> ConfigDict:
    """The preset of that name: two CPU cores, and what the others change of that."""
    if preset not in PRESETS:
        known = ", ".join(f":{name}" for name in PRESETS)
        raise ValueError(f"configs/fashion_mnist.py takes {known}, not {preset!r}")
    config = defaults.get_config()
    config.data.name = "fashion_mnist"
    config.network.kwargs.update(
        width=32, num_blocks=1, dropout=0.0, omega_scale=100.0, attention="none", film=True
    )
    config.optim.kwargs.update(learning_rate=3e-3, decay="cosine", clip=1.0)
    config.optim.ema_rate = 0.999
    config.train.update(num_steps=2500, batch_size=32, log_every=50, save_every=500, eval_every=0)
    config.train.eval_draws = 4
    config.eval.draws = 2
    config.sample.num_steps = 250
    config.update_from_flattened_dict(PRESETS[preset])
    return config
