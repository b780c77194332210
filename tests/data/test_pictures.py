"""Pictures of every kind are read as they look or refused by name, never silently changed."""

import re
import struct

import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps

from tests.data import png
from vdm.compression.image_files import read_images
from vdm.data import folders, pictures, user_files

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 4, 3), np.uint8)
GREY = RGB[..., 0]


def refused(path, *says, shape=(6, 4, 3)):
    """Checks that a data set and compression refuse a picture; returns the message."""
    for read in (
        lambda: pictures.decode([path], shape, 0),
        lambda: pictures.shape_of(path, 0),
        lambda: read_images(path.parent),
    ):
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            read()
        assert "\n" not in str(caught.value)
        for text in says:
            assert text in str(caught.value)
    return str(caught.value)


def saved(path, image, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **kwargs)
    return path


# --- PNG, of every colour type and depth ------------------------------------------------------

FORMS = [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (2, 3), (4, 3), (8, 3),
         (8, 4), (16, 4), (8, 6), (16, 6)]  # fmt: skip


@pytest.mark.parametrize(("depth", "colour"), FORMS)
def test_a_png_is_read_as_its_samples_say_or_refused(tmp_path, depth, colour):
    samples = RNG.integers(0, 2**depth, (6, 5, png.CHANNELS[colour]))
    samples[0, 0] = 255 if depth == 16 else 2**depth - 1  # 16 bits with a high byte of 0
    palette = RNG.integers(0, 256, (2**depth, 3), np.uint8) if colour == 3 else None
    path = tmp_path / "a.png"
    png.write(path, samples, depth, colour, palette)
    np.testing.assert_array_equal(png.read(path)[0], samples)
    if depth == 16 or colour in (4, 6):
        says = "more than 8 bits" if depth == 16 else "with transparency"
        refused(path, says, shape=samples.shape)
        return
    shown = palette[samples[..., 0]] if colour == 3 else samples * 255 // (2**depth - 1)
    np.testing.assert_array_equal(pictures.decode([path], shown.shape, 0)[0], shown)
    read = read_images(tmp_path)
    np.testing.assert_array_equal(read.codes[0], shown)
    assert f"read 1 pictures in {tmp_path}" in read.note


@pytest.mark.parametrize(
    ("depth", "colour", "transparency"),
    [(8, 0, b"\0\7"), (2, 0, b"\0\1"), (8, 2, b"\0\1\0\2\0\3"), (8, 3, b"\0"), (1, 3, b"\xff\x80")],
)
def test_a_png_with_a_transparent_colour_is_refused_and_the_remedy_works(
    tmp_path, depth, colour, transparency
):
    samples = RNG.integers(0, 2**depth, (6, 4, png.CHANNELS[colour]))
    palette = RNG.integers(0, 256, (2**depth, 3), np.uint8) if colour == 3 else None
    path = tmp_path / "a.png"
    png.write(path, samples, depth, colour, palette, transparency)
    _follow(refused(path, "with transparency"), path)
    shown = palette[samples[..., 0]] if colour == 3 else samples * 255 // (2**depth - 1)
    np.testing.assert_array_equal(read_images(tmp_path).codes[0], shown)


def _follow(message, path):
    """Applies the remedy in a message to a picture."""
    way = re.search(r"\(with PIL, ([^ ]*)\)", message)[1]
    with Image.open(path) as image:
        image.load()
        remedied = eval(way, {"image": image, "PIL": PIL})
    path.unlink()
    return saved(path.with_suffix(".png"), remedied)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "CMYK", "YCbCr", "LAB"])
def test_pictures_of_other_kinds_are_refused_and_the_remedy_works(tmp_path, mode):
    image = Image.fromarray(RGB)
    if mode in ("LA", "PA"):
        image = image.convert("L").convert(mode)
    elif mode != "LAB":
        image = image.convert(mode)
    else:
        image = Image.fromarray(RGB, "RGB")
        image = Image.frombytes("LAB", image.size, image.tobytes())
    ending = {"LA": "png", "RGBA": "webp", "PA": "png", "CMYK": "jpg"}.get(mode, "tiff")
    if mode == "PA":
        image = image.convert("RGBA").quantize(8)  # a palette with an alpha for each colour
    if mode == "RGBA":
        image.putalpha(100)  # WebP has none where all is opaque
    path = saved(tmp_path / f"a.{ending}", image)
    with Image.open(path) as opened:
        kind = opened.mode
    message = refused(path, f"of the kind {kind!r}")
    if "with PIL" in message:
        _follow(message, path)
        assert pictures.decode(list(tmp_path.iterdir()), (6, 4, 1 if mode == "LA" else 3), 0).any()
    else:
        assert mode in ("LAB", "CMYK")


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_grey_of_more_than_8_bits_is_refused(tmp_path, mode):
    numbers = RNG.integers(0, 256, (6, 4))
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    refused(saved(tmp_path / "a.tiff", Image.fromarray(numbers.astype(kind))), "more than 8 bits")


@pytest.mark.parametrize("content", [
    b"P6 2 3 65535\n" + bytes(36), b"P6 2 3 1000\n" + bytes(36), b"P5 2 3 65535\n" + bytes(12),
    b"P3 1 1 1023\n5 6 7\n", b"P2 1 1 300\n5\n",
])  # fmt: skip
def test_ppm_of_more_than_8_bits_is_refused(tmp_path, content):
    (tmp_path / "a.ppm").write_bytes(content)
    refused(tmp_path / "a.ppm", "more than 8 bits")


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("most", [1, 15, 100, 254])
@pytest.mark.parametrize("channels", [1, 3])
def test_ppm_that_pil_would_stretch_is_refused_and_both_remedies_work(
    tmp_path, channels, most, plain
):
    numbers = RNG.integers(0, most + 1, (6, 4, channels))
    kind = {(1, False): 5, (3, False): 6, (1, True): 2, (3, True): 3}[channels, plain]
    data = " ".join(map(str, numbers.ravel())).encode() if plain else numbers.astype("u1").tobytes()
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P%d 4 6 %d\n" % (kind, most) + data)
    message = refused(path, f"has numbers 0 ... {most} (its maxval)", shape=numbers.shape)
    with Image.open(path) as image:
        way = re.search(r"\(with numpy, (\S*)\)$", message)[1]
        same = eval(way, {"image": image, "PIL": PIL, "numpy": np})
    np.testing.assert_array_equal(np.asarray(same).reshape(numbers.shape), numbers)
    _follow(message, path)
    stretched = read_images(tmp_path).codes[0].reshape(numbers.shape)
    assert np.abs(stretched - numbers * 255 / most).max() <= 0.5
    path.with_suffix(".png").unlink()
    whole = b"P%d 4 6 255\n" % kind + data  # what the refused ones are mistaken for
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_images(tmp_path).codes[0].reshape(numbers.shape), numbers)


def bmp(path, bits, row, palette=()):
    """A BMP of one row of 4 pixels, given as bytes."""
    colours = b"".join(bytes([grey, grey, grey, 0]) for grey in palette)
    head = struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, bits, 0, len(row), 0, 0, len(palette), 0)
    at = 14 + len(head) + len(colours)
    path.write_bytes(b"BM" + struct.pack("<IHHI", at + len(row), 0, 0, at) + head + colours + row)


def test_a_bmp_that_pil_would_stretch_or_misread_is_refused(tmp_path):
    path = tmp_path / "a.bmp"
    bmp(path, 16, struct.pack("<4H", 0, 1, 2, 0x7FFF))
    _follow(refused(path, "5 or 6 bits per colour", shape=(1, 4, 3)), path)
    assert read_images(tmp_path).codes[0, 0, :, 2].tolist() == [0, 8, 16, 255]
    path.with_suffix(".png").unlink()
    for bits, row, palette in (
        (8, [0, 1, 1, 0], (0, 255)), (4, [0x01, 0x10, 0, 0], (0, 255)),
        (4, [0x01, 0x23, 0, 0], range(16)),
    ):  # fmt: skip
        bmp(path, bits, bytes(row), palette)
        refused(path, f"is a BMP of {bits} bits with a palette of greys", shape=(1, 4, 1))
    for bits, row, palette, greys in (
        (1, [0b01100000, 0, 0, 0], (0, 255), [0, 255, 255, 0]),
        (1, [0b01100000, 0, 0, 0], (255, 0), [255, 0, 0, 255]),
        (4, [0x01, 0x23, 0, 0], range(0, 256, 17), [0, 17, 34, 51]),
        (8, [0, 1, 255, 9], range(256), [0, 1, 255, 9]),
    ):
        bmp(path, bits, bytes(row), palette)
        assert read_images(tmp_path).codes[0, 0, :, 0].tolist() == greys


def tiff(path, samples, bits, extra=None, after=0, more=()):
    """An uncompressed TIFF of samples [H, W, C], little-endian, of `bits` bits. after: where the
    next page is; more: (tag, type, values)."""
    height, width, channels = samples.shape
    data = samples.astype(f"<u{bits // 8}").tobytes()
    entries = [(256, 3, [width]), (257, 3, [height]), (258, 3, [bits] * channels), (259, 3, [1]),
               (262, 3, [2]), (273, 4, [8]), (277, 3, [channels]), (278, 3, [height]),
               (279, 4, [len(data)])]  # fmt: skip
    if channels == 1:
        entries[4] = (262, 3, [1])
    if extra is not None:
        entries.append((338, 3, [extra]))
    entries = sorted({entry[0]: entry for entry in (*entries, *more)}.values())
    at, tail, table = 8 + len(data) + len(data) % 2, b"", b""
    end = at + 2 + 12 * len(entries) + 4
    for tag, kind, values in entries:
        content = struct.pack("<" + "HI"[kind == 4] * len(values), *values)
        if len(content) > 4:
            table += struct.pack("<HHII", tag, kind, len(values), end + len(tail))
            tail += content
        else:
            table += struct.pack("<HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    path.write_bytes(
        b"II*\0" + struct.pack("<I", at) + data + b"\0" * (len(data) % 2)
        + struct.pack("<H", len(entries)) + table + struct.pack("<I", after) + tail
    )  # fmt: skip


def test_tiffs_with_more_bits_or_channels_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tiff(path, RGB, 8)
    np.testing.assert_array_equal(read_images(tmp_path).codes[0], RGB)
    tiff(path, RGB.astype(np.uint16), 16)
    refused(path, "more than 8 bits")
    four = np.concatenate([RGB, RGB[..., :1]], axis=-1)
    tiff(path, four, 8, extra=0)
    refused(path, "4 channels")
    tiff(path, four, 8, extra=2)
    refused(path, "with transparency")


def test_tiffs_whose_numbers_pil_would_change_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    grey = GREY[..., None]
    tiff(path, grey, 8, more=[(339, 3, [1])])
    np.testing.assert_array_equal(read_images(tmp_path).codes[0], grey)
    tiff(path, grey, 8, more=[(339, 3, [2])])
    refused(path, "signed numbers", shape=grey.shape)
    for twice, deep in ((256, False), (257, False), (255, True)):
        colours = RGB.reshape(-1, 3)[:16].T.astype(int) * twice
        colours = np.pad(colours, [(0, 0), (0, 240)]).ravel().tolist()
        tiff(path, grey % 16, 8, more=[(262, 3, [3]), (320, 3, colours)])
        if deep:
            refused(path, "more than 8 bits")
        else:
            shown = RGB.reshape(-1, 3)[grey[..., 0] % 16]
            np.testing.assert_array_equal(read_images(tmp_path).codes[0], shown)
    for compression in ("tiff_lzw", "raw"):
        saved(path, Image.fromarray(RGB).convert("YCbCr"), compression=compression)
        message = refused(path, "of the kind 'YCbCr'")
    _follow(message, path)
    assert read_images(tmp_path).codes.shape == (1, 6, 4, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_tiff_whose_next_page_is_damaged_is_refused(tmp_path):
    for after in (8, 9, 2**31, 2**32 - 1):  # no page of these has a size
        tiff(tmp_path / "a.tif", np.zeros_like(RGB), 8, after=after)
        refused(tmp_path / "a.tif", "cannot be read as a picture")
    tiff(tmp_path / "a.tif", np.zeros_like(RGB), 8, after=0, more=[(259, 3, [55])])
    refused(tmp_path / "a.tif", "cannot be read as a picture")


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
    _follow(str(caught.value), path)
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


def test_a_file_of_another_format_under_a_known_name_is_refused(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(RGB), format="ICO")
    refused(path, "cannot be read as a picture")
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 6\n")
    refused(path, "cannot be read as a picture")
