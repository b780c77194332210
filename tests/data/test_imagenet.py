"""Both versions of downsampled ImageNet are prepared whole and in the order of their files."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.data.little_imagenet import LITTLE, load, write_batches, write_pictures
from vdm.data import arrays, imagenet
from vdm.data.sources import Split

ROOT = pathlib.Path(__file__).parents[2]


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
