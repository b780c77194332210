"""Findings on the claims about one reverse kernel, S4 3.4.2 to 3.4.5; each decorator states the
claim."""

import numpy as np

from experiments.dpm_lab.claims import Rows, between, claim, listed, verdict, within


@claim("(35), (118)–(119)", "the least KL(p‖q) and the least KL(q‖p) have the same p")
def orders(rows: Rows) -> tuple[str, str]:
    (row,) = rows.of("orders")
    fits = [(row[f"mean {order}"], row[f"std {order}"]) for order in ("q||p", "p||q")]
    mean_seeking, mode_seeking = (f"N({mean:.3f}, {std:.3f}²)" for mean, std in fits)
    return (
        "Gaussian p for q = 0.6 N(−1.5, 0.4²) + 0.4 N(1.5, 0.4²): "
        f"KL(q‖p) gives {mean_seeking}, KL(p‖q) {mode_seeking}",
        verdict(all(abs(a - b) < 1e-3 for a, b in zip(*fits, strict=True))),
    )


@claim("(117)–(120)", "p(z_{t−1}|z_t) fits q(z_{t−1}|z_t) because Q_t tends to 0")
def middle_to_zero(rows: Rows) -> tuple[str, str]:
    least = rows.range("objective", "middle_least")
    error = rows.range("objective", "identity_error")[1]
    return (
        f"the least Q_2 is I(x; z_1 | z_2) = {between(least, 2)} nats at α = 0.9; the rest is "
        f"E KL(q(z_1|z_2) ‖ p), to {within(error)}, so p does fit it, for another reason",
        verdict(least[1] < 1e-6),
    )


@claim("(123), (125)", "q(z_{t−1}|z_t) takes q(z_t) back to q(z_{t−1})")
def recovers(rows: Rows) -> tuple[str, str]:
    mass = rows.range("chain", "mass_error")[1]
    error = rows.range("chain", "recovery_error")[1]
    return (
        f"errors below {within(error)} in a density, {within(mass)} in its mass",
        verdict(max(error, mass) < 1e-8),
    )


@claim("(127)", "q(z_t|z_{t−1}) has 1/(√2π (1 − α)) in front; GF's variance is √((1 − α)/α)")
def factor(rows: Rows) -> tuple[str, str]:
    (row,) = rows.of("factor")
    mass, variance = row["printed_mass"], row["variance"]
    right = abs(mass - 1) < 1e-8 and abs(variance - row["printed_variance"]) < 1e-8
    return (
        f"at α = 0.9 its mass would be {mass:.3f}; GF's variance is {variance:.4f}, "
        f"the printed one {row['printed_variance']:.4f} is the standard deviation",
        verdict(right),
    )


@claim("3.4.4", "the larger α, the more Gaussian is q(z_{t−1}|z_t)")
def gaussian_shape(rows: Rows) -> tuple[str, str]:
    keys = ("nongaussian", "nongaussian_worst")
    mean, worst = (
        listed([rows.range("kernel", key, alpha=alpha)[1] for alpha in (0.6, 0.9, 0.995)])
        for key in keys
    )
    on_average, everywhere = (rows.falls("kernel", key) for key in keys)
    return (
        f"KL to a Gaussian, α = 0.6, 0.9, 0.995, worst density: {mean} on average over z_t, "
        f"{worst} at the worst z_t; it falls for {'every' if on_average else 'not every'} density "
        f"on average, for {'every' if everywhere else 'not every'} one at the worst z_t",
        verdict(on_average and everywhere, on_average, "on average over z_t"),
    )


@claim("3.4.4", "for large α its mean is nearly linear in z_t")
def linear_mean(rows: Rows) -> tuple[str, str]:
    bends = [rows.range("kernel", "bend", alpha=alpha)[1] for alpha in (0.6, 0.8, 0.9, 0.995)]
    return (
        f"1 − R² at most {listed(bends)} at α = 0.6, 0.8, 0.9, 0.995",
        verdict(bends[-1] < 0.01 and bends[-1] < min(bends[:-1])),
    )


@claim("3.4.4", "it is no wider than the Gaussian factor GF, but where q fluctuates")
def narrow(rows: Rows) -> tuple[str, str]:
    mean = rows.range("kernel", "variance_ratio")[1]
    smooth = rows.range("kernel", "variance_ratio_smooth")[1]
    worst = max(rows.of("kernel"), key=lambda row: row["variance_ratio_worst"])
    return (
        f"its variance over GF's: at most {smooth:.4f} where log q(z_{{t−1}}) is concave within "
        f"three standard deviations of GF, elsewhere up to {worst['variance_ratio_worst']:.3g} "
        f"({worst['density']}, α = {worst['alpha']:g}, z_t = {worst['worst_at']:.3g}); "
        f"{mean:.3g} on average over z_t",
        verdict(smooth <= 1 + 1e-9, mean <= 1, "on average over z_t"),
    )


def about_normal(rows: Rows, alpha: float) -> tuple[str, str]:
    lines = [row["js_to_normal"] for row in rows.of("chain", alpha=alpha)]
    starts, ends = [line[0] for line in lines], [line[-1] for line in lines]
    return (
        f"JS to N(0, 1): {between((min(ends), max(ends)), 2)} nats, "
        f"from {between((min(starts), max(starts)), 2)} at x",
        verdict(max(ends) < 0.01, min(ends) < 0.01, "for some densities"),
    )


@claim("3.4.4", "α = 0.6: q(z_5) is about N(0, 1) (JS below 0.01)")
def normal_06(rows: Rows) -> tuple[str, str]:
    return about_normal(rows, 0.6)


@claim("3.4.4", "α = 0.9: q(z_9) is about N(0, 1) (JS below 0.01)")
def normal_09(rows: Rows) -> tuple[str, str]:
    return about_normal(rows, 0.9)


@claim("3.4.5", "the error behind a kernel is no larger than before it")
def not_larger(rows: Rows) -> tuple[str, str]:
    excess = rows.range("contraction", "excess")[1]
    selected = rows.of("contraction")
    return (
        f"{selected[0]['pairs']} random pairs through each of {len(selected)} kernels, by JS, KL, "
        "total variation, χ² and Hellinger: "
        f"after − before at most {excess:.0e}",
        verdict(excess <= 1e-12),
    )


@claim("3.4.5", "the smaller α, the more error is removed")
def strength(rows: Rows) -> tuple[str, str]:
    keys = ("js_ratio_mean", "js_after_0.20")
    alphas = (0.9, 0.95, 0.98, 0.99)
    ratio, after = (
        "; ".join(between(rows.range("contraction", key, alpha=alpha)) for alpha in alphas)
        for key in keys
    )
    gaps = "; ".join(between(_gap(rows, alpha), 2) for alpha in alphas)
    from_large_alpha = Rows(rows.of("contraction")[::-1])
    return (
        f"α = 0.90; 0.95; 0.98; 0.99: 1 − σ₂ = {gaps}. Mean JS ratio {ratio}. "
        f"JS 0.20 becomes {after}",
        verdict(all(from_large_alpha.falls("contraction", k) for k in (*keys, "second_singular"))),
    )


def _gap(rows: Rows, alpha: float) -> tuple[float, float]:
    """The smallest and the largest 1 - sigma_2."""
    low, high = rows.range("contraction", "second_singular", alpha=alpha)
    return 1 - high, 1 - low


@claim("3.4.5", "α → 0: the output hardly depends on the input; α → 1: distances stay")
def extremes(rows: Rows) -> tuple[str, str]:
    low = rows.range("contraction", "second_singular", alpha=0.001)
    ratio = rows.range("contraction", "js_ratio_largest", alpha=0.001)[1]
    random = rows.range("contraction", "js_ratio_mean", alpha=0.99)
    # If distances are kept in the limit, 1 - ratio of smooth pairs halves with 1 - α.
    lost = {
        alpha: [1 - row["js_ratio_smooth"] for row in rows.of("contraction", alpha=alpha)]
        for alpha in (0.9, 0.98, 0.99)
    }
    shrinking = min(a / b for a, b in zip(lost[0.98], lost[0.99], strict=True))
    removed = "; ".join(between((min(each), max(each)), 2) for each in lost.values())
    forgets, vanishes = low[1] < 0.05 and ratio < 0.01, shrinking > 1.5
    return (
        f"σ₂ = {between(low, 2)} at α = 0.001, JS ratio at most {ratio:.2g}; 1 − JS ratio of "
        f"q(z_t) e^(±z): {removed} at α = 0.90; 0.98; 0.99, the last step a division by at least "
        f"{shrinking:.3g}; JS ratio of random pairs, half of them rough: {between(random)} at 0.99",
        verdict(forgets and vanishes and random[0] > 0.95, forgets and vanishes,
                "α → 1 for densities smooth on the scale √(1 − α)"),
    )  # fmt: skip


@claim("3.4.5", "five steps of 0.98 are one of 0.90: α_l = 1 − Σ(1 − α_j)")
def composition(rows: Rows) -> tuple[str, str]:
    five, product, plain = (
        between(rows.range("composition", f"js_after_{key}")) for key in ("five", "product", "sum")
    )
    to_product = rows.range("composition", "difference_product")[1]
    to_sum = rows.range("composition", "difference_sum")
    return (
        f"JS 0.19 becomes {five} by five of 0.98, {product} by one of 0.98⁵ = 0.9039, {plain} by "
        f"one of 0.90; total variation of the kernels below {within(to_product)} and "
        f"{between(to_sum, 2)}",
        verdict(to_sum[1] < 1e-8, to_product < 1e-8, "α_l = Π α_j, of which that is first order"),
    )


@claim("3.4.5", "the error falls exponentially with the number of steps")
def decay(rows: Rows) -> tuple[str, str]:
    selected = rows.of("decay")
    counts, last = selected[0]["kernels"], [row["factors"][-1] for row in selected]
    first = [row["factors"][0] for row in selected]
    fitted = [row["factor_fitted"] for row in selected]
    js_after = [[row["js_after"][k] for row in selected] for k in (0, -1)]
    changes = [np.divide(row["factors"], row["factor_fitted"]) - 1 for row in selected]
    constant = float(np.max(np.abs(changes))) < 0.05
    start, end = (between((min(each), max(each)), 2) for each in js_after)
    return (
        f"JS 0.20 at z_n becomes {start} at x by {counts[0]} kernel of 0.9, {end} by {counts[-1]}; "
        f"every further one multiplies it by {between((min(first), max(first)))} from "
        f"{counts[0]} to {counts[1]}, by {between((min(last), max(last)))} from {counts[-2]} to "
        f"{counts[-1]}, on a fitted line by {between((min(fitted), max(fitted)))}",
        verdict(constant, max(abs(factor - 0.9) for factor in last) < 0.01,
                "in the end, by the factor α for each step"),
    )  # fmt: skip


@claim("3.4.5, 3.4.7", "it is a contraction mapping in JS: one factor below 1 for all inputs")
def banach(rows: Rows) -> tuple[str, str]:
    selected = rows.of("far")
    bounded = [row for row in selected if "overlap" in row]
    overlaps = [row["overlap"] for row in bounded]
    gaussian = next(row for row in selected if row["density"] == "gaussian")
    first = [max(row["js_ratios_first"]) for row in selected]
    second = [max(row["js_ratios_second"]) - (1 - row["overlap"]) for row in bounded]
    listing = ", ".join(f"{row['density']} {row['overlap']:.1e}" for row in bounded)
    return (
        f"α = 0.9, two narrow inputs at ±c, c = {listed(gaussian['centres'])}: JS ratio for "
        f"N(0, 0.25) {listed(gaussian['js_ratios_first'], '.4f')}, 1 − the largest at most "
        f"{within(max(1 - ratio for ratio in first))} for every q; 1 − Dobrushin's coefficient "
        f"on the support of q: {listing}",
        verdict(max(first) < 1 - 1e-6, min(overlaps) > 1e-12 and max(second) <= 1e-9,
                "from the second step on, where q has bounded support"),
    )  # fmt: skip
