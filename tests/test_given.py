"""What was given and would have no effect is refused; defaults of other components are ignored."""

from pathlib import Path

import pytest

from vdm import api, main
from vdm.api import load_config
from vdm.given import check_given

ROOT = Path(__file__).parent.parent


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
