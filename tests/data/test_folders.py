"""Folders and zips of pictures: every file is read, counted as skipped, or refused by name."""

import errno
import hashlib
import os
import re
import shutil
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image

from vdm.data import folders, user_files

RNG = np.random.default_rng(0)


def put(folder, count=4, shape=(8, 8, 3), ending="png"):
    """Writes `count` pictures of noise to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = RNG.integers(0, 256, (count, *shape), np.uint8)
    for row, image in enumerate(codes):
        Image.fromarray(image[..., 0] if shape[-1] == 1 else image).save(folder / f"{row}.{ending}")
    return codes


def source(root, holdout=0, **kwargs):
    kwargs = {"num_test": 2} | kwargs
    return user_files.folder("", holdout, path=str(root), **kwargs)


def rows(split):
    return {image.tobytes() for image in split.examples}


def count(root, **kwargs):
    found = source(root, **kwargs)
    return len(found.load("train").examples) + len(found.load("test").examples)


def refused(make, *says):
    with pytest.raises(ValueError, match=says[0]) as caught:
        make()
    for text in says:
        assert re.search(text, str(caught.value))
    assert "\n" not in str(caught.value)


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


# --- duplicates -------------------------------------------------------------------------------


@pytest.fixture
def doubled(tmp_path):
    """A folder of 40 pictures and copies of 20 of them under other names."""
    put(tmp_path / "one", 40)
    (tmp_path / "other").mkdir()
    for row in range(20):
        shutil.copy(tmp_path / f"one/{row}.png", tmp_path / f"other/copy_{row}.png")
    return tmp_path


def test_duplicates_across_the_splits_are_counted(doubled):
    found = source(doubled, 12, num_test=15)
    train, held, test = (found.load(split) for split in ("train", "holdout", "test"))
    again = sum(image.tobytes() in rows(train) for image in test.examples)
    of_held = sum(image.tobytes() in rows(train) for image in held.examples)
    # Those that are held out are no training pictures: nothing was learnt from them.
    assert 0 < again < sum(image.tobytes() in rows(train) | rows(held) for image in test.examples)
    assert of_held > 0
    for split in (train, held):
        notes = "\n".join(split.notes)
        assert f"{again} of 15 test pictures have exactly the pixels of a training picture" in notes
        assert f"{of_held} of 12 held-out pictures have exactly the pixels" in notes
        assert "data.kwargs.duplicates = 'drop'" in notes


def test_the_remedy_leaves_no_duplicate_and_the_rest_where_it_was(doubled):
    kept, dropped = (source(doubled, num_test=15, duplicates=how) for how in ("keep", "drop"))
    train, test = dropped.load("train"), dropped.load("test")
    assert not rows(train) & rows(test)
    assert len(train.examples) + len(test.examples) == 40 == len(rows(train) | rows(test))
    assert rows(train) == rows(kept.load("train"))
    assert rows(test) == rows(kept.load("test")) - rows(train)
    assert "20 of these have the pixels of another one and are dropped" in train.notes
    alone = source(doubled, num_test=15, duplicates="drop").load("test")  # read first
    np.testing.assert_array_equal(alone.examples, test.examples)
    split = source(doubled, 12, num_test=15, duplicates="drop")
    parts = [rows(split.load(name)) for name in ("train", "holdout", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 40


def test_duplicates_between_train_and_test_folders_are_counted(tmp_path):
    put(tmp_path / "train", 6)
    put(tmp_path / "test", 3)
    shutil.copy(tmp_path / "train/4.png", tmp_path / "test/x.png")
    Image.open(tmp_path / "train/5.png").save(tmp_path / "test/y.bmp")  # other bytes, same pixels
    assert "2 of 5 test pictures" in source(tmp_path, num_test=0).load("train").notes[1]
    found = source(tmp_path, num_test=0, duplicates="drop")
    assert len(found.load("test").examples) == 3
    shutil.rmtree(tmp_path / "test")
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    found = source(tmp_path, num_test=0, duplicates="drop")
    refused(lambda: found.load("test"), "every test picture is a training example too")
    refused(lambda: source(tmp_path, duplicates="train"), "duplicates is 'train': set it to 'keep'")


# --- classes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("halves", [False, True])
def test_folders_are_classes_and_pictures_keep_theirs(tmp_path, halves):
    for half in ("train/", "test/") if halves else ("",):
        for label, name in enumerate(("apple", "bee", "été")):
            folder = tmp_path / f"{half}{unicodedata.normalize('NFD', name)}"
            for row in range(6):
                (folder / "deep").mkdir(parents=True, exist_ok=True)
                image = np.full((2, 2, 1), 60 * label + row, np.uint8)
                Image.fromarray(image[..., 0]).save(folder / "deep" / f"{row}.png")
    found = source(tmp_path, labels=True, num_test=0 if halves else 5)
    assert found.num_classes == 3
    for split in ("train", "test"):
        codes, labels = found.load(split).examples, found.load(split).labels
        np.testing.assert_array_equal(labels, codes[:, 0, 0, 0] // 60)
        assert labels.dtype == np.int32
        assert source(tmp_path, num_test=0 if halves else 5).load(split).labels is None
    held = user_files.folder(
        "", 3, path=str(tmp_path), labels=True, num_test=0 if halves else 5, duplicates="drop"
    ).load("holdout")
    np.testing.assert_array_equal(held.labels, held.examples[:, 0, 0, 0] // 60)


def test_classes_are_known_without_reading_a_picture(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for row in range(4):
            (tmp_path / name / f"{row}.png").write_bytes(b"not yet")
    assert source(tmp_path, labels=True, shape=(4, 4, 1)).num_classes == 2
    gone = source(tmp_path / "gone", labels=True, shape=(4, 4, 1), num_classes=5)
    assert (gone.shape, gone.num_classes) == ((4, 4, 1), 5)
    refused(lambda: gone.load("train"), "gone is neither a folder")


def test_mistakes_of_classes_are_one_line(tmp_path):
    put(tmp_path / "two/a")
    put(tmp_path / "two/b")
    three = source(tmp_path / "two", labels=True, num_classes=3)
    refused(lambda: three.load("train"), "has 2 folders of classes, and data.kwargs.num_classes is")
    refused(lambda: source(tmp_path / "two", num_classes=2), "only with data.kwargs.labels = True")
    put(tmp_path / "train/a")
    put(tmp_path / "test/b")
    refused(lambda: source(tmp_path, num_test=0, labels=True), "class 'b' has pictures for testing")
    put(tmp_path / "train", 1)
    refused(lambda: source(tmp_path, num_test=0, labels=True), r"0\.png does not lie in the")


# --- zips -------------------------------------------------------------------------------------


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
