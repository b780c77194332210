"""Both versions of downsampled ImageNet, from stand-ins of a few images each."""

import gzip
import io
import json
import lzma
import os
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from vdm.config import registry
from vdm.data import arrays, imagenet, imagenet_files
from vdm.data.imagenet import Version
from vdm.data.sources import Split

ROOT = pathlib.Path(__file__).parents[2]
LITTLE = {"old": Version(12, 4, 0), "new": Version(20, 5, 1000)}


def codes_of(count, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def png(codes):
    buffer = io.BytesIO()
    Image.fromarray(codes).save(buffer, "PNG")
    return buffer.getvalue()


def write_pictures(folder, kind="folder", train=12, test=4, size=32):
    """The "old" version: PNGs named by their row, stored in another order."""
    folder.mkdir(exist_ok=True)
    both = codes_of(train, size), codes_of(test, size, seed=1)
    for name, codes in zip(("train", "valid"), both, strict=True):
        stem = f"{name}_{size}x{size}"
        rows = np.random.default_rng(2).permutation(len(codes))
        files = {f"{stem}/{row:05d}.png": png(codes[row]) for row in rows}
        files[f"{stem}/._00001.png"] = b"what macOS adds"
        files[f"{stem}/README.txt"] = b"no picture"
        if kind == "folder":
            (folder / stem).mkdir()
            for path, content in files.items():
                (folder / path).write_bytes(content)
        elif kind == "zip":
            with zipfile.ZipFile(folder / f"{stem}.zip", "w") as archive:
                for path, content in files.items():
                    archive.writestr(path, content)
        else:
            mode = "w:gz" if kind.endswith("gz") else "w"
            with tarfile.open(folder / f"{stem}.{kind}", mode) as archive:
                for path, content in files.items():
                    member = tarfile.TarInfo(path)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return both


def write_batches(folder, kind="npz", train=20, test=5, size=32):
    """The "new" version: batches of planes with labels 1, 2, ..."""
    folder.mkdir(exist_ok=True)
    both = codes_of(train, size), codes_of(test, size, seed=1)
    labels = np.arange(train + test) % 1000
    names = [f"train_data_batch_{number}" for number in range(1, 11)]
    rows = [*np.array_split(np.arange(train), 10), train + np.arange(test)]
    every = np.concatenate(both)
    for name, part in zip([*names, "val_data"], rows, strict=True):
        data = every[part].transpose(0, 3, 1, 2).reshape(len(part), -1)
        batch = {"data": data, "labels": labels[part] + 1, "mean": data.mean(0)}
        if kind == "npz":
            np.savez(folder / f"{name}.npz", **batch)
        else:
            batch["labels"] = batch["labels"].tolist()
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return both, labels


def load(name, data_dir, split, holdout=0):
    source = registry.SOURCES[name](data_dir=str(data_dir), holdout=holdout)
    return source, source.load(split)


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "zip"])
@pytest.mark.parametrize("size", [32, 64])
def test_old_imagenet_is_in_the_order_of_its_names(tmp_path, kind, size):
    both = write_pictures(tmp_path / "from", kind, size=size)
    name = f"imagenet{size}_old"
    imagenet.prepare(name, tmp_path, tmp_path / "from", LITTLE)
    for split, codes in zip(("train", "test"), both, strict=True):
        source, found = load(name, tmp_path, split)
        np.testing.assert_array_equal(found.examples, codes)
        assert found.labels is None
        assert (source.name, source.shape, source.num_classes) == (name, (size, size, 3), 0)
        assert found.fingerprint == Split(split, codes, None).fingerprint
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
        "dataset.json", "test.npy", "train.npy",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["npz", "pickle"])
def test_new_imagenet_is_in_the_order_of_its_batches(tmp_path, kind):
    both, labels = write_batches(tmp_path / "from", kind)
    imagenet.prepare("imagenet32_new", tmp_path, tmp_path / "from", LITTLE)
    for split, codes, wanted in zip(
        ("train", "test"), both, (labels[:20], labels[20:]), strict=True
    ):
        source, found = load("imagenet32_new", tmp_path, split)
        np.testing.assert_array_equal(found.examples, codes)
        np.testing.assert_array_equal(found.labels, wanted)
        assert found.labels.dtype == np.int32
        assert source.num_classes == 1000


def test_one_version_is_not_prepared_as_the_other(tmp_path):
    write_pictures(tmp_path / "old")
    write_batches(tmp_path / "new")
    for name, folder, right in [
        ("imagenet32_new", "old", "imagenet32_old"),
        ("imagenet32_old", "new", "imagenet32_new"),
    ]:
        with pytest.raises(ValueError, match=f"prepare it as {right}$") as caught:
            imagenet.prepare(name, tmp_path, tmp_path / folder, LITTLE)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / name).exists()
    assert {name: facts.num_test for name, facts in imagenet.VERSIONS.items()} == {
        "old": 49_999, "new": 50_000,
    }  # fmt: skip


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


def test_a_folder_with_both_kinds_has_both_versions(tmp_path):
    write_pictures(tmp_path / "from")
    write_batches(tmp_path / "from")
    for version, count in (("old", 12), ("new", 20)):
        imagenet.prepare(f"imagenet32_{version}", tmp_path, tmp_path / "from", LITTLE)
        _, found = load(f"imagenet32_{version}", tmp_path, "train")
        assert (len(found.examples), found.labels is None) == (count, version == "old")


def test_pictures_have_no_labels_for_the_new_version(tmp_path):
    write_pictures(tmp_path / "from", train=20, test=5)
    with pytest.raises(ValueError, match="has pictures without labels, but imagenet32_new has"):
        imagenet.prepare("imagenet32_new", tmp_path, tmp_path / "from", LITTLE)


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


def test_a_prepared_set_is_mapped_and_not_hashed_again(tmp_path, monkeypatch):
    write_pictures(tmp_path / "from")
    imagenet.prepare("imagenet32_old", tmp_path, tmp_path / "from", LITTLE)
    facts = json.loads((tmp_path / "imagenet32_old/dataset.json").read_text())
    monkeypatch.setattr(arrays, "fingerprint", None)  # a call would fail
    _, train = load("imagenet32_old", tmp_path, "train")
    assert train.fingerprint == facts["splits"]["train"]["fingerprint"]
    assert type(train.examples) is np.ndarray
    assert isinstance(train.examples.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        train.examples[0] = 0
    monkeypatch.undo()
    # Of a part there is no stored one.
    _, kept = load("imagenet32_old", tmp_path, "train", holdout=3)
    _, held = load("imagenet32_old", tmp_path, "holdout", holdout=3)
    for part, rows in ((kept, slice(0, 9)), (held, slice(9, 12))):
        assert part.fingerprint == arrays.fingerprint(train.examples[rows])


def test_what_is_not_whole_is_not_read(tmp_path):
    with pytest.raises(ValueError, match=r"prepare imagenet32_old --data_dir=.* --from=FOLDER"):
        load("imagenet32_old", tmp_path, "test")
    write_pictures(tmp_path / "from")
    imagenet.prepare("imagenet32_old", tmp_path, tmp_path / "from", LITTLE)
    folder = tmp_path / "imagenet32_old"
    with (folder / "test.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(
        ValueError, match=r"is damaged \(test\.npy has .* bytes\): delete"
    ) as caught:
        load("imagenet32_old", tmp_path, "test")
    assert "\n" not in str(caught.value)
    (folder / "dataset.json").unlink()
    with pytest.raises(ValueError, match="is not a complete set: delete it"):
        imagenet.prepare("imagenet32_old", tmp_path, tmp_path / "from", LITTLE)


def test_killed_while_writing_it_is_prepared_by_the_same_command(tmp_path):
    both = write_pictures(tmp_path / "from")
    code = """
import os, signal, sys
from pathlib import Path
from vdm.data import arrays, imagenet
root, killed_at = Path(sys.argv[1]), sys.argv[2]
put = arrays.ArrayFile.put
def killed(self, row, codes):
    put(self, row, codes)
    if row == 7:
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
if killed_at == "image":
    arrays.ArrayFile.put = killed
if killed_at == "rename":
    Path.rename = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
imagenet.prepare("imagenet32_old", root, root / "from",
                 {"old": imagenet.Version(12, 4, 0), "new": imagenet.Version(20, 5, 1000)})
"""
    for killed_at in ("image", "rename", ""):
        process = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), killed_at],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False,
        )  # fmt: skip
        assert process.returncode == (-9 if killed_at else 0), process.stderr
        assert (tmp_path / "imagenet32_old.partial").exists() == bool(killed_at)
        assert (tmp_path / "imagenet32_old").exists() == (not killed_at)
    np.testing.assert_array_equal(load("imagenet32_old", tmp_path, "train")[1].examples, both[0])
