"""Claims about one reverse kernel, S4 3.4.2 to 3.4.5; what is claimed is in the decorator."""

from experiments.dpm_lab.claims import Rows, between, claim, listed, verdict


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
        f"E KL(q(z_1|z_2) ‖ p), to {error:.0e}, so p does fit it, for another reason",
        verdict(least[1] < 1e-6),
    )


@claim("(123), (125)", "q(z_{t−1}|z_t) takes q(z_t) back to q(z_{t−1})")
def recovers(rows: Rows) -> tuple[str, str]:
    mass = rows.range("chain", "mass_error")[1]
    error = rows.range("chain", "recovery_error")[1]
    return (
        f"largest error {error:.0e} in a density, {mass:.0e} in its mass",
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
    worst = rows.range("kernel", "variance_ratio_worst")[1]
    return (
        f"its variance over GF's: at most {mean:.3g} on average over z_t; up to {worst:.3g} at "
        "one z_t, between two modes",
        verdict(worst <= 1, mean <= 1, "on average over z_t"),
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
    found = rows.of("contraction")
    return (
        f"{found[0]['pairs']} random pairs through each of {len(found)} kernels, by JS, KL, "
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
    """The least and the largest 1 - sigma_2."""
    low, high = rows.range("contraction", "second_singular", alpha=alpha)
    return 1 - high, 1 - low


@claim("3.4.5", "α → 0: the output hardly depends on the input; α → 1: distances stay")
def extremes(rows: Rows) -> tuple[str, str]:
    low = rows.range("contraction", "second_singular", alpha=0.001)
    high = rows.range("contraction", "second_singular", alpha=0.99)
    ratio = rows.range("contraction", "js_ratio_largest", alpha=0.001)[1]
    return (
        f"σ₂ = {between(low, 2)} at α = 0.001, JS ratio at most {ratio:.2g}; "
        f"1 − σ₂ = {between(_gap(rows, 0.99), 2)} at 0.99",
        verdict(low[1] < 0.05 and ratio < 0.01 and high[0] > 0.97),
    )


@claim("3.4.5", "five steps of 0.98 are one of 0.90: α_l = 1 − Σ(1 − α_j)")
def composition(rows: Rows) -> tuple[str, str]:
    five, product, plain = (
        between(rows.range("composition", f"js_after_{key}")) for key in ("five", "product", "sum")
    )
    to_product = rows.range("composition", "difference_product")[1]
    to_sum = rows.range("composition", "difference_sum")
    return (
        f"JS 0.19 becomes {five} by five of 0.98, {product} by one of 0.98⁵ = 0.9039, {plain} by "
        f"one of 0.90; total variation of the kernels {to_product:.0e} and {between(to_sum, 2)}",
        verdict(to_sum[1] < 1e-8, to_product < 1e-8, "α_l = Π α_j, of which that is first order"),
    )


@claim("3.4.5", "the error falls exponentially with the number of steps")
def decay(rows: Rows) -> tuple[str, str]:
    first, last = (rows.range("composition", f"decay_{key}") for key in ("first", "last"))
    return (
        f"α = 0.9: σ₂² is multiplied by {between(first)} by the second step, {between(last)} by "
        "the 41st",
        verdict(max(first[1], last[1]) < 0.99),
    )


@claim("3.4.5, 3.4.7", "it is a contraction mapping in JS: one factor below 1 for all inputs")
def banach(rows: Rows) -> tuple[str, str]:
    (far,) = rows.of("far")
    interval = rows.range("contraction", "dobrushin_interval", density="gaussian", alpha=0.9)[0]
    return (
        f"N(0, 0.25), α = 0.9, JS ratio of two narrow inputs at ±c, c = {listed(far['centres'])}: "
        f"{listed(far['js_ratios'], '.4f')}; total variation for inputs on [−0.5, 0.5] alone: "
        f"{interval:.2f}",
        verdict(max(far["js_ratios"]) < 1 - 1e-6),
    )
