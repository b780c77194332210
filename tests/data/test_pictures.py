"""Several pictures in a file, orientations and colour profiles are heeded, told or refused."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.data.picture_files import GREY, RGB, follow, refused, saved
from vdm.compression.image_files import read_images
from vdm.data import pictures

# --- several in a file ------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tiff"])
@pytest.mark.parametrize("grey", [False, True])
def test_animations_and_pages_are_refused(tmp_path, ending, grey):
    frames = [Image.fromarray(255 - 40 * i - (GREY if grey else RGB) // 4) for i in range(3)]
    path = saved(tmp_path / f"a.{ending}", frames[0], save_all=True, append_images=frames[1:])
    refused(path, "holds 3 pictures (frames or pages)")


def test_of_a_photograph_with_others_beside_it_data_have_the_first_and_archives_none(tmp_path):
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    path = tmp_path / "a.jpg"
    frames[0].save(path, "MPO", save_all=True, append_images=frames[1:])
    with Image.open(path) as image:
        first = np.asarray(image)
    np.testing.assert_array_equal(pictures.decode([path], (6, 4, 3), 0)[0], first)
    with pytest.raises(ValueError, match=r"a\.jpg holds 2 pictures"):
        read_images(tmp_path)


def test_one_frame_of_a_gif_is_a_picture(tmp_path):
    path = saved(tmp_path / "a.gif", Image.fromarray(GREY))
    np.testing.assert_array_equal(pictures.decode([path], (6, 4, 1), 0)[0, ..., 0], GREY)
    np.testing.assert_array_equal(read_images(tmp_path).codes[0, ..., 0], GREY)


# --- EXIF, profiles ---------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff", "lzw.tiff"])
def test_exif_orientation_is_applied_to_data_and_refused_in_archives(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    packed = "lzw" in ending and 0 < orientation < 9  # libtiff writes no others
    kwargs = {"compression": "tiff_lzw"} if packed else {}
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(RGB), exif=exif, **kwargs)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert pictures.shape_of(path, 0) == upright.shape
    np.testing.assert_array_equal(pictures.decode([path], upright.shape, 0)[0], upright)
    if orientation in (0, 1, 9):
        np.testing.assert_array_equal(read_images(tmp_path).codes[0], upright)
        return
    with pytest.raises(ValueError, match="rotated by its EXIF orientation") as caught:
        read_images(tmp_path)
    follow(str(caught.value), path)
    np.testing.assert_array_equal(read_images(tmp_path).codes[0], upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_says_nothing(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(RGB), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f!")
    assert pictures.decode([path], (6, 4, 3), 0).shape == (1, 6, 4, 3)


def test_colour_profiles_that_are_not_kept_are_told(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    saved(tmp_path / "a.png", Image.fromarray(RGB), icc_profile=profile)
    saved(tmp_path / "b.png", Image.fromarray(255 - RGB))
    read = read_images(tmp_path)
    assert "their pixels are kept, but the colour profiles of 1 are not" in read.note
    np.testing.assert_array_equal(read.codes, [RGB, 255 - RGB])
