import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm.nn.stacks import stack_blocks, unstack_blocks
from vdm.training.optim import adamw, ema_update, sgd

PARAMS = {
    "network": {"conv": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
                "norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)}},
    "schedule": {"l1": {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}, "w": jnp.ones(1)},
}  # fmt: skip


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
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    for path, update in jax.tree.leaves_with_path(updates):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        np.testing.assert_allclose(update, -1e-3 if name in decayed else 0.0, rtol=1e-6)


def test_what_decays_does_not_depend_on_how_blocks_are_stored():
    blocks = {f"down_{i}": PARAMS["network"] for i in range(3)}
    apart = {"network": blocks | {"middle_0": PARAMS["network"]}}
    optimizer = adamw(10, 1e-2, warmup_steps=0, weight_decay=0.1)
    moved = []
    for params in (apart, stack_blocks(apart, {"down": 3})):
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
        moved.append(unstack_blocks(updates, {"down": 3}))
    jax.tree.map(np.testing.assert_array_equal, *moved)
    assert not np.any(moved[1]["network"]["down_2"]["conv"]["bias"])


def test_an_unknown_decay_mask_is_refused():
    with pytest.raises(ValueError, match="'kernels' or 'not_bias', not 'all'"):
        adamw(10, decay_mask="all")


@pytest.mark.parametrize("clip", [None, 0.0, np.inf])
def test_without_a_bound_nothing_is_clipped(clip):
    grads = jax.tree.map(lambda p: 1e3 * jnp.ones_like(p), PARAMS)
    # With eps = 1 the size of a gradient shows in Adam's first step.
    found, wanted = (
        optimizer.update(grads, optimizer.init(PARAMS), PARAMS)[0]
        for optimizer in (adamw(10, 1.0, 0, eps=1.0, clip=c) for c in (clip, 1e9))
    )
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("make", [adamw, sgd])
@pytest.mark.parametrize("value", ["0.1", None, (1.0,), np.nan, -1.0])
def test_what_is_no_number_of_use_is_named(make, value):
    names = ["learning_rate", "warmup_steps"]
    if make is adamw:
        names += ["b1", "b2", "eps", "weight_decay", "schedule_rate", *["clip"] * bool(value)]
    for name in names:
        with pytest.raises(ValueError, match=rf"optim\.kwargs\.{name} = .*must be") as caught:
            make(10, **{name: value})
        assert "\n" not in str(caught.value)
    make(10, learning_rate=jnp.float32(0.1), warmup_steps=np.int64(3))


def test_ema_follows_the_dtype_of_its_parameters():
    with jax.enable_x64(True):
        for dtype, rtol in ((jnp.float64, 1e-14), (jnp.float32, 1e-6)):
            ema, params = jnp.full(2, 3.0, dtype), jnp.full(2, 5.0, dtype)
            got = ema_update(ema, params, jnp.int32(0), 0.999, warmup=False)
            assert got.dtype == dtype
            np.testing.assert_allclose(got, 3.002, rtol=rtol)
            np.testing.assert_allclose(
                ema_update(ema, params, jnp.int32(8), 0.999, warmup=True), 4.0, rtol=rtol
            )
