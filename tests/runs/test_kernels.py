"""Reverse kernels and decoders in runs: chosen at evaluation, or trained for T steps."""

import json
import shutil

import numpy as np
import pytest

from tests.runs.workdirs import interrupted_copy
from vdm.compare import Result, compare
from vdm.runs import evaluate, train
from vdm.runs.run import open_run
from vdm.runs.sample import sample_run

CHOSEN = {"model__kernel": "mixture", "model__decoder": "network", "eval__num_steps": 3}


def test_a_finished_run_is_evaluated_with_another_kernel_and_decoder(
    make_tiny_config, finished_run, tmp_path
):
    reports = []
    for name, changes in (("mixture", CHOSEN), ("gaussian", {"eval__num_steps": 3})):
        workdir = shutil.copytree(finished_run, tmp_path / name)
        evaluate.evaluate_run(open_run(make_tiny_config(**changes), workdir))
        reports.append(json.loads((workdir / "eval.json").read_text()))
    stated = ("bound", "num_steps", "kernel", "decoder", "network_evaluations")
    assert [reports[0][key] for key in stated] == ["elbo", 3, "mixture", "network", 4]
    assert [reports[1][key] for key in stated] == ["elbo", 3, "gaussian", "bayes", 3]
    assert "u and -u" in reports[0]["kernel_divergence"]
    said = [evaluate.describe_evaluation(report) for report in reports]
    assert "elbo, T = 3, mixture kernel, network decoder, ema" in said[0]
    assert "elbo, T = 3, ema" in said[1]
    assert "kernel_divergence" not in reports[1]
    assert reports[0]["bpd"] < reports[1]["bpd"] - 1
    first, second = compare([Result(tmp_path / name) for name in ("gaussian", "mixture")])
    assert second["difference"] == pytest.approx(second["bpd"] - first["bpd"])


def test_training_does_not_go_on_with_another_decoder(make_tiny_config, finished_run, tmp_path):
    workdir = interrupted_copy(finished_run, tmp_path / "run", 20)
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"'network'.* has been trained with 'bayes'.*mode=eval"):
        train.train(open_run(make_tiny_config(model__decoder="network"), workdir))
    assert (workdir / "config.json").read_bytes() == before


def test_a_model_is_trained_evaluated_and_sampled_for_T_steps(make_tiny_config, tmp_path):
    config = make_tiny_config(
        **CHOSEN, model__num_steps=3, sample__name="mixture_ancestral", sample__num_steps=3,
        train__num_steps=4, train__save_every=2, train__eval_every=0, eval__draws=8,
    )  # fmt: skip
    train.train(open_run(config, tmp_path / "run"))
    report = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert (report["kernel"], report["num_steps"]) == ("mixture", 3)
    samples = json.loads((tmp_path / "run" / "samples.json").read_text())
    assert samples["network_evaluations"] == 4  # three steps and the decoder
    with np.load(tmp_path / "run" / "samples.npz") as drawn:
        first = drawn["samples"]
    # The decoder belongs to the model: another one is another run.
    config.model.decoder = "bayes"
    with pytest.raises(ValueError, match=r"model\.decoder: here 'bayes', there 'network'"):
        open_run(config, tmp_path / "run")
    config.model.decoder = "network"
    sample_run(open_run(config, tmp_path / "run"))
    with np.load(tmp_path / "run" / "samples.npz") as drawn:
        np.testing.assert_array_equal(drawn["samples"], first)
