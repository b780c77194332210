"""Which claims about reverse kernels hold for one-dimensional densities, exact on a grid?"""

import dataclasses
import time
from collections.abc import Callable, Iterable

from experiments.dpm_lab import (
    findings_kernels,  # noqa: F401  (enters its claims)
    findings_limits,  # noqa: F401
    measure_kernels,
    measure_limits,
)
from experiments.dpm_lab.claims import TABLE, Rows, judge
from experiments.dpm_lab.densities import MIXTURES
from experiments.dpm_lab.figures import draw_chains, draw_contraction, draw_kernels
from experiments.dpm_lab.figures_limits import draw_deconvolution, draw_fits, draw_fixed_points
from experiments.dpm_lab.scale import (
    FIXED,
    INTERVAL,
    NOISE_LENGTH,
    SCALES,
    SHAPES,
    STRENGTHS,
    WAVELENGTHS,
    Scale,
)
from experiments.results import Row, format_table, parse_flags, row_identity, write_results

Part = Callable[[Scale], Iterable[Row]]
PARTS: list[Part] = [
    measure_kernels.chain_rows,
    measure_kernels.shape_rows,
    measure_kernels.contraction_rows,
    measure_kernels.far_rows,
    measure_kernels.decay_rows,
    measure_kernels.composition_rows,
    measure_limits.halving_rows,
    measure_limits.spacing_rows,
    measure_limits.fixed_rows,
    measure_limits.chained_rows,
    measure_limits.deconvolution_rows,
    measure_limits.objective_rows,
    lambda scale: [measure_limits.order_row(scale)],
    lambda scale: [measure_limits.factor_row(scale)],
]
PICTURES = {
    "chains.png": draw_chains,
    "kernels.png": draw_kernels,
    "contraction.png": draw_contraction,
    "gaussian_fits.png": draw_fits,
    "fixed_points.png": draw_fixed_points,
    "deconvolution.png": draw_deconvolution,
}


def measured(scale: Scale) -> list[Row]:
    """Measures the rows of every part; each row has the seconds of its part."""
    rows = []
    for part in PARTS:
        start = time.monotonic()
        for row in part(scale):
            rows.append(row | {"seconds": time.monotonic() - start})
            start = time.monotonic()
    return rows


def main() -> None:
    """Computes all rows, writes results.json and the pictures, and prints the table of claims."""
    flags = parse_flags(__file__)
    scale = SCALES[flags.scale]
    settings = dataclasses.asdict(scale) | {
        "shapes": SHAPES, "strengths": STRENGTHS, "fixed": FIXED, "wavelengths": WAVELENGTHS,
        "noise_length": NOISE_LENGTH, "interval": INTERVAL, "mixtures": MIXTURES,
    }  # fmt: skip
    identified = row_identity(settings, "experiments.dpm_lab.run", flags.scale)
    rows = measured(scale)
    claims = [row | {"seconds": 0.0} for row in judge(rows)]
    write_results(flags.outdir, [identified | row for row in claims + rows])
    for name, draw in PICTURES.items():
        draw(flags.outdir / name, scale, Rows(rows))
    print(format_table(claims, TABLE))


if __name__ == "__main__":
    main()
