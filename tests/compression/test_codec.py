"""The codec returns every array exactly, and needs as many bits as the bound says."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.ladder.latent_vdm import LatentVDM
from vdm.compression.chain import Chain, Levels
from vdm.compression.codec import HALVINGS, UNIT, Codec, Coded
from vdm.compression.lattice import DamagedError, Stack, random_words
from vdm.devices import sharding
from vdm.diffusion.bounds import path_log_weight
from vdm.diffusion.likelihood import Discretised, Gaussian
from vdm.models.vdm import VDM
from vdm.nn.mlp import MLP
from vdm.nn.schedules import Linear, Polynomial


class Certain(nn.Module):
    """A network whose logits strongly prefer code 0."""

    num_codes: int

    def __call__(self, z, omega, labels=None, train=False):
        return jnp.zeros((*z.shape, self.num_codes)).at[..., 0].set(8.0)


class NoLogits(nn.Module):
    """With prediction "codes", the exact denoiser of independent uniform codes."""

    num_codes: int

    def __call__(self, z, omega, labels=None, train=False):
        return jnp.zeros((*z.shape, self.num_codes))


def make_chain(num_steps, cells=1, dims=(6,), schedule=None, num_classes=0, model=None):
    """A chain of the given model, by default of an MLP, with initial parameters plus 0.1; coding is
    lossless with any model."""
    if model is None:
        schedule = Linear(-5.0, 5.0) if schedule is None else schedule
        network = MLP(width=16, num_classes=num_classes)
        model = VDM(schedule, network, Discretised(7), dims, num_classes=num_classes)
    return Chain(model, initial(model), sharding.build_mesh(1), num_steps, cells)


@functools.cache
def initial(model):
    init = jax.jit(lambda key: jax.tree.map(lambda leaf: leaf + 0.1, model.init(key)))
    return init(jax.random.key(0))


@pytest.fixture(scope="module")
def chains():
    return {num_steps: make_chain(num_steps) for num_steps in (1, 2, 7)}


@functools.cache
def bits_by_draws(model, omegas, codes):
    """The bound of each image in bits per dimension, 40 draws of the path [40, images]. The
    arguments are bytes, so that the two orders of the codec share one result."""
    omegas, codes = np.frombuffer(omegas, np.float32), np.frombuffer(codes, np.int64)
    codes = codes.reshape(-1, *model.dims)
    denoiser, num_draws = model.denoiser({"network": {}}), 40
    weigh = jax.jit(lambda *given: path_log_weight(*given, denoiser, model.likelihood))
    keys = jax.random.split(jax.random.key(0), num_draws * len(codes))
    weights = np.asarray(weigh(keys, np.tile(codes, (num_draws, 1)), omegas))
    return -weights.reshape(num_draws, -1) / np.log(2) / codes[0].size


def assert_exact(codec, codes, labels=None, words=None):
    coded = codec.encode(codes, labels, words)
    found, found_labels, found_words = codec.decode(coded, len(codes))
    np.testing.assert_array_equal(found, codes)
    np.testing.assert_array_equal(found_words, np.zeros(0) if words is None else words)
    if labels is not None:
        np.testing.assert_array_equal(found_labels, labels)
    return coded


@given(
    st.data(), st.integers(0, 12), st.sampled_from([1, 2, 7]), st.integers(1, 5),
    st.sampled_from(["bit_swap", "top_down"]), st.integers(0, 2**40),
)  # fmt: skip
@settings(max_examples=40)
def test_any_codes_come_back(chains, data, count, num_steps, lanes, order, seed):
    codes = np.array(
        data.draw(st.lists(st.lists(st.integers(0, 6), min_size=6, max_size=6),
                           min_size=count, max_size=count)), int).reshape(count, 6)  # fmt: skip
    assert_exact(Codec(chains[num_steps], order, lanes, seed), codes)


@pytest.mark.parametrize("order", ["bit_swap", "top_down"])
def test_noise_and_constant_images_come_back(chains, order):
    noise = np.random.default_rng(0).integers(0, 7, (40, 6))
    constant = np.repeat(np.arange(7), 6).reshape(7, 6)
    for codes in (noise, constant, np.zeros((30, 6), int)):
        assert_exact(Codec(chains[2], order), codes)


def test_labels_come_back_and_cost_their_entropy():
    chain = make_chain(3, num_classes=4)
    codes, labels = np.random.default_rng(1).integers(0, 7, (64, 6)), np.arange(64) % 4
    assert_exact(Codec(chain), codes, labels)
    z = np.ones((2, 6))
    one, other = chain.eps_hat(2, z, np.array([0, 3]))
    assert (one != other).any()  # the network uses the labels
    network = NoLogits(7)
    model = VDM(Linear(-5.0, 4.0), network, Discretised(7), (6,), num_classes=4, prediction="codes")
    coded = assert_exact(Codec(make_chain(20, model=model)), codes, labels)
    # two bits per label, and at most a word and the size of the last batch
    assert coded.net_bits - coded.ideal_bits == pytest.approx(128, abs=40)


def test_learned_latents_of_codes_come_back():
    model = LatentVDM(
        Linear(-5.0, 5.0), MLP(width=16), Discretised(7), (4, 4, 1), latent_dim=3, width=16
    )
    codes = np.random.default_rng(9).integers(0, 7, (12, 4, 4, 1))
    for order in ("bit_swap", "top_down"):
        assert_exact(Codec(make_chain(4, model=model), order), codes)


def test_a_schedule_for_each_dimension_comes_back():
    schedule = Polynomial(-5.0, 5.0, per_dimension=True, dims=(6,))
    chain = make_chain(5, schedule=schedule)
    assert chain.levels.omegas.shape == (6, 6)
    codes = np.random.default_rng(2).integers(0, 7, (20, 6))
    for order in ("bit_swap", "top_down"):
        assert_exact(Codec(chain, order), codes)


def test_a_schedule_that_stands_still_has_steps_of_some_width():
    levels = Levels(np.array([-3.0, -3.0, 0.0, 0.0, 4.0], np.float32), 1)
    assert (np.diff(levels.omegas) > 0).all()
    assert np.isfinite(levels.shrink).all()
    with pytest.raises(ValueError, match="take fewer"):
        Levels(np.array([-30.0, -30.0, 4.0], np.float32), 1)


def test_the_network_sees_latents_on_no_common_grid(monkeypatch):
    # If all latents were multiples of a power of two, their Fourier features would be constant.
    chain, seen = make_chain(1), []
    evaluate = chain.eps_hat

    def watched(i, z, labels):
        seen.append(z.ravel())
        return evaluate(i, z, labels)

    monkeypatch.setattr(chain, "eps_hat", watched)
    Codec(chain).encode(np.random.default_rng(11).integers(0, 7, (300, 6)))
    z = np.concatenate(seen)
    phases = np.exp(2j * np.pi * z / chain.levels.cell[1])
    assert abs(phases.mean()) < 5 / np.sqrt(z.size)


@pytest.mark.parametrize("count", [1, 3, 100, 1000])
def test_given_words_come_back_and_take_the_place_of_random_ones(chains, count):
    words = np.zeros(count, np.uint32)
    codes = np.random.default_rng(3).integers(0, 7, (10, 6))
    coded = assert_exact(Codec(chains[7]), codes, words=words)
    alone = Codec(chains[7]).encode(codes)
    assert coded.num_given == count
    assert coded.num_initial < max(1, alone.num_initial - count + 3)


def test_many_images_take_the_initial_bits_of_one(chains):
    codes = np.random.default_rng(4).integers(0, 7, (200, 6))
    one, many = (Codec(chains[7], lanes=16).encode(codes[:n]) for n in (1, 200))
    assert many.num_initial <= one.num_initial + 2
    assert sum(many.batches) == 200
    assert max(many.batches) == 16
    found, _, _ = Codec(chains[7], lanes=16).decode(many, 200)
    np.testing.assert_array_equal(found, codes)


def test_batches_shrink_where_the_bits_do_not_suffice():
    # The first images cost many bits, the others almost none, as the network expects code 0.
    model = VDM(Linear(-5.0, 4.0), Certain(5), Discretised(5), (16,), prediction="codes")
    codec = Codec(make_chain(20, dims=(16,), model=model))
    codes = np.zeros((200, 16), int)
    codes[:12] = np.random.default_rng(0).integers(0, 5, (12, 16))
    coded = assert_exact(codec, codes)
    sizes = [codec._size(done, coded.growth, 0) for done in np.cumsum(coded.batches)[:-1]]
    assert any(size < most for size, most in zip(coded.batches[1:-1], sizes, strict=False))


@given(st.integers(1, 300), st.integers(0, UNIT // 2), st.integers(0, 16), st.integers(1, 70))
@settings(max_examples=200)
def test_the_decoder_finds_the_size_of_every_batch(done, growth, halvings, lanes):
    codec = Codec(None, lanes=lanes)
    size = codec._size(done, growth, halvings)
    stack = Stack(random_words(10, 0))
    stack.push_categorical(np.array([halvings]), HALVINGS)
    assert codec._pop_size(stack, done + size, 10**6, growth) == size


def test_a_chain_that_needs_more_words_than_are_reserved_gets_them():
    chain = make_chain(700)
    codes = np.random.default_rng(10).integers(0, 7, (1, 6))
    assert assert_exact(Codec(chain, "top_down"), codes).num_initial > 256


def test_initial_bits_of_bit_swap_do_not_grow_with_the_steps():
    codes = np.random.default_rng(5).integers(0, 7, (1, 6))
    initial = {
        order: [Codec(make_chain(T), order).encode(codes).num_initial for T in (20, 160)]
        for order in ("bit_swap", "top_down")
    }
    assert (
        initial["bit_swap"][1] <= initial["bit_swap"][0] + 2
    )  # 6 dimensions times log2 of the root of 8
    assert initial["top_down"][1] > 6 * initial["top_down"][0]


@pytest.mark.parametrize("cells", [1, 3])
@pytest.mark.parametrize("order", ["bit_swap", "top_down"])
def test_the_rate_is_the_bound(order, cells):
    # The bound of T steps with the exact denoiser, by many draws. The entropy is log2 5 = 2.3219.
    num_steps, count, dims = 40, 300, (16,)
    model = VDM(Linear(-5.0, 4.0), NoLogits(5), Discretised(5), dims, prediction="codes")
    chain = make_chain(num_steps, cells, dims=dims, model=model)
    codes = np.random.default_rng(6).integers(0, 5, (count, 16))
    coded = Codec(chain, order, seed=1).encode(codes)
    bits = bits_by_draws(model, chain.levels.omegas.tobytes(), codes.tobytes())
    of_path = (
        bits.std(axis=0, ddof=1).mean() / count**0.5
    )  # standard error of a single path per image
    assert bits.mean() > np.log2(5)
    assert coded.ideal_bits / codes.size == pytest.approx(bits.mean(), abs=4 * of_path)
    assert of_path < 0.015
    # the grid costs at most 5e-6 bits per step and dimension; a word and the size of the last batch
    # come on top
    allowed = 5e-6 * num_steps * codes.size + 32 + 6
    assert abs(coded.net_bits - coded.ideal_bits) < allowed


def test_other_bits_are_noticed_or_give_other_images(chains):
    codes = np.random.default_rng(7).integers(0, 7, (8, 6))
    codec = Codec(chains[2])
    coded = codec.encode(codes)
    rng = np.random.default_rng(0)
    noticed = 0
    for _ in range(200):
        words = coded.words.copy()
        words[rng.integers(len(words))] ^= np.uint32(1 << rng.integers(32))
        try:
            found, _, _ = codec.decode(dataclasses.replace(coded, words=words), 8)
            assert (found != codes).any()
        except DamagedError:
            noticed += 1
    assert noticed > 150


def test_missing_words_are_noticed(chains):
    codes = np.random.default_rng(8).integers(0, 7, (8, 6))
    codec = Codec(chains[2])
    coded = codec.encode(codes)
    for words in (coded.words[:-3], coded.words[:0], coded.words[5:]):
        with pytest.raises(DamagedError):
            codec.decode(Coded(words, coded.num_initial, 0, coded.growth), 8)
    with pytest.raises(DamagedError):
        codec.decode(coded, 9)


def test_what_cannot_be_coded_is_refused(chains):
    with pytest.raises(ValueError, match="unknown order 'bottom_up'"):
        Codec(chains[2], "bottom_up")
    with pytest.raises(ValueError, match="lanes = 0"):
        Codec(chains[2], lanes=0)
    with pytest.raises(ValueError, match="seed = -1"):
        Codec(chains[2], seed=-1)
    with pytest.raises(ValueError, match="must be at least 1"):
        make_chain(0)
    real = VDM(Linear(-5.0, 5.0), MLP(width=8), Gaussian(), (6,))
    with pytest.raises(ValueError, match="choose 'discretised'"):
        make_chain(2, model=real)
