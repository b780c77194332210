"""A config that was saved and read again equals the original, in every comparison."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from experiments.results import config_hash
from tests.config.test_files import ALL
from vdm.api import load_config
from vdm.compression import container
from vdm.config.compatibility import (
    computed_fields,
    differing_fields,
    earlier_model_fields,
    model_fields,
)
from vdm.config.registry import build
from vdm.data.sources import Split
from vdm.io.atomic import to_json
from vdm.io.canonical import with_tuples
from vdm.runs import evaluate
from vdm.runs.run import build_run

CONFIGS = Path(__file__).parents[2] / "configs"
PARAMS = {"kernel": jnp.arange(3.0)}


def load(name, preset):
    return load_config(CONFIGS / f"{name}.py", *([preset] if preset else []))


def saved_and_read(config):
    return ConfigDict(json.loads(json.dumps(to_json(config.to_dict()))))


def as_written_otherwise(value):
    """Another way to write equal values: integers for whole numbers, NumPy's numbers, lists."""
    if isinstance(value, dict):
        return {key: as_written_otherwise(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_written_otherwise(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return np.float64(value) if isinstance(value, float) else value


def assert_the_same(one, other):
    fields = [model_fields(config.to_dict()) for config in (one, other)]
    fingerprints = [container.fingerprint(PARAMS, found) for found in fields]
    assert fingerprints[0] == fingerprints[1]
    assert fields[0] == fields[1]
    assert computed_fields(one.to_dict()) == computed_fields(other.to_dict())
    assert config_hash(one) == config_hash(other)
    assert differing_fields(one.to_dict(), other.to_dict()) == []
    assert differing_fields(other.to_dict(), one.to_dict()) == []


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_every_preset_is_the_same_when_it_is_read_again(name, preset):
    config = load(name, preset)
    assert_the_same(config, saved_and_read(config))
    assert_the_same(config, ConfigDict(as_written_otherwise(config.to_dict())))


@given(
    st.dictionaries(
        st.sampled_from(["attention", "frequencies", "width", "dropout", "film", "own"]),
        st.recursive(
            st.integers(-9, 9) | st.floats() | st.booleans() | st.none() | st.text(),
            lambda inner: st.lists(inner).map(tuple) | st.lists(inner), max_leaves=5,
        ),
    )
)  # fmt: skip
def test_any_kwargs_are_the_same_when_they_are_read_again(kwargs):
    fields = load("digits", "").to_dict()
    fields["network"]["kwargs"] = kwargs
    config = ConfigDict(fields)
    assert_the_same(config, saved_and_read(config))


def test_what_matters_still_makes_a_difference():
    config = load("digits", "")
    for group, key, value in (
        ("network", "width", 33), ("schedule", "omega_0", -9.0), ("network", "film", False),
    ):  # fmt: skip
        other = ConfigDict(config.to_dict())
        other[group].kwargs[key] = value
        assert model_fields(config.to_dict()) != model_fields(other.to_dict())
        assert computed_fields(config.to_dict()) != computed_fields(other.to_dict())
        assert config_hash(config) != config_hash(other)
        (line,) = differing_fields(config.to_dict(), other.to_dict())
        assert line.startswith(f"{group}.kwargs.{key}: here ")
        assert line.endswith(f"there {value!r}")  # as it is written, not as it is compared


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_files_of_earlier_versions_are_known_by_either_of_their_fingerprints(name, preset):
    config = load(name, preset)

    def earlier(config):  # as `model_fields` was
        from vdm.config.compatibility import _model_fields

        settings = _model_fields(config.to_dict(), lambda value, default: value != default)
        return container.earlier_fingerprint(PARAMS, settings)

    for now in (config, saved_and_read(config)):
        known = [
            container.earlier_fingerprint(PARAMS, settings)
            for settings in earlier_model_fields(now.to_dict())
        ]
        assert earlier(config) in known
        assert earlier(saved_and_read(config)) in known


def test_an_evaluation_is_the_same_when_its_config_is_read_again(make_tiny_config):
    config = make_tiny_config()
    runs = [
        build_run(c, Path())
        for c in (
            config,
            saved_and_read(config),
            ConfigDict(as_written_otherwise(config.to_dict())),
        )
    ]
    split = Split("test", np.zeros((4, 8, 8, 1), np.uint8), None)
    identities = [evaluate._identity(run, PARAMS, split) for run in runs]
    assert identities[0] == identities[1] == identities[2]
    other = make_tiny_config(network__kwargs__dropout=0.5)
    assert evaluate._identity(build_run(other, Path()), PARAMS, split) != identities[0]


def test_nested_lists_of_a_saved_config_are_tuples_for_a_component():
    component = ConfigDict({"name": "own", "kwargs": {"table": [[1, 2], [3, [4]]], "more": ()}})
    built = build("own", component, {"own": lambda table, more: (table, more)})
    assert built == (((1, 2), (3, (4,))), ())
    hash(built)
    assert with_tuples({"a": [[1], (2, [3])]}) == {"a": ((1,), (2, (3,)))}
