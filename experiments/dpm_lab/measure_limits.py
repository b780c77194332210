"""Measures the rows on fits, fixed points and deconvolution."""

import math
from collections.abc import Iterator

import numpy as np

from experiments.dpm_lab import (
    deconvolution,
    fixed_points,
    gaussian_fits,
    kernels,
    objective,
)
from experiments.dpm_lab.densities import (
    DENSITIES,
    LogDensity,
    mixture,
    on_grid,
)
from experiments.dpm_lab.divergences import js, kl
from experiments.dpm_lab.grid import Grid
from experiments.dpm_lab.scale import (
    CHAINED,
    DECONVOLVED,
    FIXED,
    HALVINGS,
    WAVELENGTHS,
    Scale,
)
from experiments.results import Row


def halving_rows(scale: Scale) -> Iterator[Row]:
    """Rows on T steps that keep half of the signal's power, with Gaussians as reverse kernels."""
    grid = scale.fine
    for name in DENSITIES:
        log_q = on_grid(name, grid)
        for steps in HALVINGS:
            p = gaussian_fits.through_fits(grid, log_q, [0.5 ** (1 / steps)] * steps)
            yield {
                "name": f"steps/{name}/{steps}", "density": name, "steps": steps,
                "alpha": 0.5 ** (1 / steps), "loss_kl": float(kl(grid, np.exp(log_q), p)),
            }  # fmt: skip


def spacing_rows(scale: Scale) -> Iterator[Row]:
    """Rows on one step with a Gaussian fit, alpha = 0.995, on the grid of the fits and on coarser
    and finer ones: the effect of the spacing at the edges of q."""
    fine = scale.fine
    grids = [Grid(fine.half_width, factor * fine.spacing) for factor in (2, 1, 0.5)]
    for name in DENSITIES:
        losses = []
        for grid in grids:
            log_q = on_grid(name, grid)
            p = gaussian_fits.through_fits(grid, log_q, [0.995])
            losses.append(float(kl(grid, np.exp(log_q), p)))
        yield {
            "name": f"spacing/{name}", "density": name, "alpha": 0.995,
            "spacings": [grid.spacing for grid in grids], "losses_kl": losses,
            "change_by_halving": abs(losses[2] / losses[1] - 1),
        }  # fmt: skip


def fixed_rows(scale: Scale) -> Iterator[Row]:
    """Rows on fixed points of single kernels, solved numerically and in closed form."""
    gaussians: dict[str, tuple[LogDensity, float, float]] = {
        name: (mixture([1.0], [mean], [std]), mean, std**2)
        for name, mean, std in (("gaussian", 0.0, 0.5), ("wide", 0.0, 2.0), ("shifted", 0.3, 1.0))
    }
    for name, log_density in (DENSITIES | {k: v[0] for k, v in gaussians.items()}).items():
        for alpha in FIXED:
            row: Row = {"name": f"fixed/{name}/{alpha}", "density": name, "alpha": alpha}
            row |= _fixed(scale.grid, log_density, alpha)
            if name in gaussians:
                exact = fixed_points.gaussian_fixed_point(*gaussians[name][1:], alpha)
                row["variance_exact"] = exact and exact[1]
            yield row


def _fixed(grid: Grid, log_density: LogDensity, alpha: float) -> Row:
    solution = fixed_points.fixed_point(grid, log_density, alpha)
    row: Row = {"exists": solution.exists, "moved": _rounded(solution.moved)}
    wide = grid.twice_as_wide()
    integrand = fixed_points.closed_form(wide, wide.normalise(log_density(wide.points)), alpha)
    row["outside"] = max(0.0, 1 - float(grid.integrate(grid.restrict(integrand))))
    if solution.exists:
        log_q = grid.normalise(log_density(grid.points))
        q, p = np.exp(log_q), solution.density
        mean, variance = kernels.moments(grid, p[:, None])
        closed = fixed_points.closed_form(grid, log_q, alpha)
        second = fixed_points.second_eigenvalue(grid, log_q, alpha)
        row |= {
            "mean": _rounded(float(mean[0])), "variance": float(variance[0]),
            "closed_form_error": _rounded(float(np.max(np.abs(p - closed)))),
            "js_to_q": float(js(grid, p, q)),
            "second_eigenvalue": second,
            # At 1 - 4e-13 only the order of magnitude of the difference from 1 is known.
            "iterations": math.log(1000) / -math.log(min(second, 1 - 1e-13)),
        }  # fmt: skip
    return row


def _rounded(value: float) -> float:
    """Rounds to 1e-12: smaller values differ between machines, and are 0 in the tables."""
    return round(value, 12) + 0.0


def chained_rows(scale: Scale) -> Iterator[Row]:
    """Rows on fixed points of chains of kernels; a chain is one kernel with the product of the
    alphas."""
    grid = scale.grid
    for name in DENSITIES:
        log_q = on_grid(name, grid)
        q = np.exp(log_q)
        row: Row = {"name": f"chained/{name}", "density": name, "kernels": list(CHAINED)}
        row["js_to_q"] = [
            float(js(grid, fixed_points.closed_form(grid, log_q, 0.9**n), q)) for n in CHAINED
        ]
        one = fixed_points.closed_form(grid, log_q, 0.95)
        ten = kernels.reverse_chain(grid, log_q, [0.995] * 10)
        closed = fixed_points.closed_form(grid, log_q, 0.995**10)
        row |= {
            "moved_by_ten": float(np.max(np.abs(kernels.push(grid, ten, closed) - closed))),
            "js_to_q_one": float(js(grid, one, q)),
            "js_to_q_ten": float(js(grid, closed, q)),
        }
        yield row


def deconvolution_rows(scale: Scale) -> Iterator[Row]:
    """Rows on noise added to q(z_1) on both ways back, with wavelengths of at least each of
    WAVELENGTHS, and on the result of deconvolving N(0, 1)."""
    grid, cutoffs = scale.grid, [2 * math.pi / wavelength for wavelength in WAVELENGTHS]
    noises = [
        deconvolution.band_noises(grid, cutoff, np.random.default_rng(2), scale.noises)
        for cutoff in cutoffs
    ]
    normal = np.exp(grid.normalise(-0.5 * np.square(grid.points)))
    for alpha in DECONVOLVED:
        # In y = sqrt(alpha) z, N(0, 1) came from N(0, alpha), which is N(0, 1) in z.
        back = deconvolution.deconvolve(grid, normal, alpha, 12.0)
        expected = mixture([1.0], [0.0], [math.sqrt(alpha)])(grid.points)
        log_qs = [log_density(grid.points / math.sqrt(alpha)) for log_density in DENSITIES.values()]
        yield {
            "name": f"deconvolution/{alpha}", "alpha": alpha, "wavelengths": list(WAVELENGTHS),
            "amplifications": [deconvolution.amplification(alpha, w) for w in cutoffs],
            "gains_deconvolution": [
                deconvolution.gain_deconvolution(grid, noise, alpha, cutoff)
                for noise, cutoff in zip(noises, cutoffs, strict=True)
            ],
            "gains_kernel_largest": [
                max(deconvolution.gain_kernel(grid, on_grid(name, grid), noise, alpha)
                    for name in DENSITIES)
                for noise in noises
            ],
            "condition_number": deconvolution.condition_number(grid, alpha),
            "normal_error": float(np.max(np.abs(back - np.exp(expected)))),
            "normal_js_to_q": [
                float(js(grid, np.maximum(back, 0.0), np.exp(grid.normalise(log_q))))
                for log_q in log_qs
            ],
        }  # fmt: skip


def objective_rows(scale: Scale) -> Iterator[Row]:
    """Rows on the minimum of the middle term Q_2 of S4 3.4.2, and on both orders of the
    divergence."""
    grid, alphas = scale.grid, [0.9, 0.9]
    for name in DENSITIES:
        log_q = on_grid(name, grid)
        q_1 = kernels.diffuse(grid, log_q, alphas[0])
        best = kernels.log_reverse(grid, q_1, alphas[1])
        fit = gaussian_fits.log_fitted(grid, np.exp(best))
        least, fitted = (objective.middle_term(grid, log_q, alphas, p) for p in (best, fit))
        excess = gaussian_fits.shape(grid, q_1, alphas[1])["nongaussian"]
        yield {
            "name": f"objective/{name}", "density": name, "alpha": alphas[0],
            "middle_least": least, "identity_error": abs(fitted - least - excess),
        }  # fmt: skip


def order_row(scale: Scale) -> Row:
    """The row of the Gaussian closest to a bimodal density by KL, in both orders of the
    arguments."""
    grid = scale.grid
    q = np.exp(grid.normalise(mixture([0.6, 0.4], [-1.5, 1.5], [0.4, 0.4])(grid.points)))
    row: Row = {"name": "orders/bimodal"}
    for order in ("q||p", "p||q"):
        mean, std = gaussian_fits.best_gaussian(grid, q, order)
        row[f"mean {order}"], row[f"std {order}"] = mean, std
    return row


def factor_row(scale: Scale) -> Row:
    """The row of GF of S4 (127), alpha = 0.9: its integral over z_t as printed, and its variance
    over z_{t-1}."""
    grid, alpha = scale.grid, 0.9
    factor = kernels.gaussian_factor(grid, 0.5, alpha) * np.sqrt(alpha)
    _, variance = kernels.moments(grid, factor[:, None])
    over_z_t = np.exp(kernels.log_forward(grid, alpha)[:, len(grid.points) // 2])
    return {
        "name": "factor/0.9", "alpha": alpha,
        # With the printed normaliser sqrt(2 pi) (1 - alpha) in place of sqrt(2 pi (1 - alpha)).
        "printed_mass": float(grid.integrate(over_z_t)) * math.sqrt(1 - alpha) / (1 - alpha),
        "variance": float(variance[0]), "printed_variance": math.sqrt((1 - alpha) / alpha),
    }  # fmt: skip
