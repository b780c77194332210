"""Figures of the learned scores and of the samples that they produce."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from experiments.score_based.measures import Data
from experiments.score_based.rows import Sampled
from vdm.diffusion.noise import alpha, sigma
from vdm.io.plots import BLACK, BLUE, PAGE, VERMILLION, make_figure, save_figure
from vdm.typing import Denoiser

HALF_WIDTH, ARROWS = 1.5, 17
WRONG = 0.5  # ||s_hat - s|| / ||s|| above which an arrow has the other colour


def plot_mixture(
    path: Path,
    data: Data,
    omega: float,
    denoisers: dict[str, Denoiser],
    drawn: dict[str, Sampled],
) -> None:
    """Plots the fields of the scores at one noise level, of which the first is exact (upper row),
    and samples with the shares of the components (lower row).

    The length of an arrow is proportional to log(1 + ||score||); the longest exact one is as long
    as the grid's spacing.
    """
    figure, panels = make_figure(PAGE, 4.9, columns=len(denoisers), rows=2)
    grid = np.linspace(-HALF_WIDTH, HALF_WIDTH, ARROWS)
    x = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    omegas = jnp.full(len(x), omega, jnp.float32)
    z = alpha(omegas)[:, None] * jnp.asarray(x, jnp.float32)
    scores = {
        name: -np.asarray(denoiser(z, omegas) / sigma(omegas)[:, None])
        for name, denoiser in denoisers.items()
    }
    exact = next(iter(scores.values()))
    longest = np.log1p(np.linalg.norm(exact, axis=1)).max()
    for axes, (name, score) in zip(panels, scores.items(), strict=False):
        length = np.linalg.norm(score, axis=1)
        arrows = score * (np.log1p(length) / length)[:, None]
        wrong = np.linalg.norm(score - exact, axis=1) > WRONG * np.linalg.norm(exact, axis=1)
        for chosen, colour, width, head in ((~wrong, BLUE, 0.006, 3), (wrong, VERMILLION, 0.01, 2)):
            axes.quiver(
                *x[chosen].T, *arrows[chosen].T, color=colour, width=width, headwidth=head,
                headlength=1.5 * head, headaxislength=1.4 * head, angles="xy", scale_units="xy",
                scale=longest / (grid[1] - grid[0]),
            )  # fmt: skip
        axes.plot(*data.places.T, "+", color=BLACK, markersize=6)
        axes.set_title(name + (f": {wrong.mean():.0%} wrong" if wrong.any() else ""))
        axes.grid(visible=False)
    below = panels[len(scores) :]
    for axes, (name, (points, row)) in zip(below, drawn.items(), strict=False):
        axes.scatter(*points[:2000].T, s=1.5, color=VERMILLION, linewidths=0.0)
        shares = (row[f"share_{k + 1}"] for k in range(len(data.shares)))
        for place, share, right in zip(data.places, shares, data.shares, strict=True):
            axes.annotate(f"{share:.2f} ({right:.1f})", (place[0], place[1] + 0.42),
                          ha="center")  # fmt: skip
        axes.set_title(f"{name}: off by {row['largest_error']:.3f}")
    for axes in below[len(drawn) :]:
        axes.axis("off")
        axes.plot([], [], color=BLUE, linewidth=1.0, label="score")
        axes.plot([], [], color=VERMILLION, linewidth=2.0,
                  label=rf"$\|\hat s - s\| > {WRONG:g}\,\|s\|$: wrong")  # fmt: skip
        axes.plot([], [], "+", color=BLACK, markersize=6, label="mean of a component")
        axes.plot([], [], ".", color=VERMILLION, label="sample")
        axes.plot([], [], " ", marker="$0.2$", color=BLACK, markersize=10,
                  label="share of samples (of data)")  # fmt: skip
        axes.legend(frameon=False, loc="center")
    _finish([*panels[: len(scores)], *below[: len(drawn)]], len(scores))
    save_figure(figure, path)


def plot_curve(path: Path, data: Data, drawn: dict[str, Sampled]) -> None:
    """Plots samples around the curve."""
    figure, panels = make_figure(PAGE, 2.9, columns=len(drawn))
    for axes, (name, (points, row)) in zip(panels, drawn.items(), strict=True):
        axes.scatter(*points[:2000].T, s=1.5, color=VERMILLION, linewidths=0.0, label="samples")
        axes.plot(*data.places.T, color=BLACK, linewidth=0.7, label="data")
        axes.set_title(f"{name}\n{row['far']:.1%} far off")
    panels[0].legend(frameon=False, loc="lower right", markerscale=3.0, borderaxespad=0.0)
    _finish(panels, len(panels))
    save_figure(figure, path)


def _finish(panels: list, columns: int) -> None:
    for i, axes in enumerate(panels):
        axes.set_xlim(-HALF_WIDTH, HALF_WIDTH)
        axes.set_ylim(-HALF_WIDTH, HALF_WIDTH)
        axes.set_aspect("equal")
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
        axes.set_xlabel("$x_1$")
        axes.tick_params(labelleft=i % columns == 0)
        if i % columns == 0:
            axes.set_ylabel("$x_2$")
