"""Figures of a run: the learned SNR, the loss density over omega, samples of 2-D data.

Figures are made with matplotlib's objects (no pyplot, global state or display). They fit one or two
columns of a paper, at 300 dots per inch with text of 7 or 8 points. The colours are Okabe and
Ito's, which colour-blind readers can distinguish; lines also differ in dashes or markers, for
grey-scale prints.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from vdm.io.atomic import atomic_path

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#7F7F7F"
COLUMN, PAGE = 3.3, 6.75  # inches: the width of one column of a two-column paper, and of both
_DPI = 300
_SMALL, _FONT_SIZE = 7.0, 8.0  # points; captions of papers have 8


def plot_schedule(
    path: str | Path, t: ArrayLike, omega: ArrayLike, omega_initial: ArrayLike
) -> None:
    """Plots omega_eta(t) = -log SNR(t), learned and initial, next to SNR(t) on a log axis.

    Args:
        path: the PNG file, replaced atomically.
        t: times in [0, 1], ascending, [n].
        omega: the learned schedule in nats, [n]; or [n, *dims] if every dimension has its own, in
            which case their median and range are drawn.
        omega_initial: the schedule at the start of training, in the same form.
    """
    t = np.asarray(t, np.float64).ravel()
    omega, initial = (np.asarray(a, np.float64).reshape(t.size, -1) for a in (omega, omega_initial))
    figure, (left, right) = make_figure(PAGE, 2.5, columns=2)
    for axes, learned_line, initial_line in (
        (left, omega, initial),
        (right, np.exp(-omega), np.exp(-initial)),
    ):
        # Without this, a steep line at t = 0 or 1 would lose half its width.
        shown: dict[str, Any] = {"clip_on": False}
        axes.plot(t, _middle(initial_line), "--", color=GREY, linewidth=1.2, label="initial",
                  **shown)  # fmt: skip
        axes.plot(t, _middle(learned_line), color=BLUE, linewidth=1.6, label="learned", **shown)
        if omega.shape[1] > 1:
            low, high = learned_line.min(axis=1), learned_line.max(axis=1)
            axes.fill_between(t, low, high, color=BLUE, alpha=0.25, label="all dimensions")
        axes.set_xlim(0.0, 1.0)
        axes.set_xlabel("time $t$")
    left.set_ylabel(r"$\omega_\eta(t) = -\log\,\mathrm{SNR}(t)$  [nats]")
    left.legend(loc="upper left", frameon=False)
    right.set_yscale("log")
    right.minorticks_off()
    right.set_ylabel(r"$\mathrm{SNR}(t) = \alpha_t^2 / \sigma_t^2$")
    save_figure(figure, path)


def plot_loss_density(path: str | Path, diagnosis: Any, t: ArrayLike, omega: ArrayLike) -> None:
    """Plots, over omega, the loss density in bits/dim and the shares of the estimator's variance,
    and, over time, the learned schedule with the one of least variance.

    Args:
        path: the PNG file, replaced atomically.
        diagnosis: a `vdm.evaluation.diagnostics.Diagnosis`.
        t: times in [0, 1], ascending, [n].
        omega: the learned schedule at these times, [n], in nats.
    """
    d = diagnosis
    figure, (left, middle, right) = make_figure(PAGE, 2.6, columns=3)
    left.fill_between(
        d.centre,
        np.maximum(d.density - d.half_width, 0.0),
        d.density + d.half_width,
        color=BLUE,
        alpha=0.25,
        linewidth=0.0,
        label="95% interval",
    )
    left.plot(d.centre, d.density, color=BLUE, linewidth=1.4, label="mean")
    top = np.max(d.density + np.nan_to_num(d.half_width))  # NaN in a bin with a single draw
    left.set_ylim(0.0, 1.35 * max(top, 1e-9))  # leaves space for the legend
    left.set_ylabel(r"½ $\|\epsilon - \hat\epsilon\|^2$  [bits/dim per nat]")
    left.set_title(f"integral {d.integral:.3f} ± {d.integral_stderr:.3f} bits/dim")
    left.legend(frameon=False, loc="upper right", handlelength=1.2)
    width = np.diff(d.edges)
    middle.stairs(d.variance_share / width, d.edges, color=VERMILLION, fill=True, alpha=0.6)
    middle.set_ylabel(r"share of the variance  [per nat]")
    middle.set_title(f"variance {d.variance:.3g}, at best {d.optimal_variance:.3g}\n(bits/dim)²")
    for axes in (left, middle):
        axes.set_xlim(d.edges[0], d.edges[-1])
        axes.set_xlabel(r"$\omega$  [nats]  (clean $\rightarrow$ noisy)")
    # The dashed reference line is on top, because a learned line near it would hide it.
    right.plot(d.optimal_t, d.edges, "--", color=BLACK, linewidth=1.2, label="least variance",
               zorder=3, clip_on=False)  # fmt: skip
    right.plot(np.ravel(t), np.ravel(omega), color=BLUE, linewidth=1.6, label="learned",
               clip_on=False)  # fmt: skip
    right.set_xlim(0.0, 1.0)
    right.set_xticks([0.0, 0.5, 1.0])
    right.set_xlabel("time $t$")
    right.set_ylabel(r"$\omega(t)$  [nats]")
    right.set_title("schedule")
    right.legend(frameon=False, loc="upper left", handlelength=1.6)
    save_figure(figure, path)


def _middle(lines: np.ndarray) -> np.ndarray:
    """The median [n] of curves [n, curves]."""
    return np.median(lines, axis=1)


def plot_points(path: str | Path, samples: ArrayLike, data: ArrayLike) -> None:
    """Plots 2-D samples next to 2-D data, with the same axis limits.

    Args:
        path: the PNG file, replaced atomically.
        samples: [n, 2], in the units of the data.
        data: [m, 2]; m = 0 if there are none.
    """
    samples, data = np.asarray(samples, np.float64), np.asarray(data, np.float64)
    if samples.shape[1:] != (2,) or data.shape[1:] != (2,):
        raise ValueError(f"samples {samples.shape} and data {data.shape}; both must be [n, 2]")
    figure, panels = make_figure(PAGE, 3.75, columns=2)
    # The data set the limits, because a single far sample would shrink the rest to a dot.
    shown = data if len(data) else samples
    low, high = shown.min(axis=0), shown.max(axis=0)
    centre, half = (low + high) / 2, 0.575 * max(np.max(high - low), 1e-6)
    for axes, points, colour, name in (
        (panels[0], data, GREY, "data points"),
        (panels[1], samples, VERMILLION, "samples"),
    ):
        inside = np.all(np.abs(points - centre) <= half, axis=1)
        outside = np.count_nonzero(~inside)
        size = np.clip(4000.0 / max(len(points), 1), 0.8, 8.0)
        axes.scatter(*points.T, s=size, color=colour, alpha=0.6, linewidths=0.0)
        axes.set_title(f"{len(points)} {name}" + (f" ({outside} outside)" if outside else ""))
        axes.set_xlim(centre[0] - half, centre[0] + half)
        axes.set_ylim(centre[1] - half, centre[1] + half)
        axes.set_aspect("equal")
        axes.locator_params(nbins=5)
        axes.set_xlabel("$x_1$")
    panels[0].set_ylabel("$x_2$")
    panels[1].tick_params(labelleft=False)
    save_figure(figure, path)


def plot_comparison(
    path: str | Path, rows: Sequence[Mapping[str, Any]], quantile: float = 1.96
) -> None:
    """Plots bits/dim of several runs next to their differences from the first, with 95% intervals
    over images.

    Args:
        path: the PNG file, replaced atomically.
        rows: for each run "run", "bpd", "stderr_images"; for all but the first also "difference",
            "difference_stderr_images".
        quantile: half the length of a bar in standard errors; 1.96 is right for many images.
    """
    figure, (left, right) = make_figure(PAGE, 0.9 + 0.35 * len(rows), columns=2)
    figure.suptitle("bars: 95% over images")
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
            xerr=[quantile * np.nan_to_num(row[error] or 0.0) for _, row in shown],
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
    """The last folder of each path, with its parent if some names would be equal; long names are
    shortened in the middle."""
    paths = [run.absolute() for run in runs]
    names = [path.name for path in paths]
    if len(set(names)) < len(set(paths)):
        names = [f"{path.parent.name}/{path.name}" for path in paths]
    return [n if len(n) <= 28 else f"{n[:13]}…{n[-14:]}" for n in names]


def make_figure(
    width: float, height: float, columns: int = 1, rows: int = 1
) -> tuple["Figure", list["Axes"]]:
    """Makes an empty figure of `width` x `height` inches, and its axes row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=_FONT_SIZE)
    return figure, panels


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Writes a figure to a PNG file atomically, with text sizes limited to 7 to 8 points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        text.set_fontsize(np.clip(text.get_fontsize(), _SMALL, _FONT_SIZE))
    if any(axes.get_aspect() != "auto" for axes in figure.axes):
        figure.draw_without_rendering()  # the layout then needs a second pass
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    with atomic_path(path) as temporary:
        # 256 colours take a third of the bytes of 2^24, with no visible difference.
        picture.quantize(256, dither=Image.Dither.NONE).save(
            temporary, "PNG", optimize=True, dpi=(_DPI, _DPI)
        )
