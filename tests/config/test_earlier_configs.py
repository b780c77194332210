"""Configs saved by earlier versions, and which fields make two configs differ."""

import copy
import importlib.util
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from vdm.api import load_config
from vdm.config import options
from vdm.config.compatibility import differing_fields
from vdm.diffusion import weightings
from vdm.runs.run import build_run

FOLDER = Path(importlib.util.find_spec("vdm").origin).parent.parent / "configs"


def load(name):
    return load_config(FOLDER / f"{name}.py")


def test_only_fields_that_shape_the_state_differ():
    config = load("digits")
    other = ConfigDict(config.to_dict())
    other.eval.draws, other.train.log_every, other.data.data_dir = 7, 1, "/elsewhere"
    other.train.num_steps = 5
    assert differing_fields(config.to_dict(), other.to_dict()) == []
    del other.network.kwargs.film  # True here, and False is the default
    del other.schedule.kwargs.learn_ends  # the default, as here
    other.network.kwargs.width, other.train.batch_size = 48, 64
    differing = differing_fields(config.to_dict(), other.to_dict())
    assert [line.split(":")[0] for line in differing] == [
        "network.kwargs.film",
        "network.kwargs.width",
        "train.batch_size",
    ]


def test_a_config_from_before_a_parameter_existed_is_the_same():
    new = load("digits").to_dict()
    for name in ("linear", "monotone", "vdm_scalar"):
        new["schedule"]["name"] = name
        old = copy.deepcopy(new)
        for key in ("per_dimension", "num_bins", "memory"):
            del old["schedule"]["kwargs"][key]
        del old["optim"]["kwargs"]["schedule_rate"]
        assert differing_fields(new, old) == []
    old["schedule"]["kwargs"]["omega_0"] = -9.0
    assert len(differing_fields(new, old)) == 1


def test_a_config_from_before_there_were_weightings_trains_on_the_bound():
    new = load("digits")
    old = ConfigDict(new.to_dict())
    del old["weighting"]
    assert options.read(old).weighting == "bound"
    assert build_run(old, Path("unused")).weighting is weightings.bound
    assert differing_fields(new.to_dict(), old.to_dict()) == []
    assert differing_fields(old.to_dict(), new.to_dict()) == []
    new.weighting.kwargs.shift = 7.0  # of another weighting
    assert differing_fields(new.to_dict(), old.to_dict()) == []
    new.weighting.name = "sigmoid"
    differing = differing_fields(new.to_dict(), old.to_dict())
    assert "weighting.name: here 'sigmoid', there 'bound'" in differing


def test_a_config_from_before_there_were_augmentations_has_none():
    new = load("digits")
    old = ConfigDict(new.to_dict())
    del old.data["augmentation"]
    assert build_run(old, Path("unused")).augmentation is None
    new.data.augmentation.kwargs.share = 0.5  # of another augmentation
    assert differing_fields(new.to_dict(), old.to_dict()) == []
    assert differing_fields(old.to_dict(), new.to_dict()) == []
    new.data.augmentation.name = "images"
    assert "data.augmentation.name: here 'images', there 'none'" in differing_fields(
        new.to_dict(), old.to_dict()
    )
    few = ConfigDict(new.to_dict())
    few.data.augmentation.kwargs = {"share": 0.5}  # the defaults of the others are those given
    assert differing_fields(new.to_dict(), few.to_dict()) == []


def test_where_files_lie_does_not_change_what_they_are():
    for name, moved, changed in [
        ("folder", ("path",), "size"),
        ("npy", ("path", "train", "test", "train_labels", "test_labels"), "num_codes"),
    ]:
        config = load("digits")
        config.data.name = name
        other = ConfigDict(config.to_dict())
        for field in moved:
            other.data.kwargs[field] = "/elsewhere"
        assert differing_fields(config.to_dict(), other.to_dict()) == []
        other.data.kwargs[changed] = 16
        (line,) = differing_fields(config.to_dict(), other.to_dict())
        assert line.startswith(f"data.kwargs.{changed}: ")


@pytest.mark.parametrize("name", ["digits", "cifar10", "fashion_mnist", "imagenet32"])
@pytest.mark.parametrize("source", ["", "folder", "npy"])
def test_a_config_from_before_its_data_kwargs_were_listed_is_the_same(name, source):
    new = load(name).to_dict()
    new["data"]["name"] = source or new["data"]["name"]
    for kept in ({}, {"path": "here"}, {"path": "", "dataset": "cifar10"}):
        old = copy.deepcopy(new)
        old["data"]["kwargs"] = kept
        assert differing_fields(new, old) == differing_fields(old, new) == []
