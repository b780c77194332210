"""Folders of pictures are classes, and every picture keeps its own."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from tests.data.own_pictures import put, refused, source
from vdm.data import user_files


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
