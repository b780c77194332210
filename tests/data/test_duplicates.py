"""Test pictures that are training pictures too are counted, and dropped where the user says so."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.data.own_pictures import put, refused, rows, source


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
