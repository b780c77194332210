"""Numbers in the documents are those of the committed results; links lead somewhere."""

import functools
import itertools
import json
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from experiments.results import format_table
from vdm.evaluation.features import read_mlp_features
from vdm.evaluation.statistics import half_width, num_strata

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GUIDES = (
    "CONTRIBUTING.md", "configs/README.md", "tests/README.md", "vdm/README.md", "vdm/CHANGELOG.md",
    "vdm/compression/README.md", "vdm/data/README.md", "vdm/devices/README.md",
    "vdm/diffusion/README.md",
)  # fmt: skip
FOLDERS = ("configs", "experiments", "tests", "vdm")
PAGES = sorted([*ROOT.glob("*.md"), *(page for f in FOLDERS for page in (ROOT / f).rglob("*.md"))])
DIGITS = ROOT / "experiments" / "digits"
RESULTS = sorted((ROOT / "experiments").glob("*/results.json"))
UNFINISHED = r"PLACEHOLDER|\b[A-Z]+(TEXT|ROWS|COST)\b|EXPECTED"
ROWS = {row["name"]: row for row in json.loads((DIGITS / "results.json").read_text())}


def rows_of(experiment):
    return json.loads((ROOT / "experiments" / experiment / "results.json").read_text())


def text_of(page):
    """The text of a page, its lines joined."""
    return " ".join((ROOT / page).read_text().split())


def test_readme_quotes_the_committed_results():
    row = ROWS["vdm"]
    assert f"**{row['bpd']:.3f} ± {row['stderr_images']:.3f} bits/dim**" in README
    assert f"Monte-Carlo error {row['stderr']:.3f}" in README
    seeds = ", ".join(f"{bpd:.3f}" for bpd in row["bpd_of_seeds"])
    assert f"({seeds})" in text_of("README.md")
    assert f"\ntest bits/dim {row['bpd_of_seeds'][0]:.4f} +- " in README  # what `make demo` prints
    for name, text in [("uniform", "uniform codes {:.3f}"), ("histogram", "one histogram {:.3f}"),
                       ("pixel_histograms", "one per pixel {:.3f}")]:  # fmt: skip
        assert text.format(ROWS[name]["bpd"]) in README


def test_experiment_page_holds_the_table_of_its_results():
    page = (DIGITS / "README.md").read_text()
    columns = ("name", "bpd", "stderr", "stderr_images", "bound", "seconds")
    assert format_table(list(ROWS.values()), columns) in page


@pytest.mark.parametrize("results", RESULTS, ids=lambda path: path.parent.name)
def test_rows_can_be_traced(results):
    rows = json.loads(results.read_text())
    assert len({(row["name"], row.get("variant")) for row in rows}) == len(rows)
    fingerprints = {}  # where there are several data sets: for each, and how many images of it
    for row in rows:
        several = results.parent.name in ("compression", "data_sets", "fourier")
        which = (re.split(r"\W", row["name"])[0], row.get("images")) if several else ()
        if row.get("data_fingerprint"):
            fingerprints.setdefault(which, set()).add(row["data_fingerprint"])
    assert all(len(found) == 1 for found in fingerprints.values())
    for row in rows:
        assert re.fullmatch(r"[0-9a-f]{12}", row["config_hash"])
        assert re.fullmatch(r"[0-9a-f]{12}", row["commit"]), "made from uncommitted code"
        assert row["command"].startswith(f"python -m experiments.{results.parent.name}.run")
        assert row["seconds"] >= 0


@pytest.mark.parametrize("results", RESULTS, ids=lambda path: path.parent.name)
def test_every_experiment_has_a_page_with_its_command_and_pictures(results):
    page = (results.parent / "README.md").read_text()
    assert "**Question.**" in page
    assert "**Answer.**" in page
    assert f"python -m experiments.{results.parent.name}.run" in page
    for picture in results.parent.glob("*.png"):
        assert f"]({picture.name})" in page
    assert not re.search(r"PLACEHOLDER|TO-COME|TABLE|ANSWER|JUDGE|ACCURACY|REALTRAIN", page)


@pytest.mark.parametrize(
    ("experiment", "columns"),
    [
        ("depth", ("name", "bpd", "stderr", "stderr_images", "difference",
                   "difference_stderr_seeds")),
        ("bounds", ("name", "bpd", "stderr", "stderr_images", "stderr_hutchinson", "difference",
                    "difference_stderr_images", "stderr_degrees")),
        ("snr_oracle", ("name", "variance", "variance_stratified", "total_variation",
                        "worst_variance_to_optimal", "worst_total_variation")),
        ("schedule_swap", ("name", "bpd", "stderr", "stderr_images", "variance",
                           "difference_to_variance", "difference_stderr",
                           "largest_difference_in_stderrs")),
        ("snr_ablation", ("name", "bpd", "stderr", "variance", "difference",
                          "difference_stderr_seeds", "omega_0", "omega_1")),
        ("ladder", ("name", "bound", "bpd", "stderr", "stderr_images", "difference",
                    "difference_stderr_seeds", "difference_stderr_images", "parameters",
                    "seconds")),
        ("fashion_mnist", ("name", "bpd", "stderr", "stderr_images", "difference",
                           "difference_stderr_images", "bound", "train_secs", "stderr_degrees")),
        ("data_sets", ("name", "config", "parameters", "step", "bpd", "stderr", "stderr_images",
                       "stderr_seeds", "uniform_bpd", "seconds", "stderr_degrees")),
        ("fourier", ("name", "step", "bpd", "stderr", "stderr_images", "stderr_seeds",
                     "difference", "difference_stderr_seeds", "difference_stderr_images",
                     "seconds", "stderr_degrees")),
        ("schedule_cost", ("name", "step_secs", "time_ratio", "gflops", "flops_ratio")),
    ],
)  # fmt: skip
def test_pages_hold_the_tables_of_their_results(experiment, columns):
    folder = ROOT / "experiments" / experiment
    page = (folder / "README.md").read_text()
    for row in json.loads((folder / "results.json").read_text()):
        if row["name"].startswith("denoising term alone"):
            continue
        line = format_table([row], columns).splitlines()[-1]
        assert line in page


@pytest.mark.parametrize("results", RESULTS, ids=lambda path: path.parent.name)
def test_errors_of_draws_have_the_degrees_of_freedom_of_their_draws(results):
    for row in json.loads(results.read_text()):
        draws = row.get("draws_per_example")
        if draws is None:
            continue
        trainings = 1 if results.parent.name == "compression" else len(row.get("seeds", [0]))
        of_draws = {trainings * (draws - num_strata(draws)), trainings * (draws - 1)}
        of_images = trainings * (draws - 1) * row.get("num_examples", 0)
        assert row["stderr_degrees"] in {*of_draws, of_images}


def test_pages_of_two_draws_say_how_long_an_interval_is():
    for experiment, names in [
        ("data_sets", ("fashion_mnist", "cifar10")), ("fashion_mnist", ("cpu", "peer"))
    ]:  # fmt: skip
        rows = {row["name"]: row for row in rows_of(experiment)}
        page = (ROOT / "experiments" / experiment / "README.md").read_text()
        for name in names:
            width = half_width(rows[name]["stderr"], rows[name]["stderr_degrees"])
            assert f"±{width:.3f}" in page


TABLES_OF_SOME_ROWS = [
    ("parameterisations", ("name", "bpd", "stderr", "stderr_images", "difference",
                           "difference_stderr_seeds", "variance", "frechet_pixels")),
    ("sampler_orders", ("name", "order", "theory", "smallest_error", "weight_error",
                        "weight_stderr")),
    ("dpm_lab", ("section", "claim of the source", "what we find", "verdict")),
    ("dpm_lab", ("name", "second_singular", "second_singular_exact", "js_ratio_local",
                 "js_ratio_mean", "js_ratio_largest", "dobrushin_interval", "js_after_0.20")),
    ("dpm_lab", ("name", "exists", "moved", "closed_form_error", "mean", "variance",
                 "variance_exact", "js_to_q", "second_eigenvalue")),
    ("guidance", ("name", "accuracy", "diversity", "network_evaluations")),
    ("throughput", ("name", "variant", "images_per_sec", "speed_ratio", "step_secs",
                    "compile_secs", "temp_mib", "temp_ratio", "gflops", "peak_share",
                    "input_share")),
    ("guidance", ("name", "bpd", "stderr", "stderr_images", "difference", "difference_stderr",
                  "difference_stderr_images")),
    ("compression", ("name", "net", "bpd", "stderr", "net_stderr", "path", "step_cost", "gross",
                     "initial_bits", "encode_secs", "decode_secs")),
    ("compression", ("name", "bpd_each", "bpd_mosaic")),
]  # fmt: skip


@pytest.mark.parametrize(("experiment", "columns"), TABLES_OF_SOME_ROWS)
def test_pages_hold_the_tables_of_rows_of_several_kinds(experiment, columns):
    folder = ROOT / "experiments" / experiment
    rows = json.loads((folder / "results.json").read_text())
    shown = [row for row in rows if columns[1] in row]
    assert shown
    page = (folder / "README.md").read_text()
    for row in shown:
        assert format_table([row], columns).splitlines()[-1] in page


def test_ladder_page_holds_its_checks_and_all_of_them_hold():
    folder = ROOT / "experiments" / "ladder"
    found = json.loads((folder / "checks.json").read_text())
    assert (
        format_table(found, ("name", "value", "limit", "holds"))
        in (folder / "README.md").read_text()
    )
    assert all(row["holds"] for row in found)


def test_score_based_page_holds_its_tables():
    from experiments.score_based.run import TABLES

    folder = ROOT / "experiments" / "score_based"
    rows = json.loads((folder / "results.json").read_text())
    page = (folder / "README.md").read_text()
    for part, columns in TABLES:
        shown = [row for row in rows if row["name"].startswith(part) and columns[1] in row]
        assert format_table(shown, columns) in page


def test_sampler_quality_page_holds_the_means_of_its_rows():
    from experiments.sampler_quality.run import COLUMNS, means

    folder = ROOT / "experiments" / "sampler_quality"
    rows = json.loads((folder / "results.json").read_text())
    page = (folder / "README.md").read_text()
    assert format_table(means(rows), COLUMNS) in page
    assert read_mlp_features(folder / "features.npz").name == rows[0]["features"]


def test_guide_and_readme_quote_the_variances_of_the_swapped_schedules():
    variances = {row["name"]: f"{row['variance']:.3g}" for row in rows_of("schedule_swap")}
    order = ("variance", "linear", "bound", "cosine", "beta_linear")
    assert " | ".join(variances[name] for name in order) in text_of("vdm/diffusion/README.md")
    headline = "learned schedule | {variance} (bits/dim)² | straight line {linear} |"
    assert headline.format(**variances) in README


def test_guide_and_readme_quote_the_rates_of_the_codec():
    found = rows_of("compression")
    rows = {row["name"]: row for row in found}
    assert all(row["exact"] for row in found if "net" in row)
    for name, text in [
        ("digits 297 T=1000", "{net:.3f} bits/dim with 1,000 steps, where the bound is {bpd:.3f} ± "
                              "{stderr:.3f}; their file has {gross:.3f}"),
        ("fashion_mnist 1000 T=50", "net {net:.3f}, bound {bpd:.3f} ± {stderr:.3f}, "
                                    "file {gross:.3f}"),
        ("digits JPEG-XL", "JPEG-XL {bpd_mosaic:.3f} in one mosaic"),
        ("fashion_mnist JPEG-XL", "JPEG-XL {bpd_mosaic:.3f} ("),
    ]:  # fmt: skip
        assert text.format(**rows[name]) in text_of("vdm/compression/README.md")
    gross = rows["digits 297 T=1000"]["gross"]
    jpeg_xl = rows["digits JPEG-XL"]["bpd_mosaic"]
    assert f"compressed digits | {gross:.3f} bits/dim | JPEG-XL {jpeg_xl:.3f} |" in README


def test_guide_and_readme_quote_the_speed_against_the_published_choices():
    ours = {row["name"]: row for row in rows_of("throughput") if row.get("variant") == "ours"}
    speeds = [f"{ours[name]['speed_ratio']:.2f}" for name in "ABC"]
    memory = [f"{ours[name]['temp_ratio']:.2f}" for name in "ABC"]
    text = text_of("vdm/devices/README.md")
    assert "{}, {} and {} times the images a second".format(*speeds) in text
    assert "with {}, {} and {} of the temporaries".format(*memory) in text
    assert f"three networks | {', '.join(speeds)} times |" in README


def test_readme_quotes_the_trainings_on_larger_images():
    fashion = next(row for row in rows_of("fashion_mnist") if row["name"] == "cpu")
    cifar = next(row for row in rows_of("data_sets") if row["name"] == "cifar10")
    for name, row in [("Fashion-MNIST", fashion), ("CIFAR-10 (`:cpu`)", cifar)]:
        number = f"{row['bpd']:.3f} ± {row['stderr_images']:.3f} bits/dim"
        assert f"| {name}, two CPU cores | {number} |" in README


def test_guides_quote_how_far_swapped_schedules_and_learned_ones_are_off_and_the_kills():
    text = text_of("vdm/diffusion/README.md")
    largest = max(row["largest_difference_in_stderrs"] for row in rows_of("schedule_swap"))
    assert f"within {largest:.1f} Monte-Carlo errors" in text
    rows = {row["name"]: row for row in rows_of("snr_oracle")}
    assert rows["variance"]["worst_total_variation"] < 0.01
    assert rows["variance"]["worst_variance_to_optimal"] < 1.02
    assert "reaches it within 1% total variation and 2% variance" in text
    kills = json.loads((ROOT / "tests" / "faults" / "kills.json").read_text())
    assert f"{kills['kills']} kills so far" in text_of("tests/README.md")


def test_results_page_is_made_of_the_committed_results():
    from experiments.page import PAGE, render

    assert PAGE.read_text() == render()


def test_results_page_says_which_figures_are_not_ours():
    from experiments.contents import SECTIONS
    from experiments.page import section

    for entry in (entry for entries in SECTIONS.values() for entry in entries):
        ours, _, theirs = section(entry).partition("**The paper's** (")
        assert "**Ours**" in ours
        assert "CPU core" in ours
        if entry.paper is None:
            assert not theirs
            continue
        assert "not ours)" in theirs
        for figure in {cell for row in entry.paper.rows for cell in row if "." in cell}:
            assert figure in theirs


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


def test_config_headers_expect_the_committed_results():
    digits, (*_, cifar) = ROWS["vdm"], rows_of("data_sets")
    for name, row, text in [
        ("digits", digits, "{bpd:.3f} bits/dim on the 297 test images, +- {stderr_images:.3f}"),
        ("cifar10", cifar, "{bpd:.3f} bits/dim on the test split, +- {stderr_images:.3f}"),
    ]:
        header = " ".join((ROOT / "configs" / f"{name}.py").read_text().split('"""')[1].split())
        assert text.format(**row) in header


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
