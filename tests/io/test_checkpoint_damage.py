"""Damage to a checkpoint is noticed, named in one line, and the checkpoint before it is used."""

import contextlib
import random
import shutil
from pathlib import Path

import pytest

from tests.io.states import assert_same, make_state, truncate
from vdm.io import checksums
from vdm.io.checkpoints import CheckpointError, Checkpoints


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    run = Checkpoints(tmp_path)
    run.save(1, make_state(1))
    rng = random.Random(0)
    files = sorted(p for p in (tmp_path / "1").rglob("*") if p.is_file() and p.stat().st_size)
    assert len(files) > 8
    harmless: list[str] = []
    for file in files:
        content = file.read_bytes()
        for place in {0, 1, len(content) - 1, *(rng.randrange(len(content)) for _ in range(12))}:
            damaged = bytearray(content)
            damaged[place] ^= 1 << rng.randrange(8)
            file.write_bytes(damaged)
            # A flip that is not noticed, say in a line break of the checksums, must be harmless.
            with contextlib.suppress(CheckpointError):
                assert_same(run.restore(make_state(0), 1)[1], make_state(1))
                harmless.append(file.name)
        file.write_bytes(content)
    assert set(harmless) <= {checksums.CHECKSUMS}
    assert_same(run.restore(make_state(0), 1)[1], make_state(1))


def halve_checksums(folder: Path) -> None:
    path = folder / checksums.CHECKSUMS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


@pytest.mark.parametrize(
    "harm",
    [
        truncate,
        halve_checksums,
        lambda folder: (folder / checksums.CHECKSUMS).unlink(),
        lambda folder: (folder / "state" / "manifest.ocdbt").unlink(),
        lambda folder: shutil.rmtree(folder / "state"),
        lambda folder: [shutil.rmtree(folder), folder.mkdir()],
        lambda folder: [shutil.rmtree(folder), folder.write_text("a file")],
    ],
)
def test_damaged_newest_checkpoint_is_named_and_passed_over(tmp_path, harm):
    run = Checkpoints(tmp_path)
    for step in (1, 2):
        run.save(step, make_state(step))
    harm(tmp_path / "2")
    lines: list[str] = []
    step, state = run.restore(make_state(0), on_unreadable=lines.append)
    assert step == 1
    assert_same(state, make_state(1))
    (line,) = lines
    assert str(tmp_path / "2") in line
    assert "\n" not in line
    with pytest.raises(CheckpointError, match="unreadable"):
        run.restore(make_state(0), 2)


def test_files_hidden_by_the_system_do_no_harm(tmp_path):
    run = Checkpoints(tmp_path)
    run.save(1, make_state(1))
    (tmp_path / "1" / ".DS_Store").write_text("")
    assert_same(run.restore(make_state(0), 1)[1], make_state(1))


def test_without_a_readable_checkpoint_the_error_is_one_line(tmp_path):
    run = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        run.restore(make_state(0))
    run.save(1, make_state(1))
    truncate(run.path(1))
    with pytest.raises(CheckpointError, match="none of the 1") as caught:
        run.restore(make_state(0), on_unreadable=lambda line: None)
    assert "\n" not in str(caught.value)
