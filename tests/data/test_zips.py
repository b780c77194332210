"""A zip of pictures is read as the folder in it; an unsafe or damaged one is refused."""

import shutil
import zipfile

import numpy as np
import pytest

from tests.data.own_pictures import count, put, refused, rows, source


def zipped(folder, path, top=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, top + file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("top", ["", "pets/", "pets/2024/"])
@pytest.mark.parametrize("halves", [False, True])
def test_a_zip_is_read_as_the_folder_in_it(tmp_path, top, halves):
    for half in ("train/", "test/") if halves else ("",):
        put(tmp_path / "set" / f"{half}cats", 5)
        put(tmp_path / "set" / f"{half}dogs", 5)
        (tmp_path / "set" / f"{half}cats/notes.txt").write_text("no picture")
    hidden = tmp_path / "set/__MACOSX/cats"
    hidden.mkdir(parents=True)
    shutil.copy(next((tmp_path / "set").rglob("*.png")), hidden / "._0.png")
    kwargs = {"labels": True, "num_test": 0 if halves else 3}
    path = zipped(tmp_path / "set", tmp_path / "set.zip", top)
    folder, archive = source(tmp_path / "set", **kwargs), source(path, **kwargs)
    assert archive.num_classes == 2
    for split in ("train", "test"):
        np.testing.assert_array_equal(folder.load(split).examples, archive.load(split).examples)
        np.testing.assert_array_equal(folder.load(split).labels, archive.load(split).labels)
        assert folder.load(split).fingerprint == archive.load(split).fingerprint
        assert "1 hidden" in archive.load(split).notes[0]
        assert f"{2 if halves else 1} .txt" in archive.load(split).notes[0]


@pytest.mark.parametrize("top", ["", "cats/", "pets/cats/"])
def test_a_zip_of_one_class_is_read_as_the_folder_of_it(tmp_path, top):
    put(tmp_path / "set" / top, 8)
    path = zipped(tmp_path / "set", tmp_path / "set.zip")
    if not top:  # no class at all
        refused(lambda: source(path, labels=True), r"\.png does not lie in the folder of a class")
        return
    found = source(path, labels=True)
    assert (found.num_classes, found.load("train").labels.tolist()) == (1, [0] * 6)
    (tmp_path / "one").mkdir()
    (tmp_path / "set" / top).rename(tmp_path / "one/cats")
    folder, unlabelled = source(tmp_path / "one", labels=True), source(path)
    np.testing.assert_array_equal(found.load("test").examples, folder.load("test").examples)
    assert unlabelled.load("test").labels is None
    assert rows(unlabelled.load("test")) | rows(unlabelled.load("train")) == rows(
        folder.load("test")
    ) | rows(folder.load("train"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(tmp_path / "one/cats/0.png", f"{top}deep/0.png")
    refused(lambda: source(path, labels=True), r"\.png does not lie in the folder of a class")


def test_zips_that_are_unsafe_encrypted_or_damaged_are_refused(tmp_path):
    put(tmp_path / "set", 8)
    whole = zipped(tmp_path / "set", tmp_path / "whole.zip").read_bytes()
    for name in ("../evil.png", "/etc/evil.png", "a/../../evil.png", "a\\evil.png"):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            archive.writestr("0.png", "x")
            archive.writestr(name, "x")
        refused(lambda: source(tmp_path / "bad.zip"), "whose path leads out")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("0.png", "x")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("0.png", "y")
    refused(lambda: source(tmp_path / "bad.zip"), r"'0\.png' more than once")
    at = whole.index(b"PK\x01\x02") + 8  # the flags of the first entry of the directory
    (tmp_path / "bad.zip").write_bytes(whole[:at] + b"\x01" + whole[at + 1 :])
    refused(lambda: source(tmp_path / "bad.zip"), "is encrypted .*: extract it to a folder")
    (tmp_path / "bad.zip").write_bytes(whole[:-30])
    refused(lambda: source(tmp_path / "bad.zip"), "nor a .zip that can be read")
    (tmp_path / "bad.zip").write_text("no zip")
    refused(lambda: source(tmp_path / "bad.zip"), "nor a .zip that can be read")
    middle = whole.index(b"PK\x03\x04", 1) - 40  # pixels of the first picture
    (tmp_path / "bad.zip").write_bytes(whole[:middle] + b"damaged!" + whole[middle + 8 :])
    refused(lambda: count(tmp_path / "bad.zip"), r"0\.png .*cannot be read as a picture")
