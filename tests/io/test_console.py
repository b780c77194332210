"""Progress lines and bars of long computations."""

import pytest

from vdm.io import console
from vdm.io.console import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_every_half_minute(clock, capsys):
    with Progress("sample", 1, unit="image") as progress:
        for done in range(20, 81, 10):  # 20 are there already
            progress.update(done, 80)
            clock[0] += 20
    assert capsys.readouterr().out.splitlines() == [
        "sample: 40/80 image, 01:20 left",  # 10 in 20 s after the first part, 40 are left
        "sample: 60/80 image, 00:40 left",
        "sample: 80/80 image",
    ]


def test_a_report_takes_the_place_of_a_line(clock, capsys):
    with Progress("train", 100, 0, "step") as progress:
        progress.update(0)
        clock[0] += 29
        progress.report("step 1: fine")
        clock[0] += 29
        progress.update(2)
        clock[0] += 2
        progress.update(4)
    assert capsys.readouterr().out.splitlines() == [
        "step 1: fine",
        "train: 4/100 step, 01:36 left",
    ]


def test_quiet_work_tells_nothing(clock, capsys):
    with Progress("evaluate", 1, quiet=True) as progress:
        progress.update(0, 10)
        clock[0] += 100
        progress.update(5, 10)
    assert capsys.readouterr().out == ""
