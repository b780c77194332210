"""A checkpoint with a damaged file is skipped, and the run still ends with the same bits.

Tested elsewhere: every bit of a checkpoint (tests/io/test_checkpoint_damage.py,
test_no_flipped_bit_goes_unnoticed), a kill between any two steps of a save
(test_a_kill_between_any_two_steps_of_a_save_costs_at_most_that_save), an evaluation of a damaged
checkpoint (tests/runs/test_resume.py,
test_a_damaged_checkpoint_is_named_and_the_one_before_used).
"""

import os
import shutil

import jax
import numpy as np
import pytest

from vdm.runs import states, train
from vdm.runs.run import open_run


def truncated(file):
    os.truncate(file, file.stat().st_size // 2)


def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def removed(file):
    file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("harm", [truncated, flipped, removed])
def test_a_run_goes_on_from_before_the_damage_to_the_same_bits(
    make_tiny_config, finished_run, tmp_path, capsys, harm
):
    config, workdir = make_tiny_config(), shutil.copytree(finished_run, tmp_path / "run")
    (workdir / "eval.json").unlink()
    run = open_run(config, workdir)
    shutil.rmtree(run.checkpoints.path(30))
    damaged, like = run.checkpoints.path(20), states.abstract_state(run)
    _, before = run.checkpoints.restore(like, 10)
    files = sorted(p for p in damaged.rglob("*") if p.is_file() and p.stat().st_size)
    assert len(files) > 8
    for file in files:
        content = file.read_bytes()
        harm(file)
        lines = []
        step, state = run.checkpoints.restore(like, on_unreadable=lines.append)
        assert step == 10, file
        assert len(lines) == 1, file
        jax.tree.map(np.testing.assert_array_equal, state, before)
        file.write_bytes(content)
    harm(files[len(files) // 2])
    capsys.readouterr()
    train.train(run)
    said = capsys.readouterr().out.splitlines()
    assert sum(f"{damaged} is unreadable" in line for line in said) == 1
    assert f"resuming {workdir} at step 10" in said
    (_, ours), (_, theirs) = (
        open_run(config, folder).checkpoints.restore(like) for folder in (workdir, finished_run)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
