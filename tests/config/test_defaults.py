"""The defaults, how they are printed, and how they complete a config of an earlier version."""

import json
from pathlib import Path

import pytest

from experiments import config_page
from tests.config.test_files import ALL, CONFIGS
from vdm.api import load_config
from vdm.config import defaults, listing, options

EARLIER = json.loads((Path(__file__).parents[1] / "compatibility/configs.json").read_text())


def load(name, preset):
    return load_config(CONFIGS / f"{name}.py", *([preset] if preset else []))


def test_every_default_field_has_a_meaning():
    meanings = listing.meanings()
    assert meanings.keys() == listing.flatten(defaults.get_config().to_dict()).keys()
    assert all(meanings.values())
    assert meanings["model.prediction"] == (
        "what the network predicts: eps, x, v, score, codes; or next_mean if num_steps > 0"
    )
    assert meanings["data.kwargs.train"].startswith("npy: the file of the training examples; this")


def test_the_page_of_all_fields_is_that_of_the_defaults():
    assert config_page.PAGE.read_text() == config_page.render()


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_the_printed_changes_make_the_config_of_the_defaults(name, preset):
    config, made = load(name, preset), defaults.get_config()
    exec(listing.changes(config), {"config": made})
    assert made.to_dict() == config.to_dict()
    assert listing.changes(defaults.get_config()) == ""


def test_every_field_is_printed_once_with_its_meaning():
    config = load("toy_swirl", "")
    config.schedule.name = "my:Schedule"
    lines, fields = listing.every_field(config).splitlines(), listing.flatten(config.to_dict())
    assert len(lines) == len(fields)
    exec(listing.every_field(config), {"config": config})  # what it prints is what it has
    assert listing.flatten(config.to_dict()) == fields
    printed = {line.partition(" = ")[0]: line.partition("  # ")[2] for line in lines}
    assert printed["config.eval.ode.probes"].startswith("random directions of hutchinson")
    assert printed["config.schedule.kwargs.memory"] == ""  # another's kwarg, for all that we know
    assert lines[0].startswith("config.seed = 0 ")


def test_the_configs_add_no_field():
    for name, preset in ALL:
        options.check_fields(load(name, preset))


def test_a_config_of_the_first_version_is_completed_by_what_was_done_then():
    whole, first = EARLIER["digits"], {}
    for field in options.ORIGINAL_FIELDS:
        group, _, name = field.rpartition(".")
        source, target = (whole[group], first.setdefault(group, {})) if group else (whole, first)
        target[name] = source[name]
    completed = options.complete(first)
    options.check_fields(completed)
    assert (completed.compress.num_steps, completed.eval.ode.num_steps) == (500, 50)
    assert completed.classifier.to_dict() == {
        "name": "convnet", "kwargs": {}, "num_steps": 500, "batch_size": 128, "learning_rate": 2e-3,
    }  # fmt: skip
    assert completed.data.augmentation.to_dict() == {"name": "none", "kwargs": {}}
    assert completed.sample.guidance.to_dict() == {"name": "none", "kwargs": {}}
    assert (completed.model.name, completed.model.kwargs.to_dict()) == ("vdm", {})
    assert completed.train.prng_impl == "threefry2x32"
    assert completed.optim.kwargs.to_dict() == whole["optim"]["kwargs"]


@pytest.mark.parametrize("kwargs", [{}, {"width": 7}])
def test_a_missing_kwarg_is_not_filled_in(kwargs):
    config = load("digits", "")
    config.network.kwargs = kwargs
    assert options.complete(config).network.kwargs.to_dict() == kwargs
