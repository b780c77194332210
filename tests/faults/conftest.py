"""A component of the user's own, in a program that is called in this process."""

import sys

import pytest

from vdm import main as program


@pytest.fixture
def call_with_module(tmp_path, monkeypatch, capfd, at_home):
    """A function (text of the module `users`, arguments) -> (status, stdout, stderr)."""
    monkeypatch.syspath_prepend(tmp_path)

    def call(text, arguments):
        (tmp_path / "users.py").write_text(text)
        monkeypatch.delitem(sys.modules, "users", raising=False)
        capfd.readouterr()
        status = program.main(["vdm.main", *arguments])
        return status, *capfd.readouterr()

    return call
