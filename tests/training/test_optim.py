"""Optimisers: weight decay, clipping, learning rates, and the average of the parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vdm.diffusion.likelihood import Discretised
from vdm.models.vdm import VDM
from vdm.nn.schedules import Monotone
from vdm.nn.stacks import stack_blocks, unstack_blocks
from vdm.nn.unet import UNet
from vdm.training.optim import (
    adamw,
    ema_update,
    kernels_of_network,
    learning_rate_schedule,
    sgd,
)

PARAMS = {
    "network": {"conv": {"kernel": np.ones((2, 3)), "bias": np.ones(3)},
                "norm": {"scale": np.ones(3), "bias": np.ones(3)}},
    "schedule": {"l1": {"kernel": np.ones((1, 1)), "bias": np.ones(1)}, "w": np.ones(1)},
}  # fmt: skip
PARAMS = jax.tree.map(np.float32, PARAMS)


@functools.partial(jax.jit, static_argnums=0)
def first_update(optimizer, grads, params):
    """What the optimiser adds to the parameters in its first step."""
    return optimizer.update(grads, optimizer.init(params), params)[0]


@pytest.mark.parametrize(
    ("decay_mask", "decayed"),
    [
        ("kernels", {"network/conv/kernel"}),
        ("not_bias", {"network/conv/kernel", "network/norm/scale", "schedule/l1/kernel",
                      "schedule/w"}),
    ],
)  # fmt: skip
def test_the_decay_mask_says_what_decays(decay_mask, decayed):
    optimizer = adamw(10, 1e-2, warmup_steps=0, weight_decay=0.1, decay_mask=decay_mask)
    updates = first_update(optimizer, jax.tree.map(np.zeros_like, PARAMS), PARAMS)
    for path, update in jax.tree.leaves_with_path(updates):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        np.testing.assert_allclose(update, -1e-3 if name in decayed else 0.0, rtol=1e-6)


def test_what_decays_does_not_depend_on_how_blocks_are_stored():
    blocks = {f"down_{i}": PARAMS["network"] for i in range(3)}
    apart = {"network": blocks | {"middle_0": PARAMS["network"]}}
    optimizer = adamw(10, 1e-2, warmup_steps=0, weight_decay=0.1)

    moved = []
    for params in (apart, stack_blocks(apart, {"down": 3})):
        updates = first_update(optimizer, jax.tree.map(np.zeros_like, params), params)
        moved.append(unstack_blocks(jax.device_get(updates), {"down": 3}))
    jax.tree.map(np.testing.assert_array_equal, *moved)
    assert not np.any(moved[1]["network"]["down_2"]["conv"]["bias"])
    assert np.all(moved[1]["network"]["down_2"]["conv"]["kernel"])


def test_weight_decay_touches_kernels_of_the_network_only():
    network = UNet(num_codes=17, width=8, num_blocks=0, attention="none")
    model = VDM(Monotone(-8.0, 5.0, hidden_features=8), network, Discretised(17), (4, 4, 1))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0)),
    )
    mask = kernels_of_network(params)
    assert mask["network"]["conv_in"] == {"kernel": True, "bias": False}
    assert not any(jax.tree.leaves(mask["schedule"]))
    # With zero gradients only decay moves anything, by learning_rate * weight_decay.
    optimizer = adamw(10, learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
    updates = first_update(optimizer, jax.tree.map(np.zeros_like, params), params)
    kernel = params["network"]["conv_in"]["kernel"]
    np.testing.assert_allclose(updates["network"]["conv_in"]["kernel"], -0.05 * kernel, rtol=1e-5)
    np.testing.assert_array_equal(updates["network"]["conv_in"]["bias"], 0)
    assert all(not np.any(u) for u in jax.tree.leaves(updates["schedule"]))


def test_an_unknown_decay_mask_is_refused():
    with pytest.raises(ValueError, match="'kernels' or 'not_bias', not 'all'"):
        adamw(10, decay_mask="all")


def test_clipping_bounds_the_global_norm():
    params = {"network": {"a": np.zeros(3), "b": np.zeros(4)}, "schedule": {}}
    grads = jax.tree.map(lambda x: np.arange(1.0, x.size + 1), params)
    norm = float(optax.tree.norm(grads))
    assert norm == pytest.approx(6.63, abs=0.01)
    # eps = 1 makes Adam's first update depend on the size of the gradient
    tight, loose, off = (
        adamw(10, learning_rate=1.0, warmup_steps=0, eps=1.0, clip=clip)
        for clip in (1.0, 100.0, 0.0)
    )

    def update(optimizer, scale):
        scaled = jax.tree.map(lambda g: np.float32(scale * g), grads)
        return first_update(optimizer, scaled, params)["network"]["a"]

    np.testing.assert_allclose(update(tight, 1.0), update(off, 1 / norm), rtol=1e-5)
    np.testing.assert_allclose(update(loose, 1.0), update(off, 1.0), rtol=1e-5)


CLIPPED = adamw(10, learning_rate=1.0, warmup_steps=0, eps=1.0, weight_decay=0.0, clip=1.0)


@pytest.mark.parametrize(("of_network", "of_schedule"), [(3.0, 0.5), (0.5, 3.0), (3.0, 4.0)])
def test_network_and_schedule_are_clipped_each_by_its_own_norm(of_network, of_schedule):
    # With one joint norm a large gradient of one would shrink that of the other.
    params = {"network": {"a": np.zeros(4)}, "schedule": {"w": np.zeros(2)}}
    norms = {"network": of_network, "schedule": of_schedule}
    grads = {
        key: jax.tree.map(lambda p, n=norm: np.full_like(p, n / np.sqrt(p.size)), params[key])
        for key, norm in norms.items()
    }
    updates = first_update(CLIPPED, grads, params)
    for key, norm in norms.items():
        (update,) = jax.tree.leaves(updates[key])
        clipped = min(norm, 1.0) / np.sqrt(update.size)
        # eps = 1 makes Adam's first update g / (|g| + 1)
        np.testing.assert_allclose(update, -clipped / (clipped + 1), rtol=1e-5, err_msg=key)


UNCLIPPED = adamw(10, 1.0, 0, eps=1.0, clip=1e9)


@pytest.mark.parametrize("clip", [None, 0.0, np.inf])
def test_without_a_bound_nothing_is_clipped(clip):
    grads = jax.tree.map(lambda p: 1e3 * np.ones_like(p), PARAMS)
    # With eps = 1 the size of a gradient shows in Adam's first step.
    found, want = (
        first_update(optimizer, grads, PARAMS)
        for optimizer in (adamw(10, 1.0, 0, eps=1.0, clip=clip), UNCLIPPED)
    )
    jax.tree.map(np.testing.assert_array_equal, found, want)


def test_schedule_rate_scales_the_schedule_alone():
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda p: np.float32(rng.normal(size=p.shape)), PARAMS)
    whole, quarter = (
        first_update(adamw(10, 0.1, 0, clip=1.0, schedule_rate=rate), grads, PARAMS)
        for rate in (1.0, 0.25)
    )
    jax.tree.map(np.testing.assert_array_equal, quarter["network"], whole["network"])
    for a, b in zip(*(jax.tree.leaves(u["schedule"]) for u in (whole, quarter)), strict=True):
        assert np.all(a != 0)
        np.testing.assert_allclose(b, 0.25 * a, rtol=1e-6)


@pytest.mark.parametrize("make", [adamw, sgd])
@pytest.mark.parametrize("value", ["0.1", None, (1.0,), np.nan, -1.0])
def test_a_setting_that_is_not_a_usable_number_is_named(make, value):
    names = ["learning_rate", "warmup_steps"]
    if make is adamw:
        names += ["b1", "b2", "eps", "weight_decay", "schedule_rate", *["clip"] * bool(value)]
    for name in names:
        with pytest.raises(ValueError, match=rf"optim\.kwargs\.{name} = .*must be") as caught:
            make(10, **{name: value})
        assert "\n" not in str(caught.value)
    make(10, learning_rate=jnp.float32(0.1), warmup_steps=np.int64(3))


def test_learning_rate_warms_up_and_decays():
    rate = learning_rate_schedule(1000, 2e-3, 100, "cosine")
    np.testing.assert_allclose(
        jax.jit(rate)(np.array([0, 50, 100, 550, 1000])), [0, 1e-3, 2e-3, 1e-3, 0], atol=1e-9
    )
    assert learning_rate_schedule(1000, 2e-3, 100, "none")(999) == pytest.approx(2e-3)
    with pytest.raises(ValueError, match="'linear'"):
        learning_rate_schedule(10, 1e-3, 1, "linear")


average = jax.jit(ema_update, static_argnums=(3, 4))


@pytest.mark.parametrize(("warmup", "want"), [(True, 1 - 2 / 11), (False, 0.01)])
def test_ema_moves_by_its_rate(warmup, want):
    got = average({"a": np.zeros(2)}, {"a": np.ones(2)}, np.int32(1), 0.99, warmup)
    np.testing.assert_allclose(got["a"], want, rtol=1e-5)


def test_ema_follows_the_dtype_of_its_parameters():
    with jax.enable_x64(True):
        for dtype, rtol in ((np.float64, 1e-14), (np.float32, 1e-6)):
            ema, params = np.full(2, 3.0, dtype), np.full(2, 5.0, dtype)
            got = average(ema, params, np.int32(0), 0.999, False)
            assert got.dtype == dtype
            np.testing.assert_allclose(got, 3.002, rtol=rtol)
            np.testing.assert_allclose(
                average(ema, params, np.int32(8), 0.999, True), 4.0, rtol=rtol
            )
