"""The figure of the gaps to the exact -log p(x) against the number of steps."""

from pathlib import Path
from typing import Any

from experiments.results import Row
from vdm.io.plots import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PAGE,
    PURPLE,
    VERMILLION,
    make_figure,
    save_figure,
)

ENDS = ((BLACK, "o"), (BLUE, "s"))  # of omega, two pairs
LEVELS = {  # bound: colour, dashes
    "iw-64": (GREEN, "--"),
    "ode-decoder": (VERMILLION, "-."),
    "ode-uniform": (ORANGE, (0, (1, 1))),
    "ode-truncated-normal": (PURPLE, (0, (4, 1, 1, 1, 1, 1))),
}


def plot_gaps(path: Path, rows: list[Row]) -> None:
    """Plots one panel for each oracle: the ELBO's gap for T steps at both pairs of end points, its
    limit for T = infinity, and at the second pair the levels of the other bounds, with two standard
    errors shaded."""
    oracles = list(dict.fromkeys(row["oracle"] for row in rows))
    figure, panels = make_figure(PAGE, 4.4, columns=3, rows=2)
    for axes, oracle in zip(panels, oracles, strict=False):
        mine = [row for row in rows if row["oracle"] == oracle and "gap_nats" in row]
        ends = list(dict.fromkeys((row["omega_0"], row["omega_1"]) for row in mine))
        for (colour, marker), pair in zip(ENDS, ends, strict=True):
            at = [row for row in mine if (row["omega_0"], row["omega_1"]) == pair]
            steps = sorted(
                (row["num_steps"], row["gap_nats"])
                for row in at
                if row["bound"] == "elbo" and row["num_steps"]
            )
            label = f"$\\omega$ in [{pair[0]:g}, {pair[1]:g}]".replace("-", "−")
            axes.plot(*zip(*steps, strict=True), colour, marker=marker, ms=3, lw=1.2,
                      label=f"elbo, {label}")  # fmt: skip
            limit = [r["gap_nats"] for r in at if r["bound"] == "elbo" and r["num_steps"] == 0]
            axes.axhline(limit[0], color=colour, lw=0.8, ls=":", label=f"$T = \\infty$, {label}")
        for bound, (colour, dashes) in LEVELS.items():
            for row in at:  # of the second pair
                if row["bound"] == bound:
                    label = f"{bound}, $T = 10$" if row.get("K") else bound
                    gap, error = row["gap_nats"], 2 * row["stderr"]
                    axes.axhline(gap, color=colour, ls=dashes, lw=1.4, label=label)
                    axes.axhspan(
                        max(gap - error, 1e-9), gap + error, color=colour, alpha=0.15, lw=0
                    )
        axes.set_title(oracle)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_ylim(1e-8, 1e4)
        axes.set_xticks([1, 8, 64, 512, 4096], ["1", "8", "64", "512", "4096"])
        axes.set_yticks([1e-8, 1e-6, 1e-4, 1e-2, 1, 1e2, 1e4])
        axes.minorticks_off()
        axes.tick_params(labelleft=axes in panels[::3])
        axes.set_xlabel("steps $T$")
    for axes in panels[::3]:
        axes.set_ylabel("gap to the exact $-\\log p(x)$  [nats]")
    handles: dict[str, Any] = {}
    for axes in panels[: len(oracles)]:
        new_handles, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, new_handles, strict=True))
    for axes in panels[len(oracles) :]:
        axes.axis("off")
        axes.legend(handles.values(), handles.keys(), loc="center", frameon=False,
                    handlelength=2.2, title="shaded: two standard errors",
                    alignment="left")  # fmt: skip
    save_figure(figure, path)
