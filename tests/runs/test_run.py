"""What a run derives from its seed."""

import jax
import numpy as np

from vdm.runs import classifier
from vdm.runs.run import open_run


def test_no_two_of_a_runs_keys_are_one(make_tiny_config, tmp_path):
    # fold_in(root, 0) and split(root)[0] are the same key: with the root as the key of the steps
    # the first step would draw from the key of the initial parameters.
    run = open_run(make_tiny_config(), tmp_path / "run")
    init_classifier, steps_of_classifier = classifier._keys(run)
    keys = [run.init_key, init_classifier]
    for key in (run.step_key, steps_of_classifier):
        keys += [jax.random.fold_in(key, step) for step in range(5)]
    keys += [child for key in keys for child in jax.random.split(key, 3)]
    keys += [run.step_key, steps_of_classifier]
    data = {tuple(np.ravel(jax.random.key_data(key)).tolist()) for key in keys}
    assert len(data) == len(keys)
