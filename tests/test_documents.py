"""The numbers in the documents are those of the committed results, and their commands exist."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DIGITS = ROOT / "experiments" / "digits"
ROWS = {row["name"]: row for row in json.loads((DIGITS / "results.json").read_text())}


def test_readme_quotes_the_committed_results():
    row = ROWS["vdm"]
    assert f"**{row['bpd']:.3f} ± {row['stderr_images']:.3f} bits/dim**" in README
    assert f"Monte-Carlo error {row['stderr']:.3f}" in README
    seeds = ", ".join(f"{bpd:.3f}" for bpd in row["bpd_of_seeds"])
    assert f"({seeds})" in README
    for name, text in [("uniform", "uniform codes {:.3f}"), ("histogram", "one histogram {:.3f}"),
                       ("pixel_histograms", "one per pixel {:.3f}")]:  # fmt: skip
        assert text.format(ROWS[name]["bpd"]) in README


def test_experiment_page_holds_the_table_of_its_results():
    page = (DIGITS / "README.md").read_text()
    for row in ROWS.values():
        assert f"| {row['name']} | {row['bpd']:.4g} | " in page


def test_rows_can_be_traced():
    for row in ROWS.values():
        assert re.fullmatch(r"[0-9a-f]{12}", row["config_hash"])
        assert re.fullmatch(r"[0-9a-f]{12}", row["commit"]), "made from uncommitted code"
        assert row["data_fingerprint"] == ROWS["vdm"]["data_fingerprint"]


def test_config_headers_state_command_and_cost():
    for path in (ROOT / "configs").glob("*.py"):
        header = path.read_text().split('"""')[1]
        assert f"--config=configs/{path.name} " in header
        assert "Cost" in header
        assert "PLACEHOLDER" not in header


def test_every_file_that_the_readme_links_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", README):
        assert (ROOT / "".join(target)).exists(), target
