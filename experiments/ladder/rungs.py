"""The rungs that are trained by gradients: the name of a row -> changes to configs/digits.py.

Sizes, dropout, learning rate and number of steps were chosen on the 200 held-out images
(data.holdout=200), within six minutes on two CPU cores.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.ladder import ddpm, vdm

Changes = dict[str, Any]

MLP_STEPS = 2000
OF_VAE = {
    "train.num_steps": MLP_STEPS,
    "optim.kwargs.learning_rate": 2e-3,
}
VAE = OF_VAE | {
    "model.name": "experiments.ladder.vae:VAE",
    "model.kwargs": {"latent_dim": 32, "width": 256, "num_blocks": 2, "dropout": 0.2},
}


def hvae(num_levels: int) -> Changes:
    """The changes for a hierarchical VAE with that many levels."""
    return OF_VAE | {
        "model.name": "experiments.ladder.hvae:HierarchicalVAE",
        "model.kwargs": {
            "num_levels": num_levels, "latent_dim": 32, "width": 128, "num_blocks": 2,
            "dropout": 0.2,
        },
    }  # fmt: skip


LATENT_VDM = {
    "model.name": "experiments.ladder.latent_vdm:LatentVDM",
    "model.kwargs": {"latent_dim": 32, "width": 256, "num_blocks": 2, "dropout": 0.2},
    "model.prediction": "eps",
    "network.name": "mlp",
    "network.kwargs": {"width": 128, "num_blocks": 3, "dropout": 0.1, "fourier": False},
    "train.num_steps": 1000,
}

RUNGS: dict[str, Changes] = {
    "vae": VAE,
    **{f"hvae, T = {num_levels}": hvae(num_levels) for num_levels in (2, 4, 8)},
    "ddpm, T = 1000": ddpm.OVERRIDES,
    **vdm.RUNGS,
    "latent_vdm, T = inf, learned SNR": LATENT_VDM,
}


def changed(config: ConfigDict, changes: Changes) -> ConfigDict:
    """A copy of the config with changed fields, given by their dotted names."""
    copy = ConfigDict(config.to_dict())
    for name, value in changes.items():
        *groups, field = name.split(".")
        group = copy
        for part in groups:
            group = group[part]
        if field not in group:
            raise ValueError(f"the config has no field {name}")
        group[field] = ConfigDict(value) if isinstance(value, dict) else value
    return copy
