"""The README, the guides and the headers of configs quote the committed results."""

import json

from experiments.sampler_quality.run import means
from tests.documents import README, ROOT, ROWS, rows_of, text_of


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
        ("digits 297 T=64 mixture", "cost {net:.3f} bits/dim with 64 steps of the mixture kernel, "
                                    "where the bound is {bpd:.3f} ± {stderr:.3f}; "
                                    "their file has {gross:.3f}"),
        ("digits 297 T=1000", "1,000 steps of the Gaussian kernel need {net:.3f}, and their file "
                              "{gross:.3f}"),
        ("fashion_mnist:codes 250 T=50 mixture",
         "net {net:.3f}, bound {bpd:.3f} ± {stderr:.3f}, file {gross:.3f}"),
        ("fashion_mnist 250 T=50", "Gaussian kernel net {net:.3f}"),
        ("digits JPEG-XL", "JPEG-XL {bpd_mosaic:.3f} in one mosaic"),
        ("fashion_mnist JPEG-XL", "JPEG-XL takes {bpd_mosaic:.3f} for the first 1,000"),
    ]:  # fmt: skip
        assert text.format(**rows[name]) in text_of("vdm/compression/README.md")
    (ratio,) = (row["time_ratio"] for row in found if "time_ratio" in row)
    assert f"{1 / ratio:.0f} times the time" in text_of("vdm/compression/README.md")
    gross = rows["digits 297 T=64 mixture"]["gross"]
    jpeg_xl = rows["digits JPEG-XL"]["bpd_mosaic"]
    assert f"compressed digits | {gross:.3f} bits/dim | JPEG-XL {jpeg_xl:.3f} |" in README


def test_readme_quotes_the_bounds_of_ten_steps():
    rows = {row["name"]: row for row in rows_of("kernels")}
    mixture, gaussian = (
        f"{rows[f'digits {kernel} T=10']['bpd']:.3f}"
        for kernel in ("mixture, network, least_bound", "gaussian")
    )
    text = f"digits' models is {mixture} bits/dim, where the Gaussian kernel has {gaussian}"
    assert text in text_of("README.md")


def test_guide_quotes_the_quality_of_few_evaluations():
    table = means(rows_of("sampler_quality"))
    few, many = (
        next(row["frechet"] for row in table if (row["sampler"], row["evaluations"]) == of)
        for of in (("dpm_solver, noise below 1", 24), ("ancestral", 1000))
    )
    text = text_of("vdm/diffusion/README.md")
    assert f"network is {few:.2f}, and that of 1,000 ancestral steps {many:.2f}" in text


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


def test_config_headers_expect_the_committed_results():
    digits, (*_, cifar) = ROWS["vdm"], rows_of("data_sets")
    kernels = {row["name"]: row for row in rows_of("kernels")}
    of_codes = "by four normals: {bpd:.3f} bits/dim, +- {stderr_images:.3f} over images"
    for name, row, text in [
        ("cifar10", kernels["cifar10 every test image T=inf"], of_codes),
        ("digits", digits, "{bpd:.3f} bits/dim on the 297 test images, +- {stderr_images:.3f}"),
        ("cifar10", cifar, "{bpd:.3f} bits/dim on the test split, +- {stderr_images:.3f}"),
    ]:
        header = " ".join((ROOT / "configs" / f"{name}.py").read_text().split('"""')[1].split())
        assert text.format(**row) in header
