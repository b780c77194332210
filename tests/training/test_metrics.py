"""The scalars of a log line, from the metrics of the steps since the last one."""

import numpy as np
import pytest

from vdm.training.metrics import NonFiniteError, summarise


def test_summarise_names_the_first_term_that_is_not_finite():
    good = {name: np.float32(1.0) for name in
            ("bpd", "bpd_prior", "bpd_denoising", "omega_0", "omega_1", "grad_norm")}  # fmt: skip
    bad = good | {"bpd": np.float32("nan"), "bpd_denoising": np.float32("nan")}
    with pytest.raises(NonFiniteError, match="train/bpd_denoising is nan at step 42"):
        summarise([good, good, bad, bad], 43)
    last = good | {"omega_0": np.float32(3.0), "bpd": np.float32(2.0)}
    means = summarise([good, last], 2)
    assert (means["train/bpd"], means["train/omega_0"]) == (1.5, 3.0)
