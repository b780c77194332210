"""Downloads from a local server, and the TFDS sets made from them, with a few images."""

import dataclasses
import errno
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest

from vdm.data import downloads, image_sets, prepare, sources, tfds_writer
from vdm.data.downloads import Original
from vdm.data.records import read_records

ROOT = pathlib.Path(__file__).parents[2]
NUM_TRAIN, NUM_TEST = 30, 12


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        content = server.files[self.path]
        asked = (
            re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if server.ranges else None
        )
        start = int(asked[1]) if asked else 0
        server.starts.append((self.path, start))
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = min(len(content), server.stop_at)
        self.wfile.write(content[start:end])
        self.wfile.flush()
        if end < len(content) and server.stall:
            server.stalled.set()
            server.resume.wait(30)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """Serves `files` {path: bytes}; after `stop_at` bytes of a file it stalls or hangs up."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files, running.starts = {}, []
        running.ranges, running.stall, running.stop_at = True, False, 1 << 40
        running.stalled, running.resume = threading.Event(), threading.Event()
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.resume.set()
        running.shutdown()


def published(server, files):
    """The Original records of files on the server."""
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    server.files |= {f"/{name}": content for name, content in files.items()}
    return tuple(
        Original(address + name, len(content), hashlib.sha256(content).hexdigest())
        for name, content in files.items()
    )


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes(), mtime=0)


@functools.cache
def little_mnist():
    """The four files of a small MNIST, and its images and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_TRAIN + NUM_TEST, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, NUM_TRAIN + NUM_TEST, dtype=np.uint8)
    train, test = slice(NUM_TRAIN), slice(NUM_TRAIN, None)
    files = {
        "train-images-idx3-ubyte.gz": idx(images[train]),
        "train-labels-idx1-ubyte.gz": idx(labels[train]),
        "t10k-images-idx3-ubyte.gz": idx(images[test]),
        "t10k-labels-idx1-ubyte.gz": idx(labels[test]),
    }
    return files, images[..., None], labels


def tfds_order(split, count):
    """The order in which TFDS stores the records of keys 0 ... count - 1: by a hash of the key."""
    from tensorflow_datasets.core.hashing import Hasher

    hasher = Hasher(split)
    return sorted(range(count), key=hasher.hash_key)


def assert_is_the_set(data_dir, name, version, images, labels):
    start = 0
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        found, found_labels = read_records(data_dir, name, version, split, images.shape[1:])
        order = [start + place for place in tfds_order(split, count)]
        np.testing.assert_array_equal(found, images[order])
        np.testing.assert_array_equal(found_labels, labels[order])
        start += count


# --- downloads --------------------------------------------------------------------------------


def test_files_are_downloaded_verified_and_not_asked_for_again(server, tmp_path, capfd):
    files = {"a.gz": b"a" * 200_000, "b.gz": b"bcd"}
    paths = downloads.fetch(published(server, files), tmp_path / "new")
    assert [path.read_bytes() for path in paths] == list(files.values())
    out, err = capfd.readouterr()
    assert (out.count("\n"), err) == (2, "")  # no bar where there is no terminal
    assert "downloaded a.gz: 200,000 bytes, verified" in out
    downloads.fetch(published(server, files), tmp_path / "new")
    assert server.starts == [("/a.gz", 0), ("/b.gz", 0)]


def test_a_download_goes_on_where_it_stopped(server, tmp_path):
    content = np.random.default_rng(0).bytes(300_000)
    (file,) = published(server, {"a.gz": content})
    server.stop_at = 100_000
    with pytest.raises(
        ValueError, match=r"100,000 of 300,000 bytes; run the same command again to resume"
    ):
        downloads.fetch([file], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gz.part"]
    server.stop_at = 1 << 40
    (path,) = downloads.fetch([file], tmp_path)
    assert path.read_bytes() == content
    assert server.starts == [("/a.gz", 0), ("/a.gz", 100_000)]
    assert not (tmp_path / "a.gz.part").exists()


def test_a_whole_part_is_not_asked_for_and_a_server_without_ranges_starts_over(server, tmp_path):
    files = published(server, {"a.gz": b"abcdef", "b.gz": b"ghijkl"})
    server.ranges = False
    (tmp_path / "a.gz.part").write_bytes(b"abcdef")
    (tmp_path / "b.gz.part").write_bytes(b"ghi")
    paths = downloads.fetch(files, tmp_path)
    assert [path.read_bytes() for path in paths] == [b"abcdef", b"ghijkl"]
    assert server.starts == [("/b.gz", 0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"abcdeX", "its SHA-256 is"), (b"abcdefg", "it has 7 bytes, and the published one 6")],
)
def test_another_file_than_the_published_one_is_refused(server, tmp_path, content, message):
    (file,) = published(server, {"a.gz": b"abcdef"})
    server.files["/a.gz"] = content
    with pytest.raises(ValueError, match=message) as caught:
        downloads.fetch([file], tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())  # the next attempt starts anew
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        downloads.find([file], tmp_path)


@pytest.mark.parametrize("content", [b"abcdeX", b"abcdefg"])
def test_another_file_under_the_name_of_the_published_one_is_refused(server, tmp_path, content):
    (file,) = published(server, {"a.gz": b"abcdef"})
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"a\.gz is not the published file: .*; delete it"
    ) as caught:
        downloads.fetch([file], tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.gz").read_bytes() == content
    assert server.starts == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip"])
def test_a_damaged_gzip_is_one_line(tmp_path, damage):
    content = bytearray(idx(np.zeros(9, np.uint8) + np.arange(9, dtype=np.uint8)))
    content[-9] ^= 255 * (damage == "flipped")
    path = tmp_path / "a.gz"
    path.write_bytes({"cut": content[:-12], "no gzip": b"text"}.get(damage, content))
    with pytest.raises(ValueError, match=r"a\.gz is not a complete \.gz \(.*\): get it again"):
        image_sets._read_idx(path)


def test_no_answer_is_one_line_with_the_way_around(tmp_path):
    file = Original("http://127.0.0.1:9/a.gz", 6, "0" * 64)  # nothing listens there
    with pytest.raises(ValueError, match=r"cannot download .* refused .*--from=FOLDER") as caught:
        downloads.fetch([file], tmp_path)
    assert "\n" not in str(caught.value)


def test_a_part_longer_than_the_file_of_the_server_is_dropped(server, tmp_path):
    (file,) = published(server, {"a.gz": b"abcdef"})
    server.files["/a.gz"] = b"abc"
    (tmp_path / "a.gz.part").write_bytes(b"abcd")
    with pytest.raises(ValueError, match="Range Not Satisfiable"):
        downloads.fetch([file], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", list(downloads.ORIGINALS))
def test_the_published_files_are_those_that_tfds_records(name):
    import tensorflow_datasets as tfds

    known = tfds.builder_cls(name).url_infos
    for file in downloads.ORIGINALS[name]:
        assert (known[file.url].size, known[file.url].checksum) == (file.size, file.sha256)


# --- sets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(image_sets.SETS))
def test_versions_and_features_are_those_of_tfds(name, tmp_path):
    import tensorflow_datasets as tfds

    facts = image_sets.SETS[name]
    ours = image_sets.build_writer(facts, {}, tmp_path)
    theirs = tfds.builder(name, data_dir=tmp_path)
    assert (ours.name, ours.version) == (theirs.name, theirs.version)
    assert ours.info.features.to_json() == theirs.info.features.to_json()
    assert ours.info.supervised_keys == theirs.info.supervised_keys
    if name != "cifar10":  # TFDS reads its names from the archive
        assert ours.info.features["label"].names == theirs.info.features["label"].names
    assert sources.TFDS_FACTS[name] == (facts.shape, len(facts.classes))


def test_every_set_has_a_name_and_its_files():
    assert prepare.NAMES[1:4] == tuple(image_sets.SETS) == tuple(downloads.ORIGINALS)


def test_mnist_is_prepared_in_the_order_of_tfds(server, tmp_path):
    files, images, labels = little_mnist()
    facts = image_sets.SETS["mnist"]
    image_sets.prepare(facts, tmp_path, None, published(server, files))
    assert_is_the_set(tmp_path, "mnist", "3.0.1", images, labels)
    assert (tmp_path / "downloads/mnist/t10k-labels-idx1-ubyte.gz").is_file()
    source = sources.named_tfds("mnist", str(tmp_path), 5)
    assert (len(source.load("train").examples), source.name) == (NUM_TRAIN - 5, "mnist")


def cifar10_members():
    """The .bin files of a small CIFAR-10, their checksums, and its images and labels."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (NUM_TRAIN + NUM_TEST, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, NUM_TRAIN + NUM_TEST, dtype=np.uint8)
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    rows = np.concatenate([labels[:, None], planes], axis=1)
    parts = [*np.split(rows[:NUM_TRAIN], 5), rows[NUM_TRAIN:]]
    members = {
        name: part.tobytes() for name, part in zip(image_sets.CIFAR10_SHA1, parts, strict=True)
    }
    sums = {name: hashlib.sha1(content).hexdigest() for name, content in members.items()}
    facts = image_sets.SETS["cifar10"]
    read = functools.partial(image_sets.read_cifar10, sums=sums)
    return members, dataclasses.replace(facts, read=read), images, labels


def archive_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["download", "archive", "folder of it", "folder of .bin"])
def test_cifar10_is_prepared_from_its_archive_or_its_files(server, tmp_path, kind):
    members, facts, images, labels = cifar10_members()
    content = archive_of(members)
    files = published(server, {"cifar-10-binary.tar.gz": content})
    place = tmp_path / "place"
    place.mkdir()
    if "archive" in kind or kind == "folder of it":
        (place / files[0].name).write_bytes(content)
    for name, part in members.items() if "bin" in kind else ():
        (place / name).write_bytes(part)
    origin = {"download": None, "archive": place / files[0].name}.get(kind, place)
    image_sets.prepare(facts, tmp_path, origin, files)
    assert_is_the_set(tmp_path, "cifar10", "3.0.2", images, labels)
    assert bool(server.starts) == (kind == "download")


def test_another_cifar10_is_refused_in_one_line(server, tmp_path):
    members, facts, _, _ = cifar10_members()
    files = published(server, {"cifar-10-binary.tar.gz": b"no archive"})
    (tmp_path / "test_batch.bin").write_bytes(members["test_batch.bin"])
    for place, message in [
        (tmp_path, "has no data_batch_1.bin, data_batch_2.bin"),
        (tmp_path / "test_batch.bin", "is not an archive of CIFAR-10's binary version"),
        (None, "is not an archive of CIFAR-10's binary version"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            image_sets.prepare(facts, tmp_path, place, files)
        assert "\n" not in str(caught.value)
    for name, part in members.items():
        (tmp_path / name).write_bytes(part[:-1] + b"!" if name == "data_batch_3.bin" else part)
    with pytest.raises(ValueError, match=r"data_batch_3\.bin in .* its SHA-1 differs"):
        image_sets.prepare(facts, tmp_path, tmp_path, files)
    assert not (tmp_path / "cifar10").exists()


# --- the command ------------------------------------------------------------------------------


def run_command(*args, code="", **kwargs):
    command = [sys.executable, *(["-c", code] if code else ["-m", "vdm.data.prepare"]), *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom vdm.data import prepare\n"
        "try:\n    prepare.main(['--help'])\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'numpy', 'jax', 'tensorflow_datasets', 'absl', 'PIL', 'tqdm'}\n"
        "print(heavy & set(sys.modules))\n"
    )
    process = run_command(code=code)
    out, err = process.communicate(timeout=60)
    assert out.startswith("Prepare a data set once")
    assert out.endswith("set()\n")
    assert err == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["cifar01"], "did you mean 'cifar10'? known: digits, mnist"),
        ([], "the following arguments are required: NAME; see --help"),
        (["mnist", "--form=x"], "unrecognized arguments: --form=x; see --help"),
        (["mnist", "--from={tmp}/none"], "does not exist: name the original files of mnist"),
        (["mnist", "--from={tmp}"], "has no train-images-idx3-ubyte.gz, train-labels"),
        (["cifar10", "--from={tmp}"], "has no data_batch_1.bin"),
        (["imagenet32_old"], "imagenet32_old cannot be downloaded"),
        (["imagenet32_old", "--from={tmp}"], "has no train_32x32 and valid_32x32"),
        (["imagenet64_new", "--from={tmp}"], "has no train_data_batch_1 to 10 and val_data"),
        (["digits", "--data_dir={tmp}/file/below"], "set --data_dir to a writable folder"),
    ],
)
def test_mistakes_are_one_line_with_the_remedy(tmp_path, capsys, args, message):
    (tmp_path / "file").write_text("in the way")
    args = [arg.format(tmp=tmp_path) for arg in args]
    if not any(arg.startswith("--data_dir") for arg in args):
        args.append(f"--data_dir={tmp_path / 'data'}")
    assert prepare.main(args) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n"), err.startswith("error: ")) == ("", 1, True)


@pytest.mark.parametrize(
    ("error", "origin", "message"),
    [
        (OSError(errno.ENOSPC, "No space left"), "", "No space left; free some space, or set"),
        (
            OSError(errno.EIO, "I/O error"),
            "",
            "I/O error; check the disks of --data_dir and --from",
        ),
        (PermissionError(errno.EACCES, "Denied", "/x/from/a"), "/x/from", "name readable original"),
        (PermissionError(errno.EACCES, "Denied", "/x/to/a"), "/x/from", "set --data_dir to a writ"),
    ],
)
def test_errors_of_the_system_have_their_own_remedies(error, origin, message):
    text = prepare._explained(error, origin)
    assert message in text
    assert "None" not in text


def test_a_folder_that_is_no_whole_set_is_left_alone(server, tmp_path):
    files, _, _ = little_mnist()
    place = tmp_path / "mnist/3.0.1"
    place.mkdir(parents=True)
    (place / "mine.txt").write_text("precious")
    facts = image_sets.SETS["mnist"]
    with pytest.raises(ValueError, match=r"mnist/3\.0\.1 exists and is not a complete set"):
        image_sets.prepare(facts, tmp_path, None, published(server, files))
    with pytest.raises(ValueError, match="is not a complete set"):
        tfds_writer.write(lambda: None, place)
    assert server.starts == []  # said before the download
    assert (place / "mine.txt").read_text() == "precious"


def test_a_set_that_is_there_needs_no_lock(tmp_path, capsys, monkeypatch):
    def refused(*args):
        raise PermissionError(errno.EACCES, "Denied", "lock")

    place = tmp_path / "imagenet32_old"
    place.mkdir()
    (place / "dataset.json").write_text("{}")
    monkeypatch.setattr(prepare, "_alone", refused)
    assert prepare.main(["imagenet32_old", f"--data_dir={tmp_path}"]) == 0
    assert "is there already" in capsys.readouterr().out


def test_a_set_that_is_there_says_so(tmp_path, capsys):
    for said in ("prepared", "there already"):
        assert prepare.main(["digits", f"--data_dir={tmp_path}"]) == 0
        assert capsys.readouterr().out == f"digits is {said}: {tmp_path / 'digits/1.0.0'}\n"


def test_two_processes_do_not_prepare_one_set(tmp_path, capsys):
    with prepare._alone(tmp_path, "digits"):
        assert prepare.main(["digits", f"--data_dir={tmp_path}"]) == 2
        assert "another process is preparing digits" in capsys.readouterr().err
    assert prepare.main(["digits", f"--data_dir={tmp_path}"]) == 0


LITTLE = """
import json, sys
from vdm.data import downloads, prepare
files = [downloads.Original(*file) for file in json.loads(sys.argv[2])]
downloads.ORIGINALS["mnist"] = tuple(files)  # in this process alone
sys.exit(prepare.main(["mnist", "--data_dir=" + sys.argv[1]]))
"""


def test_killed_in_the_download_the_same_command_goes_on(server, tmp_path):
    files, images, labels = little_mnist()
    originals = published(server, files)
    stops = len(files["train-images-idx3-ubyte.gz"]) // 2
    server.stop_at, server.stall = stops, True
    args = (str(tmp_path), json.dumps([dataclasses.astuple(file) for file in originals]))
    process = run_command(*args, code=LITTLE)
    assert server.stalled.wait(60)
    part = tmp_path / "downloads/mnist/train-images-idx3-ubyte.gz.part"
    while not part.exists() or part.stat().st_size < stops:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.resume.set()
    server.stop_at, server.stall = 1 << 40, False
    server.starts.clear()
    process = run_command(*args, code=LITTLE)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert server.starts[0] == ("/train-images-idx3-ubyte.gz", stops)
    assert out.endswith(f"mnist is prepared: {tmp_path / 'mnist/3.0.1'}\n")
    assert_is_the_set(tmp_path, "mnist", "3.0.1", images, labels)


def test_killed_while_writing_leaves_no_set_and_the_same_command_goes_on(tmp_path):
    files, images, labels = little_mnist()
    place = tmp_path / "files"
    place.mkdir()
    for name, content in files.items():
        (place / name).write_bytes(content)
    code = """
import os, signal, sys
from pathlib import Path
from vdm.data import image_sets
from vdm.data.downloads import Original
import hashlib
place, killed_at = Path(sys.argv[1]) / "files", int(sys.argv[2])
files = [Original("x/" + name, (place / name).stat().st_size,
                  hashlib.sha256((place / name).read_bytes()).hexdigest())
         for name in sys.argv[3:]]
if killed_at:
    from PIL import Image
    encode, seen = Image.fromarray, []
    def counted(*args):
        seen.append(1)
        if len(seen) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(*args)
    Image.fromarray = counted
image_sets.prepare(image_sets.SETS["mnist"], place.parent, place, files)
"""
    for killed_at in (35, 0):  # in the test split, after the training split
        process = run_command(str(tmp_path), str(killed_at), *files, code=code)
        _, err = process.communicate(timeout=120)
        assert process.returncode == (-signal.SIGKILL if killed_at else 0), err
        assert (tmp_path / "mnist/3.0.1").exists() == (not killed_at)
    assert_is_the_set(tmp_path, "mnist", "3.0.1", images, labels)


def test_an_interruption_is_one_line(monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "prepare", interrupted)
    assert prepare.main(["digits"]) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
