"""At which rate does each sampler converge to the data, where the moments are known exactly?"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.results import Row, format_table, parse_flags, row_identity, write_results
from experiments.sampler_orders.moments import MEAN, OMEGA_0, OMEGA_1, STD, error, fitted_order
from experiments.sampler_orders.styles import style
from vdm.data.generated import MIXTURE_MEANS, MIXTURE_STD, MIXTURE_WEIGHTS
from vdm.diffusion import flow, langevin
from vdm.diffusion.exact import MixtureData
from vdm.diffusion.samplers import (
    Sampler,
    ancestral,
    ddim,
    dpm_solver,
    euler_maruyama,
    heun,
    sample,
)
from vdm.io.plots import PAGE, make_figure, save_figure

STEPS = [32, 64, 128, 256, 512]
# name: (sampler, order by theory, noise draws in each step)
SAMPLERS: dict[str, tuple[Sampler, int | None, int]] = {
    "ancestral": (ancestral(), 1, 1),
    "ancestral, forward variance": (ancestral("forward"), 1, 1),
    "ancestral, no last noise": (ancestral(last_noise=False), 1, 1),
    "ddim": (ddim(), 1, 1),
    "ddim, eta 0.5": (ddim(0.5), 1, 1),
    "euler_maruyama": (euler_maruyama(), 1, 1),
    "heun": (heun(), 2, 1),
    "dpm_solver": (dpm_solver(), 2, 1),
    "dpm_solver, stochastic": (dpm_solver(stochastic=True), 2, 1),
    "predictor_corrector": (langevin.predictor_corrector(), None, 2),
    "annealed_langevin": (langevin.annealed_langevin(), None, 5),
    "flow": (flow.flow(1e-4), None, 1),
}
NUM_SAMPLES = {"small": 40_000, "full": 1_000_000}
MIXTURE_STEPS = 256


def mixture_weights(sampler: Sampler, num_samples: int) -> tuple[list[float], float]:
    """The shares of the three components in samples of the mixture with its exact denoiser, and
    their largest standard error. A sample belongs to the nearest mean (the components lie ten
    standard deviations apart)."""
    data = MixtureData(
        jnp.array(MIXTURE_WEIGHTS), jnp.array(MIXTURE_MEANS), jnp.full(3, MIXTURE_STD)
    )
    keys = jax.random.split(jax.random.key(0), num_samples)
    omegas = jnp.linspace(-10.0, 8.0, (1 if sampler.evaluations == 0 else MIXTURE_STEPS) + 1)
    z_0 = jax.jit(lambda keys: sample(keys, (2,), omegas, data.eps_hat, sampler))(keys)
    distance = np.linalg.norm(np.asarray(z_0)[:, None] - np.array(MIXTURE_MEANS), axis=-1)
    shares = np.bincount(distance.argmin(axis=1), minlength=3) / num_samples
    return shares.tolist(), float(np.sqrt(shares * (1 - shares) / num_samples).max())


def sampler_row(name: str, num_samples: int) -> Row:
    """The row of a sampler: its error at every number of steps, the order fitted to these, and the
    errors of the mixture's weights."""
    sampler, theory, draws = SAMPLERS[name]
    start = time.monotonic()
    row: Row = {"name": name, "sampler": name, "theory": theory}
    if sampler.evaluations:
        errors = [error(sampler, n, draws) for n in STEPS]
        row |= {"steps": STEPS, "errors": errors, "order": fitted_order(STEPS, errors)}
        row["smallest_error"] = errors[-1]
    shares, stderr = mixture_weights(sampler, num_samples)
    return row | {
        "weights": shares,
        "weight_error": float(np.abs(np.subtract(shares, MIXTURE_WEIGHTS)).max()),
        "weight_stderr": stderr,
        "seconds": time.monotonic() - start,
    }


def plot(path: Path, rows: list[Row]) -> None:
    """Plots errors against steps, with lines of slopes 1 and 2."""
    figure, (axes,) = make_figure(PAGE, 3.2)
    for row in (r for r in rows if "errors" in r):
        axes.loglog(row["steps"], row["errors"], **style(row["name"]),
                    label=f"{row['name'].replace('_', ' ')}: {row['order']:.2f}")  # fmt: skip
    for order, first in ((1, 0.4), (2, 0.012)):
        line = [first * (STEPS[0] / n) ** order for n in STEPS]
        axes.loglog(STEPS, line, color="0.6", linewidth=2.0, zorder=1)
        axes.text(STEPS[-1], line[-1], f" slope −{order}", fontsize=7, va="center")
    axes.set_xticks(STEPS, [str(n) for n in STEPS])
    axes.margins(x=0.15)
    axes.minorticks_off()
    axes.set_xlabel("steps, equal in $\\omega$")
    axes.set_ylabel("Wasserstein-2 distance of $z_0$ from $q(z_0)$")
    figure.legend(frameon=False, title="sampler: fitted order", alignment="left",
                  loc="outside right center")  # fmt: skip
    save_figure(figure, path)


def main() -> None:
    """Computes all rows, then writes results.json and sampler_orders.png."""
    flags = parse_flags(__file__)
    settings = {
        "mean": MEAN, "std": STD, "omega_0": OMEGA_0, "omega_1": OMEGA_1, "steps": STEPS,
        "mixture_steps": MIXTURE_STEPS, "num_samples": NUM_SAMPLES[flags.scale],
    }  # fmt: skip
    identified = row_identity(settings, "experiments.sampler_orders.run", flags.scale)
    rows = [identified | sampler_row(name, NUM_SAMPLES[flags.scale]) for name in SAMPLERS]
    write_results(flags.outdir, rows)
    plot(flags.outdir / "sampler_orders.png", rows)
    print(format_table(rows, ("name", "order", "theory", "smallest_error", "weight_error",
                              "weight_stderr")))  # fmt: skip


if __name__ == "__main__":
    main()
