"""The U-Net with loops, rematerialised blocks and bfloat16: the same network in every form."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.closed_forms import shaken
from vdm.diffusion.elbo import draw
from vdm.diffusion.likelihood import Discretised
from vdm.models.vdm import VDM
from vdm.nn import attention as parts_of_attention
from vdm.nn import stacks, unet
from vdm.nn.schedules import Linear
from vdm.nn.unet import UNet
from vdm.training.state import TrainState

SHAPE = (2, 4, 4, 1)
Z = jax.random.normal(jax.random.key(0), SHAPE)
OMEGA = jnp.array([-8.0, 3.0])


def network(num_blocks=2, dropout=0.5, **form):
    return UNet(num_codes=17, width=8, num_blocks=num_blocks, dropout=dropout, **form)


@functools.cache
def params_of(num_blocks, attention="middle"):
    """Parameters away from their initial zeros, so that every path carries signal."""
    shapes = jax.eval_shape(
        network(num_blocks, attention=attention, scan="off").init, jax.random.key(1), Z, OMEGA
    )
    return shaken(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), 0.3)


@functools.partial(jax.jit, static_argnums=0)
def apply(net, params):
    return net.apply(params, Z, OMEGA)


@functools.cache
def output_and_gradients(num_blocks=2, attention="middle", train=False, **form):
    def loss(params, z, omega):
        net = network(num_blocks, attention=attention, **form)
        rngs = {"dropout": jax.random.key(3)} if train else {}
        out = net.apply(params, z, omega, train=train, rngs=rngs)
        return jnp.sum(jnp.sin(out)), out

    grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    grads, out = grad(params_of(num_blocks, attention), Z, OMEGA)
    return out, grads


def assert_close(tree, other, rtol=1e-5):
    """Compares leaf by leaf, with rtol relative to the largest number of the leaf."""
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max() + 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "form"),
    [
        ("middle", {"scan": "on"}),
        ("middle", {"scan": "on", "remat": "blocks"}),
        ("middle", {"scan": "off", "remat": "dots"}),
        ("all", {"scan": "on", "remat": "dots"}),
    ],
)
def test_every_form_is_the_same_function(attention, form):
    want = output_and_gradients(2, attention, scan="off")
    assert_close(output_and_gradients(2, attention, **form), want)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", [{"scan": "on", "remat": "blocks"}, {"scan": "off", "remat": "dots"}]
)
def test_every_form_is_the_same_function_in_training(form, monkeypatch):
    # The attention has two parts with a backward pass written by hand, in a loop and recomputed.
    monkeypatch.setattr(parts_of_attention, "QUERIES_ON_CPU", 8)
    want = output_and_gradients(2, "all", scan="off")
    assert_close(output_and_gradients(2, "all", train=True, dropout=0.0, **form), want)


@pytest.mark.slow
def test_loops_have_the_outputs_and_parameters_of_blocks_in_a_row():
    # Three blocks: skips in a wrong order, or off by one, change the output.
    row, loop = network(3, scan="off"), network(3, scan="on", remat="blocks")
    params = params_of(3)
    assert_close(apply(loop, params), apply(row, params))
    shapes, others = (jax.eval_shape(net.init, jax.random.key(1), Z, OMEGA) for net in (row, loop))
    assert shapes == others
    assert {"down_0", "down_2", "up_0", "up_3"} <= set(shapes["params"])


@pytest.mark.slow
def test_initial_values_are_those_of_blocks_in_a_row():
    forms = ({"scan": "off"}, {"scan": "on", "remat": "dots", "dtype": "bfloat16"})
    inits = [jax.jit(network(1, **form).init)(jax.random.key(1), Z, OMEGA) for form in forms]
    jax.tree.map(np.testing.assert_array_equal, *inits)


@pytest.mark.slow
@pytest.mark.parametrize("scan", ["on", "off"])
def test_stacked_parameters_are_those_of_the_blocks_in_any_form(scan):
    apart, net = params_of(3, "all"), network(3, attention="all", scan=scan)
    stacked = stacks.stack_blocks(apart, network(3, scan="on").loops)
    assert {k for k in stacked["params"] if k.startswith(("down", "up"))} == {
        "down_*", "down_*_attention", "up_*", "up_*_attention", "up_3", "up_3_attention"
    }  # fmt: skip
    assert_close(apply(net, stacked), apply(network(3, attention="all", scan="off"), apart))


def test_a_state_is_stacked_wherever_it_has_the_network_and_back():
    # Twelve blocks, so that the order of their numbers is not that of their names.
    blocks = {
        f"down_{i}": {"kernel": jnp.full((2, 3), i), "bias": jnp.full(3, i)} for i in range(12)
    }
    params = {"network": blocks | {"middle_0": jnp.ones(2), "down_12": jnp.zeros(3)}}
    # A mask replaces arrays by nodes without leaves; blocks of other networks stay as they are.
    masked = jax.tree.map(lambda _: optax.MaskedNode(), params)
    others = {"encoder": {"down_0": jnp.ones(2), "down_1": jnp.ones((2, 2))}}
    opt_state = (optax.MaskedNode(), {"mu": params, "nu": masked}, others)
    state, loops = TrainState(jnp.int32(7), params, params, opt_state), {"down": 12}
    stacked = stacks.stack_blocks(state, loops)
    assert set(stacked.opt_state[2]["encoder"]) == {"down_0", "down_1"}
    for of in (stacked.params, stacked.ema_params, stacked.opt_state[1]["mu"]):
        assert set(of["network"]) == {"down_*", "down_12", "middle_0"}
        np.testing.assert_array_equal(of["network"]["down_*"]["kernel"][:, 0, 0], np.arange(12))
    apart = stacks.unstack_blocks(stacked, loops)
    assert jax.tree.structure(apart) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, apart, state)


def test_dropout_of_a_loop_is_random_and_differs_between_blocks():
    def block(of, h, more, key):
        return h + of * jax.random.normal(key)

    keys = jax.random.split(jax.random.key(0), 3)
    params = [jnp.float32(x) for x in (1.0, 2.0, 3.0)]
    run = jax.jit(functools.partial(stacks.run_stack, block))
    want, passed = run(params, jnp.float32(0.0), None, keys)
    got, in_loop = run(jnp.stack(params), jnp.float32(0.0), None, keys)
    np.testing.assert_allclose(in_loop, np.stack(passed), rtol=1e-6)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert len(set(np.diff([0, *map(float, passed)]).tolist())) == 3


def test_blocks_up_take_the_skips_from_the_last_with_their_own_parameters_and_keys():
    def block(of, h, skip, key):
        return of * h + skip + jax.random.uniform(key)

    keys = jax.random.split(jax.random.key(0), 3)
    params, skips = [jnp.float32(x) for x in (1.0, 2.0, 3.0)], jnp.array([5.0, 7.0, 11.0])
    run = jax.jit(functools.partial(stacks.run_stack, block))
    row, _ = run(params, jnp.float32(1.0), list(skips), keys)
    loop, _ = run(jnp.stack(params), jnp.float32(1.0), skips, keys)
    u = [float(jax.random.uniform(key)) for key in keys]
    want = 3 * (2 * (1 + 11 + u[0]) + 7 + u[1]) + 5 + u[2]
    np.testing.assert_allclose([row, loop], want, rtol=1e-6)


def test_loops_are_for_long_stacks_on_accelerators(monkeypatch):
    assert not stacks.is_looped("auto", 32)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert stacks.is_looped("auto", 32)
    assert not stacks.is_looped("auto", 2)
    assert not stacks.is_looped("off", 32)
    assert not stacks.is_looped("on", 0)
    assert network(32).loops == {"down": 32, "up": 32}
    assert network(2).loops == {}


@pytest.mark.parametrize(
    ("remat", "convolutions", "tanhs"), [("none", 0, 0), ("blocks", 1, 1), ("dots", 0, 1)]
)
def test_what_is_computed_again(remat, convolutions, tanhs):
    def block(of, h, more, key):
        h = jax.lax.conv_general_dilated(h, of, (1, 1), "SAME", dimension_numbers=FORMAT)
        h = jnp.tanh(jnp.tanh(h))
        return jax.lax.conv_general_dilated(h, of, (1, 1), "SAME", dimension_numbers=FORMAT)

    def text(f):
        return str(jax.make_jaxpr(f)(jnp.ones((3, 3, 1, 1)), Z))

    def grad(block):
        return jax.grad(lambda of, h: jnp.sum(block(of, h, None, None)))

    plain, again = text(grad(block)), text(grad(stacks.rematerialised(block, remat)))
    # The backward pass needs the outputs of the first convolution and of both tanh, not of the last
    # convolution.
    for what, count in (("conv_general_dilated[", convolutions), ("= tanh", 2 * tanhs)):
        assert again.count(what) - plain.count(what) == count


FORMAT = ("NHWC", "HWIO", "NHWC")


@pytest.mark.slow
def test_bfloat16_is_near_and_comes_out_in_float32():
    params = params_of(1)
    exact, half = (
        apply(network(1, scan="off", dtype=dtype), params) for dtype in ("float32", "bfloat16")
    )
    assert half.dtype == jnp.float32
    error = np.linalg.norm(half - exact) / np.linalg.norm(exact - Z)
    assert 1e-4 < error < 0.05


def test_bfloat16_is_in_the_blocks_and_nowhere_else():
    net = network(1, scan="off", dtype="bfloat16", attention="all")
    jaxpr = jax.make_jaxpr(net.apply)(params_of(1, "all"), Z, OMEGA)
    of = {}

    def look(jaxpr):
        for eqn in jaxpr.eqns:
            of.setdefault(eqn.primitive.name, []).append(eqn.outvars[0].aval)
            for value in eqn.params.values():
                if hasattr(value, "jaxpr"):
                    look(value.jaxpr)

    look(jaxpr.jaxpr)
    for name in ("sin", "cos", "rsqrt"):  # features, and statistics of norms
        assert {aval.dtype for aval in of[name]} == {jnp.dtype("float32")}
    convolutions = of["conv_general_dilated"]
    assert [str(aval.dtype) for aval in convolutions if aval.shape[-1] == 1] == ["float32"]
    assert {str(aval.dtype) for aval in convolutions if aval.shape[-1] > 1} == {"bfloat16"}


def test_the_last_norm_is_given_float32_so_that_its_gradient_is_rounded_once(monkeypatch):
    # A bfloat16 input would be cast to float32 twice, for the statistics and for the array that
    # they normalise. The gradients of both casts would be rounded, and then their sum as well.
    seen, group_norm = [], unet.group_norm

    def spy(x, *args):
        seen.append(x.dtype)
        return group_norm(x, *args)

    monkeypatch.setattr(unet, "group_norm", spy)
    net = network(1, scan="off", dtype="bfloat16")
    jax.eval_shape(net.apply, params_of(1), Z, OMEGA)
    assert set(seen) == {jnp.dtype("float32")}

    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 32))
    x = (x + 20 * jax.random.normal(jax.random.key(2), (4, 1, 1, 32))).astype(jnp.bfloat16)
    above = jax.random.normal(jax.random.key(3), x.shape)

    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return group_norm(x, "norm")

    params = jax.jit(Norm().init)(jax.random.key(0), x)

    @jax.jit
    @jax.grad
    def gradient(x, cast):
        return jnp.sum(above * Norm().apply(params, x.astype(cast.dtype)))

    float32, same = jnp.float32(0), jnp.bfloat16(0)
    exact = gradient(x.astype(jnp.float32), float32)
    errors = [
        np.linalg.norm(gradient(x, to).astype(jnp.float32) - exact) / np.linalg.norm(exact)
        for to in (float32, same)
    ]
    assert errors[0] < 0.0018  # one rounding to 8 bits: at most 2^-9, here 0.0016
    assert errors[1] > 1.3 * errors[0]


@pytest.mark.slow
def test_the_bound_of_a_network_in_bfloat16_is_float32_and_finite():
    net = network(1, scan="on", remat="blocks", dtype="bfloat16")
    model = VDM(Linear(-8.0, 5.0), net, Discretised(17), SHAPE[1:])
    codes = jax.random.randint(jax.random.key(2), SHAPE, 0, 17)
    draws = draw(jax.random.key(4), jnp.array([0.01, 0.7]), SHAPE[1:])
    params = {"network": params_of(1)["params"], "schedule": model.init_schedule(jax.random.key(0))}
    estimate = jax.jit(model.elbo)(params, codes, draws)
    for leaf in jax.tree.leaves(estimate):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"dtype": "float16"}, "dtype is 'float32' or 'bfloat16', not 'float16'"),
        ({"remat": "all"}, "remat is 'none' or 'blocks' or 'dots', not 'all'"),
        ({"scan": "yes"}, "scan is 'auto' or 'on' or 'off', not 'yes'"),
    ],
)
def test_forms_that_are_none_are_refused(form, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network(**form).init, jax.random.key(1), Z, OMEGA)
