"""Output that cannot be written stops no program and changes no exit status."""

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vdm.io import streams
from vdm.io.console import Progress, say
from vdm.runs import train
from vdm.runs.run import open_run

ROOT = Path(__file__).parents[2]
PRINT_CONFIG = [sys.executable, "-m", "vdm.main", "--config=configs/digits.py", "--print_config"]
MISTAKE = [*PRINT_CONFIG, "--config.train.num_step=3"]


class Tee:
    """A tee as in many training scripts, with no methods but write and flush."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


class Failing(io.TextIOBase):
    """A stream that raises the given error and claims to be a terminal."""

    def __init__(self, error):
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error

    def isatty(self):
        return True


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


BROKEN = {
    "none": lambda: None,
    "closed": closed,
    "object": object,
    "pipe": lambda: Failing(BrokenPipeError(32, "Broken pipe")),
    "disk": lambda: Failing(OSError(28, "No space left on device")),
    "terminal": lambda: Failing(OSError(5, "Input/output error")),
    "server": lambda: Failing(RuntimeError("no request context")),
    "tee": Tee,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_lines_and_bars_raise_nothing_wherever_they_go(kind, monkeypatch):
    monkeypatch.setattr(sys, "stdout", BROKEN[kind]())
    say("a line")
    with Progress("work", 3) as progress:
        for done in (1, 2, 3):
            progress.update(done)
            progress.report(f"step {done}: well")
    if kind == "tee":
        assert sys.stdout.text.startswith("a line\nstep 1: well\nstep 2: well")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_the_encoding_lacks_are_escaped(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    streams.write(stream, "wrote /é/λ/\udcff\n")
    found = stream.buffer.getvalue().decode(encoding)
    want = "wrote /é/λ/\\udcff\n" if encoding == "utf-8" else "wrote /é/\\u03bb/\\udcff\n"
    assert found == (want if encoding != "ascii" else want.replace("é", "\\xe9"))


@pytest.mark.parametrize("kind", ["none", "pipe", "server", "tee"])
def test_a_training_does_not_notice(kind, make_tiny_config, tmp_path, monkeypatch):
    config = make_tiny_config(train__num_steps=2, train__eval_every=1, train__log_every=1)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, BROKEN[kind]())
    train.train(open_run(config, tmp_path))
    assert (tmp_path / "samples.json").is_file()


def shell(command, redirection):
    """(status, standard error; empty where the redirection takes that)."""
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}', "bash", *command],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("redirection", [">&-", "> /dev/full", "| true", "| head -1"])
def test_output_that_is_lost_changes_neither_status_nor_errors(redirection):
    assert shell(PRINT_CONFIG, redirection) == (0, "")
    status, error = shell(MISTAKE, redirection)
    assert (status, error.count("\n")) == (2, 1)


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full", "2> >(true)", ">&- 2>&-"])
def test_errors_that_are_lost_change_no_status(redirection):
    assert shell(MISTAKE, redirection) == (2, "")


@pytest.mark.parametrize(
    ("module", "arguments", "status"),
    [("vdm.compare", ["--help"], 0), ("vdm.compare", ["nowhere"], 2),
     ("vdm.data.prepare", ["--help"], 0), ("vdm.data.prepare", ["nothing"], 2),
     ("experiments.digits.run", ["--list"], 0)],
)  # fmt: skip
def test_the_other_programs_do_not_notice_either(module, arguments, status):
    command = [sys.executable, "-m", module, *arguments]
    assert shell(command, "2>&1 | true") == (status, "")
    assert shell(command, "> /dev/full 2> /dev/full")[0] == status


def test_no_file_is_written_to_as_standard_output():
    code = """
        import os, sys
        from vdm.io import streams
        with streams.forgiving():
            print("nobody reads it")
            sys.exit(0 if os.open("Makefile", os.O_RDONLY) > 2 else 3)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert shell(command, "<&- >&- 2>&-")[0] == 0


def test_the_streams_are_given_back(monkeypatch):
    before = sys.stdout, sys.stderr
    with streams.forgiving():
        assert isinstance(sys.stdout, streams.Forgiving)
    assert (sys.stdout, sys.stderr) == before


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_the_bar_says_what_is_compiled_and_may_stay(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    with Progress("train", 2, leave=True) as progress:
        assert "compiling" in sys.stdout.getvalue()
        progress.update(1)
        sys.stdout.truncate(0)
        progress.update(2)
        progress.report("step 2: 3.2 bits/dim")
        assert "compiling" not in sys.stdout.getvalue()
        assert "3.2 bits/dim" in sys.stdout.getvalue()
    assert sys.stdout.getvalue().endswith("\n")
    monkeypatch.setattr(sys, "stdout", Terminal())
    with Progress("evaluate", 2) as progress:
        progress.update(2)
    assert sys.stdout.getvalue().endswith("\r")


def test_without_a_terminal_lines_say_how_long_is_left(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("vdm.io.console.time.monotonic", lambda: clock[0])
    with Progress("train", 100, done=10) as progress:
        for done, secs in ((11, 9.0), (21, 10.0), (41, 30.0), (100, 50.0)):
            clock[0] = secs  # the first step is compiled meanwhile
            progress.update(done)
            progress.report(f"step {done}")
    assert capsys.readouterr().out.splitlines() == [
        "step 11", "step 21", "step 41, 00:59 left", "step 100",
    ]  # fmt: skip
