import hashlib
import re

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from vdm.compression.image_files import read_codes
from vdm.config import build as configs
from vdm.config import registry
from vdm.data import arrays, sources, user_files

RNG = np.random.default_rng(0)


def config_of(name, **kwargs):
    return ConfigDict({"name": name, "kwargs": kwargs, "data_dir": "", "holdout": 0})


def one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(sources.TFDS_FACTS))
def test_a_tfds_set_has_a_name_of_its_own(name):
    # "dataset" is a kwarg of "tfds" alone, and cifar10.py lists it: the name decides.
    source = configs.build_source(config_of(name, dataset="cifar10", path=""))
    other = configs.build_source(config_of("tfds", dataset=name))
    assert (source.name, source.shape, source.num_classes, source.num_codes) == (
        other.name, other.shape, other.num_classes, other.num_codes,
    )  # fmt: skip
    assert source.name == name


def test_every_set_that_is_prepared_is_a_source():
    from vdm.data import imagenet, prepare

    assert set(prepare.NAMES) <= set(registry.SOURCES)
    assert set(user_files.IMAGENETS) == {name for name in prepare.NAMES if "imagenet" in name}
    for name, (side, num_classes) in user_files.IMAGENETS.items():
        size, version = imagenet.parse(name)
        assert (side, num_classes) == (size, imagenet.VERSIONS[version].num_classes)
        source = configs.build_source(config_of(name))  # touches no disk
        assert (source.name, source.shape, source.num_codes) == (name, (size, size, 3), 256)


# --- npy --------------------------------------------------------------------------------------


@pytest.fixture
def npy_folder(tmp_path):
    """A folder with train.npy and test.npy of 17 codes, and labels of 4 classes."""
    for split, count in (("train", 20), ("test", 6)):
        codes = RNG.integers(0, 17, (count, 4, 5, 1), dtype=np.uint8)
        codes[0, 0, 0] = 16
        np.save(tmp_path / f"{split}.npy", codes)
        np.save(tmp_path / f"{split}_labels.npy", np.arange(count) % 4)
    return tmp_path


def test_npy_is_mapped_from_a_folder_or_from_files(npy_folder):
    wanted = {split: np.load(npy_folder / f"{split}.npy") for split in ("train", "test")}
    by_folder = configs.build_source(
        config_of("npy", path=str(npy_folder), num_codes=17, num_classes=4)
    )
    train, test = (str(npy_folder / f"{split}.npy") for split in ("train", "test"))
    by_files = configs.build_source(config_of("npy", train=train, test=test))
    assert (by_folder.shape, by_folder.num_codes, by_folder.num_classes) == ((4, 5, 1), 17, 4)
    assert (by_files.num_codes, by_files.num_classes) == (256, 0)
    for split, codes in wanted.items():
        for source in (by_folder, by_files):
            found = source.load(split)
            np.testing.assert_array_equal(found.examples, codes)
            assert isinstance(found.examples.base, np.memmap)
            assert found.fingerprint == sources.Split(split, codes, None).fingerprint
        assert by_files.load(split).labels is None
        labels = by_folder.load(split).labels
        np.testing.assert_array_equal(labels, np.arange(len(codes)) % 4)
        assert labels.dtype == np.int32
    held = user_files.npy("", 3, path=str(npy_folder)).load("holdout")
    np.testing.assert_array_equal(held.examples, wanted["train"][-3:])


def test_npy_with_its_shape_reads_nothing_before_it_is_loaded(tmp_path):
    source = user_files.npy("", 0, path=str(tmp_path / "later"), shape=(4, 4, 3))
    assert source.shape == (4, 4, 3)
    one_line(lambda: source.load("train"), "cannot read .*later/train.npy: No such file")
    one_line(
        lambda: user_files.npy("", 0, path=str(tmp_path)), "cannot read .*train.npy: No such file"
    )


def test_npy_mistakes_are_one_line(npy_folder):
    path = str(npy_folder)
    one_line(lambda: user_files.npy("", 0), "no file for train, test: set data.kwargs.path")
    one_line(
        lambda: user_files.npy("", 0, train="a.npy", test="b.npy", num_classes=4),
        "no file for train_labels, test_labels",
    )
    one_line(lambda: user_files.npy("", 0, path=path, num_codes=1), "num_codes is 1")
    one_line(
        lambda: user_files.npy("", 0, path=path, num_codes=16).load("test"),
        r"codes up to 16: set data\.kwargs\.num_codes to 17",
    )
    one_line(
        lambda: user_files.npy("", 0, path=path, num_classes=3).load("train"),
        r"has labels 0 \.\.\. 3",
    )
    one_line(
        lambda: user_files.npy("", 0, path=path, shape=(4, 4, 1)).load("train"),
        r"of shape \(4, 5, 1\), not \(4, 4, 1\)",
    )
    np.save(npy_folder / "test_labels.npy", np.zeros(6))
    one_line(
        lambda: user_files.npy("", 0, path=path, num_classes=4).load("test"),
        "labels are 6 integers",
    )
    np.save(npy_folder / "train.npy", np.zeros((3, 2)))
    one_line(lambda: user_files.npy("", 0, path=path), "holds float64 .* codes are uint8")
    with (npy_folder / "test_labels.npy").open("wb") as file:
        np.savez(file, labels=np.zeros(6, int))
    one_line(
        lambda: user_files.npy("", 0, path=path, num_classes=4, shape=(4, 5, 1)).load("test"),
        "holds NpzFile: labels are 6 integers",
    )
    np.save(npy_folder / "train.npy", np.zeros((0, 4, 5, 1), np.uint8))
    one_line(lambda: user_files.npy("", 0, path=path), re.escape("is empty, of shape (0, 4, 5, 1)"))
    (npy_folder / "train.npy").write_bytes(b"text")
    one_line(lambda: user_files.npy("", 0, path=path), "it is not an .npy of numbers")


def npy_with_header(text):
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n" + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04",  # BadZipFile
        npy_with_header(b"{'descr': '|u1', 'shape': (6"),  # tokenize.TokenError
        npy_with_header(b"if 1:\n    a\n  b"),  # IndentationError
        npy_with_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 2)}" % 2**70),
        npy_with_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (True, 2)}"),
    ],
)
def test_a_damaged_npy_is_one_line(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    one_line(lambda: arrays.map_codes(path), r"cannot read .*a\.npy: it is not an \.npy of numbers")
    one_line(
        lambda: arrays.read_labels(path, 6, 4), r"labels in .*a\.npy: it is not an \.npy of numbers"
    )
    one_line(lambda: read_codes(path, 256), r"a\.npy is not an \.npy of numbers")


# --- folder -----------------------------------------------------------------------------------


def save(path, codes):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(codes[..., 0] if codes.shape[-1] == 1 else codes).save(path)
    return codes


def pictures(count, shape=(4, 6, 3)):
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


def by_hash(names):
    """The indices that sort the names by their SHA-256."""
    return sorted(range(len(names)), key=lambda row: hashlib.sha256(names[row].encode()).digest())


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_has_train_and_test_in_the_order_of_a_hash_of_their_paths(tmp_path, channels):
    codes = pictures(7, (4, 6, channels))
    names = ["train/a.png", "train/b/x.PNG", "train/b/y.bmp", "train/c.png", "train/d.tiff",
             "test/a.png", "test/b.png"]  # fmt: skip
    for name, image in zip(names, codes, strict=True):
        save(tmp_path / name, image)
    (tmp_path / "train/notes.txt").write_text("no picture")
    (tmp_path / "train/.hidden.png").write_text("no picture")
    source = configs.build_source(config_of("folder", path=str(tmp_path)))
    assert (source.shape, source.num_codes, source.num_classes) == ((4, 6, channels), 256, 0)
    order = by_hash([name.partition("/")[2] for name in names[:5]])
    assert order != list(range(5))
    np.testing.assert_array_equal(source.load("train").examples, codes[:5][order])
    order = by_hash(["a.png", "b.png"])
    np.testing.assert_array_equal(source.load("test").examples, codes[5:][order])
    assert source.load("test").labels is None


def test_folder_without_halves_tests_on_the_last_of_that_order(tmp_path):
    codes = pictures(9)
    for row, image in enumerate(codes):
        save(tmp_path / f"{row}.png", image)
    codes = codes[by_hash([f"{row}.png" for row in range(9)])]
    source = user_files.folder("", 2, path=str(tmp_path), num_test=3, shape=(4, 6, 3))
    for split, rows in (("train", codes[:4]), ("holdout", codes[4:6]), ("test", codes[6:])):
        np.testing.assert_array_equal(source.load(split).examples, rows)


def test_every_split_of_a_folder_for_each_class_has_every_class(tmp_path):
    for label in range(3):
        for row in range(30):
            save(tmp_path / f"class_{label}/{row}.png", np.full((2, 2, 1), label, np.uint8))
    source = user_files.folder("", 20, path=str(tmp_path), num_test=20)
    for split in ("train", "holdout", "test"):
        shares = np.bincount(source.load(split).examples[:, 0, 0, 0]) / len(
            source.load(split).examples
        )
        assert (shares > 0.1).all()


def test_a_picture_that_is_a_bomb_is_one_line(tmp_path, monkeypatch):
    for split in ("train", "test"):
        save(tmp_path / split / "a.png", pictures(1)[0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    one_line(lambda: user_files.folder("", 0, path=str(tmp_path)), r"a\.png is too large")


def test_size_cuts_the_middle_and_averages_over_areas(tmp_path):
    flat = np.repeat(np.repeat(pictures(3, (4, 4, 3)), 2, axis=1), 2, axis=2)
    framed = np.zeros((3, 8, 12, 3), np.uint8)
    framed[:, :, 2:10] = flat
    for row, image in enumerate(framed):
        save(tmp_path / f"{row}.png", image if row else image.transpose(1, 0, 2))
    flat[0] = flat[0].transpose(1, 0, 2)
    source = user_files.folder("", 0, path=str(tmp_path), size=4, num_test=1)
    assert source.shape == (4, 4, 3)
    order = by_hash(["0.png", "1.png", "2.png"])[:2]
    np.testing.assert_array_equal(source.load("train").examples, flat[order, ::2, ::2])
    halves = np.array([[0, 100], [100, 200]], np.uint8)[:, :, None]
    save(tmp_path / "grey/train/a.png", halves)
    save(tmp_path / "grey/test/a.png", halves)
    grey = user_files.folder("", 0, path=str(tmp_path / "grey"), size=1)
    assert grey.load("test").examples.tolist() == [[[[100]]]]


def test_folder_mistakes_are_one_line(tmp_path):
    one_line(lambda: user_files.folder("", 0), "set data.kwargs.path to one")
    path = str(tmp_path)
    one_line(
        lambda: user_files.folder("", 0, path=path + "/none"), "none is neither a folder nor a .zip"
    )
    one_line(lambda: user_files.folder("", 0, path=path, size=-1), "size is -1")
    one_line(lambda: user_files.folder("", 0, path=path), "has 0 pictures and no folders train/")
    for row, image in enumerate(pictures(4)):
        save(tmp_path / f"{row}.png", image)
    one_line(lambda: user_files.folder("", 0, path=path), "has 4 pictures .*num_test is 0: set it")
    one_line(lambda: user_files.folder("", 0, path=path, num_test=4), "num_test is 4: set it")
    save(tmp_path / "1.png", pictures(1, (4, 6, 1))[0])
    one_line(
        lambda: user_files.folder("", 0, path=path, num_test=1).load("train"),
        re.escape("1.png has shape (4, 6, 1), not (4, 6, 3)"),
    )
    Image.new("RGBA", (6, 4)).save(tmp_path / "1.png")
    one_line(
        lambda: user_files.folder("", 0, path=path, num_test=1).load("train"), "of the kind 'RGBA'"
    )
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    one_line(
        lambda: user_files.folder("", 0, path=path, num_test=1).load("train"),
        "cannot be read as a picture",
    )
    (tmp_path / "train").mkdir()
    one_line(lambda: user_files.folder("", 0, path=path), "has only train/")
    (tmp_path / "test").mkdir()
    one_line(
        lambda: user_files.folder("", 0, path=path, num_test=1),
        "use either both folders with num_test",
    )
    one_line(lambda: user_files.folder("", 0, path=path), "train has no pictures")
