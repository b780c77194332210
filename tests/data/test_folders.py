"""Every file of a folder of pictures is read, counted as skipped, or refused by name."""

import errno
import hashlib
import os
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tests.data.own_pictures import RNG, count, put, refused, rows, source
from vdm.data import folders

# --- links, rights, hidden files --------------------------------------------------------------


def test_links_to_folders_and_pictures_are_followed(tmp_path):
    put(tmp_path / "set/cats")
    put(tmp_path / "elsewhere/deep")
    (tmp_path / "set/dogs").symlink_to(tmp_path / "elsewhere")
    assert count(tmp_path / "set") == 8
    (tmp_path / "set/one.png").symlink_to(tmp_path / "elsewhere/deep/0.png")
    (tmp_path / "set/relative").symlink_to("../elsewhere/deep")
    assert count(tmp_path / "set") == 13
    (tmp_path / "all").symlink_to("set")
    assert count(tmp_path / "all") == 13


def test_train_and_test_may_be_links(tmp_path):
    one, other = put(tmp_path / "a"), put(tmp_path / "b", 3)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train").symlink_to("../a")
    (tmp_path / "set/test").symlink_to("../b")
    found = source(tmp_path / "set", num_test=0)
    assert rows(found.load("train")) == {image.tobytes() for image in one}
    assert rows(found.load("test")) == {image.tobytes() for image in other}


@pytest.mark.parametrize("target", ["..", ".", "../..", "../dogs"])
def test_links_in_a_circle_end_and_are_counted(tmp_path, target):
    put(tmp_path / "set/cats")
    put(tmp_path / "set/dogs")
    (tmp_path / "set/cats/round").symlink_to(target)
    if target == "../dogs":  # two that lead to each other
        (tmp_path / "set/dogs/round").symlink_to("../cats")
    found = source(tmp_path / ("set" if target != "../.." else ""))
    assert {image.tobytes() for split in ("train", "test") for image in found.load(split).examples}
    (note,) = [line for line in found.load("train").notes if "skipped" in line]
    assert "links to a folder that contains them" in note


@pytest.mark.parametrize("name", ["dogs", "1.png"])
def test_a_link_to_nothing_is_refused(tmp_path, name):
    put(tmp_path / "cats")
    (tmp_path / "cats" / name).unlink(missing_ok=True)
    (tmp_path / "cats" / name).symlink_to("/not/mounted")
    refused(
        lambda: count(tmp_path), rf"cats/{name} is a link to /not/mounted, which does not exist"
    )
    (tmp_path / "cats" / name).unlink()
    (tmp_path / "cats" / name).symlink_to(name)
    refused(lambda: count(tmp_path), rf"cats/{name} ")


def test_a_folder_or_picture_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    put(tmp_path / "cats")
    put(tmp_path / "dogs")
    scandir, read_bytes = os.scandir, type(tmp_path).read_bytes

    def forbidden(path):
        if path.name in ("dogs", "2.png"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path: forbidden(path) or scandir(path))
        refused(lambda: count(tmp_path), r"dogs cannot be read \(Permission denied\): make it rea")
    shutil.rmtree(tmp_path / "dogs")
    with monkeypatch.context() as patch:
        patch.setattr(
            type(tmp_path), "read_bytes", lambda path: forbidden(path) or read_bytes(path)
        )
        refused(lambda: count(tmp_path), r"2\.png cannot be read \(Permission denied\): make it")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_rights_of_the_system_are_heeded(tmp_path):
    put(tmp_path / "cats")
    put(tmp_path / "dogs")
    (tmp_path / "dogs").chmod(0)
    try:
        refused(lambda: count(tmp_path), "dogs cannot be read")
    finally:
        (tmp_path / "dogs").chmod(0o755)


def test_a_pipe_is_not_waited_for(tmp_path):
    put(tmp_path / "cats", 8)
    os.mkfifo(tmp_path / "cats/pipe.png")
    assert source(tmp_path).load("train").notes[0].endswith("skipped 1 not files")


HIDDEN = [
    ".ipynb_checkpoints/0-checkpoint.png", ".thumbnails/large/0.png", "__MACOSX/._0.png",
    "._0.png", ".DS_Store", "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", ".Trash-1000/files/0.png",
    "lost+found/x.png",
]  # fmt: skip


@pytest.mark.parametrize("inside", ["", "cats/"])
@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_files_and_copies_are_skipped_and_counted(tmp_path, name, inside):
    put(tmp_path / "cats", 8)
    path = tmp_path / (inside + name)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tmp_path / "cats/0.png", path)
    found = source(tmp_path)
    assert count(tmp_path) == 8
    assert found.load("train").notes[0].endswith("skipped 1 hidden")


def test_a_summary_says_what_was_read_and_what_was_not_and_why(tmp_path):
    put(tmp_path / "cats", 8)
    for name in ("a.heic", "b.HEIC", "c.avif", "notes.txt", "Makefile", "d.jp2"):
        (tmp_path / "cats" / name).write_bytes(b"?")
    found = source(tmp_path)
    for split in ("train", "test"):
        note = found.load(split).notes[0]
        assert str(tmp_path) in note
        assert "read 6 pictures for training and 2 for testing; skipped" in note
        for says in ("2 .heic", "1 .avif", "1 .jp2", "1 .txt", "1 without an ending"):
            assert says in note
        assert "pictures not read: convert them to PNG" in note
    shutil.rmtree(tmp_path / "cats")
    put(tmp_path / "cats", 8)
    assert source(tmp_path).load("train").notes == (
        f"{tmp_path}: read 6 pictures for training and 2 for testing; skipped nothing",
    )


def test_pictures_of_other_formats_alone_are_named(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"?")
    refused(lambda: count(tmp_path), r"has 0 pictures and 1 \.heic \(pictures not read: convert")
    for half in ("train", "test"):
        (tmp_path / half).mkdir()
        (tmp_path / half / "a.avif").write_bytes(b"?")
    refused(lambda: count(tmp_path, num_test=0), "train has no pictures", r"2 \.avif")


def test_pictures_beside_train_and_test_are_counted(tmp_path):
    for half in ("train", "test", "val"):
        put(tmp_path / half)
    (note,) = source(tmp_path, num_test=0).load("test").notes
    assert "read 4 pictures for training and 4 for testing" in note
    assert "skipped 4 pictures outside train/ and test/" in note


# --- names ------------------------------------------------------------------------------------

NAMES = [f"{word}{i}.png" for word in ("é", "ü", "が", "Å") for i in range(6)]


def test_one_split_for_both_forms_of_names(tmp_path):
    codes = RNG.integers(0, 256, (len(NAMES), 4, 4, 3), np.uint8)
    for form in ("NFC", "NFD"):
        (tmp_path / form).mkdir()
        for name, image in zip(NAMES, codes, strict=True):
            Image.fromarray(image).save(tmp_path / form / unicodedata.normalize(form, name))
    one, other = (source(tmp_path / form, num_test=10) for form in ("NFC", "NFD"))
    for split in ("train", "test"):
        np.testing.assert_array_equal(one.load(split).examples, other.load(split).examples)
    # Those that have both, as a copy from macOS makes them, are one picture.
    shutil.copytree(tmp_path / "NFC", tmp_path / "NFD", dirs_exist_ok=True)
    assert len(list((tmp_path / "NFD").iterdir())) == 2 * len(NAMES)
    both = source(tmp_path / "NFD", num_test=10)
    np.testing.assert_array_equal(both.load("test").examples, one.load("test").examples)
    assert f"skipped {len(NAMES)} of the same name in another form" in both.load("test").notes[0]
    Image.fromarray(codes[1]).save(tmp_path / "NFC" / unicodedata.normalize("NFD", NAMES[0]))
    refused(lambda: count(tmp_path / "NFC"), "exists twice, with its name in two forms")


def test_names_in_ascii_lie_where_they_always_did():
    for name in ("cats/1.png", "a b/C.jpeg"):
        assert folders.sort_key(name) == (hashlib.sha256(name.encode()).hexdigest(), name)
