"""The prepare command reports a mistake in one line, and resumes after a kill."""

import dataclasses
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.data.little_sets import assert_is_the_set, little_mnist
from tests.data.servers import published
from vdm.data import image_sets, prepare, tfds_writer

ROOT = pathlib.Path(__file__).parents[2]


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
