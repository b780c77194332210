"""What the watchdog prints and when, and that it prints nothing while all is well."""

import io
import re
import threading
import time

import pytest

from vdm.io import watchdog
from vdm.io.watchdog import LONG, Watchdog


def reports(path):
    """(seconds, phase) of each line of the watchdog in a file."""
    pattern = r"watchdog: (\d+) s without progress(?: \(.*?\))?: (.*?);"
    return [(int(s), what) for s, what in re.findall(pattern, path.read_text())]


def wait_for(number, path):
    deadline = time.monotonic() + 30
    while len(reports(path)) < number:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def a_function_that_hangs(event):
    event.wait()


def test_a_hang_is_named_with_the_stack_of_every_thread(tmp_path):
    path, hang = tmp_path / "err", threading.Event()
    thread = threading.Thread(target=a_function_that_hangs, args=(hang,), daemon=True)
    thread.start()
    with path.open("w") as stream, Watchdog(0.02, (1, 4), stream) as watch:
        watch.enter("step 7 on the devices")
        while path.read_text().count("step 7 on the devices") < 2:  # the first with its stacks
            time.sleep(0.005)
    hang.set()
    found = path.read_text()
    assert "without progress (process 1 of 4): step 7 on the devices; the run keeps" in found
    assert "a_function_that_hangs" in path.read_text()
    assert "in test_a_hang_is_named" in path.read_text()  # this thread
    assert not any(t.name == "watchdog" for t in threading.enumerate())


def test_one_process_of_one_has_no_index(tmp_path):
    with (tmp_path / "err").open("w") as stream, Watchdog(0.02, (0, 1), stream):
        wait_for(1, tmp_path / "err")
    assert "without progress: starting;" in (tmp_path / "err").read_text()


class Clock:
    """Replaces time.monotonic and Event.wait of a watchdog by a simulated clock."""

    def __init__(self):
        self.now = 0.0
        self.events = []  # (time, function), ascending

    def monotonic(self):
        return self.now

    def wait(self, secs):
        end = self.now + max(secs, 1e-6)
        while self.events and self.events[0][0] <= end:
            self.now, function = self.events.pop(0)
            function()
        self.now = end
        return self.now > 10_000


@pytest.fixture
def watched(monkeypatch):
    """A function (events) -> [(time, phase)] of the reports of a watchdog of 100 seconds."""

    def run(*events):
        clock, found = Clock(), []
        monkeypatch.setattr(watchdog.time, "monotonic", clock.monotonic)
        watch = Watchdog(100.0, stream=io.StringIO())
        monkeypatch.setattr(watch, "_done", clock)
        monkeypatch.setattr(
            watch, "_report", lambda what, passed: found.append((round(clock.now), what))
        )
        clock.events = [(at, lambda a=arguments: watch.enter(*a)) for at, *arguments in events]
        watch._watch()
        return found

    yield run
    monkeypatch.undo()


def test_the_interval_doubles_until_there_is_progress(watched):
    assert watched((0, "a"), (250, "b"), (1000, "c"), (1010, "d"))[:8] == [
        (100, "a"), (200, "a"), (350, "b"), (450, "b"), (650, "b"),
        (1110, "d"), (1210, "d"), (1410, "d"),
    ]  # fmt: skip


def test_progress_in_time_is_silence(watched):
    steps = [(90 * i, f"step {i}") for i in range(20)]
    assert watched(*steps)[0] == (90 * 19 + 100, "step 19")


def test_a_long_phase_has_more_patience_and_the_next_has_not(watched):
    assert watched((0, "saving", True), (750, "data"))[0] == (850, "data")
    assert watched((0, "saving", True))[0] == (100 * LONG, "saving")


def test_no_patience_is_no_thread():
    with Watchdog(0) as watch:
        watch.enter("anything")
        assert not any(t.name == "watchdog" for t in threading.enumerate())


def test_a_stream_without_a_descriptor_and_a_closed_one_do_no_harm(capfd):
    Watchdog(1.0, stream=io.StringIO())._report("a", 1.0)
    assert "test_a_stream_without" in capfd.readouterr().err
    closed = io.StringIO()
    closed.close()
    Watchdog(1.0, stream=closed)._report("a", 1.0)
