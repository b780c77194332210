import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdm.data.pipeline import evaluation_batches, train_batches
from vdm.data.sources import Split


def counting_split(size: int) -> Split:
    """A split whose examples and labels are their own positions."""
    places = np.arange(size)
    return Split("train", places.astype(np.float32)[:, None], places.astype(np.int32))


def take(batches, count: int) -> np.ndarray:
    """The positions of the examples in `count` batches, [count, b]."""
    return np.stack([batch["labels"] for batch in itertools.islice(batches, count)])


# grain's shuffle slows down below about a hundred examples, so small sets have one test.
sizes = st.integers(100, 300)
seeds = st.sampled_from([0, 1, 7, 2**31, 2**40])


@given(size=sizes, batch_size=st.integers(1, 40), seed=seeds, first_step=st.integers(0, 12))
def test_batch_is_a_function_of_seed_and_step(size, batch_size, seed, first_step):
    split = counting_split(size)
    straight = take(train_batches(split, batch_size, seed, 0), first_step + 3)
    resumed = take(train_batches(split, batch_size, seed, first_step), 3)
    np.testing.assert_array_equal(resumed, straight[first_step:])


@given(size=sizes, share=st.integers(1, 8), process_count=st.integers(1, 5), seed=seeds)
def test_processes_together_see_the_batch_of_one(size, share, process_count, seed):
    split = counting_split(size)
    whole = take(train_batches(split, share * process_count, seed, 2), 4)
    parts = [
        take(train_batches(split, share * process_count, seed, 2, process, process_count), 4)
        for process in range(process_count)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@given(size=sizes, batch_size=st.integers(1, 400), seed=seeds)
def test_each_epoch_visits_each_example_once(size, batch_size, seed):
    # Epochs run through the batches; three of them, wherever the batches end.
    steps = -(-3 * size // batch_size)
    places = take(train_batches(counting_split(size), batch_size, seed, 0), steps).ravel()
    for epoch in range(3):
        visited = places[epoch * size : (epoch + 1) * size]
        np.testing.assert_array_equal(np.sort(visited), np.arange(size))


def test_batch_may_be_larger_than_the_split():
    places = take(train_batches(counting_split(3), 7, 0, 0), 3).ravel()
    assert places.shape == (21,)
    assert np.bincount(places).tolist() == [7, 7, 7]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [
        tuple(row)
        for seed in (0, 1)
        for row in take(train_batches(counting_split(50), 50, seed, 0), 4).tolist()
    ]
    assert len(set(orders)) == 8
    assert tuple(range(50)) not in orders


def test_order_is_no_smooth_function_of_place():
    # A shuffle that only rotates or reverses also visits each example once.
    order = take(train_batches(counting_split(1000), 1000, 0, 0), 1)[0]
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.13  # 4 / sqrt(1000)
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.13


def test_train_batch_pairs_examples_with_labels_and_owns_its_memory():
    split = counting_split(20)
    batch = next(train_batches(split, 8, 0, 3))
    assert batch.keys() == {"examples", "labels"}
    assert (batch["examples"].dtype, batch["labels"].dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(batch["examples"][:, 0], batch["labels"])
    batch["examples"][:] = -1
    assert split.examples.min() == 0


def test_unlabelled_split_gives_no_labels():
    split = Split("train", np.zeros((5, 2), np.float32), None)
    assert next(train_batches(split, 4, 0, 0)).keys() == {"examples"}
    assert next(evaluation_batches(split, 4)).keys() == {"examples", "index", "mask"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 0), "batch_size is 0"),
        ((4, -1, 0), "seed is -1"),
        ((4, 0, -1), "first_step is -1"),
        ((4, 0, 0, 2, 2), "process_index 2"),
        ((5, 0, 0, 0, 2), "cannot be divided among 2 processes"),
    ],
)
def test_mistakes_are_named_at_the_call(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_batches(counting_split(5), *arguments)


def test_empty_split_and_batch_are_refused_at_the_call():
    with pytest.raises(ValueError, match="no examples"):
        train_batches(counting_split(0), 4, 0, 0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        evaluation_batches(counting_split(5), 0)


@given(size=st.integers(0, 30), batch_size=st.integers(1, 40))
def test_evaluation_visits_every_example_once_in_order(size, batch_size):
    batches = list(evaluation_batches(counting_split(size), batch_size))
    assert len(batches) == -(-size // batch_size)
    for batch in batches:
        assert {len(value) for value in batch.values()} == {batch_size}
        assert (batch["mask"].dtype, batch["index"].dtype) == (np.bool_, np.int32)
        np.testing.assert_array_equal(batch["labels"], batch["index"])
        np.testing.assert_array_equal(batch["examples"][:, 0], batch["index"])
        assert not batch["index"][~batch["mask"]].any()  # filled up with example 0
    seen = [batch["index"][batch["mask"]] for batch in batches]
    np.testing.assert_array_equal(np.concatenate([np.array([], np.int32), *seen]), np.arange(size))
