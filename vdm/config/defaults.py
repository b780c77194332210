"""Every field of a config, with its default and its meaning.

The defaults are those of the VDM paper's CIFAR-10 run (arXiv:2107.00630, appendix B). The files in
configs/ start from them and set only what differs:

    from vdm.config import defaults

    def get_config():
        config = defaults.get_config()
        config.data.name = "digits"
        return config

A new field gets the default that stands for what was done before the field existed, because a
config that was saved without the field (in an old workdir) is completed from here.

The comment on a field, and the comment lines directly above it, are its documentation:
`--print_config` and configs/README.md show them (`vdm.config.listing`). Nothing heavy is imported.
"""

from typing import Any

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns a new config with every field at its default."""
    return ConfigDict(
        {
            "seed": 0,  # of the initial parameters, the order of the data and the noise of training
            "data": data(),
            "model": model(),
            "schedule": schedule(),
            "network": network(),
            "likelihood": likelihood(),
            "weighting": weighting(),
            "optim": optim(),
            "train": train(),
            "metrics": metrics(),
            "eval": evaluation(),
            "sample": sample(),
            "classifier": classifier(),
            "compress": compress(),
        }
    )


def data() -> dict[str, Any]:
    """The data set."""
    return {
        # digits, cifar10, mnist, fashion_mnist, imagenet32_old and the like, tfds, folder, npy,
        # swirl, mixture, synthetic
        "name": "cifar10",
        "kwargs": {
            "path": "",  # folder, npy: the folder with the data
            # npy: the file of the training examples; this and the next three name single files
            # instead of those in `path`
            "train": "",
            "test": "",  # npy: the file of the test examples
            "train_labels": "",  # npy: the file of the labels of the training examples
            "test_labels": "",  # npy: the file of the labels of the test examples
            # shape of one example; folder, npy: () takes the shape of the first example
            "shape": (),
            "size": 0,  # folder: n > 0 crops and resizes every picture to n x n
            # folder without train/ and test/: how many pictures are held back for testing
            "num_test": 0,
            "num_codes": 256,  # folder, npy: integer codes run from 0 to num_codes - 1
            "labels": False,  # folder: whether its subfolders are classes
            "duplicates": "keep",  # folder: keep equal pictures, or drop all but one of them
            "num_classes": 0,  # npy: labels run from 0 to num_classes - 1; 0: there are none
            "dataset": "",  # tfds: its name there; unknown ones also need shape and num_classes
            "version": "",  # tfds: such as 3.0.2; "": the newest that is prepared
        },
        "data_dir": "",  # folder of prepared data sets; "": $VDM_DATA_DIR or ~/.cache/vdm/data
        # h > 0: leave the last h training examples out of training and evaluate on them instead of
        # on the test split
        "holdout": 0,
        "augmentation": {
            "name": "none",  # or images; only training images are augmented
            "kwargs": {
                "flips": True,  # images: mirror left to right at random
                "rotations": False,  # images: rotate by random quarter turns; square images only
                "permutations": False,  # images: permute the channels at random
                "share": 1.0,  # images: share of the training images that is augmented at all
            },
        },
    }


def model() -> dict[str, Any]:
    """The latent-variable model."""
    return {
        "name": "vdm",  # or your own family of models, package.module:Thing
        "kwargs": {},  # for a family of your own
        "num_steps": 0,  # T of the bound that is trained; 0 is continuous time
        # what the network predicts: eps, x, v, score, codes; or next_mean if num_steps > 0
        "prediction": "eps",
        "class_conditional": False,  # whether the network is given the labels
        "label_dropout": 0.0,  # share of labels dropped in training, for classifier-free guidance
        "augmented_flag": False,  # whether the network is told which images are augmented
        # the reverse step of a bound of T steps: gaussian; mixture, of the codes that prediction =
        # "codes" expects; gaussian_fitted, gaussian_fitted_per_dim: variances fitted to data
        "kernel": "gaussian",
        # the distribution of the data given z_0: bayes, the likelihood's rule; network, what
        # prediction = "codes" expects
        "decoder": "bayes",
        "head": {
            # prediction = "codes": table, one logit for each code; normals, a mixture of normals
            # over the codes, for many codes
            "name": "table",
            "kwargs": {
                "components": 4,  # normals: of the mixture; each has three outputs of the network
            },
        },
    }


def schedule() -> dict[str, Any]:
    """The noise schedule, omega = -log SNR as a function of t."""
    return {
        # linear, cosine, beta_linear, ddpm_linear, monotone, polynomial, tabulated, or the
        # published code's vdm_nnet, vdm_scalar
        "name": "monotone",
        "kwargs": {
            "omega_0": -13.3,  # omega at t = 0, where the data are almost clean
            "omega_1": 5.0,  # omega at t = 1, where they are almost noise
            "learn_ends": True,  # whether omega_0 and omega_1 are trained
            "hidden_features": 1024,  # monotone, vdm_nnet: hidden units of the monotone network
            "per_dimension": False,  # polynomial: a schedule for each dimension of the data
            "num_bins": 64,  # tabulated: number of equal parts of [omega_0, omega_1]
            "memory": 1000,  # tabulated: number of past training steps that its averages cover
        },
        # how the schedule learns: from the variance of the loss (variance, variance_stratified),
        # adaptive (tabulated), from the bound itself (bound), or fixed: not at all
        "train": "variance",
    }


def network() -> dict[str, Any]:
    """The network that predicts."""
    return {
        "name": "unet",  # or mlp, for vectors
        "kwargs": {
            "width": 128,  # channels of the unet, hidden units of the mlp
            "num_blocks": 32,  # residual blocks; the unet has as many down, and one more up
            "dropout": 0.1,  # share of activations dropped in training
            "fourier": True,  # whether Fourier features of z are additional inputs
            # multiplies omega, rescaled to [0, 1], before its sines and cosines are taken
            "omega_scale": 1000.0,
            "attention": "middle",  # unet: which blocks have attention: middle, all, none
            "film": False,  # unet: whether omega scales activations as well as shifting them
            "num_groups": 0,  # unet: groups of each GroupNorm; 0: at least 4 channels in each
            "frequencies": (),  # unet: of the Fourier features; (): V/4 and V/2 for V codes
            "omega_low": -13.3,  # unet: the network reads (omega - omega_low) / omega_range
            "omega_range": 18.3,  # unet: see omega_low
            "label_as_scalar": False,  # unet: feed a label as one number beside omega's features
            "dtype": "float32",  # unet: the data type of the blocks; or bfloat16
            # unet: what the backward pass recomputes: none, whole blocks (blocks), or everything
            # except matrix products and convolutions (dots)
            "remat": "none",
            "scan": "auto",  # unet: loop over the blocks: on, off; auto: on accelerators only
        },
    }


def likelihood() -> dict[str, Any]:
    """The distribution of the data given the least noisy latent."""
    return {
        "name": "discretised",  # for integer codes; gaussian for real numbers
        "kwargs": {},  # for a likelihood of your own
    }


def weighting() -> dict[str, Any]:
    """How the network's loss is weighted over noise levels."""
    return {
        # bound: train on the bound; with simple, min_snr or sigmoid the loss is not a bound
        "name": "bound",
        "kwargs": {
            "gamma": 5.0,  # min_snr: the largest weight of an error of x
            "shift": 2.0,  # sigmoid: the weight is half of the bound's at omega = -shift
        },
    }


def optim() -> dict[str, Any]:
    """The optimiser and the moving average of the parameters."""
    return {
        "name": "adamw",  # or sgd
        "kwargs": {
            "learning_rate": 2e-4,  # after the warm-up
            "warmup_steps": 100,  # steps in which the learning rate rises linearly from 0
            "decay": "none",  # of the learning rate over the run; or cosine
            "b1": 0.9,  # adamw: decay rate of the average of gradients
            "b2": 0.99,  # adamw: decay rate of the average of squared gradients
            "eps": 1e-8,  # adamw: added to the denominator
            "weight_decay": 0.01,  # adamw: decoupled weight decay
            "clip": 0.0,  # adamw: largest norm of the gradient; 0: no clipping
            # adamw: what weight decay acts on; not_bias adds norms and the schedule to the kernels
            "decay_mask": "kernels",
            "schedule_rate": 1.0,  # adamw: factor of the learning rate for the schedule
        },
        "ema_rate": 0.9999,  # decay rate of the moving average of the parameters
        "ema_warmup": True,  # whether that rate rises from 0.1 to ema_rate during training
    }


def train() -> dict[str, Any]:
    """The training loop."""
    return {
        "num_steps": 10_000_000,  # gradient steps of the whole run
        "batch_size": 128,  # examples of a step, over all devices
        "num_devices": 0,  # 0: all; on the CPU one for each core
        "fsdp": 1,  # devices that share each array of parameters, EMA and optimiser state
        "accumulate": 1,  # microbatches that a batch is processed in
        "log_every": 1000,  # steps between log lines
        "save_every": 10_000,  # steps between checkpoints
        "eval_every": 100_000,  # steps between evaluations; 0: only at the end
        "eval_draws": 1,  # passes over the evaluation split in each of those evaluations
        "keep_checkpoints": 3,  # the newest ones; older ones are deleted
        "watchdog_secs": 900,  # seconds without a step until the stacks are printed; 0: never
        "prng_impl": "threefry2x32",  # generator of the noise of training; rbg is faster on TPUs
    }


def metrics() -> dict[str, Any]:
    """An experiment tracker."""
    return {
        "name": "none",  # or your own, for Weights & Biases and the like
        "kwargs": {},  # for a tracker of your own
    }


def evaluation() -> dict[str, Any]:
    """The bound that is evaluated."""
    return {
        "bound": "elbo",  # or iw-K such as iw-64, ode-decoder, ode-uniform, ode-truncated-normal
        "num_steps": 0,  # T of the bound that is evaluated; 0 is continuous time
        "grid": grid(),  # of the T steps of the bound
        "draws": 20,  # passes over the data, each with new noise
        "batch_size": 300,  # examples evaluated at once
        "seed": 0,  # of the noise
        "params": "ema",  # or raw: the parameters without the moving average
        "step": -1,  # step of the checkpoint; -1 is the newest
        "ode": {
            "num_steps": 50,  # steps of the ODE solver; 0: as many as the tolerance requires
            "tolerance": 1e-5,  # relative and absolute tolerance of the adaptive solver
            "divergence": "auto",  # exact or hutchinson; auto: exact in up to 16 dimensions
            "probes": 2,  # random directions of hutchinson; two or more give its error
        },
    }


def sample() -> dict[str, Any]:
    """The sampler, and which samples are drawn."""
    return {
        # ancestral, mixture_ancestral, ddim, heun, dpm_solver, euler_maruyama, predictor_corrector,
        # annealed_langevin or flow
        "name": "ancestral",
        "kwargs": {
            "variance": "posterior",  # ancestral: variance of a step; or forward, DDPM's beta
            "last_noise": True,  # ancestral, euler_maruyama: add noise in the last step too
            "stochastic": False,  # dpm_solver: solve the reverse SDE instead of the ODE
            "noisy_below": 100.0,  # dpm_solver: stochastic steps are those from a smaller omega
            "eta": 0.0,  # ddim: from 0, deterministic, to 1, ancestral
            "corrections": 1,  # predictor_corrector, annealed_langevin: Langevin steps per level
            "snr": 0.16,  # predictor_corrector: signal-to-noise ratio of its Langevin steps
            "step_size": 0.1,  # annealed_langevin: step size divided by sigma^2
            "tolerance": 1e-3,  # flow: tolerance of its adaptive steps between points of the grid
        },
        "grid": grid(),  # of the steps of the sampler
        "guidance": {
            "name": "none",  # or classifier_free; classifier needs --mode=classifier first
            "kwargs": {
                "strength": 2.0,  # how strongly the samples follow their label
            },
        },
        "label": -1,  # class of every image; -1: the classes in turn
        "interpolate": 0,  # n > 0: rows of n images between two latents
        "num_frames": 0,  # n > 0: also write samples.gif with n frames from noise to data
        # .npz of a feature function: samples.json then has distances to the training images
        "features": "",
        "precision_recall": True,  # whether that comparison includes these; slow for many images
        "num_steps": 1000,  # steps of the sampler
        "num_images": 64,  # number of images drawn
        "batch_size": 64,  # images drawn at once
        "seed": 0,  # of the noise
    }


def grid() -> dict[str, Any]:
    """The noise levels of T steps."""
    return {
        # equal_times of the schedule, equal_omegas, karras; least_bound: those for which the bound
        # of the model's kernel is least on training images
        "name": "equal_times",
        "kwargs": {"rho": 7.0},  # karras: how much denser the steps are at low noise
    }


def classifier() -> dict[str, Any]:
    """The classifier of noisy examples that `sample.guidance` may use (--mode=classifier)."""
    return {
        "name": "convnet",  # or perceptron, for vectors
        "kwargs": {
            "width": 32,  # channels of the first stage, or hidden units
            "stages": 2,  # number of stages, or hidden layers
            "dropout": 0.1,  # share of activations dropped in training
        },
        "num_steps": 500,  # gradient steps
        "batch_size": 128,  # examples of a step
        "learning_rate": 2e-3,  # of AdamW, after the warm-up; it decays to 0
    }


def compress() -> dict[str, Any]:
    """Lossless compression (--mode=compress)."""
    return {
        "num_steps": 500,  # T of the chain of latents: more steps save bits and take more time
        "lanes": 64,  # images coded at once, at most
        "kernel": "model",  # reverse kernel: that of the model; or gaussian, mixture
        "grid": grid(),  # of the chain of latents
        "cells": 1,  # of the latents' grid, per standard deviation of a step
        "order": "bit_swap",  # or top_down, which needs initial bits for all T latents
        "seed": 0,  # of the initial bits
        "initial_bits": "",  # take these bits from this file; decompress writes them to it
        # conditional models: .npy with one label for each image; decompress writes it
        "labels": "",
    }
