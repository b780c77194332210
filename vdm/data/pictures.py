"""Decodes pictures to 8-bit codes, and refuses those that would lose information."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

# A file in a folder or in a zip.
File = Path | zipfile.Path

# What PIL raises for a file that is damaged or not a picture, and what zlib and zipfile raise for a
# damaged member of a zip. Damaged TIFFs raise almost anything.
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, RuntimeError, TypeError, LookupError,
    ArithmeticError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip

# With more levels, codes and evenly spaced greys could be confused.
MOST_LEVELS = 16


def shape_of(path: File, size: int, exact: bool = False, channels: int = 0) -> tuple[int, int, int]:
    """The shape [H, W, C] of a picture as `decode` reads it.

    Args:
        size, exact: as in `decode`.
        channels: how to read a picture with a palette: 3 as RGB; 1 or 0 as grey if all its pixels
            are grey, else as RGB.
    """
    return _pixels(path, channels, size, exact).shape


def shape_of_set(paths: Iterable[File], size: int) -> tuple[int, int, int]:
    """The shape [H, W, C] that a set of pictures is read with: that of the first one. If that is a
    palette of greys, the first picture of another kind decides the number of channels."""
    paths = iter(paths)
    first = next(paths)
    shape = shape_of(first, size)
    if shape == shape_of(first, size, channels=3):
        return shape
    for path in paths:
        grey, coloured = (shape_of(path, size, channels=channels)[-1] for channels in (1, 3))
        if grey == coloured:
            return (*shape[:2], grey)
    return shape


def decode(
    paths: Sequence[File],
    shape: tuple[int, ...],
    size: int,
    num_codes: int = 256,
    exact: bool = False,
) -> np.ndarray:
    """Decodes pictures to uint8 codes [N, *shape]: their greys, or red, green and blue.

    Args:
        shape: [H, W, C], which all pictures must have. Pictures with a palette are converted to
            grey or RGB as C requires.
        size: n > 0 cuts each picture to the largest square in its middle and resizes it to n x n.
        num_codes: below 256, the greys of all pictures must be 0 ... num_codes - 1 or, up to 16
            codes, num_codes levels evenly spaced from 0 to 255, as in 1-bit pictures.
        exact: accept only pictures whose stored pixels are the codes: pictures rotated by EXIF and
            files with a second picture are refused.

    Raises:
        ValueError: a picture cannot be read, has another shape or other greys, or holds more than
            8-bit grey or RGB can: more bits, transparency, several frames.
    """
    greys = np.empty((len(paths), *shape), np.uint8)
    for row, path in enumerate(paths):
        pixels = _pixels(path, shape[-1], size, exact)
        if pixels.shape != shape:
            raise ValueError(
                f"{path} has shape {pixels.shape}, not {shape}: pictures must have one shape; "
                "data.kwargs.size = n cuts and resizes them to n x n; convert grey pictures among "
                "coloured ones"
            )
        greys[row] = pixels
    if num_codes < 256:
        _make_codes(greys, num_codes, paths)
    return greys


def has_profile(path: File) -> bool:
    """Whether a picture has a colour profile (ICC)."""
    from PIL import Image

    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return "icc_profile" in image.info


def _pixels(path: File, channels: int, size: int, exact: bool) -> np.ndarray:
    """The pixels of a picture, uint8 [H, W, C]; the arguments are those of `shape_of`."""
    from PIL import Image

    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or error}): make it readable, or move it "
            "elsewhere"
        ) from error
    except _DAMAGE as error:
        raise _unreadable(path) from error
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            obstacle = _obstacle(image, exact)
            if not obstacle:
                # PIL rotates a TIFF itself when it is loaded, and then drops the orientation.
                turned = image.format == "TIFF" and _orientation(image) in _TURNS
                image.load()  # reads the pixels, and EXIF that is stored after them
                turn = _TURNS.get(_orientation(image))
                upright = image.transpose(getattr(Image.Transpose, turn)) if turn else image
                if not (exact and (turn or turned)):
                    return _array(upright, channels, size)
                obstacle = (
                    "is rotated by its EXIF orientation, which would be lost: save it upright "
                    "(with PIL, PIL.ImageOps.exif_transpose(image))"
                )
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: make it smaller, or remove it") from error
    except _DAMAGE as error:
        raise _unreadable(path) from error
    raise ValueError(f"{path} {obstacle}")


# Formats that are accepted, judged by a file's content and not its name. Other formats lose bits
# when PIL opens them, or run a program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

# EXIF orientation -> the transposition that makes a picture upright.
_TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
    7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip


def _orientation(image: Any) -> int:
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF raises anything and gives no orientation
        return 1


def _obstacle(image: Any, exact: bool) -> str:
    """Why reading an opened picture as 8-bit would lose information; "" if it would not."""
    # In a JPEG with several pictures (MPO), the first is the one shown; others are previews or
    # depth maps.
    if getattr(image, "is_animated", False) and (exact or image.format != "MPO"):
        return f"holds {image.n_frames} pictures (frames or pages): save each as a separate file"
    if _is_deep(image):
        return (
            f"is of the kind {image.mode!r} with more than 8 bits per number, and the lower bits "
            "would be lost: save it with 8 bits, scaled by the range of its numbers"
        )
    if image.has_transparency_data:
        grey = image.mode in ("L", "LA")
        way = "image.convert('LA').convert('L')" if grey else "image.convert('RGBA').convert('RGB')"
        return (
            f"is of the kind {image.mode!r} with transparency, which would be lost: if you do not "
            f"need it, save the picture without it (with PIL, {way})"
        )
    if image.format == "TIFF" and image.tag_v2.get(_SAMPLES, 1) not in (1, 3):
        return (
            f"is of the kind {image.mode!r} with {image.tag_v2[_SAMPLES]} channels in the file: "
            "save it as 8-bit grey or RGB"
        )
    if other := _other_numbers(image):
        return other
    if image.mode in ("1", "L", "P", "RGB"):
        return ""
    way = "" if image.mode == "LAB" else " (with PIL, image.convert('RGB'))"
    return f"is of the kind {image.mode!r}: save it as 8-bit grey or RGB{way}"


# TIFF tags and values.
_BITS, _PHOTOMETRIC, _SAMPLES, _COLOURS, _SAMPLE_FORMAT = 258, 262, 277, 320, 339
_YCBCR, _SIGNED = 6, 2


def _other_numbers(image: Any) -> str:
    """Why PIL would silently change the numbers in the file; "" if it keeps them, or if they have
    1, 2 or 4 bits, which every program shows as levels from 0 to 255."""
    if image.format == "PPM":
        for decoder, _, _, given in image.tile:
            if decoder != "raw" and isinstance(given, tuple) and (most := given[1]) != 255:
                same = f"numpy.rint(numpy.asarray(image)*({most}/255)).astype('uint8')"
                return (
                    f"has numbers 0 ... {most} (its maxval), which would be stretched to 0 ... "
                    "255: save it again with maxval 255, either stretched (with PIL, image) or "
                    f"with the original numbers (with numpy, PIL.Image.fromarray({same}))"
                )
    if image.format == "BMP":
        head = bytes(image.fp.getbuffer()[:30])
        bits = head[24] if head[14] == 12 else head[28]
        if bits == 16:
            return (
                "has 16 bits per pixel, and its 5 or 6 bits per colour would be stretched to 0 ... "
                "255: if you want that, save it as 8-bit RGB (with PIL, image.convert('RGB'))"
            )
        # If a palette is all grey, PIL assumes 1 or 8 bits per pixel, whatever the file says.
        packed = image.tile[0][0] == "raw"
        if (image.mode == "1" and bits != 1) or (image.mode == "L" and bits != 8 and packed):
            return (
                f"is a BMP of {bits} bits with a palette of greys, which PIL misreads: save it as "
                "PNG with another program"
            )
    if image.format == "TIFF":
        if _SIGNED in image.tag_v2.get(_SAMPLE_FORMAT, ()):
            return "has signed numbers, whose signs would be lost: save it with numbers 0 ... 255"
        if (
            image.tag_v2.get(_PHOTOMETRIC) == _YCBCR
            and image.mode == "RGB"
            and "jpeg" not in image.info["compression"]  # photographs are read like a JPEG
        ):
            return (
                "is of the kind 'YCbCr': save it as 8-bit grey or RGB (with PIL, "
                "image.convert('RGB'))"
            )
    return ""


def _is_deep(image: Any) -> bool:
    """Whether the file has more than 8 bits per number; PIL opens some such files as 8-bit."""
    if image.mode[0] in "IF":
        return True
    if image.format == "TIFF":
        # 8-bit colours are stored in 16 bits: the other byte is 0 or equal.
        colours = image.tag_v2.get(_COLOURS, ()) if image.mode == "P" else ()
        return max(image.tag_v2.get(_BITS, (1,))) > 8 or any(c % 256 and c % 257 for c in colours)
    arguments = [tile[3] for tile in image.tile]
    if image.format == "PPM":
        return any(isinstance(given, tuple) and given[1] > 255 for given in arguments)
    return image.format == "PNG" and any(";16" in str(given) for given in arguments)


def _array(image: Any, channels: int, size: int) -> np.ndarray:
    """The pixels, uint8 [H, W, C], of a picture in one of the modes 1, L, P and RGB."""
    if image.mode == "1":
        image = image.convert("L")
    if image.mode == "P":
        image = image.convert("RGB")
        red, green, blue = (np.asarray(band) for band in image.split())
        if channels != 3 and (red == green).all() and (green == blue).all():
            image = image.getchannel(0)
    pixels = np.asarray(_resized(image, size) if size else image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _resized(image: Any, size: int) -> Any:
    from PIL import Image

    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BOX, box=box)


def as_levels(greys: np.ndarray, num_codes: int) -> np.ndarray | None:
    """Converts greys that are num_codes levels evenly spaced from 0 to 255, rounded to integers, to
    codes 0 ... num_codes - 1; returns None for other greys."""
    step = 255 / (num_codes - 1)
    codes = np.rint(greys / step)
    return codes.astype(np.uint8) if (np.abs(codes * step - greys) <= 0.5).all() else None


def _make_codes(greys: np.ndarray, num_codes: int, paths: Sequence[File]) -> None:
    """Converts greys [N, ...] in place to codes 0 ... num_codes - 1, if they are not codes already.

    The greys of the whole set are either codes or evenly spaced levels. The two cannot be confused:
    of up to 16 levels, only 0 is also a code (the next level is at least 255 / 15, above 15).
    """
    largest = [int(image.max()) for image in greys]
    brightest = int(np.argmax(largest))
    if largest[brightest] < num_codes:
        return
    few = num_codes <= MOST_LEVELS
    for row in sorted(range(len(greys)), key=lambda row: row != brightest):
        codes = as_levels(greys[row], num_codes) if few else None
        if codes is not None:
            greys[row] = codes
            continue
        levels = f" or {num_codes} levels evenly spaced from 0 to 255" if few else ""
        ways = f"they must be 0 ... {num_codes - 1}{levels}"
        if largest[row] >= num_codes:
            raise ValueError(
                f"{paths[row]} has greys up to {largest[row]}, but for data.kwargs.num_codes = "
                f"{num_codes} {ways}: set num_codes to 256"
            )
        raise ValueError(
            f"{paths[row]} has greys up to {largest[row]}, {paths[brightest]} has levels up to "
            f"{largest[brightest]}, but for data.kwargs.num_codes = {num_codes} {ways}, the same "
            "in all pictures: save all of them in one of these ways, or set num_codes to 256"
        )


def _unreadable(path: File) -> ValueError:
    return ValueError(f"{path} cannot be read as a picture: remove it, or get it again")
