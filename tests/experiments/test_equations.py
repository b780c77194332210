"""The index of equations is complete, and its page and results agree with the markers."""

import json
import textwrap

import pytest

from experiments.equations.index import marks_of, number_key, read_marks, source_file, spread
from experiments.equations.page import PAGE, problems, with_tables


@pytest.fixture(scope="module")
def marks():
    return read_marks()


def test_every_equation_has_words_and_a_test_or_a_reason(marks):
    assert problems(marks) == []


def test_page_holds_the_tables_of_the_markers(marks):
    page = PAGE.read_text()
    assert with_tables(page, marks) == page, "run python -m experiments.equations.run"


def test_results_are_those_of_the_markers_and_all_passed(marks):
    rows = json.loads((PAGE.parent / "results.json").read_text())
    names = {mark.id for mark in marks if mark.kind == "equation"}
    names |= {f"erratum {mark.id}, {mark.test}" for mark in marks if mark.kind == "erratum"}
    assert {row["name"] for row in rows} == names | {"all"}
    assert all(row["passed"] for row in rows)
    assert not any(row["failed"] for row in rows)


def test_marks_are_read_from_the_text_with_those_of_parameters():
    text = textwrap.dedent("""
        @pytest.mark.slow
        @pytest.mark.equation("S1 1.63", "vdm.diffusion.noise:diffuse")
        @pytest.mark.parametrize("a", [pytest.param(1, marks=pytest.mark.equation("S4 7", "m:f"))])
        def test_a(a): ...

        @pytest.mark.erratum("S1 1.124-1.125", "what", -2)
        @pytest.mark.equation("S4 108", f"{LAB}.kernels:push")
        def test_b(erratum_number): ...

        LAB = "experiments.dpm_lab"
    """)
    marks = list(marks_of(text, "tests/test_x.py"))
    assert [(mark.kind, mark.id, mark.test, mark.slow) for mark in marks] == [
        ("equation", "S1 1.63", "test_a", True),
        ("equation", "S4 7", "test_a", True),
        ("erratum", "S1 1.124-1.125", "test_b", False),
        ("equation", "S4 108", "test_b", False),
    ]
    assert marks[3].function == "experiments.dpm_lab.kernels:push"
    assert marks[0].function == "vdm.diffusion.noise:diffuse"
    assert (marks[2].what, marks[2].number) == ("what", -2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('@pytest.mark.equation("1.63", "m:f")\ndef test_a(): ...', "neither equation"),
        ('@pytest.mark.equation("S1 1.63")\ndef test_a(): ...', "neither equation"),
        ('@pytest.mark.equation(ID, "m:f")\ndef test_a(): ...', "literals"),
        ('@pytest.mark.erratum("S1 1.1", "what", "0.7")\ndef test_a(): ...', "neither equation"),
        ('@pytest.mark.equation("S1 1.63", "m:f")\ndef helper(): ...', "on a test function"),
        ('@pytest.mark.erratum("S1 1.63", "what", 1)\ndef test_a(): ...', "erratum_number"),
        ('pytestmark = [pytest.mark.equation("S1 1.63", "m:f")]', "on a test function"),
    ],
)
def test_wrong_markers_are_refused_with_their_place(text, message):
    with pytest.raises(ValueError, match=f"^tests/test_x.py:[12]: .*{message}"):
        list(marks_of(text, "tests/test_x.py"))


def test_two_slips_shown_by_one_test_have_one_number(marks):
    # `erratum_number` takes the number from the marker closest to the test.
    errata = [mark for mark in marks if mark.kind == "erratum"]
    numbers = {(mark.path, mark.test): mark.number for mark in errata}
    assert all(mark.number == numbers[mark.path, mark.test] for mark in errata)


def test_ranges_of_numbers_are_spread():
    got = spread("S1", {"1.9 to 1.11": "a", "1.20": "b"})
    assert got == {"S1 1.9": "a", "S1 1.10": "a", "S1 1.11": "a", "S1 1.20": "b"}
    assert spread("S2", {"9 to 10": "a"}) == {"S2 9": "a", "S2 10": "a"}


def test_functions_are_found_or_refused():
    assert source_file("vdm.diffusion.noise:diffuse") == "vdm/diffusion/noise.py"
    assert source_file("vdm.diffusion.likelihood:Gaussian") == "vdm/diffusion/likelihood.py"
    assert source_file("vdm.diffusion.elbo:ElboTerms.total") == "vdm/diffusion/elbo.py"
    for wrong in ("vdm.diffusion.noise:no", "vdm.no:f", "vdm.diffusion.noise:jax", "vdm"):
        with pytest.raises(ValueError, match=r"no |not a "):
            source_file(wrong)


def test_numbers_are_sorted_as_numbers():
    ids = ["S4 2", "S1 1.10", "S1 1.9", "S1 1.124-1.125", "S1 1.124"]
    want = ["S1 1.9", "S1 1.10", "S1 1.124", "S1 1.124-1.125", "S4 2"]
    assert sorted(ids, key=number_key) == want
