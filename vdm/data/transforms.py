"""Augmentation of training images: flips, quarter turns, permuted channels.

An augmentation is two functions. `draw` decides for a whole global batch what is done to each of
its examples, from a generator that the batch of that step alone owns; `apply` does it to the
examples of some of those decisions. Each process draws for all and applies its share, so what
happens to an example depends on the seed, the step and its place in the global batch, and not on
how many processes there are.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

Choices = dict[str, np.ndarray]

# The key of the draws beside the run's seed, so that no other stream of that seed is the same.
_STREAM = 0x61756774


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training examples.

    Attributes:
        draw: (generator, batch size B) -> arrays [B, ...] by name, one row for each example of the
            global batch. "augmented" is bool [B], which examples are augmented at all; the batch
            carries it on.
        apply: (examples [b, *shape], rows of those arrays [b, ...]) -> new examples [b, *shape].
    """

    draw: Callable[[np.random.Generator, int], Choices]
    apply: Callable[[np.ndarray, Choices], np.ndarray]


def check(augmentation: Augmentation, name: str) -> None:
    """ValueError, beginning with the name, when `draw` gives something else than rows for each of
    two places, "augmented" among them."""
    try:
        choices = augmentation.draw(np.random.default_rng(0), 2)
        shapes = {key: (rows.shape, rows.dtype) for key, rows in choices.items()}
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{name}: its draw(generator, batch size) gives no arrays by name: {error}"
        ) from error
    if shapes.get("augmented") != ((2,), np.bool_):
        raise ValueError(
            f"{name}: its draw for 2 examples gives {_shown(shapes.get('augmented'))} as "
            "'augmented': it must be bool of shape (2,), which examples are augmented"
        )
    for key, (shape, dtype) in shapes.items():
        if shape[:1] != (2,):
            raise ValueError(
                f"{name}: its draw for 2 examples gives {_shown((shape, dtype))} as {key!r}: it "
                "must have a row for each example"
            )


def _shown(found: tuple | None) -> str:
    return f"{found[1]} of shape {found[0]}" if found else "nothing"


def choices_of_step(
    augmentation: Augmentation, seed: int, step: int, batch_size: int, mine: slice
) -> Choices:
    """The rows `mine` of what is drawn for the global batch of a step."""
    # Philox takes its key and its place in the stream as they are: steps cannot overlap below
    # 2^64 numbers each. A list with a seed from 2^63 on would become float64, and seeds equal.
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

    An augmented image is turned by 0, 1, 2 or 3 quarters, then flipped from left to right or not,
    then its channels are permuted; every outcome is equally likely, the identity among them. The
    draws of one kind do not depend on which others are switched on.

    Args:
        dims: the shape of one image.
        flips: from left to right.
        rotations: by multiples of 90 degrees; of square images only.
        permutations: of the channels.
        share: probability that an image is augmented; "augmented" says which ones were.

    Raises:
        ValueError: images of that shape have no such symmetry, or an argument is of no use.
    """
    _check_symmetries(dims, flips, rotations, permutations, share)
    height, width, depth = dims
    places = np.arange(height * width).reshape(height, width)
    turned = [np.rot90(places, quarters) for quarters in range(4 if rotations else 1)]
    # [quarters, flipped, H W]: which pixel of the image comes to each place.
    origins = np.array([[turn.ravel(), turn[:, ::-1].ravel()] for turn in turned])

    def draw(generator: np.random.Generator, batch_size: int) -> Choices:
        # All are drawn, also what is switched off: flips stay the same when turns are added.
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
        # One gather for each channel of all images together is five times faster than
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
            "and a quarter turn changes their shape: set it to False"
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
