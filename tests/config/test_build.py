import copy
import dataclasses
import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vdm.api import load_config
from vdm.config import build as configs
from vdm.config import defaults, options, registry
from vdm.config.build import build_estimator
from vdm.config.compatibility import differing_fields
from vdm.diffusion import weightings
from vdm.evaluation.estimators import Elbo
from vdm.nn.schedules import Cosine, Linear, Monotone
from vdm.runs import train
from vdm.runs.run import build_run

FOLDER = Path(importlib.util.find_spec("vdm").origin).parent.parent / "configs"
FILES = sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name):
    return load_config(FOLDER / f"{name}.py")


def test_every_config_has_every_field():
    for name in FILES:
        options.read(load(name))


@pytest.mark.parametrize("field", ["seed", "train.eval_draws", "network.kwargs", "optim"])
def test_a_missing_field_is_named(field):
    config = load("digits")
    group, _, name = field.rpartition(".")
    del (config[group] if group else config)[name]
    with pytest.raises(ValueError, match=rf"the config has no {field}\b.*defaults.get_config"):
        options.read(config)


@pytest.mark.parametrize(
    ("group", "key", "value", "message"),
    [
        ("train", "num_step", 5, "has train.num_step, which is not a field; did you mean 'num_st"),
        ("sample", "gird", {"name": "karras"}, "has sample.gird, which .* did you mean 'grid'"),
        ("eval", "ode", 5, "eval.ode = 5: it must be a group with divergence, num_steps"),
        ("network", "width", 5, "has network.width, which is not a field; .*into its kwargs"),
    ],
)
def test_a_field_that_no_config_has_is_refused(group, key, value, message):
    config = defaults.get_config()
    with config[group].ignore_type():
        config[group][key] = value
    with pytest.raises(ValueError, match=message):
        options.read(config)


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
    params = jax.jit(model.init)(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 200))
    params["network"] = jax.tree.map(
        lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), params["network"]
    )
    z = jax.random.normal(jax.random.key(2), (2, *source.shape))
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
        grid = configs.build_grid(config.sample.grid)(lambda t: 13 * t - 8, 4)
        np.testing.assert_allclose(grid[np.array([0, -1])], [-8, 5], rtol=1e-5)


def test_a_schedule_for_each_dimension_is_built_and_has_no_flow():
    config = load("digits")
    config.schedule.name, config.schedule.kwargs.per_dimension = "polynomial", True
    model = build_run(config, Path("unused")).model
    assert model.multivariate
    config.eval.bound = "ode-decoder"
    with pytest.raises(ValueError, match="choose 'elbo' or 'iw-K'"):
        build_run(config, Path("unused"))


def test_what_a_schedule_cannot_learn_is_refused_before_training():
    config = load("digits")
    config.schedule.train = "adaptive"
    with pytest.raises(ValueError, match=r"schedule\.name = 'tabulated'"):
        build_run(config, Path("unused"))
    config.schedule.name = "tabulated"
    build_run(config, Path("unused"))
    config.schedule.train = "variances"
    with pytest.raises(ValueError, match="did you mean 'variance'"):
        build_run(config, Path("unused"))


def test_a_dotted_path_brings_a_component_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_schedules.py").write_text(
        "import flax.linen as nn\n"
        "class Square(nn.Module):\n"
        "    lowest: float\n"
        "    def __call__(self, t):\n"
        "        return self.lowest + 10 * t + t**2\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = load("toy_swirl")
    config.schedule = {"name": "my_schedules:Square", "kwargs": {"lowest": -7.0}, "train": "fixed"}
    model = configs.build_model(config, configs.build_source(config.data))
    params = model.init(jax.random.key(0))
    assert float(model.schedule_fn(params)(np.float32(1.0))) == 4.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule.name": "monotne"}, "did you mean 'monotone'"),
        ({"network.name": "unt"}, "unknown network.name 'unt'; did you mean 'unet'"),
        ({"network.name": "nowhere.at_all:Net"}, "cannot be imported"),
        ({"model.prediction": "epsilon"}, "unknown model.prediction 'epsilon'"),
        ({"schedule.train": "bond"}, "did you mean 'bound'"),
        ({"eval.bound": "ode-decode"}, "unknown eval.bound .* did you mean 'ode-decoder'"),
        ({"eval.bound": "iw-0"}, "such as iw-64"),
        ({"eval.bound": "iw-K"}, "such as iw-64"),
        ({"eval.bound": "iw-8"}, "set eval.num_steps to their number"),
        ({"eval.bound": "ode-decoder", "eval.num_steps": 10}, "is for continuous time"),
        ({"eval.ode.divergence": "hutchison"}, "did you mean 'hutchinson'"),
        ({"eval.ode.tolerance": 0.0}, "eval.ode.tolerance = 0.0"),
        ({"train.batch_size": 0}, "at least 1"),
        ({"likelihood.name": "gaussian"}, "has integer codes"),
        ({"schedule.name": "json:__name__"}, "not callable"),
        ({"schedule.name": "json:dumps"}, "also needs schedule.kwargs.obj"),
        ({"data.holdout": -1}, "at least 0"),
        ({"data.augmentation.name": "image"}, "did you mean 'images'"),
        ({"data.augmentation.name": "json:dumps"}, "also needs data.augmentation.kwargs.obj"),
        ({"data.augmentation.kwargs": {"flip": 1}}, "flip is not a parameter of 'none'"),
        (
            {"data.augmentation.name": "images", "data.augmentation.kwargs.permutations": True},
            "images of one channel have none to permute",
        ),
        ({"optim.ema_rate": 1.5}, "must be in"),
        ({"weighting.name": "sigmod"}, "unknown weighting.name 'sigmod'; did you mean 'sigmoid'"),
        ({"weighting.name": "json:loads"}, "also needs weighting.kwargs.s"),
        ({"weighting.name": "math:tau"}, "not callable"),
        ({"weighting.name": "json:JSONDecoder", "weighting.kwargs": {}}, "gives no function"),
        ({"weighting.name": "min_snr", "weighting.kwargs.gamma": 0.0}, "gamma = 0.0 must be"),
        ({"weighting.kwargs": {"gama": 1.0}}, "gama is not a parameter of 'bound'"),
        ({"schedule": {"name": "linear"}}, "the config has no schedule.kwargs"),
        ({"model.prediction": "next_mean"}, "model.num_steps = 0 there is none: set it to T"),
        (
            {"model.prediction": "next_mean", "model.num_steps": 10},
            "schedule.train = 'variance': set schedule.train = 'fixed'",
        ),
        ({"data.name": "swirl"}, "is real-valued"),
        ({"model.class_conditional": True, "data.name": "swirl"}, "has no labels"),
        ({"model.label_dropout": 1.0}, r"must be in \[0, 1\)"),
        ({"model.label_dropout": 0.1}, r"set model\.class_conditional = True"),
        ({"sample.label": 3}, "nothing is conditional on labels here"),
        ({"sample.label": 10, "model.class_conditional": True}, "labels are 0 to 9"),
        ({"sample.interpolate": 8}, "choose sample.name = 'ddim'"),
        ({"sample.features": "nowhere.npz"}, "there is no such file"),
        ({"sample.name": "ancestal"}, "did you mean 'ancestral'"),
        ({"sample.grid.name": "karas"}, "did you mean 'karras'"),
        ({"sample.grid.kwargs": {"roh": 7.0}}, "roh is not a parameter"),
        ({"sample.guidance.name": "clasifier"}, "did you mean 'classifier'"),
        ({"sample.guidance.name": "classifier_free"}, "model.label_dropout = 0.1"),
        ({"classifier.name": "convnets"}, "did you mean 'convnet'"),
        ({"classifier.num_steps": 0}, "at least 1"),
        ({"classifier.learning_rate": np.inf}, "learning_rate = inf: it must be 0 or more, and"),
        ({"compress.cells": 1025}, "compress.cells = 1025: it must be at most 1024"),
        ({"compress.lanes": 2**16 + 1}, "compress.lanes = 65537: it must be at most 65536"),
        ({"compress.num_steps": 2**20 + 1}, "num_steps = 1048577: it must be at most 1048576"),
    ],
)
def test_nonsense_is_refused_with_the_remedy(change, message):
    config = load("digits")
    for field, value in change.items():
        *path, last = field.split(".")
        group = config
        for part in path:
            group = group[part]
        group[last] = value
    with pytest.raises(ValueError, match=message):
        build_run(config, Path("unused"))


@pytest.mark.parametrize("value", [None, "0.5", (0.5,)])
@pytest.mark.parametrize(
    "field",
    ["optim.ema_rate", "eval.ode.tolerance", "model.label_dropout", "classifier.learning_rate"],
)
def test_what_is_no_number_is_refused(field, value):
    config = load("digits")
    *path, last = field.split(".")
    group = config
    for part in path:
        group = group[part]
    with group.ignore_type():
        group[last] = value
    with pytest.raises(ValueError, match=rf"{field} = .*: it must be a number"):
        options.read(config)


def test_a_parameter_that_no_component_has_is_refused():
    config = load("digits")
    config.schedule.kwargs = {"omega_o": -8.0}
    with pytest.raises(ValueError, match=r"omega_o is not a parameter .* did you mean 'omega_"):
        configs.build_model(config, configs.build_source(config.data))


def test_only_fields_that_shape_the_state_differ():
    config = load("digits")
    other = ConfigDict(config.to_dict())
    other.eval.draws, other.train.log_every, other.data.data_dir = 7, 1, "/elsewhere"
    other.train.num_steps = 5
    assert differing_fields(config.to_dict(), other.to_dict()) == []
    del other.network.kwargs.film  # True here, and False is the default
    del other.schedule.kwargs.learn_ends  # the default, as here
    other.network.kwargs.width, other.train.batch_size = 48, 64
    differing = differing_fields(config.to_dict(), other.to_dict())
    assert [line.split(":")[0] for line in differing] == [
        "network.kwargs.film",
        "network.kwargs.width",
        "train.batch_size",
    ]


def test_a_config_from_before_a_parameter_existed_is_the_same():
    new = load("digits").to_dict()
    for name in ("linear", "monotone", "vdm_scalar"):
        new["schedule"]["name"] = name
        old = copy.deepcopy(new)
        for key in ("per_dimension", "num_bins", "memory"):
            del old["schedule"]["kwargs"][key]
        del old["optim"]["kwargs"]["schedule_rate"]
        assert differing_fields(new, old) == []
    old["schedule"]["kwargs"]["omega_0"] = -9.0
    assert len(differing_fields(new, old)) == 1


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


def test_a_weighting_of_the_users_own_gives_one_number_for_each_example(tmp_path, monkeypatch):
    (tmp_path / "my_weightings.py").write_text(
        "def power(p=2.0):\n"
        "    return lambda omega_t, weight: weight**p\n"
        "def total():\n"
        "    return lambda omega_t, weight: weight.sum()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = load("digits")
    config.weighting = {"name": "my_weightings:power", "kwargs": {"p": 3.0}}
    weight = np.array([3.0, 4.0], np.float32)
    np.testing.assert_allclose(configs.build_weighting(config.weighting)(weight, weight), weight**3)
    config.weighting = {"name": "my_weightings:total", "kwargs": {}}
    with pytest.raises(ValueError, match=r"gives shape \(\) .* one multiplier for each"):
        build_run(config, Path("unused"))


def test_a_config_from_before_there_were_weightings_trains_on_the_bound():
    new = load("digits")
    old = ConfigDict(new.to_dict())
    del old["weighting"]
    assert options.read(old).weighting == "bound"
    assert build_run(old, Path("unused")).weighting is weightings.bound
    assert differing_fields(new.to_dict(), old.to_dict()) == []
    assert differing_fields(old.to_dict(), new.to_dict()) == []
    new.weighting.kwargs.shift = 7.0  # of another weighting
    assert differing_fields(new.to_dict(), old.to_dict()) == []
    new.weighting.name = "sigmoid"
    differing = differing_fields(new.to_dict(), old.to_dict())
    assert "weighting.name: here 'sigmoid', there 'bound'" in differing


def test_a_config_from_before_there_were_augmentations_has_none():
    new = load("digits")
    old = ConfigDict(new.to_dict())
    del old.data["augmentation"]
    assert build_run(old, Path("unused")).augmentation is None
    new.data.augmentation.kwargs.share = 0.5  # of another augmentation
    assert differing_fields(new.to_dict(), old.to_dict()) == []
    assert differing_fields(old.to_dict(), new.to_dict()) == []
    new.data.augmentation.name = "images"
    assert "data.augmentation.name: here 'images', there 'none'" in differing_fields(
        new.to_dict(), old.to_dict()
    )
    few = ConfigDict(new.to_dict())
    few.data.augmentation.kwargs = {"share": 0.5}  # the defaults of the others are those given
    assert differing_fields(new.to_dict(), few.to_dict()) == []


@pytest.mark.parametrize("kwargs", [{}, {"share": 1.0}])
def test_a_network_that_is_told_of_augmentation_sees_images_without_it(kwargs):
    config = load("digits")
    config.data.augmentation.name, config.model.augmented_flag = "images", True
    config.data.augmentation.kwargs = kwargs  # images() augments all when it is told no share
    with pytest.raises(ValueError, match="share = 1: the network would never"):
        build_run(config, Path("unused"))


def test_where_files_lie_does_not_change_what_they_are():
    for name, moved, changed in [
        ("folder", ("path",), "size"),
        ("npy", ("path", "train", "test", "train_labels", "test_labels"), "num_codes"),
    ]:
        config = load("digits")
        config.data.name = name
        other = ConfigDict(config.to_dict())
        for field in moved:
            other.data.kwargs[field] = "/elsewhere"
        assert differing_fields(config.to_dict(), other.to_dict()) == []
        other.data.kwargs[changed] = 16
        (line,) = differing_fields(config.to_dict(), other.to_dict())
        assert line.startswith(f"data.kwargs.{changed}: ")


@pytest.mark.parametrize("name", ["digits", "cifar10", "fashion_mnist", "imagenet32"])
@pytest.mark.parametrize("source", ["", "folder", "npy"])
def test_a_config_from_before_its_data_kwargs_were_listed_is_the_same(name, source):
    new = load(name).to_dict()
    new["data"]["name"] = source or new["data"]["name"]
    for kept in ({}, {"path": "here"}, {"path": "", "dataset": "cifar10"}):
        old = copy.deepcopy(new)
        old["data"]["kwargs"] = kept
        assert differing_fields(new, old) == differing_fields(old, new) == []


def test_an_augmentation_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_augmentations.py").write_text(
        "import numpy as np\n"
        "from vdm.data.transforms import Augmentation\n"
        "def shift(most):\n"
        "    def draw(generator, size):\n"
        "        by = generator.integers(0, most, size)\n"
        "        return {'augmented': by > 0, 'by': by}\n"
        "    return Augmentation(draw, lambda x, choices: x + choices['by'].astype(x.dtype))\n"
        "def plain():\n"
        "    return lambda x: x\n"
        "def drawing(**rows):\n"
        "    return Augmentation(lambda generator, size: rows.get('list') or {\n"
        "        key: np.zeros(**kind) for key, kind in rows.items()}, None)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = load("digits")
    config.data.augmentation = {"name": "my_augmentations:shift", "kwargs": {"most": 3}}
    found = build_run(config, Path("unused")).augmentation
    assert found.draw(np.random.default_rng(0), 4).keys() == {"augmented", "by"}
    config.data.augmentation = {"name": "my_augmentations:plain", "kwargs": {}}
    with pytest.raises(ValueError, match=r"gives a function: it must give a .*Augmentation"):
        build_run(config, Path("unused"))
    flags = {"shape": (2,), "dtype": "bool"}
    for rows, message in [
        ({"by": {"shape": (2,)}}, "gives nothing as 'augmented': it must be bool of shape"),
        ({"augmented": {"shape": (2,)}}, "gives float64 of shape (2,) as 'augmented'"),
        ({"augmented": {"shape": (3,), "dtype": "bool"}}, "gives bool of shape (3,) as 'aug"),
        ({"augmented": flags, "by": {"shape": (3, 2)}}, "gives float64 of shape (3, 2) as 'by'"),
        ({"augmented": flags, "by": {"shape": ()}}, "gives float64 of shape () as 'by'"),
        ({"list": [1]}, "does not return a dict of arrays"),
    ]:
        config.data.augmentation = {"name": "my_augmentations:drawing", "kwargs": rows}
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            build_run(config, Path("unused"))
        assert "\n" not in str(caught.value)


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


def test_a_metrics_hook_of_the_users_own_gets_config_and_workdir(
    make_tiny_config, tmp_path, monkeypatch
):
    (tmp_path / "my_tracker.py").write_text(
        "class Tracker:\n"
        "    opened = []\n"
        "    def __init__(self, project, config, workdir):\n"
        "        self.opened.append((project, config['seed'], workdir.name))\n"
        "    def write(self, step, scalars): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = make_tiny_config(metrics__name="my_tracker:Tracker")
    run = build_run(config, tmp_path / "run")  # what only evaluates needs no tracker
    with pytest.raises(ValueError, match=r"metrics.name = 'my_tracker:Tracker' also needs"):
        run.open_metrics_hook()
    config.metrics.kwargs = {"project": "mine"}
    run = build_run(config, tmp_path / "run")
    import my_tracker

    assert my_tracker.Tracker.opened == []  # not before a training begins
    assert run.open_metrics_hook().opened == [("mine", 0, "run")]
    config.metrics.name = "my_tracker:Trakcer"
    with pytest.raises(ValueError, match="cannot be imported"):
        train.train(build_run(config, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
