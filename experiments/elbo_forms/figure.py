"""The figure of the terms of both forms at each level, and of the variances of their estimates."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.results import Row
from vdm.io.plots import BLUE, GREY, PAGE, VERMILLION, make_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = {  # form: colour, dashes, hatch, name
    "denoising": (BLUE, "-", "", "denoising form"),
    "consistency": (VERMILLION, "--", "////", "consistency form"),
    "printed": (GREY, ":", "....", "formula as printed"),
}
VARIANCES = {
    "variance_path": "matching,\nwhole path",
    "variance_one_level": "matching,\none level",
    "variance_bound": "bound,\nwhole path",
}


def plot_forms(path: Path, rows: Mapping[str, Row], num_steps: int) -> None:
    """Plots the terms of the four-step example and of the digits model at T = num_steps (upper
    row), and the variances of both (lower row)."""
    figure, panels = make_figure(PAGE, 4.6, columns=2, rows=2)
    _terms_of_four_steps(panels[0], rows)
    _levels_of_digits(panels[1], rows, num_steps)
    examples = {"four_steps": "four-step example", f"digits_T{num_steps}": _digits(num_steps)}
    for axes, (example, title) in zip(panels[2:], examples.items(), strict=True):
        _variances(axes, rows, example)
        axes.set_title(title)
    for axes in (panels[0], *panels[2:]):
        axes.grid(visible=False, axis="x")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    save_figure(figure, path)


def _digits(num_steps: int) -> str:
    return f"digits model, $T$ = {num_steps}"


def _terms_of_four_steps(axes: "Axes", rows: Mapping[str, Row]) -> None:
    for i, (form, (colour, _, hatch, label)) in enumerate(STYLES.items()):
        row = rows[f"four_steps_{form}"]
        heights = [row["reconstruction"], *row["matching_of_levels"], row["prior"]]
        axes.bar(np.arange(5) + 0.27 * (i - 1), heights, 0.27, color=colour, label=label,
                 hatch=hatch, edgecolor="white", linewidth=0.0)  # fmt: skip
    axes.set_xticks(range(5), ["recon-\nstruction", "$z_0$", "$z_1$", "$z_2$", "prior"])
    axes.set_ylabel("term of the negative bound  [nats]")
    axes.set_title("four-step example, exact")


def _levels_of_digits(axes: "Axes", rows: Mapping[str, Row], num_steps: int) -> None:
    for form, (colour, dashes, _, _) in STYLES.items():
        means = rows[f"digits_T{num_steps}_{form}"]["matching_of_levels"]
        axes.plot(range(num_steps), means, dashes, color=colour, linewidth=1.5)
    axes.set_yscale("symlog", linthresh=10.0)
    axes.set_yticks([-10, -5, 0, 5, 10, 100], ["−10", "−5", "0", "5", "10", "100"])
    axes.minorticks_off()
    axes.set_xlabel(r"level $i$ of $z_i$  (clean $\rightarrow$ noisy)")
    axes.set_ylabel("matching term  [nats]")
    axes.set_title(_digits(num_steps))


def _variances(axes: "Axes", rows: Mapping[str, Row], example: str) -> None:
    for i, form in enumerate(("denoising", "consistency")):
        values = [rows[f"{example}_{form}"][key] for key in VARIANCES]
        colour, _, hatch, _ = STYLES[form]
        bars = axes.bar(np.arange(3) + 0.36 * (i - 0.5), values, 0.36, color=colour, hatch=hatch,
                        edgecolor="white", linewidth=0.0)  # fmt: skip
        axes.bar_label(bars, [_number(value) for value in values], fontsize=7, padding=1)
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.margins(y=0.15)
    axes.set_xticks(range(3), list(VARIANCES.values()))
    axes.set_ylabel("variance for one example  [nats²]")


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1e3 else f"{value / 1e3:.3g}k"
