"""What is told of samples, without a run."""

from types import SimpleNamespace

import numpy as np

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
