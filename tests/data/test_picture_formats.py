"""Pictures of every format and depth are read as they look or refused by name, never changed."""

import re
import struct

import numpy as np
import PIL
import pytest
from PIL import Image

from tests.data import png
from tests.data.picture_files import GREY, RGB, RNG, follow, refused, saved
from vdm.compression.image_files import read_images
from vdm.data import pictures

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
    follow(refused(path, "with transparency"), path)
    shown = palette[samples[..., 0]] if colour == 3 else samples * 255 // (2**depth - 1)
    np.testing.assert_array_equal(read_images(tmp_path).codes[0], shown)


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
        follow(message, path)
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
    follow(message, path)
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
    follow(refused(path, "5 or 6 bits per colour", shape=(1, 4, 3)), path)
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
    follow(message, path)
    assert read_images(tmp_path).codes.shape == (1, 6, 4, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_tiff_whose_next_page_is_damaged_is_refused(tmp_path):
    for after in (8, 9, 2**31, 2**32 - 1):  # no page of these has a size
        tiff(tmp_path / "a.tif", np.zeros_like(RGB), 8, after=after)
        refused(tmp_path / "a.tif", "cannot be read as a picture")
    tiff(tmp_path / "a.tif", np.zeros_like(RGB), 8, after=0, more=[(259, 3, [55])])
    refused(tmp_path / "a.tif", "cannot be read as a picture")


def test_a_file_of_another_format_under_a_known_name_is_refused(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(RGB), format="ICO")
    refused(path, "cannot be read as a picture")
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 6\n")
    refused(path, "cannot be read as a picture")
