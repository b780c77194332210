"""A value that the user gives and that would have no effect is refused; the defaults of components
that are not chosen are ignored."""

import json
import shutil
from pathlib import Path

import pytest

import vdm
from vdm import api, main
from vdm.api import load_config
from vdm.config.given import check_given, check_ode
from vdm.config.registry import TABLES
from vdm.runs.run import build_run

ROOT = Path(__file__).parents[2]


def digits(**names):
    config = load_config(ROOT / "configs" / "digits.py")
    for group, name in names.items():
        config[group].name = name
    return config


def test_the_kwargs_that_a_built_in_config_lists_for_others_are_ignored():
    for changed in (digits(optim="sgd"), digits(schedule="linear"), digits(sample="flow")):
        check_given(changed)
        check_given(changed, {"optim.name", "schedule.name", "seed"})


@pytest.mark.parametrize(
    ("group", "name", "key", "value", "takers"),
    [
        ("optim", "sgd", "weight_decay", 0.1, "'adamw'"),
        ("schedule", "linear", "hidden_features", 77, "'monotone'"),
        ("sample", "heun", "tolerance", 1e-2, "'flow'"),
        ("weighting", "simple", "gamma", 7.0, "'min_snr'"),
    ],
)
def test_a_kwarg_without_effect_is_refused(group, name, key, value, takers):
    config = digits(**{group: name})
    config[group].kwargs[key] = value
    message = rf"{group}\.kwargs\.{key} = {value!r} would have no effect.*{name!r}.*{takers}"
    for given in (None, {f"{group}.kwargs.{key}"}):
        with pytest.raises(ValueError, match=message):
            check_given(config, given)
    check_given(config, {"seed"})  # the config file says so, and its name may have been changed
    with pytest.raises(ValueError, match=message):
        api.build(config)


def test_a_file_of_ones_own_is_looked_at_but_where_the_command_line_makes_an_ablation_of_it():
    config = digits(optim="sgd")
    config.optim.kwargs.clip = 3.25
    message = r"optim\.kwargs\.clip = 3\.25 would have no effect"
    for given in ({"seed"}, {"optim.kwargs.clip", "optim.name"}):
        with pytest.raises(ValueError, match=message):
            check_given(config, given, own_file=True)
    check_given(config, {"optim.name"}, own_file=True)
    check_given(config, {"seed"})  # the config.json of a workdir
    config = digits()
    config.optim.kwargs.warmup_steps = 3000
    with pytest.raises(ValueError, match="warmup_steps = 3000 is longer"):
        check_given(config, {"seed"}, own_file=True)
    check_given(config, {"train.num_steps"}, own_file=True)


@pytest.mark.parametrize(
    "place",
    [
        "digits.py", "toy_swirl.py", "toy_mixture.py", "imagenet32.py:new", "imagenet64.py",
        *(f"cifar10.py:{name}" for name in ("", "aug", "cpu", "gpu1h", "gpu1day", "published")),
        *(f"fashion_mnist.py:{name}" for name in ("cpu", "peer", "gpu1h")),
    ],
)  # fmt: skip
def test_every_built_in_config_and_every_variant_of_it_is_taken(place):
    path, _, variant = place.partition(":")
    config = load_config(ROOT / "configs" / path, *([variant] if variant else []))
    check_given(config, (), own_file=True)
    for group, other in (("optim", "sgd"), ("schedule", "linear"), ("sample", "ddim")):
        assert other in TABLES[group]
        config[group].name = other
    check_given(config, {"optim.name", "schedule.name", "sample.name"}, own_file=True)


@pytest.mark.parametrize(
    ("bound", "fields", "refused", "why", "remedy"),
    [
        ("elbo", {"tolerance": 1e-3}, "tolerance = 0.001", "eval.bound = 'elbo' solves no ODE",
         ", or choose eval.bound = 'ode-decoder'"),
        ("iw-8", {"num_steps": 9}, "num_steps = 9", "eval.bound = 'iw-8' solves no ODE",
         ", or choose eval.bound = 'ode-decoder' and eval.num_steps = 0"),
        ("ode-decoder", {"tolerance": 1e-5}, "tolerance = 1e-05", "eval.ode.num_steps = 50 fixed",
         ", or set eval.ode.num_steps = 0"),
        ("ode-decoder", {"probes": 4}, "probes = 4", "exact with eval.ode.divergence = 'auto'",
         ", or set eval.ode.divergence = 'hutchinson'"),
        ("ode-decoder", {"tolerance": 1e-3, "num_steps": 0}, "", "", ""),
        ("ode-decoder", {"probes": 4, "divergence": "hutchinson", "num_steps": 9}, "", "", ""),
    ],
)  # fmt: skip
def test_a_field_of_the_ode_without_effect_is_refused(bound, fields, refused, why, remedy):
    config = load_config(ROOT / "configs" / "toy_swirl.py")  # two dimensions
    config.eval.bound, config.eval.num_steps = bound, 10 if bound == "iw-8" else 0
    config.eval.ode.update(fields)
    run = build_run(config, Path("unused"))
    given = {"eval.bound", *(f"eval.ode.{name}" for name in fields)}
    if not refused:
        check_ode(run.options.eval, run.estimator, run.model, given)
        return
    with pytest.raises(ValueError, match=r"^eval\.ode\.") as caught:
        check_ode(run.options.eval, run.estimator, run.model, given)
    found = str(caught.value)
    assert found.startswith(f"eval.ode.{refused} would have no effect: ")
    assert why in found
    assert found.endswith(f"; leave it out{remedy}")
    check_ode(run.options.eval, run.estimator, run.model, {"eval.bound", "seed"})  # in the file


@pytest.mark.parametrize(("mode", "refused"), [("train", True), ("eval", True), ("sample", False)])
def test_the_ode_matters_where_something_is_evaluated(mode, refused, capsys, tmp_path):
    flags = [f"--config={ROOT}/configs/toy_swirl.py", f"--workdir={tmp_path / 'run'}"]
    flags += [f"--mode={mode}", "--config.eval.ode.tolerance=0.001"]
    assert main.main(["vdm.main", *flags]) == 2
    error = capsys.readouterr().err
    assert ("eval.ode.tolerance = 0.001 would have no effect" in error) == refused
    assert ("checkpoint" in error) != refused
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_command_line_looks_at_a_file_of_ones_own(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from vdm.config.files import load_config\n"
        "def get_config():\n"
        "    config = load_config('configs/digits.py')\n"
        "    config.optim.name, config.optim.kwargs.clip = 'sgd', 3.25\n"
        "    return config\n"
    )
    saved = tmp_path / "config.json"
    saved.write_text(json.dumps(load_config(path).to_dict()))
    message = "optim.kwargs.clip = 3.25 would have no effect"
    for flags, refused in (
        ([f"--config={path}"], True),
        (["--config", str(path)], True),
        ([f"--config={path}", "--config.optim.name=adamw"], False),
        ([f"--config={saved}"], False),
        ([f"--config={saved}", "--config.optim.kwargs.clip=3.25"], True),
    ):
        argv = ["vdm.main", *flags, f"--workdir={tmp_path / 'run'}", "--mode=eval"]
        assert main.main(argv) == 2
        error = capsys.readouterr().err
        assert (message in error) == refused
        assert ("checkpoint" in error) != refused
        assert error.count("\n") == 1


def test_what_a_run_was_trained_with_is_no_mistake_afterwards(finished_run, tmp_path, capsys):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    config["optim"]["kwargs"]["warmup_steps"] = 77  # of 30: an earlier version trained it
    (workdir / "config.json").write_text(json.dumps(config))
    path = tmp_path / "mine.py"
    path.write_text(
        "import json, ml_collections\n"
        "def get_config():\n"
        f"    text = open({str(workdir / 'config.json')!r}).read()\n"
        "    return ml_collections.ConfigDict(json.loads(text))\n"
    )
    argv = ["vdm.main", f"--config={path}", f"--workdir={workdir}", "--mode=train"]
    assert main.main(argv) == 0, capsys.readouterr().err
    assert "is finished at step 30" in capsys.readouterr().out
    assert vdm.train(load_config(path), workdir).step == 30
    argv[2] = f"--workdir={tmp_path / 'new'}"
    assert main.main(argv) == 2
    assert "warmup_steps = 77 is longer" in capsys.readouterr().err


def test_a_value_that_is_the_default_is_refused_where_it_was_given():
    config = digits(optim="sgd")
    with pytest.raises(ValueError, match=r"optim\.kwargs\.clip = 1\.0 would have no effect"):
        check_given(config, {"optim.kwargs.clip"})


def test_a_warm_up_longer_than_the_run_is_refused_if_it_was_given():
    config = digits()
    config.train.num_steps = 50
    check_given(config)  # the file's own 100 steps, for a run of 2,000
    check_given(config, {"train.num_steps"})
    with pytest.raises(ValueError, match=r"warmup_steps = 100 is longer .*num_steps = 50"):
        check_given(config, {"optim.kwargs.warmup_steps"})
    config.optim.kwargs.warmup_steps = 51
    with pytest.raises(ValueError, match=r"warmup_steps = 51 is longer .*num_steps = 50"):
        check_given(config)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.optim.name=sgd", "--config.optim.kwargs.clip=1.0"], "optim.kwargs.clip = 1.0"),
        (["--config.optim.kwargs.learning_rate=-0.001"], "learning_rate = -0.001"),
        (["--config.optim.kwargs.schedule_rate=-1.0"], "schedule_rate = -1.0"),
        (["--config.optim.kwargs.b2=1.0"], "optim.kwargs.b2 = 1.0"),
        (["--config.optim.kwargs.warmup_steps=-1"], "warmup_steps = -1"),
        (["--config.optim.kwargs.warmup_steps=5000"], "warmup_steps = 5000 is longer"),
        (["--config.optim.name=sgd", "--config.optim.kwargs.learning_rate=nan"], "= nan"),
        (["--config.classifier.learning_rate=-1.0"], "classifier.learning_rate = -1.0"),
        (["--config.network.kwargs.dropout=20.0"], "network.kwargs.dropout = 20.0: it must be in"),
        (["--config.classifier.kwargs.dropout=1.0"], "classifier.kwargs.dropout = 1.0"),
    ],
)
def test_the_command_line_says_so_before_anything_is_written(flags, message, capsys, tmp_path):
    workdir = tmp_path / "run"
    flags = [f"--config={ROOT}/configs/digits.py", f"--workdir={workdir}", *flags]
    assert main.main(["vdm.main", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not workdir.exists()
