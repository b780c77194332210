"""Documents are finished, the names in them exist, and their links lead somewhere."""

import functools
import itertools
import pkgutil
import re
import tomllib

import pytest
import yaml

from tests.documents import README, ROOT

GUIDES = (
    "CONTRIBUTING.md", "configs/README.md", "tests/README.md", "vdm/README.md", "vdm/CHANGELOG.md",
    "vdm/compression/README.md", "vdm/data/README.md", "vdm/devices/README.md",
    "vdm/diffusion/README.md",
)  # fmt: skip
FOLDERS = ("configs", "experiments", "tests", "vdm")
PAGES = sorted([*ROOT.glob("*.md"), *(page for f in FOLDERS for page in (ROOT / f).rglob("*.md"))])
UNFINISHED = r"PLACEHOLDER|\b[A-Z]+(TEXT|ROWS|COST)\b|EXPECTED"


def test_config_headers_state_command_and_cost():
    for path in (ROOT / "configs").glob("*.py"):
        header = path.read_text().split('"""')[1]
        assert f"--config=configs/{path.name} " in header
        assert "Cost" in header
        assert not re.search(UNFINISHED, header)


def test_the_citation_is_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


@pytest.mark.parametrize("page", ["README.md", *GUIDES])
def test_page_exists_and_is_finished(page):
    assert not re.search(UNFINISHED, (ROOT / page).read_text())


def test_readme_is_short_and_links_every_guide():
    assert len(README.splitlines()) <= 180
    for guide in GUIDES:
        assert f"]({guide})" in README


@pytest.mark.parametrize("page", ["README.md", *sorted({*GUIDES} - {"vdm/CHANGELOG.md"})])
def test_names_in_backticks_exist(page):
    for name in re.findall(r"`(vdm(?:\.\w+)+)`", (ROOT / page).read_text()):
        pkgutil.resolve_name(name)


def without_code(text):
    """A page without what is in fences and between backticks."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


@functools.cache
def anchors(page):
    """What can follow # in a link to the page: its headings, as GitHub writes them, and ids."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    found = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for title in re.findall(r"^#+ +(.+?)\s*$", text, re.M):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        copies = (f"{anchor}-{n}" for n in itertools.count(1))
        found.add(anchor if anchor not in found else next(a for a in copies if a not in found))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    text = without_code(page.read_text())
    for target in re.findall(r"\]\(\s*<?([^)>\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"", text):
        path, _, anchor = "".join(target).partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(ROOT), target
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), target


def test_code_is_not_taken_for_a_link_and_a_wrong_anchor_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# What `a_b` is, [twice](x)\n## Same\n## Same\n```\n# no title\n```\n")
    assert anchors(page) == {"what-a_b-is-twice", "same", "same-1"}
    assert without_code("see `[a](b)`\n```\n[c](d)\n```\nend") == "see \n\nend"
