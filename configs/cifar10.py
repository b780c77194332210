"""VDM with a learned SNR on CIFAR-10 (32 x 32 x 3, 256 codes): the paper's network and settings.

Command   python -m vdm.main --config=configs/cifar10.py --workdir=runs/cifar10
Data      CIFAR-10 as tensorflow_datasets prepares it, in --config.data.data_dir
Cost      30.6 M parameters, 10 M steps of batch 128; accelerators only. Not run by us.
Paper     2.65 bits/dim without augmentation (VDM, arXiv:2107.00630, Table 1); the paper's, not ours
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The hyper-parameters of the VDM paper, appendix B and its published configuration."""
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "tfds",
                "kwargs": {"dataset": "cifar10"},
                "data_dir": "",  # "": $VDM_DATA_DIR or ~/.cache/vdm/data
                "holdout": 0,  # h > 0: train without the last h examples, evaluate on them
            },
            "model": {
                "num_steps": 0,  # T of the bound that is trained; 0 is continuous time
                "prediction": "eps",  # eps, x, v, score or codes: what the network's output means
                "class_conditional": False,
            },
            "schedule": {
                "name": "monotone",
                "kwargs": {
                    "omega_0": -13.3,
                    "omega_1": 5.0,
                    "learn_ends": True,
                    "hidden_features": 1024,
                },
                "train": "bound",  # or "fixed"
            },
            "network": {
                "name": "unet",
                "kwargs": {
                    "width": 128,
                    "num_blocks": 32,
                    "dropout": 0.1,
                    "fourier": True,
                    "omega_scale": 1000.0,
                    "attention": "middle",
                    "film": False,
                },
            },
            "likelihood": {"name": "discretised", "kwargs": {}},
            "optim": {
                "name": "adamw",
                "kwargs": {
                    "learning_rate": 2e-4,
                    "warmup_steps": 100,
                    "decay": "none",
                    "b1": 0.9,
                    "b2": 0.99,
                    "eps": 1e-8,
                    "weight_decay": 0.01,
                    "clip": 0.0,
                },
                "ema_rate": 0.9999,
                "ema_warmup": True,
            },
            "train": {
                "num_steps": 10_000_000,
                "batch_size": 128,
                "num_devices": 0,  # 0: all; on the CPU one per core
                "log_every": 1000,
                "save_every": 10_000,
                "eval_every": 100_000,
                "eval_draws": 1,
                "keep_checkpoints": 3,
            },
            "eval": {
                "bound": "elbo",
                "num_steps": 0,  # T of the bound that is evaluated; 0 is continuous time
                "draws": 20,
                "batch_size": 300,
                "seed": 0,
                "params": "ema",  # or "raw"
                "step": -1,  # of the checkpoint; -1 is the newest
            },
            "sample": {
                "name": "ancestral",
                "kwargs": {},
                "num_steps": 1000,
                "num_images": 64,
                "batch_size": 64,
                "seed": 0,
            },
        }
    )
