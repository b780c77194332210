"""Errors are described in one line, with the place in the user's own code."""

import importlib
import sys

import numpy as np
import pytest

from vdm.io.errors import describe, is_own_message, own_frame

MODULE = """
import numpy as np

def broadcast():
    return np.zeros(2) + np.zeros(3)

def name():
    return undefined

def own():
    raise ValueError("kwargs.prior: 17 positive numbers")

def other():
    raise KeyError("scale")

def file():
    return open("/nowhere/at/all")

def library():
    return np.reshape(np.zeros(3), (2, 2))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_part.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("my_part")
    del sys.modules["my_part"]


def raised(function, *arguments):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function(*arguments)
    return caught.value


CONFIG = {"seed": 0, "sample": {"grid": {"name": "my_part:grid", "kwargs": {}}}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("broadcast", "operands could not be broadcast together with shapes (2,) (3,) "
                      "(my_part.py, line 5: return np.zeros(2) + np.zeros(3))"),
        ("name", "NameError: name 'undefined' is not defined (my_part.py, line 8: "
                 "return undefined)"),
        ("other", "KeyError: 'scale' (my_part.py, line 14: raise KeyError(\"scale\"))"),
        ("file", "No such file or directory: /nowhere/at/all (my_part.py, line 17: "
                 'return open("/nowhere/at/all"))'),
        ("library", "cannot reshape array of size 3 into shape (2,2) (my_part.py, line 20: "
                    "return np.reshape(np.zeros(3), (2, 2)))"),
    ],
)  # fmt: skip
def test_a_bug_is_named_with_its_line_and_the_component(module, name, text):
    error = raised(getattr(module, name))
    assert describe(error) == text
    assert describe(error, CONFIG) == f"sample.grid.name = 'my_part:grid': {text}"


def test_a_mistake_that_the_users_code_explains_is_left_as_it_is(module):
    error = raised(module.own)
    assert is_own_message(error)
    assert describe(error, CONFIG) == "kwargs.prior: 17 positive numbers"


def test_the_place_of_a_cause_counts(module):
    def wrapped():
        try:
            module.name()
        except NameError as error:
            raise ValueError("cannot be called") from error

    error = raised(wrapped).__cause__
    outer = ValueError("cannot be called")
    outer.__cause__ = error
    assert "(my_part.py, line 8: return undefined)" in describe(outer)


def test_what_no_code_of_the_user_is_in_has_no_place():
    error = raised(lambda: None, 1)
    error.__traceback__ = None
    assert own_frame(error) is None
    inside = raised(np.reshape, np.zeros(3), (2, 2))
    inside.__traceback__ = inside.__traceback__.tb_next.tb_next  # numpy's own frames
    assert own_frame(inside) is None


def test_a_circle_of_causes_ends():
    first, second = KeyError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert describe(first) == "KeyError: 'a'"
