"""From the built-in configs to objects: each component is chosen by its name."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.api import load_config
from vdm.config import build as configs
from vdm.config import options, registry
from vdm.config.build import build_estimator
from vdm.diffusion import weightings
from vdm.evaluation.estimators import Elbo
from vdm.nn.schedules import Cosine, Linear, Monotone
from vdm.runs.run import build_run

FOLDER = Path(importlib.util.find_spec("vdm").origin).parent.parent / "configs"


FILES = sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name):
    return load_config(FOLDER / f"{name}.py")


def test_every_config_has_every_field():
    for name in FILES:
        options.read(load(name))


def test_cifar10_builds_the_paper_network_of_its_stated_size():
    config = load("cifar10")
    model = configs.build_model(config, configs.build_source(config.data))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert f"{count / 1e6:.1f} M parameters" in (FOLDER / "cifar10.py").read_text()
    blocks = [name for name in shapes["network"] if name.startswith(("down", "middle", "up"))]
    assert len(blocks) == 32 + 2 + 1 + 33  # with the attention of the middle


@pytest.mark.parametrize("name", FILES)
def test_the_network_moves_when_omega_moves(name):
    config = load(name)
    if config.network.name == "unet":
        config.network.kwargs.num_blocks = 0
        config.network.kwargs.width = min(32, config.network.kwargs.width)
    source = configs.build_source(config.data)
    model = configs.build_model(config, source)
    params, rng = jax.jit(model.init)(jax.random.key(0)), np.random.default_rng(1)
    params["network"] = jax.tree.map(
        lambda x: x + 0.2 * rng.normal(size=x.shape).astype(np.float32), params["network"]
    )
    z = rng.normal(size=(2, *source.shape)).astype(np.float32)
    z = z[:, :8, :8] if z.ndim == 4 else z

    @jax.jit
    def output(omega):  # the network's own: eps_hat also moves through the conversion to it
        return model.network.apply({"params": params["network"]}, z, omega)

    omega = np.array([-2.0, 1.0], np.float32)
    assert np.abs(output(omega) - output(omega + 0.5)).max() > 1e-3


def test_a_component_is_swapped_by_its_name_alone():
    config = load("digits")
    source = configs.build_source(config.data)
    for name, kind in [("linear", Linear), ("cosine", Cosine), ("monotone", Monotone)]:
        config.schedule.name = name  # hidden_features is left out where it is not a parameter
        schedule = configs.build_model(config, source).schedule
        assert type(schedule) is kind
        assert schedule.omega_0 == config.schedule.kwargs.omega_0
    config.sample.name = "ddim"
    assert configs.build_sampler(config.sample).deterministic
    for name in registry.SAMPLERS:  # kwargs of the others are left out
        config.sample.name = name
        assert callable(configs.build_sampler(config.sample).step)
    for name in registry.GRIDS:
        config.sample.grid.name = name
        grid = configs.build_grid("sample.grid", config.sample.grid)
        if name == "least_bound":  # a schedule does not determine it
            with pytest.raises(ValueError, match=r"measured on training images.*'equal_times'"):
                grid(lambda t: 13 * t - 8, 4)
            continue
        grid = grid(lambda t: 13 * t - 8, 4)
        np.testing.assert_allclose(grid[np.array([0, -1])], [-8, 5], rtol=1e-5)


def test_a_schedule_for_each_dimension_is_built_and_has_no_flow():
    config = load("digits")
    config.schedule.name, config.schedule.kwargs.per_dimension = "polynomial", True
    model = build_run(config, Path("unused")).model
    assert model.multivariate
    config.eval.bound = "ode-decoder"
    with pytest.raises(ValueError, match="choose 'elbo' or 'iw-K'"):
        build_run(config, Path("unused"))


def test_weightings_are_built_by_name_with_their_own_kwargs():
    config = load("digits")
    assert configs.build_weighting(config.weighting) is weightings.bound
    omega, weight = jnp.array([-2.0, 1.0]), jnp.array([3.0, 4.0])
    config.weighting.kwargs.gamma, config.weighting.kwargs.shift = 0.5, 1.0
    for name, want in [
        ("bound", np.ones(2)),
        ("simple", 1 / weight),
        ("min_snr", np.minimum(1.0, 0.5 * np.exp(omega)) / weight),
        ("sigmoid", 1 / (1 + np.exp(-omega - 1.0))),
    ]:
        config.weighting.name = name
        found = configs.build_weighting(config.weighting)(omega, weight)
        np.testing.assert_allclose(found, want, rtol=1e-6)
    assert options.read(config).weighting == "sigmoid"


def test_next_mean_is_built_for_a_fixed_schedule_of_one_omega():
    config = load("digits")
    config.model.prediction, config.model.num_steps = "next_mean", 100
    config.schedule.name, config.schedule.train = "linear", "fixed"
    model = build_run(config, Path("unused")).model
    assert (model.prediction, model.num_steps) == ("next_mean", 100)
    config.schedule.name, config.schedule.kwargs.per_dimension = "polynomial", True
    with pytest.raises(ValueError, match=r"one omega for all .* schedule\.name = 'linear'"):
        build_run(config, Path("unused"))


def test_bounds_are_built_by_name():
    config = load("digits")
    model = configs.build_model(config, configs.build_source(config.data))
    evaluation = dataclasses.replace(options.read(config).eval, num_steps=10)
    assert build_estimator(evaluation, model) == Elbo(10)
    weighted = build_estimator(dataclasses.replace(evaluation, bound="iw-64"), model)
    assert (weighted.name, weighted.num_steps, weighted.facts) == ("iw-64", 10, {"K": 64})
    for kind in ("decoder", "uniform", "truncated-normal"):
        flow = build_estimator(
            dataclasses.replace(evaluation, bound=f"ode-{kind}", num_steps=0), model
        )
        assert flow.name == f"ode-{kind}"
        assert flow.facts["divergence"] == "hutchinson"  # 64 dimensions
        assert flow.facts["ode_solver"] == "50 steps"
    toy = load("toy_mixture")
    model = configs.build_model(toy, configs.build_source(toy.data))
    evaluation = dataclasses.replace(options.read(toy).eval, bound="ode-decoder")
    assert build_estimator(evaluation, model).facts["divergence"] == "exact"
    with pytest.raises(ValueError, match="is for integer codes: choose 'ode-decoder'"):
        build_estimator(dataclasses.replace(evaluation, bound="ode-uniform"), model)
