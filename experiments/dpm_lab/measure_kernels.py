"""Measures the rows on single kernels: marginals, shapes, and divergences before and after."""

from collections.abc import Iterator

import numpy as np

from experiments.dpm_lab import contraction, gaussian_fits, kernels
from experiments.dpm_lab.densities import (
    DENSITIES,
    MIXTURES,
    diffuse_mixture,
    mixture,
    on_grid,
    random_densities,
    smooth_noise,
)
from experiments.dpm_lab.divergences import DIVERGENCES, js
from experiments.dpm_lab.grid import Array, Grid
from experiments.dpm_lab.scale import (
    CHAINS,
    DECAYED,
    INTERVAL,
    NOISE_LENGTH,
    SHAPES,
    STRENGTHS,
    Scale,
)
from experiments.results import Row


def chain_rows(scale: Scale) -> Iterator[Row]:
    """Rows on the forward chain: masses, the way back, the closed form, the distance from N(0,
    1)."""
    grid = scale.grid
    normal = np.exp(grid.normalise(-0.5 * np.square(grid.points)))
    for name in DENSITIES:
        for alpha, steps in CHAINS.items():
            marginals = kernels.chain(grid, on_grid(name, grid), [alpha] * steps)
            densities = np.exp(marginals)
            row: Row = {"name": f"chain/{name}/{alpha}", "density": name, "alpha": alpha}
            row |= {"mass_error": float(np.max(np.abs(grid.integrate(densities) - 1)))}
            restored = [
                kernels.push(grid, kernels.reverse(grid, log_q, alpha), q_t)
                for log_q, q_t in zip(marginals[:-1], densities[1:], strict=True)
            ]
            row["recovery_error"] = float(np.max(np.abs(densities[:-1] - restored)))
            row["js_to_normal"] = [float(js(grid, q, normal)) for q in densities]
            if name in MIXTURES:
                parts = MIXTURES[name]
                exact = [diffuse_mixture(*parts, alpha**t)(grid.points) for t in range(steps + 1)]
                row["closed_form_error"] = float(np.max(np.abs(np.exp(exact) - densities)))
            yield row


def shape_rows(scale: Scale) -> Iterator[Row]:
    """Rows on the shapes of the conditionals, and on the cost of replacing each by a Gaussian."""
    for name in DENSITIES:
        log_q = on_grid(name, scale.fine)
        for alpha in SHAPES:
            row: Row = {"name": f"kernel/{name}/{alpha}", "density": name, "alpha": alpha}
            yield row | gaussian_fits.shape(scale.fine, log_q, alpha)


def contraction_rows(scale: Scale) -> Iterator[Row]:
    """Rows on divergences before and after a kernel, and on the constants that bound their
    ratio."""
    grid = scale.grid
    for name in DENSITIES:
        log_q = on_grid(name, grid)
        for alpha in STRENGTHS:
            rng = np.random.default_rng(0)
            kernel = kernels.reverse(grid, log_q, alpha)
            q, q_t = np.exp(log_q), np.exp(kernels.diffuse(grid, log_q, alpha))
            values, functions = contraction.singular_values(grid, log_q, alpha)
            row: Row = {"name": f"contraction/{name}/{alpha}", "density": name, "alpha": alpha}
            row["second_singular"] = float(values[1])
            if name == "gaussian":
                row["second_singular_exact"] = contraction.gaussian_singular_value(0.25, alpha)
            row["js_ratio_local"] = contraction.local_js_ratio(grid, kernel, q_t, functions[1])
            row |= _pairs(grid, kernel, random_densities(rng, 2 * scale.pairs, grid))
            row["js_ratio_smooth"] = _smooth(grid, kernel, q_t)
            row["dobrushin_interval"] = contraction.dobrushin(grid, kernel, INTERVAL)
            noises = smooth_noise(rng, scale.noises, grid, NOISE_LENGTH)
            row["js_after_0.20"] = _after(grid, kernel, q_t, q, noises, 0.20)
            yield row


def _pairs(grid: Grid, kernel: Array, densities: Array) -> Row:
    """The largest difference of a divergence after and before the kernel, over all pairs and kinds,
    and the ratios of JS."""
    p, r = np.split(densities, 2)
    pushed = kernels.push(grid, kernel, p), kernels.push(grid, kernel, r)
    before = {kind: divergence(grid, p, r) for kind, divergence in DIVERGENCES.items()}
    after = {kind: divergence(grid, *pushed) for kind, divergence in DIVERGENCES.items()}
    ratios = after["js"] / before["js"]
    return {
        "pairs": len(p),
        "excess": max(float(np.max(after[k] - before[k])) for k in DIVERGENCES),
        "js_ratio_mean": float(np.mean(ratios)),
        "js_ratio_largest": float(np.max(ratios)),
    }


def _smooth(grid: Grid, kernel: Array, q_t: Array) -> float:
    """The ratio of JS after and before the kernel for q_t e^z and q_t e^-z, which are as smooth as
    q_t itself for every alpha."""
    pair = [q_t * np.exp(sign * grid.points) for sign in (1, -1)]
    p, r = (density / grid.integrate(density) for density in pair)
    after = js(grid, kernels.push(grid, kernel, p), kernels.push(grid, kernel, r))
    return float(after / js(grid, p, r))


def _after(grid: Grid, kernel: Array, q_t: Array, q: Array, noises: Array, before: float) -> float:
    """The JS from q after the kernel, averaged over noises that bring q_t to the JS `before`."""
    disturbed = np.array([contraction.disturb(grid, q_t, noise, before) for noise in noises])
    return float(np.mean(js(grid, kernels.push(grid, kernel, disturbed), q)))


def far_rows(scale: Scale) -> Iterator[Row]:
    """Rows on narrow densities at +-c, alpha = 0.9: the ratio of JS after and before the first and
    the second kernel, and if q has bounded support `overlap` on it, 1 - Dobrushin's coefficient."""
    grid, centres = scale.grid, (0.5, 1.0, 2.0, 4.0)
    for name in DENSITIES:
        log_q = on_grid(name, grid)
        kernel = kernels.reverse(grid, log_q, 0.9)
        row: Row = {"name": f"far/{name}/0.9", "density": name, "centres": list(centres)}
        ratios = np.array([_two_steps(grid, kernel, c) for c in centres])
        row["js_ratios_first"], row["js_ratios_second"] = ratios.T.tolist()
        if name not in MIXTURES:
            row["overlap"] = contraction.overlap(grid, kernel, np.isfinite(log_q))
        yield row


def _two_steps(grid: Grid, kernel: Array, c: float) -> tuple[float, float]:
    pair = [np.exp(grid.normalise(mixture([1.0], [m], [0.1])(grid.points))) for m in (-c, c)]
    distances = [float(js(grid, *pair))]
    for _ in range(2):
        pair = [kernels.push(grid, kernel, p) for p in pair]
        distances.append(float(js(grid, *pair)))
    return distances[1] / distances[0], distances[2] / distances[1]


def decay_rows(scale: Scale) -> Iterator[Row]:
    """Rows on n kernels of 0.9: the JS from q(x) that is left of a JS of 0.20 at z_n, with the same
    noise for every n."""
    grid = scale.grid
    for name in DENSITIES:
        log_q = on_grid(name, grid)
        noises = smooth_noise(np.random.default_rng(1), scale.noises, grid, NOISE_LENGTH)
        row: Row = {"name": f"decay/{name}", "density": name, "kernels": list(DECAYED)}
        row["js_after"] = [
            _after(grid, kernels.reverse(grid, log_q, 0.9**n),
                   np.exp(kernels.diffuse(grid, log_q, 0.9**n)), np.exp(log_q), noises, 0.20)
            for n in DECAYED
        ]  # fmt: skip
        # The factor of each further kernel, between these counts and from a straight line fitted
        # to the logarithms.
        logs = np.log(row["js_after"])
        row["factors"] = np.exp(np.diff(logs) / np.diff(DECAYED)).tolist()
        row["factor_fitted"] = float(np.exp(np.polyfit(DECAYED, logs, 1)[0]))
        yield row


def composition_rows(scale: Scale) -> Iterator[Row]:
    """Rows that compare five kernels of 0.98 with one of 0.90, which S4 takes for the same, and
    with one of 0.98^5."""
    grid, product = scale.grid, 0.98**5
    for name in DENSITIES:
        rng = np.random.default_rng(1)
        log_q = on_grid(name, grid)
        noises = smooth_noise(rng, scale.noises, grid, NOISE_LENGTH)
        row: Row = {"name": f"composition/{name}", "density": name}
        five = kernels.reverse_chain(grid, log_q, [0.98] * 5)
        for label, alpha in (("product", product), ("sum", 0.90)):
            q_t = np.exp(kernels.diffuse(grid, log_q, alpha))
            kernel = kernels.reverse(grid, log_q, alpha)
            difference = grid.integrate(np.abs(five - kernel), axis=0)
            row[f"difference_{label}"] = 0.5 * float(grid.integrate(q_t * difference))
            row[f"js_after_{label}"] = _after(grid, kernel, q_t, np.exp(log_q), noises, 0.19)
        q_5 = np.exp(kernels.chain(grid, log_q, [0.98] * 5)[-1])
        row["js_after_five"] = _after(grid, five, q_5, np.exp(log_q), noises, 0.19)
        yield row
