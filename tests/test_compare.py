import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vdm.compare import Result, compare, main

ROOT = Path(__file__).parent.parent


@pytest.fixture
def make_run(tmp_path):
    """Makes workdirs with an evaluation of invented nats [draws, images]."""

    def make(name, nats, **changes):
        run = tmp_path / name
        run.mkdir()
        report = {
            "bpd": float(nats.mean() / 64 / np.log(2)), "stderr_images": 0.1,
            "stderr_monte_carlo": 0.01, "bound": "elbo", "num_steps": 0, "step": 7, "num_dims": 64,
            "num_examples": nats.shape[1], "draws_per_example": nats.shape[0], "eval_seed": 0,
            "strata": 1,
            "dataset": "imagenet32_old", "data_fingerprint": "sha256:1",
        } | changes  # fmt: skip
        (run / "eval.json").write_text(json.dumps(report))
        np.savez(run / "eval_examples.npz", total_of_draws=nats)
        return run

    return make


RNG = np.random.default_rng(0)
NATS = 80 + 20 * RNG.standard_normal((1, 50)) + RNG.standard_normal((4, 50))
CHANGE = 0.5 + 0.2 * RNG.standard_normal((4, 50))


def test_differences_are_paired_over_images_and_noise(make_run):
    runs = [Result(make_run("a", NATS)), Result(make_run("b", NATS + CHANGE))]
    first, second = compare(runs)
    bits = CHANGE / 64 / np.log(2)
    assert "difference" not in first
    assert second["difference"] == pytest.approx(bits.mean())
    assert second["difference_stderr_images"] == pytest.approx(
        bits.mean(0).std(ddof=1) / np.sqrt(50)
    )
    assert second["difference_stderr_monte_carlo"] == pytest.approx(bits.mean(1).std(ddof=1) / 2)
    # far less than the errors of the two numbers themselves
    assert second["difference_stderr_images"] < 0.01 * (NATS.mean(0).std() / 64 / np.log(2))


def test_errors_of_other_noise_add_up(make_run):
    runs = [Result(make_run("a", NATS)), Result(make_run("b", NATS + CHANGE, eval_seed=1))]
    row = compare(runs)[1]
    own = [run.bpd.mean(1).std(ddof=1) / 2 for run in runs]
    assert row["difference_stderr_monte_carlo"] == pytest.approx(np.hypot(*own))
    assert row["shared_noise"] is False


def test_degrees_of_freedom_of_the_errors(make_run, tmp_path, capsys):
    runs = [make_run("a", NATS), make_run("b", NATS + CHANGE), make_run("c", NATS, eval_seed=1)]
    rows = compare([Result(run) for run in runs])
    assert [row["stderr_degrees"] for row in rows] == [3, 3, 3]  # four draws, alike
    assert "difference_stderr_degrees" not in rows[0]
    assert rows[1]["difference_stderr_degrees"] == 3
    assert rows[2]["difference_stderr_degrees"] == pytest.approx(6)  # two errors of one size
    assert main([*map(str, runs), f"--outdir={tmp_path / 'out'}"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()[:4]
    assert header.split().count("df") == 2
    assert [line.split()[-1] for line in lines[1:]] == ["3", "6"]
    written = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert written[2]["difference_stderr_degrees"] == pytest.approx(6)


@pytest.mark.parametrize(
    "kind", [{"bound": "iw-4"}, {"bound": "ode-decoder"}, {"num_levels": 2, "num_steps": None}]
)
def test_noise_that_is_independent_tells_its_error_from_every_image(make_run, kind):
    # as in a workdir from before stderr_degrees existed, whose error is over the means of draws
    few = NATS[:2]
    runs = [Result(make_run("a", few, **kind)), Result(make_run("b", few + CHANGE[:2], **kind))]
    first, second = compare(runs)
    of_images = (few / 64 / np.log(2)).var(axis=0, ddof=1)
    assert first["stderr_monte_carlo"] == pytest.approx(np.sqrt(of_images.sum() / 2) / 50)
    assert first["stderr_degrees"] == second["difference_stderr_degrees"] == 50
    paired = (CHANGE[:2] / 64 / np.log(2)).var(axis=0, ddof=1)
    assert second["difference_stderr_monte_carlo"] == pytest.approx(np.sqrt(paired.sum() / 2) / 50)


def test_the_error_of_one_draw_is_unknown(make_run, tmp_path, capsys):
    runs = [make_run("a", NATS[:1]), make_run("b", NATS[:1] + 1)]
    assert main([*map(str, runs), f"--outdir={tmp_path}"]) == 0
    row = json.loads((tmp_path / "compare.json").read_text())[1]
    assert [row[k] for k in row if "monte_carlo" in k or "degrees" in k] == [None] * 4
    assert capsys.readouterr().out.splitlines()[2].count("unknown") == 2


def test_bars_are_as_long_as_the_number_of_images_asks(make_run, tmp_path, monkeypatch):
    quantiles = []
    monkeypatch.setattr(
        "vdm.compare.plot_comparison", lambda path, rows, quantile: quantiles.append(quantile)
    )
    for name, images in (("a", 3), ("b", 50)):
        main([str(make_run(name, NATS[:, :images])), f"--outdir={tmp_path}"])
    assert quantiles == pytest.approx([4.302653, 2.009575])


def test_the_same_data_under_another_name_are_compared(make_run):
    runs = [make_run("a", NATS), make_run("b", NATS, dataset="npy")]
    assert compare([Result(run) for run in runs])[1]["difference"] == 0


def test_runs_that_differ_in_kernel_or_grid_are_told_apart_and_paired(make_run, tmp_path, capsys):
    usual = make_run("a", NATS, num_steps=5)
    mixture = make_run("b", NATS, num_steps=5, kernel="mixture", grid="least_bound")
    assert main([str(usual), str(mixture), f"--outdir={tmp_path}"]) == 0
    header, *lines = (line.split() for line in capsys.readouterr().out.splitlines()[:3])
    assert header[2:6] == ["T", "kernel", "grid", "step"]
    assert [line[3:5] for line in lines] == [
        ["gaussian", "equal_times"],
        ["mixture", "least_bound"],
    ]
    assert json.loads((tmp_path / "compare.json").read_text())[1]["shared_noise"] is True
    assert main([str(usual), f"--outdir={tmp_path}"]) == 0
    assert "kernel" not in capsys.readouterr().out


@pytest.mark.parametrize("key", ["eval_seed", "num_steps", "probes"])
def test_noise_is_shared_only_under_the_same_settings(make_run, key):
    first, other = (Result(make_run(name, NATS, **{key: n})) for n, name in enumerate("ab"))
    assert compare([first, other])[1]["shared_noise"] is False
    fewer = Result(make_run("c", NATS[:3]))
    assert compare([first, fewer])[1]["shared_noise"] is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_fingerprint": "sha256:2"}, "differ in data_fingerprint"),
        ({"bound": "iw-8"}, "differ in bound"),
        (
            {"dataset": "imagenet32_new", "data_fingerprint": "sha256:2"},
            "differ in dataset (imagenet32_old and imagenet32_new)",
        ),
        (
            {"dataset": "imagenet32_old", "data_fingerprint": "sha256:2"},
            "differ in data_fingerprint",
        ),
        ({"bpd": NATS.mean() / 64 / np.log(2) * 1.0001}, "from different evaluations"),
        ({"draws_per_example": 5}, "from different evaluations"),
    ],
)
def test_what_cannot_be_compared_is_one_line(make_run, capsys, tmp_path, changes, message):
    runs = [make_run("a", NATS), make_run("b", NATS, **changes)]
    assert main([*map(str, runs), f"--outdir={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("eval_examples.npz", b"PK\x03\x04", "is damaged: evaluate"),
        ("eval_examples.npz", b"", "is damaged: evaluate"),
        ("eval.json", b"[]", "is not an evaluation"),
        ("eval.json", b'{"bpd": 1}', "is not an evaluation"),
        ("eval.json", b"{", "is damaged"),
    ],
)
def test_a_damaged_file_is_one_line(make_run, capsys, file, content, message):
    run = make_run("a", NATS)
    (run / file).write_bytes(content)
    assert main([str(run)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_flipped_bit_is_one_line(make_run, capsys):
    path = make_run("a", NATS) / "eval_examples.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 99  # a compression that zipfile does not know
    path.write_bytes(content)
    assert main([str(path.parent)]) == 2
    error = capsys.readouterr().err
    assert "is damaged: evaluate" in error
    assert error.count("\n") == 1


def test_a_folder_without_an_evaluation_is_named(make_run, capsys, tmp_path):
    run = make_run("a", NATS)
    (run / "eval_examples.npz").unlink()
    assert main([str(run)]) == 2
    assert "a has no eval_examples.npz: evaluate it first" in capsys.readouterr().err


def test_two_runs_give_a_table_and_a_picture(finished_run, tmp_path, capsys):
    other = shutil.copytree(finished_run, tmp_path / "other")
    assert main([str(finished_run), str(other), f"--outdir={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out.splitlines()
    report = json.loads((finished_run / "eval.json").read_text())
    assert f"{report['bpd']:.4f}" in printed[1]
    assert "+0.0000" in printed[2]
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["run"] for row in rows] == [str(finished_run), str(other)]
    assert rows[1]["difference"] == rows[1]["difference_stderr_images"] == 0
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_is_printed_also_where_no_file_can_be_written(make_run, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    run = make_run("a", NATS)
    assert main([str(run), f"--outdir={tmp_path / 'file'}"]) == 2
    out, err = capsys.readouterr()
    assert "bits/dim" in out
    assert err.startswith("error: --outdir=")


@pytest.mark.parametrize("name", ["compare.json", "compare.png"])
def test_what_it_writes_into_a_checkout_is_ignored(name):
    assert name in (ROOT / ".gitignore").read_text().splitlines()
