"""A source touches no disk until it loads, holds out what it says, and names its data by a hash."""

import dataclasses
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdm.data import generated, sources
from vdm.data.sources import Split


def test_building_sources_touches_no_disk(tmp_path):
    missing = str(tmp_path / "missing")
    sources.digits(missing, 5)
    sources.tfds_images(missing, 5, dataset="cifar10")
    generated.swirl(missing, 5)
    generated.mixture(missing, 5)
    generated.synthetic(missing, 5, shape=[4, 4, 1], num_codes=17).load("train")
    assert not os.path.exists(missing)


@given(num_train=st.integers(1, 40), holdout=st.integers(0, 45))
def test_holdout_arithmetic(num_train, holdout):
    kwargs = {"shape": (2,), "num_codes": 250, "num_classes": 3, "num_train": num_train}
    whole = generated.synthetic("", 0, **kwargs).load("train")
    source = generated.synthetic("", holdout, **kwargs)
    if holdout >= num_train:
        with pytest.raises(ValueError, match=f"holdout is {holdout}"):
            source.load("train")
        return
    train = source.load("train")
    assert len(train.examples) == num_train - holdout
    assert source.evaluation_split == ("holdout" if holdout else "test")
    parts = [train, source.load("holdout")] if holdout else [train]
    for field in ("examples", "labels"):
        together = np.concatenate([getattr(part, field) for part in parts])
        np.testing.assert_array_equal(together, getattr(whole, field))


def test_holdout_mistakes_are_named():
    source = generated.swirl("", 0)
    with pytest.raises(ValueError, match=r"config\.data\.holdout=N"):
        source.load("holdout")
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        source.load("valid")
    with pytest.raises(ValueError, match="holdout is -1"):
        generated.swirl("", -1)


def test_fingerprint_tells_order_shape_and_type():
    codes = np.arange(12, dtype=np.uint8).reshape(6, 2)
    variants = [codes, codes[::-1], codes.reshape(4, 3), codes.view(np.int8), codes[:5]]
    fingerprints = [Split("test", variant, None).fingerprint for variant in variants]
    assert len(set(fingerprints)) == len(variants)
    assert all(f.startswith("sha256:") and len(f) == 71 for f in fingerprints)
    same = dataclasses.replace(Split("test", codes.copy(), np.zeros(6, np.int32)), name="holdout")
    assert same.fingerprint == fingerprints[0]  # of the codes alone
