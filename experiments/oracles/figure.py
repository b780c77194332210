"""Gaps to the exact -log p(x) against the number of steps."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.results import Row
from vdm.io.files import atomic_path

# Okabe and Ito's colours, which the colour-blind tell apart
BLACK, BLUE, VERMILLION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
ORANGE, PURPLE = "#E69F00", "#CC79A7"
LEVELS = {  # bound: colour, dashes
    "iw-64": (GREEN, "--"),
    "ode-decoder": (ORANGE, "-."),
    "ode-uniform": (PURPLE, (0, (1, 1))),
    "ode-truncated-normal": (BLACK, (0, (4, 1, 1, 1, 1, 1))),
}


def plot_gaps(path: Path, rows: list[Row]) -> None:
    """One panel for each oracle: the ELBO's gap for T steps at both pairs of end points, its limit
    for T = infinity, and at the second pair the levels of the other bounds, two standard errors
    shaded."""
    oracles = list(dict.fromkeys(row["oracle"] for row in rows))
    figure = Figure(figsize=(10.0, 5.6), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 3, sharex=True).ravel()
    for axes, oracle in zip(panels, oracles, strict=False):
        mine = [row for row in rows if row["oracle"] == oracle and "gap_nats" in row]
        ends = list(dict.fromkeys((row["omega_0"], row["omega_1"]) for row in mine))
        for colour, marker, pair in zip((BLUE, VERMILLION), "os", ends, strict=True):
            at = [row for row in mine if (row["omega_0"], row["omega_1"]) == pair]
            steps = sorted(
                (row["num_steps"], row["gap_nats"])
                for row in at
                if row["bound"] == "elbo" and row["num_steps"]
            )
            label = rf"ELBO, $\omega$ from {pair[0]:g} to {pair[1]:g}"
            axes.plot(*zip(*steps, strict=True), colour, marker=marker, ms=3, lw=1.2, label=label)
            limit = [r["gap_nats"] for r in at if r["bound"] == "elbo" and r["num_steps"] == 0]
            axes.axhline(limit[0], color=colour, lw=0.8, ls=":", label=f"{label}, $T = \\infty$")
        for bound, (colour, dashes) in LEVELS.items():
            for row in at:  # of the second pair
                if row["bound"] == bound:
                    label = f"{bound}, T = 10" if row.get("K") else bound
                    gap, error = row["gap_nats"], 2 * row["stderr"]
                    axes.axhline(gap, color=colour, ls=dashes, lw=1.4, label=label)
                    axes.axhspan(
                        max(gap - error, 1e-9), gap + error, color=colour, alpha=0.15, lw=0
                    )
        axes.set_title(oracle, fontsize=9)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_ylim(1e-8, 1e4)
        axes.set_xticks([1, 8, 64, 512, 4096], ["1", "8", "64", "512", "4096"])
        axes.tick_params(labelsize=8, labelbottom=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.set_xlabel("steps $T$", fontsize=8)
    for axes in panels[::3]:
        axes.set_ylabel("gap to the exact $-\\log p(x)$  [nats]", fontsize=8)
    handles: dict[str, object] = {}
    for axes in panels[: len(oracles)]:
        found, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    for axes in panels[len(oracles) :]:
        axes.axis("off")
        axes.legend(handles.values(), handles.keys(), loc="center", frameon=False, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
