"""Gaussians on a grid and the stack: symbols are popped as pushed, and cost the expected bits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdm.compression.lattice import (
    DamagedError,
    Gaussians,
    Stack,
    TooDeepError,
    random_words,
)

KEY = (0, 5)


def full_stack(words=20_000, seed=0):
    return Stack(random_words(words, seed))


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([0.4, 1.0, 1.7, 30.0]), st.integers(1, 40),
    st.sampled_from([1.0, 1e3, 1e6]),
)  # fmt: skip
def test_any_cell_is_popped_as_it_was_pushed(seed, std, count, far):
    rng = np.random.default_rng(seed)
    gaussians = Gaussians(std, 1.0)
    mean = rng.normal(size=count) * 10
    cells = np.rint(mean + far * rng.standard_cauchy(count)).astype(np.int64)
    cells = np.clip(cells, -(2**22), 2**22)
    mean[rng.uniform(size=count) < 0.1] = rng.choice([np.nan, np.inf, -np.inf, 1e30])
    stack = full_stack(50)
    before = stack.words
    gaussians.push(stack, cells, mean)
    np.testing.assert_array_equal(gaussians.pop(stack, mean), cells)
    np.testing.assert_array_equal(stack.words, before)


@pytest.mark.parametrize("std", [1.0, 1.9, 25.0])
def test_undraw_gives_back_every_bit(std):
    gaussians = Gaussians(std, 1.0)
    mean = np.random.default_rng(0).normal(size=(3, 5))
    stack = full_stack(100)
    before = stack.words
    cells = gaussians.draw(stack, mean, KEY)
    assert stack.num_words < len(before)
    gaussians.undraw(stack, cells, mean, KEY)
    np.testing.assert_array_equal(stack.words, before)


@pytest.mark.parametrize("std", [1.0, 2.0])
def test_drawn_latents_have_the_variance_of_their_gaussian(std):
    # Without Sheppard's correction it would be 1/12 more: 8% at one cell, 2% at two.
    n = 200_000
    mean = np.random.default_rng(1).uniform(-0.5, 0.5, n)
    cells = Gaussians(std, 1.0).draw(full_stack(n), mean, KEY)
    residual = (cells - mean) / std
    assert abs(residual.mean()) < 5 / math.sqrt(n)
    assert abs(residual.var() - 1) < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize(("std", "model_std", "shift"), [(1.0, 1.0, 0.0), (1.0, 1.2, 0.3)])
def test_drawing_by_q_and_pushing_by_p_costs_the_divergence(std, model_std, shift):
    n = 200_000
    mean = np.random.default_rng(2).uniform(-50, 50, n)
    stack = full_stack(n)
    before = stack.num_words
    cells = Gaussians(std, 1.0).draw(stack, mean, KEY)
    Gaussians(model_std, 1.0).push(stack, cells, mean + shift)
    ratio = std / model_std
    divergence = 0.5 * (ratio**2 + (shift / model_std) ** 2 - 1) - math.log(ratio)
    cost = 32 * (stack.num_words - before) / n
    # a divergence of 0.05 nats has a standard deviation of 0.35 a symbol, or less
    assert cost == pytest.approx(divergence / math.log(2), abs=1e-4 if shift == 0 else 5e-3)
    assert stack.ideal_bits / n == pytest.approx(cost, abs=3e-4)


def test_drawn_latents_do_not_repeat_what_was_pushed():
    # If they were popped directly, symbols three standard deviations away would come back
    # unchanged.
    n = 5000
    stack, gaussians = full_stack(), Gaussians(10.0, 1.0)
    gaussians.push(stack, np.full(n, 30), np.zeros(n))
    repeated = stack.copy()
    drawn = gaussians.draw(stack, np.zeros(n), KEY) / 10
    assert abs(drawn.mean()) < 5 / math.sqrt(n)
    assert abs(drawn.var() - 1) < 5 * math.sqrt(2 / n)
    assert gaussians.pop(repeated, np.zeros(n)).mean() == 30


def test_a_stack_knows_which_words_it_never_read():
    initial = random_words(1000, 0)
    stack = Stack(initial)
    popped = stack.pop_uniform(np.full(400, 2**16))
    low = stack.untouched
    assert 1000 - 200 - 4 < low <= 1000 - 200
    stack.push_uniform(np.zeros(4000), np.full(4000, 2**16))
    np.testing.assert_array_equal(stack.words[:low], initial[:low])
    without = Stack(stack.words[low:], sealed=False)
    without.pop_uniform(np.full(4000, 2**16))
    without.push_uniform(popped, np.full(400, 2**16))
    np.testing.assert_array_equal(without.words, np.append(initial[low:], 1))


def test_a_stack_refuses_to_be_read_below_its_floor():
    stack = full_stack(100)
    stack.floor = 90
    with pytest.raises(TooDeepError):
        stack.pop_uniform(np.full(40, 2**16))


def test_top_words_are_the_same_for_every_count_and_zeros_on_top_are_kept():
    np.testing.assert_array_equal(random_words(50, 3)[-20:], random_words(20, 3))
    assert (random_words(50, 3) != random_words(50, 4)).any()
    zeros = Stack(np.zeros(7, np.uint32))
    zeros.push_uniform([5, 0], [9, 1])
    np.testing.assert_array_equal(zeros.pop_uniform([9, 1]), [5, 0])
    np.testing.assert_array_equal(zeros.words, [0] * 7 + [1])


def test_drawn_symbols_have_their_probabilities_and_impossible_ones_are_not_drawn():
    rng = np.random.default_rng(0)
    probabilities = np.full((20_000, 300), 1e-8)
    probabilities[:, [0, 7, 299]] = 0.25, 0.7, 0.05
    probabilities[::2, 7] += 1e-4
    probabilities[::2, 8] = 1e-4
    certain = rng.permutation(20_000)[:500]
    probabilities[certain] = 0
    probabilities[certain, 4] = 1
    stack = full_stack(60_000)
    before = stack.words
    symbols = stack.draw_likely(probabilities)
    assert (symbols[certain] == 4).all()
    shares = np.bincount(np.delete(symbols, certain), minlength=300) / 19_500
    np.testing.assert_allclose(shares[[0, 7, 299]], [0.25, 0.7, 0.05], atol=0.01)
    assert shares[[0, 7, 8, 299]].sum() == pytest.approx(1)
    entropy = -sum(p * np.log2(p) for p in (0.25, 0.7, 0.05))
    assert 32 * (len(before) - stack.num_words) == pytest.approx(19_500 * entropy, rel=0.02)
    assert stack.ideal_bits == pytest.approx(-19_500 * entropy, rel=0.02)
    wrong, other = symbols.copy(), stack.copy()
    stack.undraw_likely(symbols, probabilities)
    np.testing.assert_array_equal(stack.words, before)
    wrong[certain[0]] = 5
    with pytest.raises(DamagedError, match="out of range"):
        other.undraw_likely(wrong, probabilities)
