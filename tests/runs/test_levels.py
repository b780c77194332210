"""Levels of least bound and fitted kernels of a run: what is kept, and what is refused."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import vdm
from vdm.data.sources import Split
from vdm.diffusion.grids import equal_times, karras, least_bound
from vdm.diffusion.least_bound import fine_levels
from vdm.evaluation import step_costs
from vdm.runs import evaluate, levels, sample, states
from vdm.runs.run import build_run, open_run


@pytest.fixture(scope="module", autouse=True)
def few_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_costs, "MOST_IMAGES", 16)
        yield


@pytest.fixture
def workdir(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def calls(monkeypatch):
    """Counts the measurements."""
    made = []

    def counted(*args):
        made.append(args)
        return step_costs.measure(*args)

    monkeypatch.setattr(levels, "measure", counted)
    return made


def test_costs_are_measured_once_for_the_parameters(make_tiny_config, workdir, calls, capsys):
    run = open_run(make_tiny_config(), workdir)
    _, params = states.trained_params(run)
    first = levels.step_costs(run, params)
    for changes in ({"model__kernel": "mixture"}, {"model__decoder": "network"}):
        again = levels.step_costs(open_run(make_tiny_config(**changes), workdir), params)
        for name, array in first.arrays().items():
            np.testing.assert_array_equal(again.arrays()[name], array)
    assert len(calls) == 1
    other = jax.tree.map(lambda leaf: 1.01 * leaf, params)
    capsys.readouterr()
    changed = levels.step_costs(run, other)
    assert len(calls) == 2
    assert "is of other parameters or data" in capsys.readouterr().out
    assert (changed.errors != first.errors).any()
    levels.step_costs(run, other)
    assert len(calls) == 2
    split = run.source.load("train")
    fewer = Split("train", split.examples[1:], split.labels[1:])
    source = dataclasses.replace(run.source, load=lambda name: fewer)
    levels.step_costs(dataclasses.replace(run, source=source), other)
    assert len(calls) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "of_another_shape"])
def test_a_damaged_file_is_measured_again(
    make_tiny_config, workdir, calls, capsys, damage, finished_costs
):
    run = open_run(make_tiny_config(), workdir)
    _, params = states.trained_params(run)
    path = workdir / levels.FILENAME
    content = bytearray(finished_costs)
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 16
    path.write_bytes(content)
    if damage == "of_another_shape":
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **arrays | {"prior": arrays["prior"][1:]})
    levels.step_costs(run, params)
    assert "is damaged" in capsys.readouterr().out
    assert len(calls) == 1
    assert path.read_bytes() == finished_costs


@pytest.fixture(scope="module")
def finished_costs(finished_run, make_tiny_config, tmp_path_factory):
    """The bytes of the kept costs of the finished run."""
    workdir = shutil.copytree(finished_run, tmp_path_factory.mktemp("costs") / "run")
    run = open_run(make_tiny_config(), workdir)
    levels.step_costs(run, states.trained_params(run)[1])
    return (workdir / levels.FILENAME).read_bytes()


def test_kept_costs_serve_without_the_data(make_tiny_config, workdir, finished_costs, calls):
    run = open_run(make_tiny_config(), workdir)
    _, params = states.trained_params(run)

    def missing(split):
        raise ValueError(f"there is no {split} split")

    lost = dataclasses.replace(run, source=dataclasses.replace(run.source, load=missing))
    with pytest.raises(ValueError, match=r"measured on training images, .* no train split"):
        levels.least_bound_levels(lost, params, 3)
    (workdir / levels.FILENAME).write_bytes(finished_costs)
    assert len(levels.least_bound_levels(lost, params, 3)) == 4
    with pytest.raises(ValueError, match="measured on training images"):
        levels.step_costs(lost, jax.tree.map(lambda leaf: 1.01 * leaf, params))
    assert not calls


def test_an_evaluation_states_its_levels(make_tiny_config, workdir, finished_costs, capsys):
    (workdir / levels.FILENAME).write_bytes(finished_costs)
    reports = {}
    for kernel in ("mixture", "gaussian_fitted_per_dim"):
        for grid in ("equal_times", "least_bound"):
            config = make_tiny_config(
                model__kernel=kernel, model__decoder="network", eval__num_steps=5,
                eval__grid__name=grid, eval__draws=12,
            )  # fmt: skip
            run = open_run(config, workdir)
            evaluate.evaluate_run(run)
            reports[kernel, grid] = json.loads((workdir / "eval.json").read_text())
        report, equal = reports[kernel, "least_bound"], reports[kernel, "equal_times"]
        assert report["grid"] == "least_bound"
        assert "omegas" not in equal
        chosen = levels.least_bound_levels(run, states.trained_params(run)[1], 5)
        want = fine_levels(equal["omega_0"], equal["omega_1"])[list(chosen)]
        np.testing.assert_array_equal(np.float32(report["omegas"]), want)
        assert [report["omega_0"], report["omega_1"]] == [want[0], want[-1]]
        noise = np.hypot(report["stderr_monte_carlo"], equal["stderr_monte_carlo"])
        assert report["bpd"] < equal["bpd"] + 3 * noise
    # That of the mixture hardly depends on the levels after so few steps of training.
    assert report["bpd"] < equal["bpd"] - 0.1
    omegas = [reports[k, "least_bound"]["omegas"] for k in ("mixture", "gaussian_fitted_per_dim")]
    assert omegas[0] != omegas[1]


def test_the_api_takes_the_grid_by_name(make_tiny_config, workdir, finished_costs):
    (workdir / levels.FILENAME).write_bytes(finished_costs)
    trained = vdm.load(workdir)
    images = trained.split("test").examples[:40]
    equal, chosen = (
        trained.bpd(images, num_steps=4, grid=grid, draws=40) for grid in (None, "least_bound")
    )
    assert chosen.mean < equal.mean
    samples = [trained.sample(4, num_steps=4, grid=g) for g in ("equal_times", "least_bound")]
    assert (samples[0] != samples[1]).any()
    np.testing.assert_array_equal(trained.sample(4, num_steps=4, grid=least_bound), samples[1])
    with pytest.raises(ValueError, match=r"finitely many steps: set eval\.num_steps"):
        trained.bpd(images, grid="least_bound")
    with pytest.raises(ValueError, match="at most 512 steps, not of 600"):
        trained.sample(4, num_steps=600, grid="least_bound")
    with pytest.raises(ValueError, match="did you mean 'least_bound'"):
        trained.bpd(images, num_steps=4, grid="least_bond")


def test_samples_are_drawn_at_the_levels_of_their_config(make_tiny_config, workdir, finished_costs):
    (workdir / levels.FILENAME).write_bytes(finished_costs)
    config = make_tiny_config(sample__grid={"name": "least_bound", "kwargs": {}})
    sample.sample_run(open_run(config, workdir))
    assert json.loads((workdir / "samples.json").read_text())["grid"]["name"] == "least_bound"
    drawn = np.load(workdir / "samples.npz")["samples"]
    want = vdm.load(workdir).sample(len(drawn), num_steps=3, grid="least_bound")
    np.testing.assert_array_equal(drawn, want)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "for a bound of finitely many steps: set eval.num_steps to their number"),
        ({"eval__bound": "ode-decoder"}, "eval.bound = 'ode-decoder' has no levels of steps"),
        ({"eval__num_steps": 513}, "at most 512 steps, not of 513"),
        ({"eval__num_steps": 5, "model__name": "tests.families.encoder_in_time:EncoderInTime"},
         "it overrides elbo_at, encode"),
    ],
)  # fmt: skip
def test_a_config_whose_levels_cannot_be_chosen_is_refused(
    make_tiny_config, tmp_path, changes, message
):
    config = make_tiny_config(eval__grid__name="least_bound", **changes)
    with pytest.raises(ValueError, match=r"eval\.grid\.name = 'least_bound'.*" + message):
        build_run(config, tmp_path)


def test_a_sampler_of_too_many_steps_is_refused(make_tiny_config, tmp_path):
    config = make_tiny_config(sample__num_steps=1000)
    config.sample.grid.name = "least_bound"
    with pytest.raises(ValueError, match=r"sample\.grid\.name = 'least_bound' .* not of 1000"):
        build_run(config, tmp_path)


def test_another_grid_has_any_number_of_steps(make_tiny_config, tmp_path):
    # It chooses nothing, so the limit of the levels of least bound is not its own.
    config = make_tiny_config(eval__grid__name="equal_omegas", eval__num_steps=1000)
    assert build_run(config, tmp_path).estimator.num_steps == 1000


def test_levels_that_do_not_increase_are_refused(make_tiny_config, workdir):
    run = open_run(make_tiny_config(), workdir)
    _, params = states.trained_params(run)

    def falling(schedule, num_steps):
        return equal_times(schedule, num_steps)[::-1]

    with pytest.raises(ValueError, match="the grid gives no 4 increasing values of omega"):
        levels.for_evaluation(run, params, 3, falling)
    chosen, params = levels.for_evaluation(run, params, 3, karras())
    omegas = equal_times(chosen.vdm.schedule_fn(params), 3)
    want = karras()(run.vdm.schedule_fn(states.trained_params(run)[1]), 3)
    np.testing.assert_array_equal(omegas, want)
