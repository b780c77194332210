"""What the results page shows of each experiment, and the papers' figures next to it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.results import Row

Select = Callable[[list[Row]], list[Row]]


class Table(NamedTuple):
    """A table of the page: its columns, and a function that selects or makes its rows. Without
    one, the table has the rows that have the second column."""

    columns: tuple[str, ...]
    select: Select | None = None

    def rows(self, rows: list[Row]) -> list[Row]:
        """The rows of this table, from all rows of the experiment."""
        if self.select is not None:
            return self.select(rows)
        return [row for row in rows if self.columns[1] in row]


class Paper(NamedTuple):
    """Published figures, which are not ours: the source and a table."""

    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Entry(NamedTuple):
    """An experiment on the page: its name, our tables, and the published figures, if any."""

    name: str
    tables: tuple[Table, ...]
    paper: Paper | None = None


VDM = "Kingma et al., Variational Diffusion Models, arXiv:2107.00630"
TABLE_1 = Paper(
    f"{VDM}, Table 1",
    ("data set", "bits/dim"),
    (
        ("CIFAR-10", "2.65"),
        ("CIFAR-10, augmented", "2.49"),
        ("ImageNet 32 x 32", "3.72"),
        ("ImageNet 64 x 64", "3.40"),
    ),
)
_DISCRETE = (("10", "4.31"), ("100", "2.84"), ("250", "2.73"), ("500", "2.68"), ("1000", "2.67"),
             ("10000", "2.66"))  # fmt: skip
_CONTINUOUS = (("10", "7.54", "7.54"), ("100", "2.90", "2.91"), ("250", "2.74", "2.76"),
               ("500", "2.69", "2.72"), ("1000", "2.67", "2.72"), ("10000", "2.65", ""),
               ("inf", "2.65", ""))  # fmt: skip
TABLE_2 = Paper(
    f"{VDM}, Table 2, CIFAR-10",
    ("T in training", "T in evaluation", "bits/dim"),
    (
        *((steps, steps, bpd) for steps, bpd in _DISCRETE),
        *(("inf", steps, bpd) for steps, bpd, _ in _CONTINUOUS),
    ),
)
NET_RATES = Paper(
    f"{VDM}, Table 2, CIFAR-10, trained in continuous time",
    ("T", "bound, bits/dim", "bits-back net, bits/dim"),
    tuple(row for row in _CONTINUOUS if row[2]),
)
VARIANCES = Paper(
    f"{VDM}, Figure 4, CIFAR-10",
    ("schedule", "variance of the estimate of the bound"),
    (
        ("learned", "0.53"),
        ("log SNR linear", "6.35"),
        ("beta-linear", "31.6"),
        ("alpha-cosine", "31.1"),
    ),
)
ABLATION = Paper(
    f"{VDM}, section 6.2 and Figure 5, CIFAR-10",
    ("quantity", "figure"),
    (
        ("Fourier features without a learned SNR, largest log SNR about 8", "above 4 bits/dim"),
        ("largest log SNR with learned ends", "13.3"),
        ("both, after the full training (Table 1)", "2.65 bits/dim"),
    ),
)
CHECKPOINT = Paper(
    "README of google-research/vdm, CIFAR-10, its public checkpoint",
    ("quantity", "bits/dim"),
    (("eval_bpd", "2.637"),),
)

BPD = ("name", "bpd", "stderr", "stderr_degrees", "stderr_images")


def by_file(rows: list[Row]) -> list[Row]:
    """The rows for parity: for each golden file how many quantities agree, and the largest ratio of
    an error to its tolerance in float64."""
    table = []
    for file in dict.fromkeys(row["file"] for row in rows):
        own = [row for row in rows if row["file"] == file]
        limited = [r for r in own if r["error_float64"] is not None and r["tolerance_float64"]]
        worst = max((r["error_float64"] / r["tolerance_float64"] for r in limited), default=None)
        table.append({
            "file": file,
            "quantities": len(own),
            "agree": sum(row["ok"] for row in own),
            "worst_to_tolerance": worst,
            "seconds": max(row["seconds"] for row in own),
        })  # fmt: skip
    return table


def by_source(rows: list[Row]) -> list[Row]:
    """The rows for equations: for each source how many equations are checked, how many pass all
    their tests, and how many errors of the source are shown."""
    table = []
    for source in ("S0", "S1", "S2", "S3", "S4"):
        own = [row for row in rows if row["name"].startswith(source)]
        slips = [row for row in rows if row["name"].startswith(f"erratum {source}")]
        if own or slips:
            passed = [row for row in own if row["passed"] and not row["failed"]]
            table.append({
                "source": source,
                "equations": len(own),
                "with all tests passed": len(passed),
                "errors of the source shown": len(slips),
            })  # fmt: skip
    return table


def by_data(rows: list[Row]) -> list[Row]:
    """The rows for oracles: for each kind of data the gap of one bound, the number of claims, and
    how many hold."""
    table = []
    for data in dict.fromkeys(row["name"].split("/")[0] for row in rows if "holds" not in row):
        own = [row for row in rows if row["name"].startswith(f"{data}/")]
        claims = [row for row in rows if row["name"].startswith(f"claim/{data}/")]
        tight = next(row for row in own if row["name"] == f"{data}/elbo-Tinf/-16..14")
        table.append({
            "data": data,
            "gap of the elbo, T = inf, wide ends [nats]": tight["gap_nats"],
            "claims": len(claims),
            "hold": sum(bool(row["holds"]) for row in claims),
            "seconds": sum(row["seconds"] for row in own),
        })  # fmt: skip
    return table


def by_sampler(rows: list[Row]) -> list[Row]:
    """The rows for sampler_quality: means over the seeds, as on its own page."""
    from experiments.sampler_quality.run import means

    return means(rows)


def beginning(part: str, column: str) -> Select:
    """Makes a function that selects the rows whose name begins with `part` and that have the
    column."""
    return lambda rows: [row for row in rows if row["name"].startswith(part) and column in row]


SECTIONS: dict[str, Sequence[Entry]] = {
    "The tables of the VDM paper": (
        Entry(
            "data_sets",
            (Table(("name", "config", "parameters", "step", *BPD[1:], "stderr_seeds",
                    "uniform_bpd", "seconds")),),
            TABLE_1,
        ),
        Entry(
            "depth",
            (Table((*BPD, "difference", "difference_stderr_seeds", "seconds")),),
            TABLE_2,
        ),
        Entry(
            "schedule_swap",
            (Table((*BPD, "variance", "difference_to_variance", "difference_stderr", "seconds")),),
            VARIANCES,
        ),
        Entry(
            "snr_ablation",
            (Table((*BPD, "difference", "difference_stderr_seeds", "variance", "seconds"),
                   beginning("ends", "variance")),),
            ABLATION,
        ),
        Entry(
            "fourier",
            (Table((*BPD, "stderr_seeds", "difference", "difference_stderr_seeds",
                    "difference_stderr_images", "seconds")),),
            ABLATION,
        ),
        Entry(
            "kernels",
            (Table(("name", "evaluations", "bpd", "stderr", "stderr_images", "stderr_seeds",
                    "difference", "difference_stderr_images", "seconds"),
                   lambda rows: [row for row in rows if "bpd" in row]),
             Table(("name", "num_steps", "entropy_nats", "excess_nats", "excess_stderr"),
                   beginning("oracle", "excess_nats"))),
        ),
        Entry(
            "compression",
            (Table(("name", "net", "net_stderr", *BPD[1:4], "gross", "initial_bits",
                    "seconds")),
             Table(("name", "bpd_mosaic", "bpd_each", "seconds"))),
            NET_RATES,
        ),
    ),
    "Is the number right?": (
        Entry(
            "parity",
            (Table(("file", "quantities", "agree", "worst_to_tolerance", "seconds"), by_file),),
            CHECKPOINT,
        ),
        Entry(
            "oracles",
            (Table(("data", "gap of the elbo, T = inf, wide ends [nats]", "claims", "hold",
                    "seconds"), by_data),),
        ),
        Entry(
            "elbo_forms",
            (Table(("name", "nats", "stderr_nats", "reconstruction", "prior", "matching",
                    "seconds")),),
        ),
        Entry(
            "bounds",
            (Table((*BPD, "stderr_hutchinson", "difference", "difference_stderr_images",
                    "seconds")),),
        ),
    ),
    "The learned SNR": (
        Entry(
            "snr_oracle",
            (Table(("name", "variance", "total_variation", "worst_variance_to_optimal",
                    "worst_total_variation", "seconds")),),
        ),
        Entry(
            "schedule_cost",
            (Table(("name", "step_secs", "time_ratio", "gflops", "flops_ratio", "seconds")),),
        ),
    ),
    "The main jobs": (
        Entry("digits", (Table((*BPD, "bound", "seconds")),)),
        Entry(
            "fashion_mnist",
            (Table((*BPD, "difference", "difference_stderr_images", "seconds")),),
        ),
    ),
    "Predictions, samplers, guidance": (
        Entry(
            "parameterisations",
            (Table((*BPD, "difference", "difference_stderr_seeds", "variance", "frechet_pixels",
                    "seconds")),),
        ),
        Entry(
            "sampler_orders",
            (Table(("name", "order", "theory", "smallest_error", "weight_error", "weight_stderr",
                    "seconds")),),
        ),
        Entry(
            "sampler_quality",
            (Table(("sampler", "evaluations", "frechet", "frechet_spread", "difference",
                    "difference_stderr", "precision", "recall"), by_sampler),),
        ),
        Entry(
            "guidance",
            (Table(("name", "accuracy", "diversity", "network_evaluations", "seconds")),
             Table((*BPD, "difference", "difference_stderr", "difference_stderr_images",
                    "seconds"))),
        ),
        Entry(
            "score_based",
            (Table(("name", "error_on_data", "stderr_on_data", "error_from_normal",
                    "stderr_from_normal", "seconds"), beginning("density", "error_on_data")),),
        ),
    ),
    "Comparison with the sources": (
        Entry(
            "ladder",
            (Table(("name", "bound", *BPD[1:], "difference", "difference_stderr_seeds",
                    "parameters", "seconds")),),
        ),
        Entry(
            "dpm_lab",
            (Table(("section", "claim of the source", "verdict")),),
        ),
        Entry(
            "equations",
            (Table(("source", "equations", "with all tests passed", "errors of the source shown"),
                   by_source),),
        ),
    ),
    "Speed and memory": (
        Entry(
            "throughput",
            (Table(("name", "variant", "images_per_sec", "speed_ratio", "step_secs",
                    "compile_secs", "temp_mib", "temp_ratio", "seconds")),),
        ),
    ),
}  # fmt: skip
