"""Where does plain score matching fail, and which failures does a ladder of noise levels cure?"""

from experiments.results import format_table, identity, write_results
from experiments.score_based import measures
from experiments.score_based.figure import plot_curve, plot_mixture
from experiments.score_based.measures import Data
from experiments.score_based.rows import (
    WAYS,
    DenoiserOf,
    Sampled,
    error_rows,
    sampled,
    size_row,
    weight_rows,
)
from experiments.score_based.training import OMEGA_0, Trained, make_config, trained
from experiments.sweep import finish, parse_flags, seeded

SEEDS = (0, 1, 2)
NUM_STEPS = {"small": 800, "full": 10_000}  # steps of a training
NUM_EXACT = {"small": 100_000, "full": 1_000_000}  # samples with the exact score
NUM_TRAINED = {"small": 2000, "full": 20_000}  # with the network of each seed
WEIGHT_OMEGAS = (-6.0, -2.0, 0.0, 2.0)
LADDERS = ("plain", "annealed")
PAIRS = (("plain", "plain"), ("annealed", "plain"), ("annealed", "annealed"))  # network, Langevin
SHARES = ("share_1", "share_2", "share_3", "largest_error", "stderr", "std_ratio")
QUARTERS = ("error_quarter_1", "error_quarter_2", "error_quarter_3", "error_quarter_4")
TABLES = (  # (beginning of the rows' names, columns); rows must have the second column
    ("weights", ("name", "relative_change")),
    ("weights", ("name", *SHARES)),
    ("density", ("name", "error_on_data", "stderr_on_data", "error_from_normal",
                 "stderr_from_normal", *QUARTERS)),
    ("density", ("name", *SHARES, "far")),
    ("support", ("name", "slope", "at_largest_r", "at_smallest_r", "times_r_squared")),
    ("support", ("name", "distance", "far", "stderr_far", "std_ratio", "largest_error", "stderr")),
)  # fmt: skip


def with_exact_score(data: Data, number: int) -> dict[str, Sampled]:
    """Samples of every sampler on the mixture with the exact score."""
    return {
        name: sampled(f"weights/exact score, {name}", way, data, OMEGA_0["mixture"],
                      lambda _: data.exact.eps_hat, [()], number)
        for name, way in WAYS.items()
    }  # fmt: skip


def with_networks(
    part: str, data: Data, omega_0: float, denoiser_of: DenoiserOf, nets: dict[str, Trained],
    number: int,
) -> dict[tuple[str, str], Sampled]:  # fmt: skip
    """Samples of plain and annealed Langevin dynamics with the networks, by (network, Langevin)."""
    return {
        (k, langevin): sampled(f"{part}/{k} network, {langevin} Langevin",
                               WAYS[f"{langevin} Langevin"], data, omega_0, denoiser_of,
                               nets[k].params, number)
        for k, langevin in PAIRS
    }  # fmt: skip


def main() -> None:
    """Trains, samples and measures, then writes results.json and the two figures."""
    flags = parse_flags(__file__)
    mixture, curve = measures.mixture(), measures.curve()
    configs = {
        dataset: {
            ladder: make_config(dataset, ladder, NUM_STEPS[flags.scale]) for ladder in LADDERS
        }
        for dataset in OMEGA_0
    }
    origin = {
        dataset: {
            k: identity(c, "experiments.score_based.run", flags.scale) for k, c in ladders.items()
        }
        for dataset, ladders in configs.items()
    }
    jobs = {
        dataset: {k: seeded(f"{dataset}-{k}", c, SEEDS) for k, c in ladders.items()}
        for dataset, ladders in configs.items()
    }
    every = [job for ladders in jobs.values() for seeds in ladders.values() for job in seeds]
    if not finish(every, flags):
        return
    nets = {
        dataset: {k: trained(seeds, flags.outdir) for k, seeds in ladders.items()}
        for dataset, ladders in jobs.items()
    }

    exact = with_exact_score(mixture, NUM_EXACT[flags.scale])
    rows = [
        *weight_rows(mixture, WEIGHT_OMEGAS),
        *(samples.row for samples in exact.values()),
        size_row("support/exact score of the curve", curve),
        size_row("support/exact score of the mixture", mixture),
    ]
    rows = [origin["mixture"]["annealed"] | row for row in rows]  # No config changes these.
    rows += [origin["mixture"][k] | row for k, row in error_rows(mixture, nets["mixture"])]
    denoiser_of = nets["mixture"]["plain"].denoiser  # One architecture is compiled only once.
    number = NUM_TRAINED[flags.scale]
    on_mixture, on_curve = (
        with_networks(part, data, OMEGA_0[dataset], denoiser_of, nets[dataset], number)
        for part, dataset, data in (("density", "mixture", mixture), ("support", "curve", curve))
    )
    for dataset, by_pair in (("mixture", on_mixture), ("curve", on_curve)):
        for (k, _), samples in by_pair.items():
            more = {"train_secs": nets[dataset][k].seconds}
            rows.append(origin[dataset][k] | more | samples.row)
    rows = [row | {"seeds": list(SEEDS)} if "network" in row["name"] else row for row in rows]
    write_results(flags.outdir, rows)

    denoisers = {"exact score": mixture.exact.eps_hat} | {
        f"{k} network": net.denoiser(net.params[0]) for k, net in nets["mixture"].items()
    }
    shown = {name: exact[name] for name in ("plain Langevin", "annealed Langevin")}
    plot_mixture(flags.outdir / "score_based.png", mixture, OMEGA_0["mixture"], denoisers, shown)
    titles = {f"{k} network,\n{langevin} Langevin": s for (k, langevin), s in on_curve.items()}
    plot_curve(flags.outdir / "curve.png", curve, titles)
    for part, columns in TABLES:
        shown_rows = [r for r in rows if r["name"].startswith(part) and columns[1] in r]
        print(format_table(shown_rows, columns), end="\n\n")


if __name__ == "__main__":
    main()
