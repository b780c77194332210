"""The parity experiment on the given files, and on files that a second implementation of the
published model makes: NumPy, float64, written from the description in words."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.parity import golden, run
from experiments.parity.model import config_of
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
    """Exit status and rows."""
    status = run.main(["--golden", str(path), "--outdir", str(outdir)])
    return status, {r["name"]: r for r in json.loads((outdir / "results.json").read_text())}


def tampered(path, name, change):
    """The file with one array changed, beside the temporary results."""
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


# The second implementation.


def swish(x):
    return x / (1 + np.exp(-x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def group_norm(x, p, groups=32):
    b, h, w, c = x.shape
    g = x.reshape(b, h * w, groups, c // groups)
    mean = g.mean((1, 3), keepdims=True)
    variance = np.maximum((g**2).mean((1, 3), keepdims=True) - mean**2, 0)
    return ((g - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape) * p["scale"] + p["bias"]


def conv(x, p):
    h, w = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return p["bias"] + sum(
        padded[:, i : i + h, j : j + w] @ p["kernel"][i, j] for i in range(3) for j in range(3)
    )


def dense(x, p):
    return x @ p["kernel"] + p.get("bias", 0)


def block(x, cond, p):
    h = conv(swish(group_norm(x, p["GroupNorm_0"])), p["conv1"])
    h = h + dense(cond, p["cond_proj"])[:, None, None]
    h = conv(swish(group_norm(h, p["GroupNorm_1"])), p["conv2"])
    return h + (dense(x, p["nin_shortcut"]) if "nin_shortcut" in p else x)


def attention(x, p):
    b, h, w, c = x.shape
    flat = group_norm(x, p["GroupNorm_0"]).reshape(b, h * w, c)
    q, k, v = (dense(flat, p[name]) for name in "qkv")
    scores = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(c))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ v
    return x + dense(mixed, p["proj_out"]).reshape(x.shape)


def score(p, z, gamma, conditioning, config):
    n, layers = config["sm_n_embd"], config["sm_n_layer"]
    u = (gamma - config["gamma_min"]) / (config["gamma_max"] - config["gamma_min"])
    angles = 1000 * u[:, None] * 10_000.0 ** (-np.arange(n // 2) / (n // 2 - 1))
    cond = np.concatenate([np.sin(angles), np.cos(angles), conditioning[:, None]], -1)
    cond = swish(dense(swish(dense(cond, p["dense0"])), p["dense1"]))
    h = z
    if config["with_fourier_features"]:
        turns = 2 * np.pi * (z[..., None] * [2.0**6, 2.0**7]).reshape(*z.shape[:-1], -1)
        h = np.concatenate([z, np.sin(turns), np.cos(turns)], -1)
    h = conv(h, p["conv_in"])
    skips = [h]
    for i in range(layers):
        h = block(h, cond, p[f"down.block_{i}"])
        h = attention(h, p[f"down.attn_{i}"]) if config["with_attention"] else h
        skips.append(h)
    h = attention(block(h, cond, p["mid.block_1"]), p["mid.attn_1"])
    h = block(h, cond, p["mid.block_2"])
    for i in range(layers + 1):
        h = block(np.concatenate([h, skips.pop()], -1), cond, p[f"up.block_{i}"])
        h = attention(h, p[f"up.attn_{i}"]) if config["with_attention"] else h
    return z + conv(swish(group_norm(h, p["GroupNorm_0"])), p["conv_out"])


def schedule(p, t, config):
    """gamma and its derivative."""
    low, high = config["gamma_min"], config["gamma_max"]
    if config["gamma_type"] == "fixed":
        return low + (high - low) * t, np.full_like(t, high - low)
    if config["gamma_type"] == "learnable_scalar":
        return p["b"] + abs(p["w"]) * t, np.full_like(t, abs(p["w"][0]))
    k1, k2, k3 = (np.abs(p[name]["kernel"]) for name in ("l1", "l2", "l3"))
    s = sigmoid((2 * t[:, None] - 1) @ k2 + p["l2"]["bias"])
    value = t * k1[0, 0] + p["l1"]["bias"] + ((2 * s - 1) @ k3)[:, 0] / 1024
    return value, k1[0, 0] + ((2 * s * (1 - s) * 2 * k2) @ k3)[:, 0] / 1024


def tree64(flat):
    tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = np.asarray(leaf, np.float64)
    return tree


def made(size, channels, batch, seed=0, **changes):
    """(inputs, config) of a file with random parameters of the shapes that our model has."""
    config = {
        "vocab_size": 17, "sample_softmax": False, "antithetic_time_sampling": True,
        "with_fourier_features": False, "with_attention": True, "gamma_type": "learnable_scalar",
        "gamma_min": -9.0, "gamma_max": 4.0, "sm_n_timesteps": 7, "sm_n_embd": 64,
        "sm_n_layer": 3, "sm_pdrop": 0.05,
    } | changes  # fmt: skip
    rng = np.random.default_rng(seed)
    ours = config_of(config, (*size, channels))
    model = build_model(ours, build_source(ours.data))
    shapes = interop.to_published(jax.eval_shape(model.init, jax.random.key(0)))
    params = {}
    for path, leaf in golden.flat(shapes).items():
        fan_in = max(1, np.prod(leaf.shape[:-1]))
        center = {"scale": 1.0, "w": 12.0, "b": -8.5}.get(path.split("/")[-1], 0.0)
        spread = 0.5 if path.startswith("gamma") else 0.7 / np.sqrt(fan_in)
        params[f"params/{path}"] = np.float32(center + spread * rng.normal(size=leaf.shape))
    shape = (batch, *size, channels)
    inputs = {
        "config_json": np.array(json.dumps(config)),
        "images": rng.integers(0, config["vocab_size"], shape).astype(np.uint8),
        "conditioning": np.float32(np.arange(batch) % 2 + 0.25),
        "t0": np.float32(rng.uniform()),
        "t_grid": np.linspace(0, 1, 33, dtype=np.float32),
    }
    steps = config["sm_n_timesteps"] or 250
    for name in ("eps", "eps_0", "gen/z_0", "step0/z_t", "step0/eps"):
        inputs[name] = np.float32(rng.normal(size=shape))
    inputs |= {"step0/i": np.int32(steps // 2), "step0/T": np.int32(steps)}
    return inputs | params, config


def published(inputs, config):
    """The outputs of the published model, but for gradients."""
    p = tree64(golden.below(inputs, "params"))
    x = {k: np.asarray(v, np.float64) for k, v in inputs.items() if k != "config_json"}
    v, big_t = config["vocab_size"], config["sm_n_timesteps"]

    def gamma(t):
        return schedule(p.get("gamma"), np.atleast_1d(np.asarray(t, np.float64)), config)

    def spread(values):
        return np.reshape(values, (-1, 1, 1, 1))

    def eps_hat(z, g):
        return score(p["score_model"], z, g, x["conditioning"], config)

    batch = len(x["images"])
    t = np.mod(x["t0"] + np.arange(batch) / batch, 1)
    t = np.ceil(t * big_t) / big_t if big_t else t
    (g_0, _), (g_1, _), (g_t, dg_t) = gamma(0.0), gamma(1.0), gamma(t)
    f = 2 * (x["images"] + 0.5) / v - 1
    values = 2 * (np.arange(v) + 0.5) / v - 1
    z_0 = f + np.exp(g_0 / 2) * x["eps_0"]
    logits = -0.5 * (z_0[..., None] - values) ** 2 * np.exp(-g_0)
    logits -= logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    taken = np.take_along_axis(log_p, inputs["images"][..., None].astype(int), -1)
    var_1, axes = sigmoid(g_1), (1, 2, 3)
    z_t = np.sqrt(sigmoid(-spread(g_t))) * f + np.sqrt(sigmoid(spread(g_t))) * x["eps"]
    out = {"t": t, "gamma_t": g_t, "dgamma_dt_at_t": dg_t, "gamma_0": g_0, "gamma_1": g_1,
           "var_0": sigmoid(g_0), "var_1": var_1, "f": f, "z_t": z_t}  # fmt: skip
    out["gamma_grid"], out["dgamma_dt_grid"] = gamma(x["t_grid"])
    out["eps_hat"] = eps_hat(z_t, g_t)
    out["loss_recon"] = -taken.sum((1, 2, 3, 4))
    out["loss_klz"] = 0.5 * ((1 - var_1) * f**2 + var_1 - np.log(var_1) - 1).sum(axes)
    weight = dg_t
    if big_t:
        out["gamma_s"] = gamma(t - 1 / big_t)[0]
        weight = big_t * np.expm1(g_t - out["gamma_s"])
    out["loss_diff"] = 0.5 * weight * ((x["eps"] - out["eps_hat"]) ** 2).sum(axes)
    terms = [out[name].mean() for name in ("loss_recon", "loss_klz", "loss_diff")]
    out["bpd_terms"] = np.array(terms) / (f[0].size * np.log(2))
    out["bpd_total"] = out["bpd_terms"].sum()
    i, steps, z = int(x["step0/i"]), int(x["step0/T"]), x["step0/z_t"]
    (g_t, _), (g_s, _) = gamma((steps - i) / steps), gamma((steps - i - 1) / steps)
    a, b, c = sigmoid(-g_s), sigmoid(-g_t), -np.expm1(g_s - g_t)
    e = eps_hat(z, np.repeat(g_t, batch))
    mean = np.sqrt(a / b) * (z - np.sqrt(1 - b) * c * e)
    out |= {"step0/gamma_t": g_t, "step0/gamma_s": g_s, "step0/eps_hat": e,
            "step0/z_s": mean + np.sqrt((1 - a) * c) * x["step0/eps"]}  # fmt: skip
    far = (x["gen/z_0"] / np.sqrt(sigmoid(-g_0)))[..., None] - values
    out["gen/x"] = np.argmin(far**2, -1).astype(np.int32)
    return out


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
