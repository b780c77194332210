"""The classifier of noisy examples that guides samples."""

import json
import shutil

import jax
import numpy as np
import pytest

from vdm.runs import classifier, sample, train
from vdm.runs.run import open_run


@pytest.mark.slow
def test_a_classifier_is_trained_resumed_and_guides_samples(make_tiny_config, tmp_path, capsys):
    def run(**changes):
        small = {"model__class_conditional": True, "model__label_dropout": 0.2,
                 "classifier__kwargs__width": 4, "classifier__kwargs__stages": 1,
                 "classifier__num_steps": 20, "classifier__batch_size": 32}  # fmt: skip
        return open_run(make_tiny_config(**small | changes), tmp_path / "run")

    guided = {"sample__guidance__name": "classifier"}
    train.train(run(**guided))  # there is no classifier yet
    assert "no classifier guides these samples" in capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "samples.json").read_text())
    assert report["guidance"]["name"] == "none"
    with pytest.raises(ValueError, match="--mode=classifier"):
        sample.sample_run(run(**guided))

    classifier.train_classifier(run())
    _, straight = run().classifier_checkpoints.restore(classifier.first_state(run()))
    shutil.rmtree(tmp_path / "run" / "classifier" / "20")
    classifier.train_classifier(run())  # from step 10
    _, resumed = run().classifier_checkpoints.restore(classifier.first_state(run()))
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    sample.sample_run(run(**guided, sample__label=7, sample__num_frames=2))
    report = json.loads((tmp_path / "run" / "samples.json").read_text())
    assert report["guidance"]["name"] == "classifier"
    assert report["network_evaluations"] == 3
    arrays = np.load(tmp_path / "run" / "samples.npz")
    np.testing.assert_array_equal(arrays["labels"], [7, 7, 7, 7])
    assert arrays["frames"].shape == (2, 4, 8, 8, 1)
    assert (tmp_path / "run" / "samples.gif").is_file()
    free = {"sample__guidance__name": "classifier_free", "sample__name": "heun"}
    sample.sample_run(run(**free, sample__num_images=6, sample__interpolate=3))
    report = json.loads((tmp_path / "run" / "samples.json").read_text())
    assert report["network_evaluations"] == 3 * 2 * 2
    assert not (tmp_path / "run" / "samples.gif").exists()  # it was of other samples
    # its checkpoints belong to one network, even if a later config names another
    assert run(classifier__kwargs__width=9).classifier.network.width == 4
    with pytest.raises(ValueError, match="labels are 0 to 9"):
        run(sample__label=10)
