"""Figures of kernels in the form of S4's figures 15 to 33, for the densities of this experiment."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.dpm_lab import contraction, kernels
from experiments.dpm_lab.claims import Rows
from experiments.dpm_lab.densities import DENSITIES, on_grid, smooth_noise
from experiments.dpm_lab.divergences import js
from experiments.dpm_lab.grid import Array, Grid
from experiments.dpm_lab.scale import NOISE_LENGTH, Scale
from vdm.io.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PURPLE,
    VERMILLION,
    make_figure,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FINE = Grid(7.0, 0.025)  # for curves
STYLES = dict(zip(DENSITIES, ((GREY, "o"), (BLUE, "s"), (VERMILLION, "^"), (GREEN, "v"),
                              (PURPLE, "D")), strict=True))  # fmt: skip


def make_panels(height: float, rows: int, columns: int) -> tuple["Figure", Array]:
    """Makes an empty figure as wide as a page and its axes [rows, columns], without grid lines."""
    figure, panels = make_figure(PAGE, height, columns=columns, rows=rows)
    for axes in panels:
        axes.grid(visible=False)
        axes.tick_params(labelsize=7)
    return figure, np.array(panels, object).reshape(rows, columns)


def shown(name: str) -> str:
    """The name of a density in a legend."""
    return name.replace("_", " ")


def draw_chains(path: Path, scale: Scale, rows: Rows) -> None:
    """Plots q(z_t) on its way to N(0, 1), for alpha = 0.6 (upper row) and 0.9 (lower row)."""
    figure, panels = make_panels(3.0, 2, 6)
    z = scale.grid.points
    normal = np.exp(scale.grid.normalise(-0.5 * np.square(z)))
    shown = {0.6: (0, 1, 2, 3, 4, 5), 0.9: (0, 1, 2, 4, 6, 9)}
    for line, (alpha, times) in zip(panels, shown.items(), strict=True):
        marginals = kernels.chain(scale.grid, on_grid("mixture", scale.grid), [alpha] * times[-1])
        for axes, t in zip(line, times, strict=True):
            axes.plot(z, np.exp(marginals[t]), color=BLUE, linewidth=1.2, label="$q$")
            axes.plot(z, normal, "--", color=GREY, linewidth=0.9, label="N(0, 1)")
            axes.set_title(f"$q(z_{t})$" if t else "$q(x)$")
            axes.set_xlim(-3.2, 3.2)
            axes.set_ylim(0, 1.05)
            axes.tick_params(labelleft=t == 0)
        line[0].set_ylabel(f"density, $\\alpha$ = {alpha}")
    for axes in panels[1]:
        axes.set_xlabel("$z_t$" if axes is not panels[1, 0] else "$x$")
    panels[0, -1].legend(frameon=False, loc="upper right", handlelength=1.2,
                         borderaxespad=0.0)  # fmt: skip
    save_figure(figure, path)


def draw_kernels(path: Path, scale: Scale, rows: Rows) -> None:
    """Plots q(z_{t-1} | z_t) as a heat map with its mean, and at three z_t together with GF of
    S4 (127)."""
    figure, panels = make_panels(3.95, 2, 4)
    grid, z = FINE, FINE.points
    log_q = on_grid("mixture", grid)
    seen = np.abs(z) <= 2.8
    for column, alpha in zip(panels.T, (0.6, 0.9, 0.98, 0.99), strict=True):
        kernel = kernels.reverse(grid, log_q, alpha)
        top, bottom = column
        image = kernel[np.ix_(seen, seen)]
        ends = (z[seen][0], z[seen][-1]) * 2
        top.imshow(image, origin="lower", extent=ends, cmap="Blues", aspect="equal",
                   interpolation="nearest",
                   vmax=0.9 * np.quantile(image.max(axis=0), 0.9))  # fmt: skip
        top.plot(z[seen], kernels.moments(grid, kernel)[0][seen], color=VERMILLION, linewidth=1.0)
        top.set_title(f"$\\alpha$ = {alpha}")
        top.set_xlabel("$z_t$")
        bottom.fill_between(z, np.exp(log_q), color="0.88", linewidth=0)
        for z_t, colour in ((-1.2, BLUE), (-0.4, VERMILLION), (0.8, GREEN)):
            index = int(np.argmin(np.abs(z - z_t)))
            factor = kernels.gaussian_factor(grid, z[index], alpha) * np.sqrt(alpha)
            bottom.plot(z, kernel[:, index], color=colour, linewidth=1.2)
            bottom.plot(z, factor, ":", color=colour, linewidth=1.0)
            top.axvline(z[index], color=colour, linewidth=0.7, linestyle=":")
        bottom.set_xlim(-2.8, 2.8)
        bottom.set_ylim(bottom=0)
        bottom.set_xlabel("$z_{t-1}$")
    panels[0, 0].set_ylabel("$z_{t-1}$")
    panels[1, 0].set_ylabel("density of $z_{t-1}$")
    lines: dict[str, Any] = {"color": "0.2", "linewidth": 1.1}
    panels[1, 0].plot([], [], **lines, label="$q(z_{t-1}\\,|\\,z_t)$ at the three marked $z_t$")
    panels[1, 0].plot([], [], ":", **lines, label="$GF$ at the same $z_t$")
    panels[1, 0].fill_between([], [], color="0.88", label="$q(z_{t-1})$")
    panels[0, 0].plot([], [], color=VERMILLION, linewidth=1.0, label="mean (above)")
    entries = [axes.get_legend_handles_labels() for axes in panels[:, 0]]
    figure.legend(*(a + b for a, b in zip(*entries, strict=True)), frameon=False, ncols=4,
                  loc="outside lower center", columnspacing=1.2)  # fmt: skip
    save_figure(figure, path)


def draw_contraction(path: Path, scale: Scale, rows: Rows) -> None:
    """Plots noise on q(z_1) and what is left of it at x, the second singular value, and JS
    ratios."""
    figure, panels = make_panels(4.2, 2, 3)
    grid, z = FINE, FINE.points
    log_q = on_grid("mixture", grid)
    noise = smooth_noise(np.random.default_rng(3), 1, grid, NOISE_LENGTH)[0]
    for line, alpha in zip(panels, (0.90, 0.98), strict=True):
        q_1 = np.exp(kernels.diffuse(grid, log_q, alpha))
        noisy = contraction.disturb(grid, q_1, noise, 0.2)
        restored = kernels.push(grid, kernels.reverse(grid, log_q, alpha), noisy)
        pairs = (("$q(z_1)$", q_1, noisy), ("$q(x)$", np.exp(log_q), restored))
        for axes, (name, exact, disturbed) in zip(line, pairs, strict=False):
            axes.plot(z, exact, color=BLUE, linewidth=1.2, label=name)
            distance = js(grid, disturbed, exact)
            axes.plot(
                z, disturbed, "--", color=ORANGE, linewidth=1.1,
                label=f"disturbed: JS {distance:.2f}",
            )  # fmt: skip
            axes.set_xlim(-3, 3)
            axes.set_ylim(0, 1.6 * max(exact.max(), disturbed.max()))
            axes.legend(frameon=False, loc="upper right", handlelength=1.4)
        line[0].set_ylabel(f"density, $\\alpha$ = {alpha:.2f}")
    panels[1, 0].set_xlabel("$z_1$, before the kernel")
    panels[1, 1].set_xlabel("$x$, after it")
    for axes, key in zip(panels[:, 2], ("second_singular", "js_ratio_mean"), strict=True):
        for name, (colour, marker) in STYLES.items():
            selected = [row for row in rows.of("contraction", density=name) if row["alpha"] >= 0.9]
            alphas = [1 - row["alpha"] for row in selected]
            axes.plot(alphas, [row[key] for row in selected], marker=marker, color=colour,
                      linewidth=1.0, markersize=3.5, label=shown(name))  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlim(0.115, 0.0087)
        axes.set_xticks([0.1, 0.05, 0.02, 0.01], ["0.90", "0.95", "0.98", "0.99"])
        axes.minorticks_off()
        axes.set_xlabel("$\\alpha$")
        axes.grid(visible=True, color="0.9", linewidth=0.5)
    fine = np.geomspace(0.008, 0.12, 50)
    exact = [contraction.gaussian_singular_value(0.25, 1 - beta) for beta in fine]
    panels[0, 2].plot(fine, exact, "--", color="black", linewidth=0.8, label="Gaussian, exact")
    panels[0, 2].set_ylabel("second singular value $\\sigma_2$")
    panels[0, 2].legend(frameon=False, loc="lower left", handles=panels[0, 2].lines[-1:])
    panels[1, 2].set_ylim(0, 1)
    panels[1, 2].legend(frameon=False, loc="lower left", ncols=2, fontsize=7, handlelength=1.5,
                        columnspacing=0.8)  # fmt: skip
    panels[1, 2].set_ylabel("JS after over before")
    save_figure(figure, path)


def draw_chart(axes: "Axes", rows: Rows, part: str, x: str, y: str) -> None:
    """Plots one line for each density on logarithmic axes."""
    for name, (colour, marker) in STYLES.items():
        points = [(row[x], row[y]) for row in rows.of(part, density=name) if row[y] > 1e-12]
        if points:
            axes.loglog(*zip(*points, strict=True), marker=marker, color=colour, linewidth=1.0,
                        markersize=3.5, label=shown(name))  # fmt: skip
    axes.minorticks_off()
    axes.grid(visible=True, color="0.9", linewidth=0.5)
