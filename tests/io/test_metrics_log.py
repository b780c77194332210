"""Metrics are valid JSON lines at once, and steps that a resumed run repeats leave no trace."""

import json
import math
import resource
import struct
import time
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest

from vdm.io import metrics_log
from vdm.io.metrics_log import MetricsWriter, read_metrics


def read_events(path: Path) -> list:
    """The events of a file in TensorFlow's record format: length, its CRC, data, its CRC."""
    from tensorboardX.proto import event_pb2

    make_event = cast(Any, event_pb2).Event  # made at import, unknown to a type checker
    content, events = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        events.append(make_event.FromString(content[12 : 12 + length]))
        content = content[12 + length + 4 :]
    return events


def test_a_line_is_on_file_as_soon_as_it_is_written(tmp_path):
    with MetricsWriter(tmp_path / "run", 0) as writer:
        writer.write(10, {"train/bpd": np.float32(2.5), "images_per_sec": jnp.float32(640)})
        text = (tmp_path / "run" / "metrics.jsonl").read_text()
        assert text == '{"step": 10, "train/bpd": 2.5, "images_per_sec": 640.0}\n'
        (file,) = (tmp_path / "run").glob("events.out.tfevents.*")
        assert read_events(file)[-1].step == 10


def test_events_hold_the_same_scalars(tmp_path):
    start = time.time()
    with MetricsWriter(tmp_path, 0) as writer:
        writer.write(10, {"train/bpd": 2.5, "time_secs": 1.0})
        writer.write(20, {"train/bpd": 2.25})
    (file,) = tmp_path.glob("events.out.tfevents.*")
    version, session, *events = read_events(file)
    assert version.file_version == "brain.Event:2"
    assert (session.step, session.session_log.status) == (1, 1)  # 1 is START
    got = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert got == [(10, "train/bpd", 2.5), (10, "time_secs", 1.0), (20, "train/bpd", 2.25)]
    assert all(start <= e.wall_time <= time.time() for e in events)


def test_not_a_number_is_null_in_the_file_and_absent_from_the_events(tmp_path):
    with MetricsWriter(tmp_path, 0) as writer:
        writer.write(1, {"a": math.nan, "b": jnp.float32(-jnp.inf), "c": 1.0})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert line == '{"step": 1, "a": null, "b": null, "c": 1.0}\n'
    assert read_metrics(tmp_path) == [{"step": 1, "a": None, "b": None, "c": 1.0}]
    (file,) = tmp_path.glob("events.out.tfevents.*")
    assert [v.tag for v in read_events(file)[-1].summary.value] == ["c"]


def test_resumed_run_forgets_the_steps_it_repeats(tmp_path):
    with MetricsWriter(tmp_path, 0) as writer:
        for step in (10, 20, 30):
            writer.write(step, {"x": 1.0})
    with MetricsWriter(tmp_path, 20) as writer:
        assert [row["step"] for row in read_metrics(tmp_path)] == [10, 20]
        writer.write(30, {"x": 2.0})
    assert [(row["step"], row["x"]) for row in read_metrics(tmp_path)] == [
        (10, 1),
        (20, 1),
        (30, 2),
    ]
    newest = max(tmp_path.glob("events.out.tfevents.*"))  # their names have the time
    assert read_events(newest)[1].step == 21  # TensorBoard drops events from here on


@pytest.mark.parametrize(
    "torn", [b'{"step": 20, "x": 1', b"{", b"\xff\xfe\x00", b'{"step": 20}{"step": 30}', b"17"]
)
def test_unfinished_line_is_dropped_and_the_rest_kept_as_it_was(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 10,  "x": 1}\n' + torn)
    assert read_metrics(tmp_path) == [{"step": 10, "x": 1}]
    with MetricsWriter(tmp_path, 20) as writer:
        writer.write(30, {"x": 2.0})
    assert path.read_bytes() == b'{"step": 10,  "x": 1}\n{"step": 30, "x": 2.0}\n'


def test_whole_last_line_without_its_newline_is_kept(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 10, "x": 1}')
    with MetricsWriter(tmp_path, 10) as writer:
        writer.write(20, {"x": 2.0})
    assert [row["step"] for row in read_metrics(tmp_path)] == [10, 20]


def test_forgetting_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 10}\n{"step": 20}\n')

    def fail(*_: object) -> None:
        raise OSError("killed")

    monkeypatch.setattr(metrics_log, "write_bytes", fail)
    with pytest.raises(OSError, match="killed"):
        MetricsWriter(tmp_path, 10)
    assert path.read_bytes() == b'{"step": 10}\n{"step": 20}\n'


@pytest.mark.parametrize("scalars", [{"x": np.ones(2)}, {"x": "1.5 bpd"}, {"x": None}])
def test_value_that_is_no_scalar_is_named(tmp_path, scalars):
    with MetricsWriter(tmp_path, 0) as writer:
        with pytest.raises(ValueError, match="'x' is not a scalar"):
            writer.write(1, scalars)
        with pytest.raises(ValueError, match='"step" names'):
            writer.write(1, {"step": 3})
    assert read_metrics(tmp_path) == []


def test_restart_within_a_second_adds_an_event_file(tmp_path, monkeypatch):
    for pid in (11, 12):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        monkeypatch.setattr("time.time", lambda: 1000.5)
        MetricsWriter(tmp_path, 0).close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


def test_metrics_of_an_absent_run_are_none(tmp_path):
    assert read_metrics(tmp_path / "absent") == []


def test_lines_are_json_for_any_parser(tmp_path):
    with MetricsWriter(tmp_path, 0) as writer:
        writer.write(3, {"train/ω": 1e-300, "big": 1e300})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 3, "train/ω": 1e-300, "big": 1e300}


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.rename(path.with_name("moved"))])
def test_a_file_that_is_gone_is_not_written_to_in_silence(tmp_path, harm):
    with MetricsWriter(tmp_path, 0) as writer:
        writer.write(1, {"a": 1.0})
        harm(tmp_path / metrics_log.FILENAME)
        with pytest.raises(OSError, match=r"removed or replaced .* run the same command again"):
            writer.write(2, {"a": 1.0})
        (tmp_path / metrics_log.FILENAME).write_text("")
        with pytest.raises(OSError, match="removed or replaced"):
            writer.write(2, {"a": 1.0})


def test_a_disk_that_takes_half_a_line_is_full(tmp_path):
    # A limit on file sizes cuts a write short, as the last free bytes of a disk do.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsWriter(tmp_path, 0) as writer:
        writer.write(1, {"a": 1.0})
        size = (tmp_path / metrics_log.FILENAME).stat().st_size
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
            for _ in range(2):  # cut short, and refused
                with pytest.raises(OSError, match=rf"{metrics_log.FILENAME}"):
                    writer.write(2, {"a": 1.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    MetricsWriter(tmp_path, 2).close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]


class Tracker:
    """A hook that keeps its metrics, and fails at step `broken` and later ones."""

    def __init__(self, broken: float = math.inf) -> None:
        self.lines, self.broken, self.closed = [], broken, 0

    def write(self, step, scalars):
        if step >= self.broken:
            raise ConnectionError("no network\ntoday")
        self.lines.append((step, dict(scalars)))

    def close(self):
        self.closed += 1


def test_a_hook_gets_the_finite_scalars_and_is_closed_once(tmp_path):
    tracker = Tracker()
    with MetricsWriter(tmp_path, 0, lambda: tracker) as writer:
        writer.write(10, {"train/bpd": jnp.float32(2.5), "nan": math.nan})
        writer.close()
    assert tracker.lines == [(10, {"train/bpd": 2.5})]
    assert tracker.closed == 1


def test_a_hook_that_fails_is_named_once_and_stops_no_training(tmp_path, capsys):
    tracker = Tracker(broken=20)
    with MetricsWriter(tmp_path, 0, lambda: tracker) as writer:
        for step in (10, 20, 30):
            writer.write(step, {"a": 1.0})
    assert [step for step, _ in tracker.lines] == [10]
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 30]
    said = capsys.readouterr().out.splitlines()
    assert said == ["metrics: ConnectionError: no network today at step 20; from now on "
                    "only metrics.jsonl has them"]  # fmt: skip


def test_what_is_no_hook_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"metrics.name gives a dict, which has no write"):
        MetricsWriter(tmp_path, 0, dict)


def shown_by_tensorboard(folder):
    """{step: value of the scalar "x"}, as TensorBoard would show it: it reads files in the order
    of their names, and a START event drops all values of its step and later ones that were read
    before (see `event_processing.plugin_event_accumulator`)."""
    shown, times = {}, []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in read_events(path):
            times.append(event.wall_time)
            if event.session_log.status == 1:
                shown = {step: value for step, value in shown.items() if step < event.step}
            for value in event.summary.value:
                shown[event.step] = value.simple_value
    assert times == sorted(times)
    return shown


@pytest.mark.parametrize("behind", [0.0, 0.4, 3600.0, -3600.0])
def test_a_start_whose_clock_is_behind_hides_no_steps(tmp_path, monkeypatch, behind):
    clock = time.time() + 7200  # another host's, whose files say so as well
    monkeypatch.setattr(metrics_log.time, "time", lambda: clock)
    for start, first in enumerate((0, 20, 30)):
        monkeypatch.setattr(metrics_log.os, "getpid", lambda start=start: 1000 - 900 * (start % 2))
        with MetricsWriter(tmp_path, first) as writer:
            for step in (first + 10, first + 20):
                writer.write(step, {"x": float(100 * start + step)})
                clock += 10
        clock -= behind + 20
    assert shown_by_tensorboard(tmp_path) == {10: 10, 20: 20, 30: 130, 40: 240, 50: 250}


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 100, b"\0" * 100])
def test_a_damaged_event_file_does_no_harm(tmp_path, content):
    (tmp_path / "events.out.tfevents.2000000000.host.1").write_bytes(content)
    (tmp_path / "events.out.tfevents.copy").write_bytes(content)
    with MetricsWriter(tmp_path, 0) as writer:
        writer.write(10, {"x": 1.0})
    (file,) = tmp_path.glob("events.out.tfevents.2000000001.*")
    assert read_events(file)[-1].wall_time >= 2_000_000_001


def test_a_clock_that_is_set_back_meanwhile_gives_no_earlier_times(tmp_path, monkeypatch):
    clock = [2000.0]
    monkeypatch.setattr(metrics_log.time, "time", lambda: clock[0])
    with MetricsWriter(tmp_path, 0) as writer:
        for step, now in ((10, 2010.0), (20, 1000.0), (30, 2020.0)):
            clock[0] = now
            writer.write(step, {"x": 1.0})
    (file,) = tmp_path.glob("events.out.tfevents.*")
    assert [e.wall_time for e in read_events(file)] == [2000, 2000, 2010, 2010, 2020]
