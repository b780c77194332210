"""The documents and the committed results, as their tests read them."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DIGITS = ROOT / "experiments" / "digits"
ROWS = {row["name"]: row for row in json.loads((DIGITS / "results.json").read_text())}


def rows_of(experiment):
    return json.loads((ROOT / "experiments" / experiment / "results.json").read_text())


def text_of(page):
    """The text of a page, its lines joined."""
    return " ".join((ROOT / page).read_text().split())
