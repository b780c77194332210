"""The parity experiment on the given files, and on files that the second implementation of the
published model (`tests/experiments/published_model.py`) makes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.parity import golden, run
from experiments.parity.model import config_of
from tests.experiments.published_model import made, published, score, tree64
from vdm.config.build import build_model, build_source
from vdm.io import interop

FILES = Path(__file__).parent.parent.parent.parent / "shared" / "golden"
NAMES = ("adamw", "decoder", "extra_wide64", "fixed_T0", "fixed_T10", "learnable_nnet_T0",
         "monotone_nnet")  # fmt: skip


def given(name):
    path = FILES / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"the golden vectors are not here: {name}.npz belongs in ../shared/golden")
    return path


def parity(path, outdir):
    """Runs the experiment on one file; returns its exit status and rows by name."""
    status = run.main(["--golden", str(path), "--outdir", str(outdir)])
    return status, {r["name"]: r for r in json.loads((outdir / "results.json").read_text())}


def tampered(path, name, change):
    """The arrays of the file with one of them changed."""
    with np.load(path) as file:
        arrays = dict(file)
    arrays[name] = change(arrays[name])
    return arrays


@pytest.mark.parametrize(
    "name",
    [n if n in ("monotone_nnet", "adamw") else pytest.param(n, marks=pytest.mark.slow)
     for n in NAMES],
)  # fmt: skip
def test_given_files_agree(name, tmp_path):
    status, rows = parity(given(name), tmp_path)
    assert status == 0, [row for row in rows.values() if not row["ok"]]
    recomputed = sum(row["arrays"] for row in rows.values())
    with np.load(given(name)) as file:
        assert recomputed == sum(key.startswith("out64/") for key in file.files)
    for row in rows.values():
        assert row["tolerance_float64"] <= 1e-7  # above 1e-9 where stored in float32 only
        assert row["error_float64"] <= 1e-9 or "stored in float32" in row["quantity"]


@pytest.mark.parametrize("name", ["gamma", "grad/l2/bias"])
def test_a_change_of_two_parts_in_ten_thousand_is_noticed(name, tmp_path, capsys):
    arrays = tampered(given("monotone_nnet"), f"out64/{name}", lambda x: x * 1.0002)
    np.savez(tmp_path / "changed.npz", **arrays)
    status, rows = parity(tmp_path / "changed.npz", tmp_path)
    assert status == 1
    assert sum(not row["ok"] for row in rows.values()) == 1
    assert "MISSED changed/" in capsys.readouterr().out


def test_an_output_that_nothing_recomputes_is_a_miss(tmp_path):
    arrays = tampered(given("monotone_nnet"), "t", np.array)
    np.savez(tmp_path / "more.npz", **arrays, **{"out64/surprise": np.ones(3)})
    status, rows = parity(tmp_path / "more.npz", tmp_path)
    assert status == 1
    assert rows["more/surprise"]["reason"] == "no rule knows this array"


def test_what_is_no_golden_file_is_one_line(tmp_path, capsys):
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    np.savez(tmp_path / "empty.npz", config_json="{}")
    np.savez(tmp_path / "strange.npz", config_json="{}", **{"out64/x": np.ones(1)})
    np.savez(
        tmp_path / "cut.npz", config_json="{}", cot_gamma=np.ones(1), **{"out64/x": np.ones(1)}
    )
    for name in ("text", "other", "empty", "strange", "cut", "absent"):
        assert run.main(["--golden", str(tmp_path / f"{name}.npz"), "--outdir", str(tmp_path)]) == 2
        message = capsys.readouterr().err
        assert "is not a golden file" in message
        assert message.count("\n") == 1
    assert not (tmp_path / "results.json").exists()


CASES = {
    "everywhere": {"size": (3, 4), "channels": 1, "batch": 5},
    "fourier": {"size": (4, 4), "channels": 2, "batch": 3, "gamma_type": "learnable_nnet",
                "sm_n_timesteps": 0, "with_fourier_features": True, "with_attention": False,
                "vocab_size": 200, "sm_n_layer": 1},
    "fixed": {"size": (4, 4), "channels": 3, "batch": 4, "gamma_type": "fixed", "vocab_size": 2,
              "gamma_min": -2.0, "gamma_max": 9.0, "sm_n_timesteps": 1, "sm_n_embd": 32},
    "deep": {"size": (4, 4), "channels": 1, "batch": 7, "sm_n_timesteps": 1000,
             "gamma_type": "learnable_nnet", "vocab_size": 256, "gamma_min": -13.3,
             "with_fourier_features": True, "sm_n_layer": 2},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_files_with_every_other_option_agree_with_the_second_implementation(case, tmp_path):
    inputs, config = made(**CASES[case])
    out = {f"out64/{name}": value for name, value in published(inputs, config).items()}
    np.savez(tmp_path / f"{case}.npz", **inputs, **out)
    status, rows = parity(tmp_path / f"{case}.npz", tmp_path)
    assert status == 0, [row for row in rows.values() if not row["ok"]]
    out["out64/eps_hat"] = out["out64/eps_hat"] * 1.0002
    np.savez(tmp_path / "changed.npz", **inputs, **out)
    status, rows = parity(tmp_path / "changed.npz", tmp_path)
    assert status == 1
    assert [name for name, row in rows.items() if not row["ok"]] == ["changed/eps_hat"]


def test_the_network_is_the_published_one_in_every_option():
    inputs, config = made(size=(3, 4), channels=1, batch=2, sm_n_layer=1, with_attention=True,
                          with_fourier_features=True)  # fmt: skip
    p, z = tree64(golden.below(inputs, "params"))["score_model"], np.float64(inputs["eps"])
    gamma, label = np.array([-7.0, 2.0]), np.array([0.0, 1.25])
    want = score(p, z, gamma, label, config)
    ours = config_of(config, (3, 4, 1))
    network = build_model(ours, build_source(ours.data)).network
    with jax.enable_x64(True):
        params = interop.from_published(golden.nested(golden.below(inputs, "params"), np.float64))
        apply = jax.jit(network.apply)
        got = apply({"params": params["network"]}, jnp.asarray(z), jnp.asarray(gamma), label)
        assert got.dtype == jnp.float64
        blind = apply({"params": params["network"]}, jnp.asarray(z), jnp.asarray(gamma), 0 * label)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)
    assert np.abs(blind[1] - got[1]).max() > 1e-3
