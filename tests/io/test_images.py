"""Grids of images have every pixel in its place, with its grey or colour."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vdm.io.images import save_animation, save_grid


def read(path: os.PathLike[str]) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_codes_spread_over_black_to_white(tmp_path):
    codes = np.arange(17, dtype=np.uint8).reshape(1, 1, 17, 1)
    save_grid(tmp_path / "a.png", codes, 17, scale=1)
    got = read(tmp_path / "a.png")[2, 2:-2]
    # Sixteenths of 255, to the nearest, ties to even.
    np.testing.assert_array_equal(got, np.round(np.arange(17) * 255 / 16))
    assert (got[0], got[-1]) == (0, 255)


def test_all_256_codes_are_their_own_grey(tmp_path):
    codes = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    save_grid(tmp_path / "a.png", codes, 256, scale=1)
    np.testing.assert_array_equal(read(tmp_path / "a.png")[2:-2, 2:-2], codes[0, :, :, 0])


@given(
    num=st.integers(1, 7),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    columns=st.none() | st.integers(1, 9),
    scale=st.integers(1, 3),
)
def test_every_image_comes_back_from_its_cell(
    tmp_path_factory, num, height, width, channels, columns, scale
):
    codes = np.random.default_rng(0).integers(0, 256, (num, height, width, channels), np.uint8)
    path = tmp_path_factory.mktemp("grid") / "a.png"
    save_grid(path, codes, 256, columns, scale)
    picture = read(path)
    assert picture.ndim == (2 if channels == 1 else 3)
    picture = picture.reshape(*picture.shape[:2], channels)
    in_row = min(num, columns or int(np.ceil(np.sqrt(num))))
    for index in range(num):
        y = 2 + (index // in_row) * (height * scale + 2)
        x = 2 + (index % in_row) * (width * scale + 2)
        cell = picture[y : y + height * scale, x : x + width * scale]
        np.testing.assert_array_equal(cell[::scale, ::scale], codes[index])
        np.testing.assert_array_equal(cell[scale - 1 :: scale, scale - 1 :: scale], codes[index])
        assert np.all(picture[y - 2 : y, x - 2 : x + width * scale + 2] == 255)
        assert np.all(picture[y : y + height * scale, x - 2 : x] == 255)


def test_small_images_are_enlarged_until_they_are_legible(tmp_path):
    save_grid(tmp_path / "a.png", np.zeros((64, 8, 8, 1), np.uint8), 17)
    assert read(tmp_path / "a.png").shape == (8 * 50 + 2, 8 * 50 + 2)
    save_grid(tmp_path / "b.png", np.zeros((2, 64, 64, 3), np.uint8), 256)
    assert read(tmp_path / "b.png").shape == (64 + 4, 2 * 66 + 2, 3)


@pytest.mark.parametrize(
    ("codes", "num_codes", "expected"),
    [
        (np.zeros((2, 8, 8), np.uint8), 17, r"shape \(2, 8, 8\)"),
        (np.zeros((0, 8, 8, 1), np.uint8), 17, r"shape \(0, 8, 8, 1\)"),
        (np.zeros((2, 8, 8, 2), np.uint8), 17, r"\[N > 0, H, W, 1 or 3\]"),
        (np.full((2, 8, 8, 1), 17, np.uint8), 17, "to 17; 17 codes must be from 0 to 16"),
        (np.full((2, 8, 8, 1), -1, np.int32), 17, "from -1"),
        (np.zeros((2, 8, 8, 1), np.float32), 17, "float32"),
    ],
)
def test_what_is_no_image_is_refused_and_nothing_written(tmp_path, codes, num_codes, expected):
    with pytest.raises(ValueError, match=expected):
        save_grid(tmp_path / "a.png", codes, num_codes)
    assert os.listdir(tmp_path) == []


def test_an_animation_has_every_frame_and_repeats(tmp_path):
    frames = np.zeros((3, 2, 50, 50, 1), np.uint8)
    frames[1, 0], frames[2] = 16, 8
    save_animation(tmp_path / "a.gif", frames, 17, seconds=0.3)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.format == "GIF"
        assert image.n_frames == 3
        assert image.info["loop"] == 0
        seen, durations = [], []
        for i in range(3):
            image.seek(i)
            seen.append(np.asarray(image.convert("L")))
            durations.append(image.info["duration"])
    assert durations == [100, 100, 1100]  # milliseconds
    save_grid(tmp_path / "b.png", frames[1], 17)
    np.testing.assert_allclose(seen[1], read(tmp_path / "b.png"), atol=1)
    assert seen[0][10, 10] == 0
    assert seen[2][10, 10] == 128


@pytest.mark.parametrize("shape", [(0, 2, 4, 4, 1), (2, 4, 4, 1), (1, 2, 4, 4, 2)])
def test_frames_that_are_no_images_are_refused(shape, tmp_path):
    with pytest.raises(ValueError, match="shape"):
        save_animation(tmp_path / "a.gif", np.zeros(shape, np.uint8), 17)
    assert not (tmp_path / "a.gif").exists()
