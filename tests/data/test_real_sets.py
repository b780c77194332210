"""The whole Fashion-MNIST and CIFAR-10, prepared from their original files in ../shared/data."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vdm.data import image_sets, prepare, sources
from vdm.data.downloads import ORIGINALS, find

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"

pytestmark = pytest.mark.slow

# First labels in the order of the files; means over 255 of the training images.
FASHION = {"train": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5], "test": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]}
CIFAR = {"train": [6, 9, 9, 4, 1, 1, 2, 7, 8, 3], "test": [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]}
CIFAR_IN_TFDS = [7, 8, 4, 4, 6, 5]
CIFAR_MEANS = [0.49140, 0.48216, 0.44653]


def shared(path):
    if not (SHARED / path).exists():
        pytest.skip(f"the original files are not here: {path} belongs in ../shared")
    return SHARED / path


@pytest.fixture(scope="module")
def cifar10_folder(tmp_path_factory):
    """The six official .bin files."""
    spec = importlib.util.spec_from_file_location("unpack", shared("tools/cifar10_unpack.py"))
    assert spec is not None
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    folder = tmp_path_factory.mktemp("cifar10")
    unpack.main(folder)
    return folder


def tfds_order(split, count):
    from tensorflow_datasets.core.hashing import Hasher

    return np.array(sorted(range(count), key=Hasher(split).hash_key))


def assert_loads_in_the_order_of_tfds(name, data_dir, arrays):
    """Returns {split: what is loaded}."""
    source = sources.named_tfds(name, str(data_dir), 0)
    loaded = {split: source.load(split) for split in arrays}
    for split, (images, labels) in arrays.items():
        order = tfds_order(split, len(images))
        np.testing.assert_array_equal(loaded[split].examples, images[order])
        np.testing.assert_array_equal(loaded[split].labels, labels[order])
    return loaded


def test_fashion_mnist_killed_twice_is_prepared_by_the_same_command(tmp_path):
    folder = shared("data/fashion_mnist")
    command = [sys.executable, "-m", "vdm.data.prepare", "fashion_mnist",
               f"--data_dir={tmp_path}", f"--from={folder}"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for wait in (0.0, 1.0):  # at the start of the writing, and in the middle
        seen = set((tmp_path / "fashion_mnist").glob("incomplete*"))
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        while set((tmp_path / "fashion_mnist").glob("incomplete*")) == seen:
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(wait)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "fashion_mnist/3.0.1").exists()
    subprocess.run(command, env=env, check=True, timeout=300)
    arrays = image_sets.read_idx(find(ORIGINALS["fashion_mnist"], folder))
    for split, labels in FASHION.items():
        assert arrays[split][1][:10].tolist() == labels
    train = arrays["train"][0]
    assert (train.shape, arrays["test"][0].shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    assert train.mean() / 255 == pytest.approx(0.28604, abs=5e-6)
    assert train.std() / 255 == pytest.approx(0.35302, abs=5e-6)
    assert_loads_in_the_order_of_tfds("fashion_mnist", tmp_path, arrays)


def test_cifar10_is_the_published_one_in_the_order_of_tfds(tmp_path, cifar10_folder, capsys):
    args = ["cifar10", f"--data_dir={tmp_path}", f"--from={cifar10_folder}"]
    assert prepare.main(args) == 0
    arrays = image_sets.read_cifar10([cifar10_folder])
    for split, labels in CIFAR.items():
        assert arrays[split][1][:10].tolist() == labels
    train = arrays["train"][0]
    assert (train.shape, arrays["test"][0].shape) == ((50_000, 32, 32, 3), (10_000, 32, 32, 3))
    np.testing.assert_allclose(train.mean(axis=(0, 1, 2)) / 255, CIFAR_MEANS, atol=5e-6)
    loaded = assert_loads_in_the_order_of_tfds("cifar10", tmp_path, arrays)
    assert loaded["train"].labels[:6].tolist() == CIFAR_IN_TFDS
    assert prepare.main(args) == 0
    assert "cifar10 is there already" in capsys.readouterr().out


def test_cifar10_with_one_byte_changed_is_refused(tmp_path, cifar10_folder, capsys):
    for path in cifar10_folder.glob("*.bin"):
        (tmp_path / path.name).symlink_to(path)
    changed = tmp_path / "data_batch_4.bin"
    content = bytearray(changed.read_bytes())
    content[12_345] ^= 1
    changed.unlink()
    changed.write_bytes(content)
    assert prepare.main(["cifar10", f"--data_dir={tmp_path}", f"--from={tmp_path}"]) == 2
    assert "data_batch_4.bin" in capsys.readouterr().err
