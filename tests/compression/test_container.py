"""The file format: what is written can be read, and damage is noticed before decoding."""

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdm.compression import container
from vdm.compression.container import DTYPES, Header
from vdm.compression.lattice import DamagedError
from vdm.compression.limits import DECODERS, KERNELS, ORDERS
from vdm.config.options import CompressOptions

HEADER = Header(
    b"12345678", b"abcd", b"87654321", (297, 8, 8, 1), "u1", "bit_swap", 500, 1, 64, 0, 2000, True,
    20, 0, 51, "2 x cpu; jax 0.10.2, constriction 0.5.0",
)  # fmt: skip
WORDS = np.random.default_rng(0).integers(0, 2**32, 300, dtype=np.uint32)


def encodable(text):
    """The text without what UTF-8 cannot encode."""
    return text.encode("utf-8", "ignore").decode()


NAMES = st.text(st.characters(exclude_characters="\n"), min_size=1)
HEADERS = st.builds(
    Header, fingerprint=st.just(b"\x00" * 8), probe=st.just(b"\xff" * 4),
    checksum=st.just(b"12345678"),
    shape=st.lists(st.integers(0, 300), min_size=1, max_size=5).map(tuple),
    dtype=st.sampled_from(DTYPES), order=st.sampled_from(ORDERS), num_steps=st.integers(0, 2**20),
    cells=st.just(1), lanes=st.just(64), seed=st.integers(0, 2**40), step=st.just(7),
    ema=st.booleans(), num_initial=st.just(0), num_given=st.just(0), growth=st.just(9),
    environment=st.text(max_size=20).map(encodable),
    names=st.lists(NAMES.map(lambda name: encodable(name) or "?"), max_size=4).map(tuple),
    kernel=st.sampled_from(KERNELS), decoder=st.sampled_from(DECODERS),
)  # fmt: skip


@given(HEADERS, st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_what_is_written_is_read(header, words):
    found, found_words = container.read(container.write(header, np.array(words, np.uint32)))
    assert found == header
    assert found_words.tolist() == words


def test_what_version_1_can_say_is_written_as_it_was():
    content = container.write(HEADER, WORDS)
    assert content[4] == 1
    # of what the program wrote before there was a version 2
    assert hashlib.sha256(content).hexdigest().startswith("b29cb5665feae586")
    for change in ({"kernel": "mixture"}, {"decoder": "network"},
                   {"num_steps": 1, "chosen": (0, 1)}):  # fmt: skip
        other = container.write(dataclasses.replace(HEADER, **change), WORDS)
        assert other[4] == 3
        assert len(other) <= len(content) + 5
        header, words = container.read(other)
        assert header.exact_draws
        # Of version 2 are files in which codes were drawn in another way; nothing else differs.
        earlier, same_words = container.read(other[:4] + b"\x02" + other[5:])
        assert earlier == dataclasses.replace(header, exact_draws=False)
        np.testing.assert_array_equal(same_words, words)


@pytest.mark.parametrize("chosen", [(0, 1024), (3, 200, 201, 1024), tuple(range(1025))])
def test_chosen_levels_are_read(chosen):
    header = dataclasses.replace(HEADER, num_steps=len(chosen) - 1, chosen=chosen)
    assert container.read(container.write(header, WORDS))[0] == header


def test_levels_that_do_not_rise_or_end_too_high_are_damage():
    for chosen in ((0, 5, 5), (0, 5, 1025)):
        header = dataclasses.replace(HEADER, num_steps=2, chosen=chosen)
        with pytest.raises(DamagedError, match="its header makes no sense"):
            container.read(container.write(header, WORDS))


def test_all_that_the_options_allow_is_read():
    most = {"num_steps": 2**20, "lanes": 2**16, "cells": 2**10}
    CompressOptions(**most, order="bit_swap", seed=0, initial_bits="", labels="")
    header = dataclasses.replace(HEADER, **most, seed=2**64 - 1)
    assert container.read(container.write(header, WORDS))[0] == header
    for field, value in most.items():
        above = dataclasses.replace(header, **{field: value + 1})
        with pytest.raises(DamagedError):
            container.read(container.write(above, WORDS))


def test_two_thousand_corrupted_files_are_all_noticed():
    content = container.write(HEADER, WORDS)
    rng = np.random.default_rng(1)
    for case in range(2000):
        damaged = bytearray(content)
        at = int(rng.integers(len(content)))
        match case % 6:
            case 0:  # a bit
                damaged[at] ^= 1 << int(rng.integers(8))
            case 1:  # cut off
                del damaged[at:]
            case 2:  # a piece is missing
                del damaged[at : at + int(rng.integers(1, 50))]
            case 3:  # an extra piece
                damaged[at:at] = rng.bytes(int(rng.integers(1, 50)))
            case 4:  # a block of zeros, as a failed disk may leave it
                damaged[at : at + 64] = bytes(len(damaged[at : at + 64]))
            case 5:  # another file
                damaged = bytearray(rng.bytes(at))
        if bytes(damaged) != content:
            with pytest.raises(DamagedError) as error:
                container.read(bytes(damaged))
            assert "\n" not in str(error.value)


def test_a_header_that_makes_no_sense_is_noticed_though_its_checksum_holds():
    content = container.write(HEADER, WORDS)
    rng = np.random.default_rng(2)
    for _ in range(1000):
        body = bytearray(content[13:])
        at = int(rng.integers(120))
        body[at] = int(rng.integers(256))
        mended = content[:5] + container._short_hash(bytes(body)) + bytes(body)
        try:
            header, words = container.read(mended)
        except DamagedError:
            continue
        assert len(words) >= header.num_initial + header.num_given // 4


def test_another_version_is_named():
    content = bytearray(container.write(HEADER, WORDS))
    content[4] = 9
    with pytest.raises(DamagedError, match=r"version 9, but this program reads versions 1 to 3"):
        container.read(bytes(content))
    with pytest.raises(DamagedError, match="not a file of compressed images"):
        container.read(b"PK\x03\x04 a zip")


def test_the_header_of_digits_is_small():
    assert len(container.write(HEADER, WORDS[:0])) < 100


def test_the_fingerprint_knows_every_parameter_and_the_config():
    params = {"network": {"a": np.zeros(3), "b": np.ones(2)}}
    same = container.fingerprint(params, {"model": {"prediction": "eps"}})
    assert same == container.fingerprint(
        {"network": {"b": np.ones(2), "a": np.zeros(3)}}, {"model": {"prediction": "eps"}}
    )
    moved = {"network": {"a": np.zeros(3), "b": np.array([1.0, np.nextafter(1, 2)])}}
    for other, config in ((moved, "eps"), ({"network": {"a": np.zeros(3)}}, "eps"), (params, "v")):
        assert same != container.fingerprint(other, {"model": {"prediction": config}})
