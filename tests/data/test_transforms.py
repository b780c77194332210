import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdm.data import transforms
from vdm.data.pipeline import train_batches
from vdm.data.sources import Split

ALL = {"flips": True, "rotations": True, "permutations": True}


def image_split(size=120, shape=(4, 4, 3)):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (size, *shape), dtype=np.uint8)
    return Split("train", codes, np.arange(size, dtype=np.int32))


def draws(augmentation, count, seed=0, step=0):
    return transforms.choices_of_step(augmentation, seed, step, count, slice(None))


def one_by_one(image, quarters, flipped, channels):
    """Augments one image by the definition: the pixel that moves to each position."""
    height, width, depth = image.shape
    result = np.empty_like(image)
    for row, column, channel in itertools.product(range(height), range(width), range(depth)):
        i, j = row, width - 1 - column if flipped else column
        for _ in range(quarters):  # a quarter turn anticlockwise: (i, j) shows (j, width - 1 - i)
            i, j = j, width - 1 - i
        result[row, column, channel] = image[i, j, channels[channel]]
    return result


def test_images_are_turned_flipped_and_permuted_as_defined():
    split = image_split(50)
    augmentation = transforms.images((4, 4, 3), **ALL)
    choices = draws(augmentation, 50)
    found = augmentation.apply(split.examples, choices)
    assert (found.dtype, found.shape) == (np.uint8, split.examples.shape)
    for row, image in enumerate(found):
        wanted = one_by_one(
            split.examples[row],
            choices["quarters"][row],
            choices["flipped"][row],
            choices["channels"][row],
        )
        np.testing.assert_array_equal(image, wanted)


def first_number(seed):
    drawn = transforms.Augmentation(lambda generator, size: {"x": generator.random(size)}, None)
    return draws(drawn, 1, seed, step=5)["x"][0]


def test_every_seed_has_draws_of_its_own():
    large = [2**63 - 1, 2**63, 2**63 + 1, 2**63 + 1024, 2**64 - 2, 2**64 - 1]
    assert len({first_number(seed) for seed in large}) == len(large)
    before = {0: "0x1.cb8132d905208p-3", 7: "0x1.85213392ffaa0p-6",
              2**32: "0x1.06c2b3c0be044p-3", 2**63 - 1: "0x1.a45d0d0be5759p-1"}  # fmt: skip
    assert {seed: first_number(seed).hex() for seed in before} == before


def test_every_symmetry_is_equally_likely():
    # Of an image without symmetries the 8 x 6 outcomes are told apart by its bytes.
    image = image_split(1).examples[0]
    count = 48 * 400
    augmentation = transforms.images((4, 4, 3), **ALL)
    outcomes = augmentation.apply(np.repeat(image[None], count, 0), draws(augmentation, count))
    _, counts = np.unique(outcomes.reshape(count, -1), axis=0, return_counts=True)
    assert len(counts) == 48
    # chi^2 with 47 degrees of freedom: mean 47, deviation 9.7
    assert 47 - 35 < np.sum((counts - 400) ** 2 / 400) < 47 + 45


@settings(max_examples=10)
@given(
    share=st.integers(1, 6),
    process_count=st.integers(1, 4),
    seed=st.sampled_from([0, 7, 2**40]),
    first_step=st.integers(0, 5),
)
def test_augmentation_is_a_function_of_seed_step_and_place(share, process_count, seed, first_step):
    split, size = image_split(), share * process_count
    augmentation = transforms.images((4, 4, 3), **ALL, share=0.5)

    def take(step, process=0, count=1):
        batches = train_batches(split, size, seed, step, process, count, augmentation)
        return list(itertools.islice(batches, 3))

    straight = list(
        itertools.islice(train_batches(split, size, seed, 0, augmentation=augmentation), 8)
    )
    parts = [take(first_step, process, process_count) for process in range(process_count)]
    for i, whole in enumerate(straight[first_step : first_step + 3]):
        for key in whole:
            together = np.concatenate([part[i][key] for part in parts])
            np.testing.assert_array_equal(together, whole[key])


def test_steps_and_seeds_have_draws_of_their_own():
    augmentation = transforms.images((4, 4, 3), **ALL)
    seen = {
        draws(augmentation, 64, seed, step)["quarters"].tobytes()
        for seed in (0, 1, 2**40)
        for step in (0, 1, 2**20)
    }
    assert len(seen) == 9


def test_the_draws_of_a_step_are_the_published_ones():
    # A run resumed under another version of NumPy must see the same images.
    choices = draws(transforms.images((4, 4, 3), **ALL, share=0.5), 8, seed=3, step=5)
    assert choices["augmented"].astype(int).tolist() == AUGMENTED
    assert choices["quarters"].tolist() == QUARTERS
    assert choices["flipped"].astype(int).tolist() == FLIPPED
    assert choices["channels"].tolist() == CHANNELS


AUGMENTED = [0, 0, 1, 1, 0, 0, 0, 1]
QUARTERS = [0, 0, 2, 1, 0, 0, 0, 3]
FLIPPED = [0, 0, 1, 0, 0, 0, 0, 0]
CHANNELS = [[0, 1, 2]] * 7 + [[1, 0, 2]]


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_share_of_the_images_is_augmented_and_flagged(share):
    split = image_split(3000)
    augmentation = transforms.images((4, 4, 3), **ALL, share=share)
    plain = next(train_batches(split, 3000, 0, 0))
    batch = next(train_batches(split, 3000, 0, 0, augmentation=augmentation))
    assert batch.keys() == plain.keys() | {"augmented"}
    flags = batch["augmented"]
    assert flags.dtype == np.bool_
    assert abs(flags.mean() - share) <= 4 * np.sqrt(share * (1 - share) / 3000)
    np.testing.assert_array_equal(batch["examples"][~flags], plain["examples"][~flags])
    np.testing.assert_array_equal(batch["labels"], plain["labels"])
    changed = (batch["examples"][flags] != plain["examples"][flags]).any(axis=(1, 2, 3))
    assert abs(changed.mean() - 47 / 48) < 4 * np.sqrt(47 / 48 / 48 / flags.sum())
    assert split.examples.tobytes() == image_split(3000).examples.tobytes()  # left as it was


def test_draws_of_one_kind_do_not_depend_on_the_others():
    everything = draws(transforms.images((4, 4, 3), **ALL), 100)
    for kind, name in [("flips", "flipped"), ("rotations", "quarters"),
                       ("permutations", "channels")]:  # fmt: skip
        switches = dict.fromkeys(ALL, False) | {kind: True}
        alone = draws(transforms.images((4, 4, 3), **switches), 100)
        np.testing.assert_array_equal(alone[name], everything[name])
        for other in {"flipped", "quarters", "channels"} - {name}:
            assert (alone[other] == (range(3) if other == "channels" else 0)).all()


def test_flips_alone_serve_images_that_are_not_square_or_grey():
    augmentation = transforms.images((2, 3, 1))
    images = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    choices = draws(augmentation, 1, step=1)
    assert choices["flipped"] == [1]
    assert augmentation.apply(images, choices)[0, :, :, 0].tolist() == [[2, 1, 0], [5, 4, 3]]


@pytest.mark.parametrize(
    ("dims", "kwargs", "message"),
    [
        ((2,), {}, r"not for examples of shape \(2,\): set it to 'none'"),
        ((4, 5, 3), {"rotations": True}, "4 x 5 are not square"),
        ((4, 4, 1), {"permutations": True}, "one channel have none to permute"),
        ((4, 4, 3), {"share": 0.0}, r"share = 0\.0: it must be in"),
        ((4, 4, 3), {"share": 1.5}, r"share = 1\.5: it must be in"),
        ((4, 4, 3), {"flips": False}, "does nothing: switch one on"),
    ],
)
def test_what_images_cannot_have_is_one_line(dims, kwargs, message):
    with pytest.raises(ValueError, match=message) as caught:
        transforms.images(dims, **kwargs)
    assert "\n" not in str(caught.value)
