"""The picture: bits/dim against network evaluations."""

from pathlib import Path

from experiments.results import Row
from vdm.io.plots import BLUE, GREEN, GREY, ORANGE, PAGE, VERMILLION, make_figure, save_figure

STYLES = {
    "gaussian": ("Gaussian", GREY, "o", "-"),
    "gaussian, least_bound": ("Gaussian, chosen levels", GREY, "s", "--"),
    "gaussian_fitted": ("Gaussian, fitted variances", GREEN, "^", "-"),
    "mixture": ("mixture", BLUE, "o", "-"),
    "mixture, network, least_bound": (
        "mixture, network's decoder, chosen levels", VERMILLION, "s", "--",
    ),
    "trained for": ("the same, trained for T steps", ORANGE, "D", ":"),
}  # fmt: skip
TITLES = {"digits": "Digits", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}


def plot(path: Path, rows: list[Row]) -> None:
    """One axis for each data set; the horizontal line is the bound in continuous time."""
    sets = [name for name in TITLES if any(row["name"].startswith(f"{name} ") for row in rows)]
    figure, all_axes = make_figure(PAGE, 2.9, len(sets))
    for name, axes in zip(sets, all_axes, strict=True):
        own = [row for row in rows if row["name"].startswith(f"{name} ")]
        limit = next(row["bpd"] for row in own if row["name"] == f"{name} any kernel T=inf")
        for label, (shown, colour, mark, line) in STYLES.items():
            start = f"{name} {label} T="
            mine = [r for r in own if r["name"].startswith(start) and r.get("evaluations")]
            mine.sort(key=lambda row: row["evaluations"])
            axes.plot([row["evaluations"] for row in mine], [row["bpd"] for row in mine],
                      color=colour, marker=mark, linestyle=line, markersize=4, linewidth=1.0,
                      label=shown)  # fmt: skip
        axes.axhline(limit, color="black", linewidth=0.8, linestyle=":", label="continuous time")
        axes.set_xscale("log")
        axes.set_xticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
        axes.minorticks_off()
        axes.set_ylim(limit - 0.05, limit + 1.6)
        axes.set_title(TITLES[name])
        axes.set_xlabel("network evaluations")
    all_axes[0].set_ylabel("bits/dim")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=3, fontsize=8)
    save_figure(figure, path)
