"""Evaluations of a run: which parameters, which bound, and what a killed one resumes from."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest
from flax import serialization

from tests.runs.workdirs import state_of
from vdm.data.sources import Split
from vdm.evaluation import bits_per_dim, calls
from vdm.evaluation.estimators import Elbo
from vdm.io import interop
from vdm.io.checkpoints import CheckpointError
from vdm.io.journal import Journal
from vdm.runs import evaluate, states, train
from vdm.runs.run import open_run


def test_an_evaluation_that_was_killed_goes_on_to_the_same_bits(
    make_tiny_config, finished_run, tmp_path, monkeypatch, capsys
):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    (workdir / "eval_examples.npz").unlink()
    run, append, appended = open_run(make_tiny_config(), workdir), Journal.append, []

    def append_one(journal, part):
        append(journal, part)
        appended.append(part)
        if len(appended) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", append_one)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate_run(run)
    assert (workdir / "eval.partial").exists()
    evaluate.evaluate_run(run)
    assert "1 parts done" in capsys.readouterr().out
    assert len(appended) == 2  # two draws of one batch: the second run computed only one
    assert not (workdir / "eval.partial").exists()
    ours, theirs = (np.load(w / "eval_examples.npz") for w in (workdir, finished_run))
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])
    reports = [json.loads((w / "eval.json").read_text()) for w in (workdir, finished_run)]
    for key in ("bpd", "stderr_images", "stderr_monte_carlo"):
        assert reports[0][key] == reports[1][key]


def test_parts_of_another_evaluation_are_not_taken(make_tiny_config, finished_run, tmp_path):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    run = open_run(make_tiny_config(), workdir)
    step, params = states.trained_params(run)
    split = run.source.load("test")
    identities = []
    for other in (
        make_tiny_config(eval__seed=1),
        make_tiny_config(eval__draws=3),
        make_tiny_config(eval__batch_size=64),
        make_tiny_config(eval__num_steps=4),
        make_tiny_config(eval__params="raw"),
    ):
        changed = open_run(other, workdir)
        identities.append(evaluate._identity(changed, states.trained_params(changed)[1], split))
    fewer = Split("test", split.examples[1:], None)
    identities += [evaluate._identity(run, params, data) for data in (split, fewer)]
    assert step == 30
    assert all(a != b for a, b in itertools.combinations(identities, 2))


@pytest.mark.slow
def test_a_published_checkpoint_is_evaluated_and_trained_on(make_tiny_config, tmp_path, capsys):
    config = make_tiny_config(
        schedule__name="vdm_scalar", model__prediction="eps", network__kwargs__film=False,
        network__kwargs__label_as_scalar=True, network__kwargs__num_groups=4,
        network__kwargs__frequencies=(64.0, 128.0), network__kwargs__num_blocks=1,
        train__num_steps=2,
    )  # fmt: skip
    config.optim.kwargs.warmup_steps = 1
    params = {}
    for field, seed in [("params", 1), ("ema_params", 2)]:
        model = open_run(config, tmp_path / "none").model
        start = model.init(jax.random.key(seed))
        keys = iter(jax.random.split(jax.random.key(seed), 200))
        params[field] = jax.tree.map(
            lambda x: x + 0.02 * jax.random.normal(next(keys), x.shape),  # noqa: B023
            start,
        )
    saved = {field: interop.to_published(jax.device_get(tree)) for field, tree in params.items()}
    file = tmp_path / "checkpoints-0" / "ckpt-3.flax"
    file.parent.mkdir()
    file.write_bytes(serialization.to_bytes({"step": np.int32(700), "opt_state": {}, **saved}))

    run = open_run(config, tmp_path / "evaluated")
    evaluate.evaluate_run(run, str(tmp_path))
    report = json.loads((tmp_path / "evaluated" / "eval.json").read_text())
    split = run.source.load("test")
    expected = bits_per_dim.evaluate(
        run.model, params["ema_params"], split, run.mesh, estimator=Elbo(), draws=2,
        parts=calls.Parts(300),
    ).summary()  # fmt: skip
    assert report["bpd"] == pytest.approx(expected["bpd"], rel=1e-6)
    assert (report["step"], report["params"]) == (700, "ema")
    assert (tmp_path / "evaluated" / "config.json").is_file()

    train.train(open_run(config, tmp_path / "trained"), str(file))
    assert "parameters of step 700 of the published VDM" in capsys.readouterr().out
    _, state = state_of(config, tmp_path / "trained")
    kernel = state.params["network"]["conv_in"]["kernel"]
    moved = np.abs(kernel - params["params"]["network"]["conv_in"]["kernel"]).max()
    assert 0 < moved < 0.02  # a step or two away from where it started

    with pytest.raises(ValueError, match="has checkpoints of its own"):
        evaluate.evaluate_run(open_run(config, tmp_path / "trained"), str(file))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bound", "num_steps", "keys"),
    [("iw-3", 5, {"K"}), ("ode-decoder", 0, {"divergence", "probes", "stderr_hutchinson"})],
)
def test_other_bounds_say_what_they_are(
    make_tiny_config, finished_run, tmp_path, bound, num_steps, keys
):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    elbo = json.loads((workdir / "eval.json").read_text())
    config = make_tiny_config(
        eval__bound=bound, eval__num_steps=num_steps, eval__draws=2, eval__ode__num_steps=4
    )
    evaluate.evaluate_run(open_run(config, workdir))
    report = json.loads((workdir / "eval.json").read_text())
    assert keys <= set(report) - set(elbo)
    assert (report["bound"], report["num_steps"]) == (bound, num_steps)
    assert [report[f"bpd_{t}"] for t in ("reconstruction", "prior", "denoising")] == [None] * 3
    assert report["bpd"] > elbo["bpd"] - 0.5
    assert (elbo["stderr_degrees"], report["stderr_degrees"]) == (1, 297)  # two draws each
    examples = np.load(workdir / "eval_examples.npz")
    assert set(examples) == {"index", "total", "total_of_draws"}
    assert examples["total"].mean() / 64 / np.log(2) == pytest.approx(report["bpd"], rel=1e-9)


def test_evaluation_can_choose_step_and_parameters(make_tiny_config, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    reports = []
    for step, params in [(10, "ema"), (30, "raw"), (30, "ema")]:
        config = make_tiny_config(eval__step=step, eval__params=params, eval__num_steps=5)
        evaluate.evaluate_run(open_run(config, tmp_path / "run"))
        reports.append(json.loads((tmp_path / "run" / "eval.json").read_text()))
        assert (reports[-1]["step"], reports[-1]["params"]) == (step, params)
        assert reports[-1]["num_steps"] == 5
    assert len({report["bpd"] for report in reports}) == 3
    with pytest.raises(CheckpointError, match="has 10, 20, 30"):
        evaluate.evaluate_run(open_run(make_tiny_config(eval__step=7), tmp_path / "run"))


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
    assert text in evaluate.describe_evaluation(report)
    unknown = report | {"stderr_monte_carlo": None, "stderr_degrees": None}
    assert "+- unknown (Monte Carlo): elbo" in evaluate.describe_evaluation(unknown)
    del report["stderr_degrees"]  # of a workdir of before
    assert "+- 0.0324 (Monte Carlo): elbo" in evaluate.describe_evaluation(report)
