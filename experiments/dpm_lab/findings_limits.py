"""Findings on the claims about fits, iterates and deconvolution, S4 3.4.6 to 3.4.10."""

import math

import numpy as np

from experiments.dpm_lab.claims import UNDECIDED, Rows, between, claim, listed, verdict, within
from experiments.dpm_lab.scale import CHAINED


@claim("3.4.6", "Gaussian fits lose less for larger α")
def fit_alpha(rows: Rows) -> tuple[str, str]:
    alphas = (0.6, 0.9, 0.95, 0.99, 0.995)
    losses = [rows.range("kernel", "loss_kl", alpha=alpha)[1] for alpha in alphas]
    changed = [row["change_by_halving"] for row in rows.of("spacing") if row["losses_kl"][1] > 1e-9]
    return (
        f"KL(q(x) ‖ restored), worst density: {listed(losses)} at α = {listed(alphas, 'g')}; "
        f"half the spacing changes the last ones by {between((min(changed), max(changed)), 2)} "
        "of themselves",
        verdict(rows.falls("kernel", "loss_kl")),
    )


@claim("3.4.6, 3.4.7", "many small steps are fitted better than one large one")
def fit_steps(rows: Rows) -> tuple[str, str]:
    counts = (1, 4, 16, 64)
    losses = [rows.range("steps", "loss_kl", steps=steps)[1] for steps in counts]
    return (
        f"KL, worst density: {listed(losses)} for {listed(counts, 'd')} steps with Π α = ½",
        verdict(rows.falls("steps", "loss_kl")),
    )


@claim("3.4.7", "the iterates of a kernel have a limit")
def fixed_exists(rows: Rows) -> tuple[str, str]:
    existing, others = rows.of("fixed", exists=True), rows.of("fixed", exists=False)
    known = [row for row in existing + others if "variance_exact" in row]
    as_known = all(row["exists"] == (row["variance_exact"] is not None) for row in known)
    # A direct test of the condition: the share of the integral that only the wider grid covers.
    as_said = all(row["exists"] == (row["outside"] < 1e-6) for row in existing + others)
    names = ", ".join(row["name"].removeprefix("fixed/") for row in others)
    text = f"{len(existing)} of {len(existing) + len(others)} kernels have one"
    if others:
        moved, outside = (min(row[key] for row in others) for key in ("moved", "outside"))
        text += (
            f"; those of {names} move by {moved:.2g} in total variation when the grid is made "
            f"twice as wide, and {outside:.2g} of the integral is outside the narrow one"
        )
    return text, verdict(
        not others and as_known and as_said, bool(existing) and as_known and as_said,
        "q(z_{t−1}) q(z_t)/N(0, 1) has a finite integral; for N(0, s²): s² < (1 + √α)/√α",
    )  # fmt: skip


@claim("3.4.7", "that limit is q(z_{t−1})")
def fixed_is_q(rows: Rows) -> tuple[str, str]:
    selected = rows.of("fixed", exists=True)
    distances = [row["js_to_q"] for row in selected]
    error = max(row["closed_form_error"] for row in selected)
    variance = next(r["variance"] for r in selected if r["name"] == "fixed/gaussian/0.9")
    return (
        f"it is q(z_{{t−1}}) q(z_t)/N(0, 1), to {within(error)}, at JS "
        f"{between((min(distances), max(distances)), 2)} from q; "
        f"for N(0, 0.25) and α = 0.9 of variance {variance:.4f}",
        verdict(max(distances) < 1e-6),
    )


@claim("3.4.7", "the more complex q, the more iterations")
def more_iterations(rows: Rows) -> tuple[str, str]:
    simple, complex_ = (
        [rows.of("fixed", density=name, alpha=0.9)[0]["iterations"] for name in names]
        for names in (("gaussian", "uniform", "triangular"), ("mixture", "two_bumps"))
    )
    return (
        f"for a factor 1000 at α = 0.9: {min(simple):.0f} to {max(simple):.0f} with one mode, "
        f"{min(complex_):.0f} to {max(complex_):.0f} with several",
        verdict(max(simple) < min(complex_)),
    )


@claim("3.4.7", "iterating a chain of kernels restores q")
def chained(rows: Rows) -> tuple[str, str]:
    worst = [
        max(column) for column in zip(*(r["js_to_q"] for r in rows.of("chained")), strict=True)
    ]
    one, ten = (between(rows.range("chained", f"js_to_q_{k}"), 2) for k in ("one", "ten"))
    moved = rows.range("chained", "moved_by_ten")[1]
    stays = moved < 1e-10
    return (
        f"JS of its fixed point to q at most {listed(worst[::2], '.1g')} for "
        f"{listed(CHAINED[::2], 'd')} kernels of 0.9; {one} for one of 0.95, "
        f"{ten} for ten of 0.995, which move it by less than {within(moved)}",
        verdict(stays and worst[0] < 1e-4, stays and worst[-1] < 1e-4,
                "Π α → 0, where q(z_T) is N(0, 1)"),
    )  # fmt: skip


@claim("(128), 3.4.10", "deconvolution amplifies noise without bound, reverse kernels do not")
def amplified(rows: Rows) -> tuple[str, str]:
    selected = rows.of("deconvolution")
    kernel = max(gain for row in selected for gain in row["gains_kernel_largest"])
    frequencies = [2 * math.pi / wavelength for wavelength in selected[0]["wavelengths"]]
    slopes = [
        np.diff(np.log(row["gains_deconvolution"])) / np.diff(frequencies) for row in selected
    ]
    # "Without bound" means that the logarithm rises, and more steeply at higher frequencies.
    steeper = [float(after / before) for before, after in slopes]
    rises = min(float(np.min(each)) for each in slopes) > 0
    gains = "; ".join(
        f"{listed(row['gains_deconvolution'])} at α = {row['alpha']:g}" for row in selected
    )
    return (
        f"noise of wavelengths from {listed(selected[0]['wavelengths'], 'g')}: times {gains}; from "
        "halving to halving the logarithm's slope in the frequency is multiplied by "
        f"{between((min(steeper), max(steeper)), 2)} (2 for a single wave); by reverse kernels at "
        f"most {kernel:.2g}",
        verdict(kernel <= 1 and rises and min(steeper) > 1),
    )


@claim("3.4.10", "were deconvolution possible, it would turn N(0, 1) into any q(x)")
def paradox(rows: Rows) -> tuple[str, str]:
    error = rows.range("deconvolution", "normal_error")[1]
    distances = [value for row in rows.of("deconvolution") for value in row["normal_js_to_q"]]
    ends = [row["js_to_normal"][-1] for row in rows.of("chain")]
    away = error < 1e-6 and max(distances) > 0.01
    return (
        f"it turns N(0, 1) into N(0, 1), to {within(error)}, which is at JS "
        f"{between((min(distances), max(distances)), 2)} from q(x); q(z_T) itself is at "
        f"{between((min(ends), max(ends)), 2)} from N(0, 1)",
        verdict(max(distances) < 0.01) if away or max(distances) < 0.01 else UNDECIDED,
    )
