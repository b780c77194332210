"""What is told of samples, without a run."""

from types import SimpleNamespace

import numpy as np
import pytest

from vdm import reports
from vdm.evaluation import quality


class Flat:
    """Features that are the pixels."""

    name = "flat"

    def __call__(self, codes, num_codes):
        return codes.reshape(len(codes), -1) / num_codes


def test_images_are_compared_with_the_first_50000(monkeypatch):
    assert reports.MAX_REAL == 50_000
    monkeypatch.setattr(reports, "MAX_REAL", 30)
    monkeypatch.setattr(reports, "read_features", lambda path: Flat())
    rng = np.random.default_rng(0)
    real = rng.integers(0, 17, (40, 2, 1, 1), dtype=np.uint8)
    samples = rng.integers(0, 17, (20, 2, 1, 1), dtype=np.uint8)
    source = SimpleNamespace(
        load=lambda split: SimpleNamespace(examples=real), shape=(2, 1, 1), num_codes=17
    )
    options = SimpleNamespace(sample=SimpleNamespace(features="some.npz"))
    found = reports.sample_quality(SimpleNamespace(source=source, options=options), samples)
    wanted = quality.compare(Flat()(samples, 17), Flat()(real[:30], 17))
    assert found == {"features": "flat", "num_real": 30} | wanted


@pytest.mark.parametrize(
    ("degrees", "text"),
    [
        (1, "+- 0.0324 (Monte Carlo, 1 degree of freedom): elbo"),
        (9, "+- 0.0324 (Monte Carlo, 9 degrees of freedom): elbo"),
        (10, "+- 0.0324 (Monte Carlo): elbo"),
        (594, "+- 0.0324 (Monte Carlo): elbo"),
    ],
)
def test_an_error_of_few_draws_is_told_with_its_degrees_of_freedom(degrees, text):
    report = {
        "bpd": 1.7, "stderr_images": 0.01, "stderr_monte_carlo": 0.0324, "stderr_degrees": degrees,
        "bound": "elbo", "num_steps": 0, "split": "test", "params": "ema", "step": 7,
        "num_examples": 297, "draws_per_example": 2,
    }  # fmt: skip
    assert text in reports.describe_evaluation(report)
    unknown = report | {"stderr_monte_carlo": None, "stderr_degrees": None}
    assert "+- unknown (Monte Carlo): elbo" in reports.describe_evaluation(unknown)
    del report["stderr_degrees"]  # of a workdir of before
    assert "+- 0.0324 (Monte Carlo): elbo" in reports.describe_evaluation(report)
