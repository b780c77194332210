"""VDM with a learned SNR on ImageNet 32 x 32 (256 codes): the paper's network and settings.

Data      two versions that cannot be compared, from files of the user's own:
          python -m vdm.data.prepare imagenet32_old --from=FOLDER   (49,999 validation images)
          python -m vdm.data.prepare imagenet32_new --from=FOLDER   (50,000; ...py:new)
Command   python -m vdm.main --config=configs/imagenet32.py --workdir=runs/imagenet32
Cost      122 M parameters, 2 M steps of batch 512; the paper had 32 TPU v3 chips. Not run
          by us.
Paper     3.72 bits/dim on the old version (VDM, arXiv:2107.00630, Table 1); the paper's, not ours
"""

from ml_collections import ConfigDict


def get_config(version: str = "old") -> ConfigDict:
    """The hyper-parameters of the VDM paper, appendix B, for one of the two versions."""
    if version not in ("old", "new"):
        raise ValueError(f"configs/imagenet32.py takes :old or :new, not {version!r}")
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": f"imagenet32_{version}",
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
                    "dataset": "",  # tfds: needs shape, num_classes where not known
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
                    "width": 256,
                    "num_blocks": 32,
                    "dropout": 0.0,
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
                "num_steps": 2_000_000,
                "batch_size": 512,
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
                "draws": 1,
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
