"""Atomic writes leave the old file or the new one, never half a file."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vdm.io import atomic
from vdm.io.atomic import atomic_path, save_npz, to_json, write_bytes, write_json


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "eval.json"
    write_bytes(path, b"old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["eval.json"]


def test_atomic_path_keeps_the_extension_and_makes_the_folder(tmp_path):
    with atomic_path(tmp_path / "a" / "b.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path / "a"
        temporary.write_bytes(b"new")
        assert not (tmp_path / "a" / "b.png").exists()
    assert (tmp_path / "a" / "b.png").read_bytes() == b"new"


def test_content_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    # A power cut after a rename that overtook the data would leave an empty file of that name.
    events: list[str] = []
    replace = os.replace
    monkeypatch.setattr(atomic, "sync", lambda path: events.append(Path(path).name))
    monkeypatch.setattr(os, "replace", lambda a, b: [events.append("rename"), replace(a, b)])
    write_bytes(tmp_path / "file", b"new")
    assert events == [f".tmp-{os.getpid()}-file", "rename", tmp_path.name]


def test_sigkill_while_writing_leaves_a_whole_file(tmp_path):
    script = """
import sys
from vdm.io.atomic import write_bytes
n = 0
while True:
    n += 1
    write_bytes(sys.argv[1], (b"%d " % n) * 200_000)
    print("x", flush=True)
"""
    path = tmp_path / "file"
    for _ in range(3):
        command = [sys.executable, "-c", script, str(path)]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"x\n"
            process.send_signal(signal.SIGKILL)
        words = path.read_bytes().split()
        assert len(words) == 200_000
        assert len(set(words)) == 1


def test_json_of_arrays_and_numbers_comes_back(tmp_path):
    write_json(
        tmp_path / "a.json",
        {
            "bpd": np.float32(1.5),
            "jax": jnp.float32(0.25),
            "count": np.int64(3),
            "flag": np.bool_(True),
            "rows": (jnp.arange(3), [1, None]),
            "path": tmp_path,
            7: "seven",
        },
    )
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "bpd": 1.5,
        "jax": 0.25,
        "count": 3,
        "flag": True,
        "rows": [[0, 1, 2], [1, None]],
        "path": str(tmp_path),
        "7": "seven",
    }


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), jnp.array([1.0, -jnp.inf])])
def test_json_has_null_where_a_number_is_not_finite(tmp_path, value):
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    write_json(tmp_path / "a.json", {"value": value})
    row = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert row["value"] in (None, [1.0, None])


def test_json_of_something_else_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(TypeError, match="object"):
        write_json(tmp_path / "a.json", {"x": object()})
    assert os.listdir(tmp_path) == []


def test_to_json_keeps_integers_exact():
    assert to_json(np.array([2**53 + 1])) == [2**53 + 1]


@pytest.mark.parametrize("name", ["arrays.npz", "arrays"])
def test_npz_comes_back_under_its_own_name(tmp_path, name):
    nats = np.linspace(0.0, 1.0, 5, dtype=np.float32)
    save_npz(tmp_path / name, nats=nats, index=jnp.arange(5))
    assert os.listdir(tmp_path) == [name]
    with np.load(tmp_path / name) as loaded:
        assert sorted(loaded) == ["index", "nats"]
        np.testing.assert_array_equal(loaded["nats"], nats)
        assert loaded["nats"].dtype == np.float32


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "sync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.json") as caught:
        atomic.write_json(tmp_path / "a.json", {})
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
