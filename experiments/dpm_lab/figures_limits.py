"""Figures of fits, iterates and deconvolution."""

import math
from pathlib import Path

import numpy as np

from experiments.dpm_lab import deconvolution, fixed_points, gaussian_fits, kernels
from experiments.dpm_lab.claims import Rows
from experiments.dpm_lab.densities import mixture, on_grid
from experiments.dpm_lab.figures import FINE, STYLES, draw_chart, make_panels, shown
from experiments.dpm_lab.scale import WAVELENGTHS, Scale
from vdm.io.plots import BLUE, GREEN, GREY, ORANGE, VERMILLION, save_figure


def draw_fits(path: Path, scale: Scale, rows: Rows) -> None:
    """Plots q(x) restored by Gaussian fits of three kernels, and the loss against alpha and
    steps."""
    figure, panels = make_panels(4.2, 2, 3)
    grid, z = FINE, FINE.points
    log_q = on_grid("mixture", grid)
    for line, alpha in zip(panels, (0.9, 0.99), strict=True):
        restored = gaussian_fits.through_fits(grid, log_q, [alpha] * 3)
        line[0].plot(z, np.exp(log_q), color=BLUE, linewidth=1.2, label="$q(x)$")
        line[0].plot(z, restored, "--", color=VERMILLION, linewidth=1.2, label="restored")
        line[0].set_ylabel(f"density, $\\alpha$ = {alpha}")
        line[0].set_xlim(-2.8, 2.8)
        line[0].set_ylim(0, 1.45)
        line[0].legend(frameon=False, loc="upper right", handlelength=1.6)
        kernel = kernels.reverse(grid, log_q, alpha)
        fit = np.exp(gaussian_fits.log_fitted(grid, kernel))
        for z_1, colour in ((-1.2, BLUE), (-0.4, VERMILLION), (0.8, GREEN)):
            index = int(np.argmin(np.abs(z - z_1)))
            line[1].plot(z, kernel[:, index], color=colour, linewidth=1.2)
            line[1].plot(z, fit[:, index], "--", color=colour, linewidth=1.0)
        line[1].set_xlim(-2.4, 2.4)
        line[1].set_ylim(bottom=0)
        line[1].set_ylabel("$q(x\\,|\\,z_1)$")
    panels[0, 0].set_title("three steps")
    panels[0, 1].set_title("dashed: Gaussian fits")
    for axes in panels[1, :2]:
        axes.set_xlabel("$x$")
    shapes = [row | {"noise": 1 - row["alpha"]} for row in rows.of("kernel")]
    draw_chart(panels[0, 2], Rows(shapes), "kernel", "noise", "loss_kl")
    panels[0, 2].set_xlabel("$1 - \\alpha$, one step")
    draw_chart(panels[1, 2], rows, "steps", "steps", "loss_kl")
    panels[1, 2].set_xlabel("steps with $\\Pi\\alpha = 1/2$")
    panels[1, 2].set_xscale("log", base=2)
    for axes in panels[:, 2]:
        axes.set_ylabel("KL$(q(x)\\,\\|\\,p(x))$ [nats]")
    panels[0, 2].legend(frameon=False, loc="lower right", fontsize=7, handlelength=1.5)
    save_figure(figure, path)


def draw_fixed_points(path: Path, scale: Scale, rows: Rows) -> None:
    """Plots iterates of one kernel, the artefact of the grid where there is no fixed point, and
    chains."""
    import matplotlib

    figure, panels = make_panels(4.2, 2, 3)
    colours = matplotlib.colormaps["viridis"]
    grid, z = scale.grid, scale.grid.points
    start = np.exp(grid.normalise(mixture([1.0], [1.6], [0.35])(z)))
    cases = (("triangular", 0.9, (0, 1, 5, 20, 100)), ("mixture", 0.9, (0, 1, 30, 1000, 10000)))
    for line, (name, alpha, counts) in zip(panels, cases, strict=True):
        log_q = on_grid(name, grid)
        matrix = kernels.reverse(grid, log_q, alpha) * grid.spacing
        for shade, count in zip(np.linspace(0.92, 0.0, len(counts)), counts, strict=True):
            p = np.linalg.matrix_power(matrix, count) @ start
            line[0].plot(z, p, color=colours(shade), linewidth=1.1, label=f"{count}")
        limit = fixed_points.closed_form(grid, log_q, alpha)
        line[1].plot(z, np.exp(log_q), color=BLUE, linewidth=1.2, label="$q(z_{t-1})$")
        line[1].plot(z, limit, "--", color=VERMILLION, linewidth=1.2, label="fixed point")
        line[0].set_ylabel(f"density, {shown(name)}, $\\alpha$ = {alpha}")
        where = "upper left" if name == "triangular" else "upper right"
        line[0].legend(frameon=False, title="iteration", loc=where, fontsize=7,
                       handlelength=1.2, ncols=1 if name == "triangular" else 2)  # fmt: skip
        line[1].legend(frameon=False, loc=where, handlelength=1.6)
        for axes in line[:2]:
            axes.set_xlim(-2.6, 2.6)
            axes.set_ylim(0, 3.2)
    for axes in panels[1, :2]:
        axes.set_xlabel("$z_{t-1}$")
    for each, style in ((grid, "-"), (grid.twice_as_wide(), "--")):
        log_q = each.normalise(mixture([1.0], [0.0], [2.0])(each.points))
        limit = fixed_points.invariant(each, kernels.reverse(each, log_q, 0.9))
        panels[0, 2].plot(each.points, limit, style, color=VERMILLION, linewidth=1.1,
                          label=f"grid ±{each.half_width:g}")  # fmt: skip
    wide = grid.twice_as_wide().points
    q = np.exp(mixture([1.0], [0.0], [2.0])(wide))
    panels[0, 2].plot(wide, q, color=BLUE, linewidth=1.2, label="$q$ = N(0, 4)")
    panels[0, 2].set_title("N(0, 4): no fixed point")
    panels[0, 2].set_xlabel("$z_{t-1}$")
    panels[0, 2].set_ylim(0, 0.5)
    panels[0, 2].set_xlim(-15, 15)
    panels[0, 2].set_ylabel("density")
    panels[0, 2].legend(frameon=False, loc="upper center", fontsize=7, handlelength=1.2)
    for row in rows.of("chained"):
        colour, marker = STYLES[row["density"]]
        panels[1, 2].loglog(row["kernels"], row["js_to_q"], marker=marker, color=colour,
                            linewidth=1.0, markersize=3.5, label=shown(row["density"]))  # fmt: skip
    panels[1, 2].set_xscale("log", base=2)
    panels[1, 2].minorticks_off()
    panels[1, 2].set_xlabel("kernels of $\\alpha$ = 0.9 in the chain")
    panels[1, 2].set_ylabel("JS, fixed point to $q$  [nats]")
    panels[1, 2].grid(visible=True, color="0.9", linewidth=0.5)
    panels[1, 2].legend(frameon=False, loc="lower left", fontsize=7, handlelength=1.5)
    save_figure(figure, path)


def draw_deconvolution(path: Path, scale: Scale, rows: Rows) -> None:
    """Plots q(z_1) with a little noise after both ways back, and the gain of noise against
    alpha."""
    figure, panels = make_panels(2.6, 1, 3)
    left, middle, right = panels[0]
    grid, z, alpha, cutoff = FINE, FINE.points, 0.98, 2 * math.pi / min(WAVELENGTHS)
    log_q = on_grid("mixture", grid)
    q_1 = np.exp(kernels.diffuse(grid, log_q, alpha))
    noisy = q_1 + 0.005 * deconvolution.band_noise(np.random.default_rng(2), grid, cutoff)
    left.plot(z, q_1, color=BLUE, linewidth=1.2, label="$q(z_1)$")
    left.plot(z, 20 * (noisy - q_1), color=ORANGE, linewidth=0.7, label="0.5% of noise, ×20")
    by_fourier = deconvolution.deconvolve(grid, noisy, alpha, 1.2 * cutoff) * math.sqrt(alpha)
    by_kernel = kernels.push(grid, kernels.reverse(grid, log_q, alpha), noisy)
    middle.plot(z / math.sqrt(alpha), by_fourier, color=ORANGE, linewidth=0.7,
                label="deconvolution")  # fmt: skip
    middle.plot(z, np.exp(log_q), color=BLUE, linewidth=1.2, label="$q(x)$")
    middle.plot(z, by_kernel, "--", color=VERMILLION, linewidth=1.2, label="reverse kernel")
    left.set_ylim(-0.5, 1.45)
    middle.set_ylim(-0.7, 2.8)
    for axes, label in ((left, "$z_1$"), (middle, "$x$")):
        axes.set_xlim(-3, 3)
        axes.set_xlabel(label)
        axes.legend(frameon=False, loc="upper right", handlelength=1.4)
    left.set_ylabel(f"density, $\\alpha$ = {alpha}")
    selected = rows.of("deconvolution")
    noise = [1 - row["alpha"] for row in selected]
    fine = np.geomspace(0.005, 0.1, 50)
    highest = [deconvolution.amplification(1 - beta, cutoff) for beta in fine]
    right.loglog(fine, highest, ":", color=GREY, label="$e^{(1-\\alpha)w^2/2}$, $w = 2\\pi/0.25$")
    for index in range(len(WAVELENGTHS))[::-1]:
        mark = ("v", "^", "o")[index]
        right.loglog(noise, [row["gains_deconvolution"][index] for row in selected], mark + "-",
                     color=ORANGE, label=f"from {WAVELENGTHS[index]:g}", linewidth=1.0,
                     markersize=3.5)  # fmt: skip
    kept = [max(row["gains_kernel_largest"]) for row in selected]
    right.loglog(noise, kept, "s-", color=VERMILLION, markersize=3.5, linewidth=1.0,
                 label="reverse kernel")  # fmt: skip
    right.set_xlabel("$1 - \\alpha$")
    right.set_ylabel("gain of noise")
    right.grid(visible=True, color="0.9", linewidth=0.5)
    right.minorticks_off()
    right.legend(frameon=False, loc="upper left", fontsize=7, handlelength=1.5)
    save_figure(figure, path)
