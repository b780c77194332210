"""A config that makes no sense is refused in one line with the remedy."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from vdm.api import load_config
from vdm.config import build as configs
from vdm.config import defaults, options
from vdm.runs.run import build_run

FOLDER = Path(importlib.util.find_spec("vdm").origin).parent.parent / "configs"


def load(name):
    return load_config(FOLDER / f"{name}.py")


@pytest.mark.parametrize("field", ["seed", "train.eval_draws", "network.kwargs", "optim"])
def test_a_missing_field_is_named(field):
    config = load("digits")
    group, _, name = field.rpartition(".")
    del (config[group] if group else config)[name]
    with pytest.raises(ValueError, match=rf"the config has no {field}\b.*defaults.get_config"):
        options.read(config)


@pytest.mark.parametrize(
    ("group", "key", "value", "message"),
    [
        ("train", "num_step", 5, "has train.num_step, which is not a field; did you mean 'num_st"),
        ("sample", "gird", {"name": "karras"}, "has sample.gird, which .* did you mean 'grid'"),
        ("eval", "ode", 5, "eval.ode = 5: it must be a group with divergence, num_steps"),
        ("network", "width", 5, "has network.width, which is not a field; .*into its kwargs"),
    ],
)
def test_a_field_that_no_config_has_is_refused(group, key, value, message):
    config = defaults.get_config()
    with config[group].ignore_type():
        config[group][key] = value
    with pytest.raises(ValueError, match=message):
        options.read(config)


def test_what_a_schedule_cannot_learn_is_refused_before_training():
    config = load("digits")
    config.schedule.train = "adaptive"
    with pytest.raises(ValueError, match=r"schedule\.name = 'tabulated'"):
        build_run(config, Path("unused"))
    config.schedule.name = "tabulated"
    build_run(config, Path("unused"))
    config.schedule.train = "variances"
    with pytest.raises(ValueError, match="did you mean 'variance'"):
        build_run(config, Path("unused"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule.name": "monotne"}, "did you mean 'monotone'"),
        ({"network.name": "unt"}, "unknown network.name 'unt'; did you mean 'unet'"),
        ({"network.name": "nowhere.at_all:Net"}, "cannot be imported"),
        ({"model.prediction": "epsilon"}, "unknown model.prediction 'epsilon'"),
        ({"schedule.train": "bond"}, "did you mean 'bound'"),
        ({"eval.bound": "ode-decode"}, "unknown eval.bound .* did you mean 'ode-decoder'"),
        ({"eval.bound": "iw-0"}, "such as iw-64"),
        ({"eval.bound": "iw-K"}, "such as iw-64"),
        ({"eval.bound": "iw-8"}, "set eval.num_steps to their number"),
        ({"eval.bound": "ode-decoder", "eval.num_steps": 10}, "is for continuous time"),
        ({"eval.ode.divergence": "hutchison"}, "did you mean 'hutchinson'"),
        ({"eval.ode.tolerance": 0.0}, "eval.ode.tolerance = 0.0"),
        ({"train.batch_size": 0}, "at least 1"),
        ({"likelihood.name": "gaussian"}, "has integer codes"),
        ({"schedule.name": "json:__name__"}, "not callable"),
        ({"schedule.name": "json:dumps"}, "also needs schedule.kwargs.obj"),
        ({"data.holdout": -1}, "at least 0"),
        ({"data.augmentation.name": "image"}, "did you mean 'images'"),
        ({"data.augmentation.name": "json:dumps"}, "also needs data.augmentation.kwargs.obj"),
        ({"data.augmentation.kwargs": {"flip": 1}}, "flip is not a parameter of 'none'"),
        (
            {"data.augmentation.name": "images", "data.augmentation.kwargs.permutations": True},
            "images of one channel have none to permute",
        ),
        ({"optim.ema_rate": 1.5}, "must be in"),
        ({"weighting.name": "sigmod"}, "unknown weighting.name 'sigmod'; did you mean 'sigmoid'"),
        ({"weighting.name": "json:loads"}, "also needs weighting.kwargs.s"),
        ({"weighting.name": "math:tau"}, "not callable"),
        ({"weighting.name": "json:JSONDecoder", "weighting.kwargs": {}}, "gives no function"),
        ({"weighting.name": "min_snr", "weighting.kwargs.gamma": 0.0}, "gamma = 0.0 must be"),
        ({"weighting.kwargs": {"gama": 1.0}}, "gama is not a parameter of 'bound'"),
        ({"schedule": {"name": "linear"}}, "the config has no schedule.kwargs"),
        ({"model.prediction": "next_mean"}, "model.num_steps = 0 there is none: set it to T"),
        (
            {"model.prediction": "next_mean", "model.num_steps": 10},
            "schedule.train = 'variance': set schedule.train = 'fixed'",
        ),
        ({"data.name": "swirl"}, "is real-valued"),
        ({"model.class_conditional": True, "data.name": "swirl"}, "has no labels"),
        ({"model.label_dropout": 1.0}, r"must be in \[0, 1\)"),
        ({"model.label_dropout": 0.1}, r"set model\.class_conditional = True"),
        ({"sample.label": 3}, "nothing is conditional on labels here"),
        ({"sample.label": 10, "model.class_conditional": True}, "labels are 0 to 9"),
        ({"sample.interpolate": 8}, "choose sample.name = 'ddim'"),
        ({"sample.features": "nowhere.npz"}, "there is no such file"),
        ({"sample.name": "ancestal"}, "did you mean 'ancestral'"),
        (
            {"sample.name": "mixture_ancestral", "model.prediction": "eps"},
            "sample.name = 'mixture_ancestral' needs the probability of each code",
        ),
        (
            {"sample.name": "mixture_ancestral", "sample.guidance.name": "classifier"},
            "sample.guidance.name = 'classifier' guides eps_hat, not the probability of each code",
        ),
        ({"model.decoder": "network", "sample.guidance.name": "classifier"}, "guides eps_hat, not"),
        ({"sample.grid.name": "karas"}, "did you mean 'karras'"),
        ({"sample.grid.kwargs": {"roh": 7.0}}, "roh is not a parameter"),
        ({"sample.guidance.name": "clasifier"}, "did you mean 'classifier'"),
        ({"sample.guidance.name": "classifier_free"}, "model.label_dropout = 0.1"),
        ({"classifier.name": "convnets"}, "did you mean 'convnet'"),
        ({"classifier.num_steps": 0}, "at least 1"),
        ({"classifier.learning_rate": np.inf}, "learning_rate = inf: it must be 0 or more, and"),
        ({"compress.cells": 1025}, "compress.cells = 1025: it must be at most 1024"),
        ({"compress.lanes": 2**16 + 1}, "compress.lanes = 65537: it must be at most 65536"),
        ({"compress.num_steps": 2**20 + 1}, "num_steps = 1048577: it must be at most 1048576"),
    ],
)
def test_nonsense_is_refused_with_the_remedy(change, message):
    config = load("digits")
    for field, value in change.items():
        *path, last = field.split(".")
        group = config
        for part in path:
            group = group[part]
        group[last] = value
    with pytest.raises(ValueError, match=message):
        build_run(config, Path("unused"))


@pytest.mark.parametrize("value", [None, "0.5", (0.5,)])
@pytest.mark.parametrize(
    "field",
    ["optim.ema_rate", "eval.ode.tolerance", "model.label_dropout", "classifier.learning_rate"],
)
def test_what_is_no_number_is_refused(field, value):
    config = load("digits")
    *path, last = field.split(".")
    group = config
    for part in path:
        group = group[part]
    with group.ignore_type():
        group[last] = value
    with pytest.raises(ValueError, match=rf"{field} = .*: it must be a number"):
        options.read(config)


def test_a_parameter_that_no_component_has_is_refused():
    config = load("digits")
    config.schedule.kwargs = {"omega_o": -8.0}
    with pytest.raises(ValueError, match=r"omega_o is not a parameter .* did you mean 'omega_"):
        configs.build_model(config, configs.build_source(config.data))


@pytest.mark.parametrize("kwargs", [{}, {"share": 1.0}])
def test_a_network_that_is_told_of_augmentation_sees_images_without_it(kwargs):
    config = load("digits")
    config.data.augmentation.name, config.model.augmented_flag = "images", True
    config.data.augmentation.kwargs = kwargs  # images() augments all when it is told no share
    with pytest.raises(ValueError, match="share = 1: the network would never"):
        build_run(config, Path("unused"))
