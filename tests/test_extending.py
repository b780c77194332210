"""The code blocks of the guide vdm/README.md work when they are copied into an empty folder."""

import ast
import importlib
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

import vdm
from vdm import main as program
from vdm.config.registry import TABLES, lookup
from vdm.io.metrics_log import read_metrics
from vdm.runs import evaluate, train
from vdm.runs.run import open_run

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "vdm" / "README.md").read_text()
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
FILES = {
    re.match(r"# (\w+\.py)\n", code)[1]: code for language, code in FENCED if language == "python"
}
COMMANDS = [code.strip() for language, code in FENCED if language == "bash"]
CONFIGS = [name for name, code in FILES.items() if "def get_config" in code]
SLOW = ("test_a_model_of_gaussian_numbers_ends_near_their_entropy",)
CHECKS = [
    pytest.param(
        name,
        function.name,
        marks=[pytest.mark.slow] if function.name in SLOW else [],
        id=function.name.removeprefix("test_"),
    )
    for name, code in FILES.items()
    if name.startswith("test_")
    for function in ast.parse(code).body
    if isinstance(function, ast.FunctionDef) and function.name.startswith("test_")
]
SMALL = {
    "schedule.kwargs.hidden_features": 8, "network.kwargs.width": 8,
    "network.kwargs.num_blocks": 0, "train.num_devices": 2, "train.batch_size": 32,
    "optim.kwargs.decay": "none",
    "train.num_steps": 6, "train.log_every": 3, "train.save_every": 6, "eval.draws": 2,
    "sample.num_steps": 2, "sample.num_images": 4,
}  # fmt: skip


def forget_modules():
    for name in FILES:
        sys.modules.pop(Path(name).stem, None)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's folder, in which everything runs. Modules of the same names that other tests have
    imported are forgotten."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget_modules()
    yield tmp_path
    forget_modules()


def small(name, **changes):
    """A config of the guide, made small where it has those fields; changes as group__field."""
    config = vdm.load_config(name)
    changes = SMALL | {field.replace("__", "."): value for field, value in changes.items()}
    for path, value in changes.items():
        *groups, field = path.split(".")
        group = config
        for part in groups:
            group = group[part]
        if field in group:
            group[field] = value
    return config


def train_run(config):
    """The run after training, evaluation and samples; and what eval.json says."""
    run = open_run(config, "run")
    train.train(run)
    report = json.loads(Path("run/eval.json").read_text())
    assert np.isfinite(report["bpd"])
    assert report["step"] == config.train.num_steps
    found = np.load("run/samples.npz")
    assert len(found[found.files[0]]) == config.sample.num_images
    assert len(vdm.load("run").sample(2, **_few_steps(run))) == 2  # by the dotted paths again
    return run, report


def _few_steps(run):
    return {"num_steps": 2} if hasattr(run.model, "schedule") else {}


def test_every_block_is_a_file_of_its_own():
    assert len(FILES) == sum(language == "python" for language, _ in FENCED)
    assert all(language in ("python", "bash") for language, _ in FENCED)
    paths = re.findall(r'"(my_\w+):(\w+)"', GUIDE)
    assert len(paths) >= 10
    for module, attribute in paths:
        assert re.search(rf"^(class|def) {attribute}\b", FILES[f"{module}.py"], re.MULTILINE)
    for module in {module for module, _ in paths} - {"my_metrics"}:
        assert any(
            f"from {module} import" in FILES[name] for name in FILES if name.startswith("test_")
        ), module


def test_the_blocks_are_formatted_and_clean(folder):
    pytest.importorskip("ruff")
    for action in (["format", "--diff"], ["check"]):
        found = subprocess.run(
            [sys.executable, "-m", "ruff", *action, "--no-cache", f"--config={ROOT}/pyproject.toml",
             *FILES],
            cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        assert found.returncode == 0, found.stdout + found.stderr


def test_the_list_of_components_has_every_built_in_name():
    section = GUIDE[GUIDE.index("## Built-in components") : GUIDE.index("## A config of your own")]
    samplers = (ROOT / "vdm" / "diffusion" / "README.md").read_text()
    for group, table in TABLES.items():
        text = samplers if group == "sample" else section
        assert all(f"`{name}`" in text for name in table), group


@pytest.mark.parametrize(("name", "function"), CHECKS)
def test_check_of_the_guide(name, function, folder):
    getattr(importlib.import_module(Path(name).stem), function)()


def test_a_schedule_of_ones_own_takes_thirty_lines_and_the_command_line(
    folder, monkeypatch, capsys
):
    lines = [FILES[name].splitlines() for name in ("my_schedules.py", "my_config.py")]
    assert sum(bool(line.strip()) for part in lines for line in part) <= 30
    (command,) = [code for code in COMMANDS if "my_config.py" in code]
    assert command.startswith("PYTHONPATH=. python -m vdm.main --config=my_config.py --workdir=")
    small = {k: v for k, v in SMALL.items() if k != "schedule.kwargs.hidden_features"}
    flags = [f"--config.{field}={value}" for field, value in small.items()]  # it takes no such
    flags += ["--config.train.num_steps=30", "--config.train.save_every=30"]
    flags += ["--config.optim.kwargs.warmup_steps=1"]
    # In this process, where the folder is the working directory and on the path.
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert program.main(["vdm.main", *command.split()[4:], *flags]) == 0, capsys.readouterr().err
    workdir = folder / "runs" / "powers"
    report = json.loads((workdir / "eval.json").read_text())
    assert np.isfinite(report["bpd"])
    assert report["step"] == 30
    trained = vdm.load(workdir, params="raw")
    first = trained.model.init_schedule(trained.run.init_key)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), trained.params["schedule"], first)
    assert set(moved) == {"ends", "logits"}
    assert all(leaf > 1e-3 for leaf in jax.tree.leaves(moved))
    assert (np.diff(trained.omega(np.linspace(0.0, 1.0, 1001))) > 0).all()


@pytest.mark.slow
def test_variance_training_bends_the_schedule_for_less_variance(folder):
    config = small("my_config.py", train__num_steps=200, train__save_every=200)
    config.eval.params, config.eval.draws = "raw", 20
    config.optim.kwargs.warmup_steps, config.optim.kwargs.schedule_rate = 1, 10.0
    train_run(config)
    trained = vdm.load("run", params="raw")
    straight = trained.params | {"schedule": dict(trained.params["schedule"])}
    straight["schedule"]["logits"] = jax.numpy.zeros(3)
    learned, before = (
        evaluate.run_evaluation(trained.run, params, draws=20).summary()
        for params in (trained.params, straight)
    )
    error = np.hypot(learned["stderr_monte_carlo"], before["stderr_monte_carlo"])
    assert abs(learned["bpd"] - before["bpd"]) < 5 * error  # the ends are the same
    assert learned["denoising_variance"] < 0.95 * before["denoising_variance"]


# The others are tested elsewhere; the guide has test_my_data.py for the table.
ON_DIGITS = sorted({*CONFIGS} - {"my_config.py", "my_data_config.py", "my_metrics_config.py"})


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_DIGITS)
def test_a_config_of_the_guide_trains_evaluates_and_samples(name, folder):
    run, report = train_run(small(name))
    for group in ("schedule", "network", "likelihood", "sample", "model", "optim"):
        chosen = run.resolved[group]["name"]
        if ":" in chosen:
            assert chosen.partition(":")[0] + ".py" in FILES
    assert report["dataset"] == "digits"


@pytest.mark.slow
def test_the_codec_reads_the_likelihood_of_the_guide(folder):
    trained = vdm.build(small("my_likelihood_config.py"))
    images = trained.run.source.load("test").examples[:3]
    content = trained.compress(images, num_steps=5)
    np.testing.assert_array_equal(trained.decompress(content), images)


@pytest.fixture
def wandb_calls(monkeypatch):
    """The calls that a stub of Weights & Biases has received."""
    calls = []

    class StubRun:
        def define_metric(self, name, step_metric):
            assert (name, step_metric) == ("*", "step")

        def log(self, scalars):
            calls.append((scalars["step"], {k: v for k, v in scalars.items() if k != "step"}))

        def finish(self):
            calls.append("finished")

    def init(**kwargs):
        calls.append(kwargs)
        return StubRun()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return calls


def test_the_metrics_of_the_guide_are_written_and_closed(folder, wandb_calls):
    (name,) = re.findall(r'"(my_metrics:\w+)"', GUIDE)
    writer = lookup("metrics", name, {})(workdir=folder / "run", config={"seed": 0})
    writer.write(3, types.MappingProxyType({"train/bpd": 2.5}))
    writer.close()
    begun, *rest = wandb_calls
    assert (begun["id"], begun["dir"], begun["project"]) == ("run", folder / "run", "vdm")
    assert rest == [(3, {"train/bpd": 2.5}), "finished"]


def test_metrics_go_to_weights_and_biases(folder, wandb_calls):
    train_run(small("my_metrics_config.py"))
    workdir = folder / "run"
    begun = [call for call in wandb_calls if isinstance(call, dict)]
    (call,) = begun
    assert call["dir"] == workdir
    assert (call["id"], call["resume"], call["project"]) == ("run", "allow", "digits")
    assert call["config"]["schedule"]["name"] == "monotone"
    assert wandb_calls.count("finished") == 1
    written = [(row.pop("step"), row) for row in read_metrics(workdir)]
    logged = [call for call in wandb_calls if isinstance(call, tuple)]
    assert [step for step, _ in logged] == [step for step, _ in written]
    for (_, scalars), (_, row) in zip(logged, written, strict=True):
        assert scalars == pytest.approx(row)
    assert "eval/bpd" in logged[-1][1]  # the number of the end arrives too
