"""A second implementation of the published model: NumPy, float64, written from the description in
words. `made` draws the inputs of a golden file, `published` computes its outputs."""

import json

import jax
import numpy as np

from experiments.parity import golden
from experiments.parity.model import config_of
from vdm.config.build import build_model, build_source
from vdm.io import interop


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
