"""VDM with a learned SNR on CIFAR-10 (32 x 32 x 3, 256 codes): the paper's network and settings.

Data      python -m vdm.data.prepare cifar10
Command   python -m vdm.main --config=configs/cifar10.py --workdir=runs/cifar10
Cost      30.6 M parameters, 10 M steps of batch 128; accelerators only. Not run by us.
Paper     2.65 bits/dim without augmentation (VDM, arXiv:2107.00630, Table 1); the paper's, not ours

Other networks and budgets, as --config=configs/cifar10.py:NAME; by us, :cpu was run:

          :aug        the paper's augmented run: 256 channels, 122 M parameters; flips, quarter
                      turns and permuted channels of half of the images, of which the network is
                      told; the paper's number is 2.49 bits/dim
          :cpu        two CPU cores, half an hour: 64 channels, 4 blocks; 3.717 bits/dim on the test
                      split, +- 0.010 over images (experiments/data_sets)
          :gpu1h      a GPU for an hour: 128 channels, 8 blocks, bfloat16
          :gpu1day    a GPU for a day: the paper's network, bfloat16, a decaying learning rate
          :published  the published code's choices, for its public checkpoint
                      (gs://gresearch/vdm/cifar10/checkpoint-final/checkpoints-0), whose authors
                      report 2.637 bits/dim on the test split:

          python -m vdm.main --config=configs/cifar10.py:published --workdir=runs/published \\
              --mode=eval --init_from=checkpoints-0
"""

from ml_collections import ConfigDict

VARIANTS = ("", "aug", "cpu", "gpu1h", "gpu1day", "published")


def get_config(variant: str = "") -> ConfigDict:
    """The hyper-parameters of the VDM paper, appendix B and its published configuration; with
    variant "published" the published code's network, schedule and optimiser in every detail."""
    if variant not in VARIANTS:
        known = ", ".join(f":{name}" for name in VARIANTS[1:])
        raise ValueError(
            f"configs/cifar10.py takes no argument, or one of {known}, not {variant!r}"
        )
    config = paper()
    network, train = config.network.kwargs, config.train
    if variant == "aug":
        network.update(width=256, dropout=0.05)
        config.data.augmentation.name = "images"
        config.data.augmentation.kwargs.update(rotations=True, permutations=True, share=0.5)
        config.model.augmented_flag = True
    if variant == "cpu":
        network.update(width=64, num_blocks=4)
        train.update(num_steps=1500, batch_size=16, log_every=50, save_every=500, eval_every=0)
        config.eval.draws, config.sample.num_images, config.sample.num_steps = 2, 16, 100
    if variant == "gpu1h":
        network.update(num_blocks=8, dtype="bfloat16", remat="dots")
        train.update(num_steps=30_000, log_every=200, save_every=2000, eval_every=0)
    if variant == "gpu1day":
        network.update(dtype="bfloat16", remat="dots")
        train.update(num_steps=300_000, eval_every=0)
    if variant in ("cpu", "gpu1h", "gpu1day"):  # too short for a constant rate and a slow average
        config.optim.kwargs.update(
            learning_rate=2e-3 if variant == "cpu" else 4e-4, decay="cosine", clip=1.0
        )
        config.optim.ema_rate = 0.999 if variant == "cpu" else 0.9999
    if variant == "published":
        config.schedule.name = "vdm_scalar"
        config.schedule.train = "bound"
        config.network.kwargs.num_groups = 32
        config.network.kwargs.frequencies = (64.0, 128.0)
        config.network.kwargs.label_as_scalar = True
        config.optim.kwargs.decay_mask = "not_bias"
        config.optim.ema_warmup = False
    return config


def paper() -> ConfigDict:
    """Our reading of the paper."""
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "cifar10",
                "kwargs": {
                    "path": "",  # folder, npy: where the data are
                    "train": "",  # npy: this file and the next three, instead of those in path
                    "test": "",
                    "train_labels": "",
                    "test_labels": "",
                    "shape": (),  # of an example; folder, npy: (): that of the first one
                    "size": 0,  # folder: n > 0 cuts and resizes pictures to n x n
                    "num_test": 0,  # folder without train/ and test/: how many are for testing
                    "num_codes": 256,  # folder, npy: codes are 0 ... num_codes - 1
                    "labels": False,  # folder: whether the folders in it are classes
                    "duplicates": "keep",  # folder: or drop, all but one of equal pictures
                    "num_classes": 0,  # npy: labels are 0 ... num_classes - 1; 0: none
                    "dataset": "cifar10",  # tfds: needs shape, num_classes where not known
                    "version": "",  # tfds: such as 3.0.2; "": the newest that is prepared
                },
                "data_dir": "",  # "": $VDM_DATA_DIR or ~/.cache/vdm/data
                "holdout": 0,  # h > 0: train without the last h examples, evaluate on them
                "augmentation": {
                    "name": "none",  # or images: of training images only
                    "kwargs": {
                        "flips": True,  # from left to right
                        "rotations": False,  # by quarter turns; square images only
                        "permutations": False,  # of the channels
                        "share": 1.0,  # of the images that are augmented at all
                    },
                },
            },
            "model": {
                "name": "vdm",
                "kwargs": {},
                "num_steps": 0,  # T of the bound that is trained; 0 is continuous time
                "prediction": "eps",  # eps, x, v, score, codes; next_mean if num_steps > 0
                "class_conditional": False,
                "label_dropout": 0.0,  # share of labels withheld, for sample.guidance
                "augmented_flag": False,  # whether the network is told which images are augmented
            },
            "schedule": {
                "name": "monotone",
                "kwargs": {
                    "omega_0": -13.3,
                    "omega_1": 5.0,
                    "learn_ends": True,
                    "hidden_features": 1024,
                    "per_dimension": False,  # polynomial: a schedule for each dimension
                    "num_bins": 64,  # tabulated: parts of [omega_0, omega_1]
                    "memory": 1000,  # tabulated: steps that its table remembers
                },
                "train": "variance",  # or variance_stratified, adaptive, bound, fixed
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
                    "num_groups": 0,  # of every GroupNorm; 0: as many as hold 4 channels each
                    "frequencies": (),  # of the Fourier features; (): V/4 and V/2
                    "omega_low": -13.3,  # the network reads (omega - omega_low) / omega_range
                    "omega_range": 18.3,
                    "label_as_scalar": False,  # a label is a number beside omega's features
                    "dtype": "float32",  # or bfloat16: what the blocks are computed in
                    "remat": "none",  # computed again backward: blocks; dots: but convolutions
                    "scan": "auto",  # a loop over the blocks: on, off; auto: on accelerators
                },
            },
            "likelihood": {"name": "discretised", "kwargs": {}},
            "weighting": {
                "name": "bound",  # or simple, min_snr, sigmoid: what the network learns is no bound
                "kwargs": {
                    "gamma": 5.0,  # min_snr: the largest weight of an error of x
                    "shift": 2.0,  # sigmoid: half of the bound's weight at omega = -shift
                },
            },
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
                    "decay_mask": "kernels",  # or "not_bias": norms and schedule decay too
                    "schedule_rate": 1.0,  # times the learning rate, for the schedule
                },
                "ema_rate": 0.9999,
                "ema_warmup": True,
            },
            "train": {
                "num_steps": 10_000_000,
                "batch_size": 128,
                "num_devices": 0,  # 0: all; on the CPU one per core
                "fsdp": 1,  # devices that share each array of parameters, EMA and optimiser
                "accumulate": 1,  # microbatches that a batch is gone through in
                "log_every": 1000,
                "save_every": 10_000,
                "eval_every": 100_000,
                "eval_draws": 1,
                "keep_checkpoints": 3,
                "watchdog_secs": 900,  # without a step until the stacks are printed; 0: never
                "prng_impl": "threefry2x32",  # noise of training; "rbg" is faster on TPUs
            },
            "metrics": {"name": "none", "kwargs": {}},  # or your own, to W&B and the like
            "eval": {
                "bound": "elbo",  # or iw-64, ode-decoder, ode-uniform, ode-truncated-normal
                "num_steps": 0,  # T of the bound that is evaluated; 0 is continuous time
                "draws": 20,
                "batch_size": 300,
                "seed": 0,
                "params": "ema",  # or "raw"
                "step": -1,  # of the checkpoint; -1 is the newest
                "ode": {
                    "num_steps": 50,  # of the solver; 0: as many as the tolerance asks for
                    "tolerance": 1e-5,
                    "divergence": "auto",  # exact up to 16 dimensions, else hutchinson
                    "probes": 2,  # random directions of hutchinson; two give its error
                },
            },
            "sample": {
                "name": "ancestral",
                "kwargs": {
                    "variance": "posterior",  # ancestral: or "forward", DDPM's beta
                    "last_noise": True,  # ancestral, euler_maruyama: noise in the last step too
                    "stochastic": False,  # dpm_solver: of the reverse SDE
                    "eta": 0.0,  # ddim: from 0, deterministic, to 1, ancestral
                    "corrections": 1,  # predictor_corrector, annealed_langevin: steps at a level
                    "snr": 0.16,  # predictor_corrector: of its Langevin steps
                    "step_size": 0.1,  # annealed_langevin: over sigma^2
                    "tolerance": 1e-3,  # flow: of its adaptive steps, between points of the grid
                },
                "grid": {
                    "name": "equal_times",  # or equal_omegas, karras
                    "kwargs": {"rho": 7.0},  # karras
                },
                "guidance": {
                    "name": "none",  # or classifier_free, classifier (see --mode=classifier)
                    "kwargs": {"strength": 2.0},
                },
                "label": -1,  # of every image; -1: the classes in turn
                "interpolate": 0,  # n > 0: rows of n images between two latents
                "num_frames": 0,  # n > 0: samples.gif, the way from noise
                "features": "",  # an .npz: distances to the training images, in samples.json
                "precision_recall": True,  # part of that comparison; slow for many images
                "num_steps": 1000,
                "num_images": 64,
                "batch_size": 64,
                "seed": 0,
            },
            "classifier": {  # of noisy examples, for sample.guidance
                "name": "convnet",  # perceptron for vectors
                "kwargs": {"width": 32, "stages": 2, "dropout": 0.1},
                "num_steps": 500,
                "batch_size": 128,
                "learning_rate": 2e-3,
            },
            "compress": {  # --mode=compress: lossless, to a file
                "num_steps": 500,  # T of the chain: more are fewer bits, and more time
                "lanes": 64,  # images coded at once, at most
                "cells": 1,  # of the latents' grid, per standard deviation of a step
                "order": "bit_swap",  # or top_down, which needs initial bits for all T latents
                "seed": 0,  # of the initial bits
                "initial_bits": "",  # a file to take them from; to give them back, a new one
                "labels": "",  # of a conditional model: an .npy of one for each image; likewise
            },
        }
    )
