"""The style of each sampler, the same in every figure: a colour and marker for each family, dashes
and a hollow marker for its variants."""

from typing import Any

from vdm.io.plots import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

FAMILIES = {
    "ancestral": (BLUE, "o"),
    "ddim": (GREEN, "s"),
    "euler_maruyama": (ORANGE, "^"),
    "predictor_corrector": (PURPLE, "v"),
    "annealed_langevin": (GREY, "D"),
    "mixture_ancestral": (BLUE, "*"),
    "heun": (SKY, "P"),
    "dpm_solver": (VERMILLION, "X"),
    "flow": (BLACK, "<"),
}
VARIANTS = {
    "mixture_ancestral": "--",
    "forward variance": "--",
    "no last noise": ":",
    "eta 0.5": "--",
    "stochastic": "--",
    "noise below 1": ":",
    "tolerance 0.01": "--",
}


def style(name: str) -> dict[str, Any]:
    """The arguments of `Axes.plot` for "family" or "family, variant"."""
    family, _, variant = name.partition(", ")
    colour, marker = FAMILIES[family]
    dashes = VARIANTS.get(variant or family)
    return {
        "color": colour,
        "marker": marker,
        "markersize": 4,
        "markerfacecolor": "none" if dashes else colour,
        "linestyle": dashes or "-",
        "linewidth": 1.0,
    }
