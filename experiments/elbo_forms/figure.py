"""The terms of both forms level by level, and the variances of their estimates."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.results import Row
from vdm.io.files import atomic_path
from vdm.io.plots import BLUE, GREY, VERMILLION

STYLES = {
    "denoising": (BLUE, "-", "denoising form"),
    "consistency": (VERMILLION, "--", "consistency form"),
    "printed": (GREY, ":", "formula as printed"),
}
VARIANCES = {
    "variance_path": "matching,\nwhole\npath",
    "variance_one_level": "matching,\none\nlevel",
    "variance_bound": "bound,\nwhole\npath",
}


def plot_forms(path: Path, rows: Mapping[str, Row], num_steps: int) -> None:
    """Left: the four-step example; middle: the digits model at T = num_steps; right: variances."""
    figure = Figure(figsize=(11.0, 3.2), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.0, 1.0, 1.4))
    _terms_of_four_steps(left, rows)
    _levels_of_digits(middle, rows, num_steps)
    _variances(right, rows, num_steps)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, axis="y", color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=6.5)
        axes.title.set_fontsize(8)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False,
        fontsize=8,
    )  # fmt: skip
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _terms_of_four_steps(axes: Axes, rows: Mapping[str, Row]) -> None:
    for i, (form, (colour, _, label)) in enumerate(STYLES.items()):
        row = rows[f"four_steps_{form}"]
        heights = [row["reconstruction"], *row["matching_of_levels"], row["prior"]]
        axes.bar(np.arange(5) + 0.27 * (i - 1), heights, 0.25, color=colour, label=label)
    axes.set_xticks(range(5), ["recon-\nstruction", "$z_0$", "$z_1$", "$z_2$", "prior"])
    axes.set_ylabel("term of the negative bound  [nats]")
    axes.set_title("four-step example, exact")


def _levels_of_digits(axes: Axes, rows: Mapping[str, Row], num_steps: int) -> None:
    for form, (colour, dashes, _) in STYLES.items():
        means = rows[f"digits_T{num_steps}_{form}"]["matching_of_levels"]
        axes.plot(range(num_steps), means, dashes, color=colour, linewidth=1.5)
    axes.set_yscale("symlog", linthresh=10.0)
    axes.set_xlabel(r"level $i$ of $z_i$     (clean $\rightarrow$ noisy)")
    axes.set_ylabel("matching term  [nats]")
    axes.set_title(f"digits model, T = {num_steps}")


def _variances(axes: Axes, rows: Mapping[str, Row], num_steps: int) -> None:
    groups = [("four_steps", "four steps"), (f"digits_T{num_steps}", f"digits, T = {num_steps}")]
    for i, form in enumerate(("denoising", "consistency")):
        values = [rows[f"{group}_{form}"][key] for group, _ in groups for key in VARIANCES]
        places = np.array([0.0, 1.0, 2.0, 3.5, 4.5, 5.5]) + 0.36 * (i - 0.5)
        bars = axes.bar(places, values, 0.34, color=STYLES[form][0])
        axes.bar_label(bars, [_number(value) for value in values], fontsize=6, padding=1)
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_xticks([0.0, 1.0, 2.0, 3.5, 4.5, 5.5], list(VARIANCES.values()) * 2)
    axes.set_ylabel("variance for one example  [nats²]")
    axes.set_title("      |      ".join(title for _, title in groups))


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1e3 else f"{value / 1e3:.3g}k"
