"""Augmentation of training images: flips, quarter turns, permuted channels.

An augmentation is two functions. `draw` makes random choices for every example of a global batch,
from a generator that belongs to that step; `apply` carries out the choices for some of the
examples. Each process draws for the whole batch and applies its share, so what happens to an
example depends on the seed, the step and its row in the global batch, and not on the number of
processes.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

Choices = dict[str, np.ndarray]

# Combined with the run's seed, so that no other random stream of that seed is the same.
_STREAM = 0x61756774


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A random change of training examples.

    Attributes:
        draw: (generator, batch size B) -> {name: choices [B, ...]}, one row for each example of the
            global batch. "augmented", bool [B], tells which examples are augmented; it becomes
            part of the batch.
        apply: (examples [b, *shape], rows [b, ...] of those arrays) -> new examples [b, *shape].
    """

    draw: Callable[[np.random.Generator, int], Choices]
    apply: Callable[[np.ndarray, Choices], np.ndarray]


def check(augmentation: Augmentation, name: str) -> None:
    """Raises ValueError, with the name first, unless `draw` for a batch of two returns arrays of
    two rows, "augmented" among them."""
    try:
        choices = augmentation.draw(np.random.default_rng(0), 2)
        shapes = {key: (rows.shape, rows.dtype) for key, rows in choices.items()}
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{name}: its draw(generator, batch size) does not return a dict of arrays: {error}"
        ) from error
    if shapes.get("augmented") != ((2,), np.bool_):
        raise ValueError(
            f"{name}: its draw for 2 examples gives {_shown(shapes.get('augmented'))} as "
            "'augmented': it must be bool of shape (2,) and tell which examples are augmented"
        )
    for key, (shape, dtype) in shapes.items():
        if shape[:1] != (2,):
            raise ValueError(
                f"{name}: its draw for 2 examples gives {_shown((shape, dtype))} as {key!r}: it "
                "must have a row for each example"
            )


def _shown(shape_and_dtype: tuple | None) -> str:
    if not shape_and_dtype:
        return "nothing"
    shape, dtype = shape_and_dtype
    return f"{dtype} of shape {shape}"


def choices_of_step(
    augmentation: Augmentation, seed: int, step: int, batch_size: int, mine: slice
) -> Choices:
    """The choices drawn for the global batch of a step, of which this process keeps rows `mine`."""
    # Philox is given its key and its position in the stream, so steps cannot overlap below 2^64
    # numbers each. The dtype is explicit because a list with a seed of 2^63 or more would become
    # float64, where different seeds may be equal.
    key = np.array([seed, _STREAM], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=[0, step, 0, 0]))
    return {name: rows[mine] for name, rows in augmentation.draw(generator, batch_size).items()}


def images(
    dims: tuple[int, ...],
    flips: bool = True,
    rotations: bool = False,
    permutations: bool = False,
    share: float = 1.0,
) -> Augmentation:
    """Random symmetries of images [H, W, C].

    An augmented image is rotated by 0, 1, 2 or 3 quarter turns, then flipped from left to right or
    not, then its channels are permuted; every outcome is equally likely, including the identity.
    The draws of one kind do not depend on which others are switched on.

    Args:
        dims: the shape [H, W, C] of one image.
        flips: flip from left to right.
        rotations: rotate by multiples of 90 degrees; only for square images.
        permutations: permute the channels.
        share: probability that an image is augmented; "augmented" tells which ones were.

    Raises:
        ValueError: images of that shape do not have such a symmetry, or the arguments would have
            no effect.
    """
    _check_symmetries(dims, flips, rotations, permutations, share)
    height, width, depth = dims
    places = np.arange(height * width).reshape(height, width)
    turned = [np.rot90(places, quarters) for quarters in range(4 if rotations else 1)]
    # [quarter turns, flipped, H W]: the pixel of the image that moves to each position.
    origins = np.array([[turn.ravel(), turn[:, ::-1].ravel()] for turn in turned])

    def draw(generator: np.random.Generator, batch_size: int) -> Choices:
        # Everything is drawn, even what is switched off, so that adding rotations keeps the flips.
        augmented = generator.random(batch_size) < share
        flipped = generator.integers(0, 2, batch_size)
        quarters = generator.integers(0, 4, batch_size)
        channels = generator.random((batch_size, depth)).argsort(axis=1)
        return {
            "augmented": augmented,
            "flipped": flipped * (augmented & flips),
            "quarters": quarters * (augmented & rotations),
            "channels": np.where((augmented & permutations)[:, None], channels, np.arange(depth)),
        }

    def apply(examples: np.ndarray, choices: Choices) -> np.ndarray:
        # One gather per channel, over all images at once, is five times faster than
        # np.take_along_axis for the permutations alone.
        flat, result = examples.reshape(-1), np.empty_like(examples)
        pixels = origins[choices["quarters"], choices["flipped"]]
        firsts = depth * (pixels + height * width * np.arange(len(examples))[:, None])
        for channel in range(depth):
            chosen = flat.take(firsts + choices["channels"][:, channel, None])
            result[..., channel] = chosen.reshape(-1, height, width)
        return result

    return Augmentation(draw, apply)


def _check_symmetries(
    dims: tuple[int, ...], flips: bool, rotations: bool, permutations: bool, share: float
) -> None:
    if len(dims) != 3:
        raise ValueError(
            f"data.augmentation.name = 'images' is for images [height, width, channels], not for "
            f"examples of shape {tuple(dims)}: set it to 'none'"
        )
    if rotations and dims[0] != dims[1]:
        raise ValueError(
            f"data.augmentation.kwargs.rotations: images of {dims[0]} x {dims[1]} are not square, "
            "and a quarter turn would change their shape: set it to False"
        )
    if permutations and dims[2] < 2:
        raise ValueError(
            "data.augmentation.kwargs.permutations: images of one channel have none to permute: "
            "set it to False"
        )
    if not 0 < share <= 1:
        raise ValueError(
            f"data.augmentation.kwargs.share = {share}: it must be in (0, 1]; for no augmentation "
            "set data.augmentation.name = 'none'"
        )
    if not (flips or rotations or permutations):
        raise ValueError(
            "data.augmentation.name = 'images' with flips, rotations and permutations all False "
            "does nothing: switch one on in data.augmentation.kwargs, or set the name to 'none'"
        )
