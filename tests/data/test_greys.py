"""Pictures of few greys are codes in a whole set or in none; palettes follow the other pictures."""

import numpy as np
import pytest
from PIL import Image

from tests.data import png
from tests.data.picture_files import GREY, RGB, RNG, saved
from vdm.compression.image_files import read_images
from vdm.data import folders, pictures, user_files

# --- few greys --------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (2, 0), (4, 0), (1, 3), (2, 3), (4, 3)])
def test_pictures_of_few_greys_are_codes(tmp_path, depth, colour):
    num_codes = 2**depth
    samples = RNG.integers(0, num_codes, (6, 6, 5, 1))
    palette = np.repeat(np.arange(num_codes)[:, None] * 255 // (num_codes - 1), 3, axis=1)
    for row, image in enumerate(samples):
        png.write(tmp_path / f"{row}.png", image, depth, colour, palette if colour == 3 else None)
    source = user_files.folder("", 0, path=str(tmp_path), num_test=2, num_codes=num_codes)
    assert (source.shape, source.num_codes) == ((6, 5, 1), num_codes)
    read = [*source.load("train").examples, *source.load("test").examples]
    assert {image.tobytes() for image in read} == {
        image.astype(np.uint8).tobytes() for image in samples
    }
    assert len(source.load("train").notes) == 1
    note = user_files.folder("", 0, path=str(tmp_path), num_test=2).load("train").notes[1]
    assert f"set data.kwargs.num_codes to {num_codes}, which makes them 0 ... " in note


@pytest.mark.parametrize(
    ("greys", "num_codes", "codes"),
    [
        ([0, 255], 2, [0, 1]),
        ([0, 1], 2, [0, 1]),
        ([0, 127, 255], 3, [0, 1, 2]),
        ([0, 128, 255], 3, [0, 1, 2]),
        ([0, 17, 255], 16, [0, 1, 15]),
        ([0, 15, 3], 16, [0, 15, 3]),
        ([0, 16], 17, [0, 16]),
        ([0, 255], 17, None),
        ([0, 100, 255], 3, None),
        ([0, 254], 2, None),
        ([0, 200], 100, None),
    ],
)
def test_greys_are_codes_or_levels_or_refused(tmp_path, greys, num_codes, codes):
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([greys], np.uint8)))
    shape = (1, len(greys), 1)
    if codes is None:
        with pytest.raises(ValueError, match=rf"a\.png has greys up to {max(greys)}"):
            pictures.decode([path], shape, 0, num_codes)
        return
    assert pictures.decode([path], shape, 0, num_codes)[0, 0, :, 0].tolist() == codes


@pytest.mark.parametrize("brighter", range(6))
@pytest.mark.parametrize("zeros", [0, 1])
def test_greys_are_codes_or_levels_in_a_whole_set(tmp_path, brighter, zeros):
    """A set must not mix codes 0, 1 with levels 0, 255, whichever split the odd picture is in."""
    names = sorted((f"{row}.png" for row in range(6)), key=folders.sort_key)
    for row, name in enumerate(names):
        greys = np.array([[0, 0 if row < zeros else 255 if row == brighter else 1]], np.uint8)
        saved(tmp_path / name, Image.fromarray(greys))

    def both(**kwargs):
        source = user_files.folder("", 0, path=str(tmp_path), num_test=2, **kwargs)
        test, train = source.load("test"), source.load("train")
        return np.concatenate([train.examples, test.examples])[:, 0, 1, 0].tolist()

    if brighter >= zeros:
        says = r"\d\.png has greys up to 1, \S+\d\.png has levels up to 255, but "
        with pytest.raises(ValueError, match=says) as caught:
            both(num_codes=2)
        assert str(tmp_path / names[brighter]) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert both()[brighter] == 255
        saved(tmp_path / names[brighter], Image.fromarray(np.array([[0, 1]], np.uint8)))
    assert both(num_codes=2) == [0] * zeros + [1] * (6 - zeros)
    for name in names[zeros:]:
        saved(tmp_path / name, Image.fromarray(np.array([[0, 255]], np.uint8)))
    assert both(num_codes=2) == [0] * zeros + [1] * (6 - zeros)


def test_greys_that_are_not_spaced_evenly_are_told(tmp_path):
    for row in range(4):
        image = RNG.choice(np.array([3, 90, 200], np.uint8), (8, 8))
        saved(tmp_path / f"{row}.png", Image.fromarray(image))
    note = user_files.folder("", 0, path=str(tmp_path), num_test=1).load("train").notes[1]
    assert "3 greys of 256 occur (3, 90, 200), not evenly spaced" in note
    path = str(tmp_path)
    for kwargs in ({"num_codes": 1}, {"num_codes": 257}, {"num_codes": 2, "size": 4}):
        with pytest.raises(ValueError, match=r"num_codes|size = 4 averages pixels"):
            user_files.folder("", 0, path=path, num_test=1, **kwargs)


# --- palettes ---------------------------------------------------------------------------------


def test_a_palette_is_what_the_others_are(tmp_path):
    grey = Image.fromarray(GREY).convert("P")
    path = saved(tmp_path / "a.png", grey)
    np.testing.assert_array_equal(pictures.decode([path], (6, 4, 1), 0)[0, ..., 0], GREY)
    np.testing.assert_array_equal(
        pictures.decode([path], (6, 4, 3), 0)[0], np.repeat(GREY[..., None], 3, axis=-1)
    )


@pytest.mark.parametrize("grey_ones", ["0", "1", "013", "0123"])
@pytest.mark.parametrize("others", ["P", "RGB"])
def test_palettes_of_greys_among_coloured_pictures_are_coloured(tmp_path, grey_ones, others):
    shown = []
    for name in "0123456":
        image = Image.fromarray(RNG.integers(0, 256, (6, 4, 3), np.uint8))
        image = image.convert("L").convert("P") if name in grey_ones else image.quantize(32)
        shown.append(np.asarray(image.convert("RGB")))
        saved(tmp_path / f"{name}.png", image if name in grey_ones else image.convert(others))
    np.testing.assert_array_equal(read_images(tmp_path).codes, shown)
    names = sorted("0123456", key=lambda name: folders.sort_key(f"{name}.png"))
    for first in names:  # each of them is the first one, once
        order = [first, *(name for name in names if name != first)]
        folder = tmp_path / "sets" / first
        for place, name in zip(names, order, strict=True):
            with Image.open(tmp_path / f"{name}.png") as image:
                saved(folder / f"{place}.png", image)
        source = user_files.folder("", 0, path=str(folder), num_test=2)
        assert source.shape == (6, 4, 3)
        found = [*source.load("train").examples, *source.load("test").examples]
        np.testing.assert_array_equal(found, [shown[int(name)] for name in order])


def test_palettes_of_greys_alone_or_among_grey_pictures_are_grey(tmp_path):
    for i in range(4):
        saved(tmp_path / f"{i}.png", Image.fromarray(GREY).convert("P" if i % 2 else "L"))
    assert read_images(tmp_path).codes.shape == (4, 6, 4, 1)
    assert user_files.folder("", 0, path=str(tmp_path), num_test=1).shape == (6, 4, 1)
    for i in range(4):
        saved(tmp_path / f"{i}.png", Image.fromarray(GREY).convert("P"))
    assert read_images(tmp_path).codes.shape == (4, 6, 4, 1)
    assert user_files.folder("", 0, path=str(tmp_path), num_test=1).shape == (6, 4, 1)


@pytest.mark.parametrize("other", [GREY, RGB[:5], GREY[:5]])
def test_pictures_of_really_different_shapes_are_refused_beside_palettes(tmp_path, other):
    saved(tmp_path / "0.png", Image.fromarray(GREY).convert("P"))
    saved(tmp_path / "1.png", Image.fromarray(RGB).quantize(32))
    saved(tmp_path / "2.png", Image.fromarray(other))
    with pytest.raises(ValueError, match="pictures must have one shape"):
        read_images(tmp_path)
    source = user_files.folder("", 0, path=str(tmp_path), num_test=1)
    with pytest.raises(ValueError, match="pictures must have one shape"):
        assert source.load("train") != source.load("test")
