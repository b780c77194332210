"""VDM with a learned SNR on CIFAR-10 (32 x 32 x 3, 256 codes): the paper's network and settings.

Data      python -m vdm.data.prepare cifar10
Command   python -m vdm.main --config=configs/cifar10.py --workdir=runs/cifar10
Cost      30.6 M parameters, 10 M steps of batch 128; accelerators only. Not run by us.
Paper     2.65 bits/dim without augmentation (VDM, arXiv:2107.00630, Table 1); the paper's, not ours

Other networks and budgets, as --config=configs/cifar10.py:NAME; we ran :cpu and :codes_cpu:

          :aug        the paper's augmented run: 256 channels, 122 M parameters; flips, quarter
                      turns and permuted channels of half of the images, of which the network is
                      told; the paper's number is 2.49 bits/dim
          :cpu        two CPU cores, half an hour: 64 channels, 4 blocks; 3.717 bits/dim on the test
                      split, +- 0.010 over images (experiments/data_sets)
          :codes_cpu  the same, but the network says what it expects of each code, by four normals:
                      3.687 bits/dim, +- 0.011 over images; its bound of T steps is that of the
                      mixture kernel (experiments/kernels)
          :gpu1h      a GPU for an hour: 128 channels, 8 blocks, bfloat16
          :gpu1day    a GPU for a day: the paper's network, bfloat16, a decaying learning rate
          :published  the published code's choices, for its public checkpoint
                      (gs://gresearch/vdm/cifar10/checkpoint-final/checkpoints-0), whose authors
                      report 2.637 bits/dim on the test split:

          python -m vdm.main --config=configs/cifar10.py:published --workdir=runs/published \\
              --mode=eval --init_from=checkpoints-0
"""

from ml_collections import ConfigDict

from vdm.config import defaults

SHORT = {"optim.kwargs.decay": "cosine", "optim.kwargs.clip": 1.0, "train.eval_every": 0}
"""For runs too short for a constant learning rate."""
GPU = {"network.kwargs.dtype": "bfloat16", "network.kwargs.remat": "dots"}
CPU = SHORT | {
    "network.kwargs.width": 64, "network.kwargs.num_blocks": 4,
    "optim.kwargs.learning_rate": 2e-3, "optim.ema_rate": 0.999,
    "train.num_steps": 1500, "train.batch_size": 16,
    "train.log_every": 50, "train.save_every": 500,
    "eval.draws": 2, "sample.num_images": 16, "sample.num_steps": 100,
}  # fmt: skip
PRESETS = {
    "": {},
    "aug": {
        "network.kwargs.width": 256, "network.kwargs.dropout": 0.05, "model.augmented_flag": True,
        "data.augmentation.name": "images", "data.augmentation.kwargs.rotations": True,
        "data.augmentation.kwargs.permutations": True, "data.augmentation.kwargs.share": 0.5,
    },
    "cpu": CPU,
    "codes_cpu": CPU | {
        "model.prediction": "codes", "model.head.name": "normals", "model.kernel": "mixture",
    },
    "gpu1h": SHORT | GPU | {
        "network.kwargs.num_blocks": 8, "optim.kwargs.learning_rate": 4e-4,
        "train.num_steps": 30_000, "train.log_every": 200, "train.save_every": 2000,
    },
    "gpu1day": SHORT | GPU | {"optim.kwargs.learning_rate": 4e-4, "train.num_steps": 300_000},
    "published": {
        "schedule.name": "vdm_scalar", "schedule.train": "bound",
        "network.kwargs.num_groups": 32, "network.kwargs.frequencies": (64.0, 128.0),
        "network.kwargs.label_as_scalar": True,
        "optim.kwargs.decay_mask": "not_bias", "optim.ema_warmup": False,
    },
}  # fmt: skip


def get_config(preset: str = "") -> ConfigDict:
    """The paper's run, which the defaults are, or the preset of that name."""
    if preset not in PRESETS:
        known = ", ".join(f":{name}" for name in list(PRESETS)[1:])
        raise ValueError(f"configs/cifar10.py takes no argument, or one of {known}, not {preset!r}")
    config = defaults.get_config()
    config.data.kwargs.dataset = "cifar10"
    config.update_from_flattened_dict(PRESETS[preset])
    return config
