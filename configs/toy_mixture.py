"""VDM with a learned SNR on a 2-D Gaussian mixture: the exact density is known.

Command   python -m vdm.main --config=configs/toy_mixture.py --workdir=runs/toy_mixture
Cost      629,509 parameters; about a minute on two CPU cores
Expected  -0.502 bits/dim, +- 0.026 over points, +- 0.015 Monte Carlo; exact: -0.537
          (differential: bits of a density, which may be negative)
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Three components of unequal weight, whose exact density `vdm.diffusion.exact` knows."""
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "mixture",
                "kwargs": {"num_train": 10_000, "num_test": 2_000, "std": 0.1},
                "data_dir": "",  # not used: the points are generated
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
                    "omega_0": -10.0,
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
                "name": "mlp",
                "kwargs": {
                    "width": 128,
                    "num_blocks": 3,
                    "dropout": 0.0,
                    "fourier": False,
                    "omega_scale": 100.0,
                },
            },
            "likelihood": {"name": "gaussian", "kwargs": {}},
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
                    "learning_rate": 2e-3,
                    "warmup_steps": 100,
                    "decay": "cosine",
                    "b1": 0.9,
                    "b2": 0.99,
                    "eps": 1e-8,
                    "weight_decay": 0.01,
                    "clip": 1.0,
                    "decay_mask": "kernels",  # or "not_bias": norms and schedule decay too
                    "schedule_rate": 1.0,  # times the learning rate, for the schedule
                },
                "ema_rate": 0.999,
                "ema_warmup": True,
            },
            "train": {
                "num_steps": 2000,
                "batch_size": 512,
                "num_devices": 0,  # 0: all; on the CPU one per core
                "fsdp": 1,  # devices that share each array of parameters, EMA and optimiser
                "accumulate": 1,  # microbatches that a batch is gone through in
                "log_every": 500,
                "save_every": 1000,
                "eval_every": 0,
                "eval_draws": 4,
                "keep_checkpoints": 3,
                "watchdog_secs": 900,  # without a step until the stacks are printed; 0: never
                "prng_impl": "threefry2x32",  # noise of training; "rbg" is faster on TPUs
            },
            "metrics": {"name": "none", "kwargs": {}},  # or your own, to W&B and the like
            "eval": {
                "bound": "elbo",  # or iw-64, ode-decoder, ode-uniform, ode-truncated-normal
                "num_steps": 0,  # T of the bound that is evaluated; 0 is continuous time
                "draws": 100,
                "batch_size": 2000,
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
                "num_steps": 250,
                "num_images": 2000,
                "batch_size": 2000,
                "seed": 0,
            },
            "classifier": {  # of noisy examples, for sample.guidance
                "name": "perceptron",
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
