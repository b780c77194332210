"""Lost, changed, damaged and hostile files of ImageNet are noticed and named in one line."""

import gzip
import io
import lzma
import os
import pathlib
import pickle
import re
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.data.little_imagenet import LITTLE, codes_of, load, png, write_batches, write_pictures
from vdm.data import imagenet, imagenet_files


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"test": 3}, "has 3 validation images, but imagenet32_old has 4"),
        ({"train": 11}, "has 11 PNGs, not 12"),
        ({"train": 13}, "has 13 PNGs, not 12"),
    ],
)
def test_lost_pictures_are_noticed(tmp_path, files, message):
    write_pictures(tmp_path / "from", **files)
    with pytest.raises(ValueError, match=message):
        imagenet.prepare("imagenet32_old", tmp_path, tmp_path / "from", LITTLE)
    assert not (tmp_path / "imagenet32_old").exists()


@pytest.mark.parametrize(("train", "found"), [(19, "19"), (21, "more than 20")])
def test_lost_batches_are_noticed(tmp_path, train, found):
    write_batches(tmp_path / "from", train=train)
    with pytest.raises(
        ValueError, match=f"has {found} images of split 'train', but should have 20"
    ):
        imagenet.prepare("imagenet32_new", tmp_path, tmp_path / "from", LITTLE)
    assert not (tmp_path / "imagenet32_new").exists()


def test_pictures_of_another_size_and_damaged_ones_are_named(tmp_path):
    write_pictures(tmp_path / "from")
    place = tmp_path / "from/valid_32x32/00002.png"
    for content, message in [
        (png(codes_of(1, 16)[0]), "00002.png .* is 16 x 16, not 32 x 32"),
        (place.read_bytes()[:99], "00002.png .* is not a readable PNG"),
    ]:
        place.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            imagenet.prepare("imagenet32_old", tmp_path, tmp_path / "from", LITTLE)
    write_batches(tmp_path / "big", size=64)
    with pytest.raises(ValueError, match="name the files of 32 x 32"):
        imagenet.prepare("imagenet32_new", tmp_path, tmp_path / "big", LITTLE)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_name_that_comes_twice_is_refused(tmp_path, kind):
    write_pictures(tmp_path / "from", kind, test=3)  # four with the second one of a name
    path, name = tmp_path / f"from/valid_32x32.{kind}", "valid_32x32/00001.png"
    content = png(codes_of(1)[0])
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(name, content)
    else:
        with tarfile.open(path, "a") as archive:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(ValueError, match=f"has {name} more than once"):
        imagenet.prepare("imagenet32_old", tmp_path, tmp_path / "from", LITTLE)
    assert not (tmp_path / "imagenet32_old").exists()


def test_a_flipped_bit_of_the_pixels_is_noticed(tmp_path):
    write_pictures(tmp_path / "from")
    smooth = (
        np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8)[..., None].repeat(3, axis=2)
    )
    content = png(smooth)

    def decodes_to_another(damaged):
        try:
            return (np.asarray(Image.open(io.BytesIO(damaged)).convert("RGB")) != smooth).any()
        except (OSError, SyntaxError):
            return False

    start = content.index(b"IDAT") + 4
    damaged = [
        content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        for place in range(start, len(content) - 12)
    ]
    unnoticed = next(filter(decodes_to_another, damaged))  # decoding alone does not see it
    (tmp_path / "from/train_32x32/00003.png").write_bytes(unnoticed)
    with pytest.raises(ValueError, match=r"00003\.png .* is not a readable PNG: get it again"):
        imagenet.prepare("imagenet32_old", tmp_path, tmp_path / "from", LITTLE)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "encrypted"])
def test_a_damaged_archive_is_one_line(tmp_path, kind, damage):
    write_pictures(tmp_path / "from", kind)
    path = tmp_path / f"from/train_32x32.{kind}"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "cut":
        content = content[: len(content) // 2]
    elif kind == "zip":  # the flag of every member, in its header and in the directory
        for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            for found in re.finditer(re.escape(mark), bytes(content)):
                content[found.start() + offset] |= 1
    else:
        pytest.skip("only a .zip is encrypted")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"(is damaged .*|is not a readable PNG): get") as caught:
        imagenet.prepare("imagenet32_old", tmp_path, tmp_path / "from", LITTLE)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "imagenet32_old").exists()


@pytest.mark.parametrize(
    "error",
    [tarfile.ReadError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error,
     struct.error, EOFError, RuntimeError],
)  # fmt: skip
def test_every_kind_of_damage_is_one_line(error):
    def read():
        raise error("cause")

    reader = imagenet_files.Pictures(pathlib.Path("t.zip"), pathlib.Path("v.zip"), 32)
    with pytest.raises(ValueError, match=r"^t\.zip is damaged at a\.png \(cause\): get it again$"):
        reader._decode("train", "a.png", read)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(4, np.int32), "holds int32 of shape .4,.: labels are 5 integers"),
        (np.zeros(5), "holds float64"),
        (np.full(5, 1000, np.int32), r"has labels 1000 \.\.\. 1000: for num_classes = 1000"),
        (np.zeros(5, np.int64), "test_labels.npy has 168 bytes"),
        (None, "cannot read the labels in .*: No such file"),
    ],
)
def test_labels_that_were_changed_are_noticed(tmp_path, labels, message):
    write_batches(tmp_path / "from")
    imagenet.prepare("imagenet32_new", tmp_path, tmp_path / "from", LITTLE)
    path = tmp_path / "imagenet32_new/test_labels.npy"
    path.unlink()
    if labels is not None:
        np.save(path, labels)
    with pytest.raises(ValueError, match=rf"is damaged \(.*{message}"):
        load("imagenet32_new", tmp_path, "test")


class Program:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_pickle_runs_no_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_batches(tmp_path / "from", "pickle")
    (tmp_path / "from/val_data").write_bytes(pickle.dumps({"data": Program()}))
    with pytest.raises(ValueError, match=r"is not a batch of ImageNet \(it asks for \w+\.system\)"):
        imagenet.prepare("imagenet32_new", tmp_path, tmp_path / "from", LITTLE)
    assert not (tmp_path / "ran").exists()
