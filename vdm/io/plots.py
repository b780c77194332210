"""Figures of a run: the learned SNR, where in omega the bits go, samples of 2-D data.

matplotlib through its objects (no pyplot, no global state, no display), sized for one or two
columns of a paper at 200 dots per inch, in Okabe and Ito's colours, which the colour-blind tell
apart; lines differ in their dashes too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from vdm.io.files import atomic_path

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#7F7F7F"
_DPI = 200
_FONT_SIZE = 8.0  # points; what a caption has


def plot_schedule(
    path: str | Path, t: ArrayLike, omega: ArrayLike, omega_initial: ArrayLike
) -> None:
    """omega_eta(t) = -log SNR(t), learned and initial, and beside it SNR(t) on a log axis.

    Args:
        path: the PNG file, replaced atomically.
        t: times in [0, 1], ascending, [n].
        omega: learned, [n], nats.
        omega_initial: at the start of the training, [n].
    """
    t, omega, initial = (np.asarray(a, np.float64).ravel() for a in (t, omega, omega_initial))
    figure, (left, right) = make_figure(6.75, 2.6, columns=2)
    for axes, learned_line, initial_line in (
        (left, omega, initial),
        (right, np.exp(-omega), np.exp(-initial)),
    ):
        axes.plot(t, initial_line, "--", color=GREY, linewidth=1.2, label="initial")
        axes.plot(t, learned_line, color=BLUE, linewidth=1.6, label="learned")
        axes.set_xlim(0.0, 1.0)
        axes.set_xlabel("time $t$")
    left.set_ylabel(r"$\omega_\eta(t) = -\log\,\mathrm{SNR}(t)$  [nats]")
    left.legend(loc="upper left", frameon=False)
    right.set_yscale("log")
    right.set_ylabel(r"$\mathrm{SNR}(t) = \alpha_t^2 / \sigma_t^2$")
    save_figure(figure, path)


def plot_loss_density(
    path: str | Path,
    omega: ArrayLike,
    density: ArrayLike,
    bins: int = 40,
    integral: bool = True,
) -> None:
    """Where the bits go: the mean of 1/2 ||eps - eps_hat||^2 against omega, and its integral.

    The integral over omega is the denoising term in continuous time, whatever the schedule. It is
    summed over bins of equally many draws, mean times width, so draws may lie as they like in
    omega; the name of the line says it, with its standard error.

    Args:
        path: the PNG file, replaced atomically.
        omega: -log SNR of each draw, [n], nats; from omega_0 to omega_1.
        density: 1/2 ||eps - eps_hat||^2 / (D ln 2) of each draw, [n], bits/dim per nat of omega.
        bins: the number of bins; fewer where there are under 8 draws for each.
        integral: whether the draws cover omega, so that the integral is worth stating; not so
            for a bound of finitely many steps.

    Raises:
        ValueError: under 16 draws, or all at one omega.
    """
    omega, density = (np.asarray(a, np.float64).ravel() for a in (omega, density))
    if omega.size < 16 or omega.shape != density.shape or np.ptp(omega) == 0:
        raise ValueError(
            f"{omega.size} draws of omega, {density.size} of the density: "
            "at least 16 draws at different omega are needed"
        )
    centre, mean, stderr, width = bin_means(omega, density, min(bins, omega.size // 8))
    label = "mean"
    if integral:
        total, total_stderr = np.sum(mean * width), np.sqrt(np.sum((stderr * width) ** 2))
        label += f"; integral {total:.3f} ± {total_stderr:.3f} bits/dim"

    figure, (axes,) = make_figure(5.0, 2.9)
    axes.fill_between(
        centre,
        np.maximum(mean - 1.96 * stderr, 0.0),
        mean + 1.96 * stderr,
        color=BLUE,
        alpha=0.25,
        linewidth=0.0,
        label="95% confidence",
    )
    axes.plot(
        centre,
        mean,
        color=BLUE,
        linewidth=1.6,
        label=label,
    )
    axes.set_xlim(omega.min(), omega.max())
    axes.set_ylim(bottom=0.0)
    axes.margins(y=0.2)
    axes.set_xlabel(r"$\omega = -\log\,\mathrm{SNR}$  [nats]     (clean $\rightarrow$ noisy)")
    axes.set_ylabel(
        r"$\frac{1}{2}\,\|\epsilon - \hat\epsilon\|^2$" + "\n[bits/dim per nat of $\\omega$]"
    )
    axes.set_title("Denoising term by noise level", fontsize=_FONT_SIZE)
    axes.legend(frameon=False)
    save_figure(figure, path)


def plot_points(path: str | Path, samples: ArrayLike, data: ArrayLike) -> None:
    """Samples beside data, for 2-D toys, on the same axes.

    Args:
        path: the PNG file, replaced atomically.
        samples: [n, 2], in the data's own units.
        data: [m, 2].
    """
    samples, data = np.asarray(samples, np.float64), np.asarray(data, np.float64)
    if samples.shape[1:] != (2,) or data.shape[1:] != (2,):
        raise ValueError(f"samples {samples.shape} and data {data.shape}; both must be [n, 2]")
    figure, panels = make_figure(5.0, 3.0, columns=2)
    # Limits from the data: one stray sample must not shrink the picture to a dot.
    low, high = data.min(axis=0), data.max(axis=0)
    centre, half = (low + high) / 2, 0.575 * max(np.max(high - low), 1e-6)
    for axes, points, colour, name in (
        (panels[0], data, GREY, "data points"),
        (panels[1], samples, VERMILLION, "samples"),
    ):
        inside = np.all(np.abs(points - centre) <= half, axis=1)
        outside = np.count_nonzero(~inside)
        size = np.clip(4000.0 / max(len(points), 1), 0.8, 8.0)
        axes.scatter(*points.T, s=size, color=colour, alpha=0.6, linewidths=0.0)
        axes.set_title(
            f"{len(points)} {name}" + (f" ({outside} outside)" if outside else ""),
            fontsize=_FONT_SIZE,
        )
        axes.set_xlim(centre[0] - half, centre[0] + half)
        axes.set_ylim(centre[1] - half, centre[1] + half)
        axes.set_aspect("equal")
        axes.locator_params(nbins=5)
        axes.set_xlabel("$x_1$")
    panels[0].set_ylabel("$x_2$")
    panels[1].tick_params(labelleft=False)
    save_figure(figure, path)


def plot_comparison(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Bits/dim of several runs, and beside them their differences to the first, with 95% intervals
    over images.

    Args:
        path: the PNG file, replaced atomically.
        rows: for each run "run", "bpd", "stderr_images"; from the second on "difference",
            "difference_stderr_images".
    """
    figure, (left, right) = make_figure(6.75, 0.9 + 0.35 * len(rows), columns=2)
    figure.suptitle("bars: 95% over images", fontsize=_FONT_SIZE)
    height = np.arange(len(rows))[::-1]
    labels = _short_names([Path(row["run"]) for row in rows])
    for axes, value, error, colour, title in (
        (left, "bpd", "stderr_images", BLUE, "bits/dim"),
        (right, "difference", "difference_stderr_images", VERMILLION,
         f"difference to {labels[0]} [bits/dim]"),
    ):  # fmt: skip
        shown = [(y, row) for y, row in zip(height, rows, strict=True) if value in row]
        axes.errorbar(
            [row[value] for _, row in shown],
            [y for y, _ in shown],
            xerr=[1.96 * np.nan_to_num(row[error] or 0.0) for _, row in shown],
            fmt="o",
            color=colour,
            markersize=4,
            linewidth=1.4,
        )
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(title)
        axes.set_yticks(height, [])
        axes.locator_params(axis="x", nbins=5)
    left.set_yticks(height, labels)
    right.axvline(0.0, color=GREY, linewidth=1.0, linestyle="--")
    save_figure(figure, path)


def _short_names(runs: Sequence[Path]) -> list[str]:
    """The last folder of each path, with its parent where that is not enough to tell them apart;
    the middle of long ones left out."""
    paths = [run.absolute() for run in runs]
    names = [path.name for path in paths]
    if len(set(names)) < len(set(paths)):
        names = [f"{path.parent.name}/{path.name}" for path in paths]
    return [n if len(n) <= 28 else f"{n[:13]}…{n[-14:]}" for n in names]


def bin_means(
    x: np.ndarray, y: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Means of y over bins of x with about equally many draws each.

    Args:
        x: [n], at least two different values.
        y: [n].
        bins: how many; fewer where equal values of x fill several.

    Returns:
        Per bin: mean of x, mean of y, standard error of the latter, width in x. The widths cover
        the range of x, so sum(mean * width) estimates the integral of E[y | x] over it.
    """
    edges = np.unique(np.quantile(x, np.linspace(0.0, 1.0, bins + 1)))
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    filled, index = np.unique(index, return_inverse=True)  # a bin between equal values is empty
    count = np.bincount(index)
    mean_x = np.bincount(index, x) / count
    mean_y = np.bincount(index, y) / count
    # Two passes: a difference of squares loses its digits where the mean is large.
    variance = np.bincount(index, (y - mean_y[index]) ** 2) / np.maximum(count - 1, 1)
    return mean_x, mean_y, np.sqrt(variance / count), np.diff(edges)[filled]


def make_figure(width: float, height: float, columns: int = 1) -> tuple["Figure", list["Axes"]]:
    """An empty figure of `width` x `height` inches with a row of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=_FONT_SIZE)
    return figure, panels


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Writes the PNG file, atomically, with all text in one size."""
    for axes in figure.axes:
        axes.xaxis.label.set_fontsize(_FONT_SIZE)
        axes.yaxis.label.set_fontsize(_FONT_SIZE)
        legend = axes.get_legend()
        for text in legend.get_texts() if legend else ():
            text.set_fontsize(_FONT_SIZE)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
