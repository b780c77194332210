"""Messages about arrays that do not hold codes: each remedy is executed and gives codes."""

import ast
import re

import numpy
import numpy as np
import pytest

from vdm.compression import image_files
from vdm.data import advice, arrays, user_files

RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 256, (40, 4, 5, 3), dtype=np.uint8)
CODES[0, 0, 0] = 0, 255, 128


def expressions(message):
    """The Python expressions of x in a message, from left to right, each as long as it goes."""
    found, start = [], 0
    while (match := re.compile(r"numpy\.|\(?\bx[.\[]").search(message, start)) is not None:
        start = match.start()
        for end in range(len(message), start, -1):
            if message[end - 1] in ")]" and _is_python(message[start:end]):
                found += [message[start:end]] * bool(re.search(r"\bx\b", message[start:end]))
                break
        else:
            end = match.end()
        start = end
    return found


def _is_python(text):
    try:
        return ast.parse(text, mode="eval") is not None
    except SyntaxError:
        return False


def remedied(message, x, which=0):
    return eval(expressions(message)[which], {"numpy": numpy, "x": x})


def refusal(tmp_path, x):
    np.save(tmp_path / "train.npy", x)
    with pytest.raises(ValueError, match=r"^\S+train\.npy holds ") as caught:
        user_files.npy("", 0, path=str(tmp_path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "form",
    [
        lambda codes: codes / 255,
        lambda codes: codes / 127.5 - 1,
        lambda codes: codes.astype(float),
        lambda codes: codes / 255 * (1 + 1e-6) - 1e-7,  # as resizing leaves them
        lambda codes: codes + 0.3 * np.sin(np.arange(5))[:, None],
    ],
)
def test_the_remedy_of_floats_gives_the_codes(tmp_path, form, dtype):
    x = form(CODES.astype(float)).astype(dtype)
    message = refusal(tmp_path, x)
    assert f"from {x.min()} to {x.max()}" in message
    np.testing.assert_array_equal(remedied(message, x), CODES)
    assert remedied(message, x).dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.uint16, ">i4", ">u2"])
def test_the_remedy_of_integers_gives_the_codes(tmp_path, dtype):
    message = refusal(tmp_path, CODES.astype(dtype))
    assert "from 0 to 255" in message
    np.testing.assert_array_equal(remedied(message, CODES.astype(dtype)), CODES)


def test_the_remedy_of_other_numbers_gives_the_codes(tmp_path):
    deep = CODES.astype(np.uint16) * 257
    np.testing.assert_array_equal(remedied(refusal(tmp_path, deep), deep), CODES)
    shifted = (CODES.astype(int) - 128).astype(np.int8)
    np.testing.assert_array_equal(remedied(refusal(tmp_path, shifted), shifted), CODES)
    bits = CODES > 127
    message = refusal(tmp_path, bits)
    np.testing.assert_array_equal(remedied(message, bits), bits.astype(int))
    assert "num_codes = 2" in message
    message = refusal(tmp_path, bits.astype(np.float32))  # images, or codes
    np.testing.assert_array_equal(remedied(message, bits.astype(np.float32)), 255 * bits)
    np.testing.assert_array_equal(remedied(message, bits.astype(np.float32), 1), bits)
    assert "num_codes = 2" in message


def of_model(tmp_path, x, num_codes):
    """The message of --mode=compress for an array."""
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=r"^\S+x\.npy holds .*codes are integers") as caught:
        image_files.read_images(tmp_path / "x.npy", num_codes)
    assert "\n" not in str(caught.value)
    assert "data.kwargs" not in str(caught.value)  # the codes of a model are as many as they are
    return str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_codes", [2, 3, 16, 17, 100, 256, 300])
def test_the_remedies_of_floats_give_codes_of_a_model(tmp_path, num_codes, dtype):
    top = num_codes - 1
    codes = RNG.integers(0, num_codes, (40, 4, 5, 1))
    codes[0, 0, :3, 0] = 0, top, top // 2
    forms = [codes / top, codes / top * 2 - 1, codes.astype(float), codes / top * (1 + 1e-6) - 1e-7]
    for form in forms + [codes / top * 255] * (num_codes < 256):
        x = form.astype(dtype)
        message = of_model(tmp_path, x, num_codes)
        np.testing.assert_array_equal(remedied(message, x), codes)
        assert remedied(message, x).dtype == (np.uint8 if num_codes <= 256 else np.int64)
        if num_codes > 256:
            continue
        np.save(tmp_path / "train.npy", x)
        with pytest.raises(ValueError, match=r"^\S+train\.npy holds ") as caught:
            user_files.npy("", 0, path=str(tmp_path), num_codes=num_codes)
        remedy = remedied(str(caught.value), x)
        np.testing.assert_array_equal(remedy, codes)
        np.save(tmp_path / "train.npy", remedy)
        source = user_files.npy("", 0, path=str(tmp_path), num_codes=num_codes)
        np.testing.assert_array_equal(source.load("train").examples, codes)


@pytest.mark.parametrize("num_codes", [2, 17, 256])
def test_bits_for_a_model_are_codes_0_and_1_or_its_darkest_and_brightest(tmp_path, num_codes):
    bits = CODES > 127
    for x in (bits, bits.astype(np.float32)):
        message = of_model(tmp_path, x, num_codes)
        found = [remedied(message, x, which) for which in range(len(expressions(message)))]
        assert {array.max() for array in found} == {1, num_codes - 1}
        for array in found:
            np.testing.assert_array_equal(array, bits * array.max())
            assert array.dtype == np.uint8


@pytest.mark.parametrize(
    ("x", "same"),
    [
        (CODES.astype(np.int64) // 16, lambda x: x), (CODES.astype(np.int64), lambda x: x),
        ((CODES.astype(int) - 128).astype(np.int8), lambda x: x.astype(int) + 128),
        (CODES.astype(np.uint16) * 257, lambda x: x // 257),
        (CODES.astype(np.float32), lambda x: x),
    ],
)  # fmt: skip
def test_remedies_that_need_other_codes_than_asked_for_say_so(tmp_path, x, same):
    np.save(tmp_path / "train.npy", x)
    with pytest.raises(ValueError, match=r"^\S+train\.npy holds ") as caught:
        user_files.npy("", 0, path=str(tmp_path), num_codes=17)
    message = str(caught.value)
    np.save(tmp_path / "train.npy", remedied(message, x, -1))
    given = re.search(r"with data\.kwargs\.num_codes = (\d+)$", message)
    assert (given is None) == (x.max() <= 16)
    source = user_files.npy(
        "", 0, path=str(tmp_path), num_codes=17 if given is None else int(given[1])
    )
    np.testing.assert_array_equal(source.load("train").examples, same(x))


LABELS = np.arange(12) % 3


@pytest.mark.parametrize(
    "x",
    [
        LABELS.astype(np.float32), LABELS.astype(np.float64)[:, None], LABELS[:, None],
        np.eye(3)[LABELS], np.eye(3, dtype=int)[LABELS], np.eye(3, dtype=bool)[LABELS],
    ],
)  # fmt: skip
def test_the_remedies_of_labels_give_the_labels(tmp_path, x):
    path = tmp_path / "labels.npy"
    np.save(path, x)
    for read, says in (
        (lambda: image_files.read_labels(path), "labels are integers, one for each image"),
        (lambda: arrays.read_labels(path, 12, 3), "labels are 12 integers, one for each example"),
    ):
        np.save(path, x)
        with pytest.raises(ValueError, match=rf"^\S+labels\.npy holds .*{says}") as caught:
            read()
        assert "\n" not in str(caught.value)
        assert len(expressions(str(caught.value))) == 1
        np.save(path, remedied(str(caught.value), x))
        np.testing.assert_array_equal(read(), LABELS)


@pytest.mark.parametrize("two", [np.float32, bool])
def test_labels_0_and_1_are_classes(tmp_path, two):
    np.save(tmp_path / "labels.npy", (LABELS > 0).astype(two))
    with pytest.raises(ValueError, match="labels are integers") as caught:
        image_files.read_labels(tmp_path / "labels.npy")
    labels = remedied(str(caught.value), (LABELS > 0).astype(two))
    np.testing.assert_array_equal(labels, LABELS > 0)
    assert labels.dtype == np.int64


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (LABELS / 2, "find out where fractions come from"),
        (np.where(LABELS, LABELS, np.nan), "save the numbers of the classes"),
        (LABELS.astype(str), "save the numbers of the classes"),
        (np.zeros((12, 4)), "save one number for each example"),
    ],
)
def test_labels_that_have_no_remedy_get_no_expression(tmp_path, x, says):
    np.save(tmp_path / "labels.npy", x)
    for read in (
        lambda: image_files.read_labels(tmp_path / "labels.npy"),
        lambda: arrays.read_labels(tmp_path / "labels.npy", 12, 3),
    ):
        with pytest.raises(ValueError, match=says) as caught:
            read()
        assert not expressions(str(caught.value))
    np.save(tmp_path / "labels.npy", LABELS)
    with pytest.raises(ValueError, match=r"labels are 11 integers, one for each example$"):
        arrays.read_labels(tmp_path / "labels.npy", 11, 3)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (CODES.astype(float) * 3, "undo what normalised them"),
        ((CODES - 120.0) / 60, "undo what normalised them"),
        (CODES.astype(int) * 4, "scale their range to 0"),
        (np.where(CODES > 250, np.nan, CODES / 255), "NaN and infinity"),
        (np.where(CODES > 250, np.inf, CODES / 255), "NaN and infinity"),
        (CODES.astype(complex), "an array of numbers"),
        (CODES.astype(str), "an array of numbers"),
        (np.zeros((0, 4)), "an array of numbers"),
    ],
)
def test_what_has_no_remedy_gets_no_expression(tmp_path, x, says):
    message = refusal(tmp_path, x)
    assert says in message
    assert not expressions(message)


def test_arrays_of_no_examples_are_named(tmp_path):
    np.save(tmp_path / "train.npy", np.zeros(5, np.uint8))
    with pytest.raises(ValueError, match=r"uint8 of shape \(5,\): codes have shape \[N, ...\]"):
        user_files.npy("", 0, path=str(tmp_path))
    with (tmp_path / "train.npy").open("wb") as file:
        np.savez(file, images=CODES, labels=CODES)
    with pytest.raises(ValueError, match=r"several arrays \(images, labels\): numpy\.save one"):
        arrays.map_codes(tmp_path / "train.npy")


def notes(tmp_path, x, split="train", **kwargs):
    for name in ("train", "test"):
        np.save(tmp_path / f"{name}.npy", x)
    return user_files.npy("", 0, path=str(tmp_path), **kwargs).load(split).notes


def test_codes_that_stop_early_are_told_with_the_right_number_of_codes(tmp_path):
    bits = (CODES > 127).astype(np.uint8)
    (note,) = notes(tmp_path, bits)
    assert "the largest code is 1, and data.kwargs.num_codes is 256" in note
    assert "set it to 2" in note
    assert notes(tmp_path, bits, num_codes=2) == ()
    assert notes(tmp_path, bits, "test") == ()
    (note,) = notes(tmp_path, CODES // 15)
    assert "the largest code is 17" in note
    assert "set it to 18" in note
    (note,) = notes(tmp_path, bits, num_codes=17)
    assert "the largest code is 1, and data.kwargs.num_codes is 17" in note
    assert notes(tmp_path, CODES) == ()
    assert notes(tmp_path, CODES // 15, num_codes=18) == ()
    held = user_files.npy("", 5, path=str(tmp_path)).load("holdout")
    assert "the largest code is 17" in held.notes[0]


@pytest.mark.parametrize("levels", [(0, 255), (0, 85, 170, 255), (3, 90, 200)])
def test_few_codes_of_256_are_told_and_the_remedy_numbers_them(tmp_path, levels):
    places = RNG.integers(0, len(levels), (20, 4, 4, 1))
    x = np.array(levels, np.uint8)[places]
    (note,) = notes(tmp_path, x)
    assert f"data.kwargs.num_codes = {len(levels)}" in note
    np.testing.assert_array_equal(remedied(note, x), places)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (4, 32, 32), (8, 3, 8), (3, 5, 7)])
def test_channels_that_come_first_are_told_and_the_remedy_puts_them_last(tmp_path, shape):
    x = RNG.integers(0, 256, (30, *shape), dtype=np.uint8)
    (note,) = notes(tmp_path, x)
    channels = min(shape)
    assert remedied(note, x).shape[-1] == channels
    rest = [n for n in shape if n != channels]
    assert sorted(remedied(note, x).shape[1:3]) == sorted(rest)
    axis = shape.index(channels)
    np.testing.assert_array_equal(remedied(note, x)[..., 0], x.take(0, axis + 1))


@pytest.mark.parametrize("shape", [(8, 8, 3), (28, 28, 1), (4, 6, 4), (32, 32, 16), (9,)])
def test_other_shapes_are_not(shape):
    assert advice.note_channels_first(shape) == ""


@pytest.mark.parametrize("network", ["unet", "mlp"])
def test_grey_images_without_channels_are_given_an_axis(network):
    import jax

    from vdm.nn import classifiers, mlp, unet

    made = {
        "unet": unet.UNet(num_codes=256, width=8),
        "mlp": mlp.MLP(),
        "convnet": classifiers.ConvNet(num_classes=2),
    }
    key, omega = jax.random.key(0), np.zeros(2, np.float32)
    for name in (network, "convnet"):
        z = np.zeros((2, 28, 28), np.float32)
        with pytest.raises(ValueError, match=r"x\[\.\.\., None\]") as caught:
            made[name].init(key, z, omega)
        assert remedied(str(caught.value), z).shape == (2, 28, 28, 1)
    with pytest.raises(ValueError, match=r"for vectors choose network\.name = 'mlp'"):
        made["unet"].init(key, np.zeros((2, 5), np.float32), omega)
