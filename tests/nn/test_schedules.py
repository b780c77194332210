import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.closed_forms import shaken
from vdm.diffusion.schedule_algebra import omega_dot
from vdm.diffusion.timesteps import step_interval
from vdm.nn import published_schedules, schedules


@functools.partial(jax.jit, static_argnums=0)
def apply(module, params, t) -> Any:
    return module.apply(params, t)


@functools.cache
def initial(module) -> Any:
    return jax.jit(module.init)(jax.random.key(0), jnp.zeros(()))


LEARNED = {
    "linear": schedules.Linear(-8.0, 5.0),
    "cosine": schedules.Cosine(-8.0, 5.0),
    "monotone": schedules.Monotone(-8.0, 5.0, hidden_features=32),
    "polynomial": schedules.Polynomial(-8.0, 5.0, learn_ends=True),
}
FIXED = {
    "linear": schedules.Linear(-8.0, 5.0, learn_ends=False),
    "cosine": schedules.Cosine(-8.0, 5.0, learn_ends=False),
    "beta_linear": schedules.BetaLinear(-8.0, 5.0),
    "tabulated": schedules.Tabulated(-8.0, 5.0, learn_ends=False),
}
ALL = [(module, (-8.0, 5.0)) for module in (*LEARNED.values(), *FIXED.values())]
ALL += [(schedules.DDPMLinear(), (-9.210240, 10.117673))]


@pytest.mark.parametrize(("module", "ends"), ALL, ids=lambda a: type(a).__name__)
def test_ends_are_exact_and_omega_increases(module, ends):
    params = initial(module)
    omega = apply(module, params, jnp.linspace(0.0, 1.0, 1001))
    np.testing.assert_allclose(np.asarray(omega)[[0, -1]], ends, rtol=1e-5)
    assert (np.diff(omega) > 0).all()


@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.1, 1.0, 5.0, 20.0]),
    name=st.sampled_from(list(LEARNED)),
)
def test_monotone_for_random_parameters(seed, scale, name):
    module = LEARNED[name]
    params = initial(module)
    params = shaken(params, scale, seed)
    omega = np.asarray(apply(module, params, jnp.linspace(0.0, 1.0, 257)))
    assert np.isfinite(omega).all()
    # Increasing up to the rounding of the largest omega: steep parameters flatten parts of [0, 1].
    assert (np.diff(omega) >= -2e-6 * np.abs(omega).max()).all()
    assert omega[-1] > omega[0] or scale == 20.0


def test_monotone_ends_are_its_parameters_whatever_its_interior():
    module = LEARNED["monotone"]
    params = initial(module)
    moved = jax.tree.map(
        lambda x: x + np.cos(np.arange(x.size, dtype=x.dtype)).reshape(x.shape), params
    )
    moved["params"]["ends"] = params["params"]["ends"]
    ends = apply(module, moved, jnp.array([0.0, 1.0]))
    want = apply(module, params, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(ends, want, rtol=1e-6)  # the sum over units has another order


def test_ends_move_independently():
    module = LEARNED["monotone"]
    params = initial(module)
    jacobian = jax.jit(jax.jacobian(lambda p: apply(module, p, jnp.array([0.0, 1.0]))))(params)
    ends = jacobian["params"]["ends"]
    np.testing.assert_allclose(ends["omega_0"], [1.0, 0.0], atol=1e-4)
    np.testing.assert_allclose(ends["upper"], [0.0, 1.0], atol=1e-4)


def test_beta_linear_is_vdms_closed_form_between_its_own_ends():
    lowest = float(np.log(np.expm1(1e-4)))
    module = schedules.BetaLinear(lowest + 1e-9, float(np.log(np.expm1(10.0001))))
    t = np.linspace(0.05, 1, 20)
    np.testing.assert_allclose(
        apply(module, {}, jnp.asarray(t, jnp.float32)),
        np.log(np.expm1(1e-4 + 10 * t**2)),
        rtol=1e-4,
    )


def ddpm_levels():
    """omega of DDPM's 1000 levels as its paper defines them, float64."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    return -np.log(abar / (1 - abar))


def test_ddpm_linear_has_ddpms_levels_at_the_times_of_its_grid():
    module, want = schedules.DDPMLinear(), ddpm_levels()
    assert module.init(jax.random.key(0), jnp.zeros(())) == {}
    np.testing.assert_allclose(module.levels(), want, rtol=1e-11)
    assert np.abs(want).min() < 1e-3  # so that a rounding of t would show at 1e-7
    at, i = jax.jit(lambda t: module.apply({}, t)), jnp.arange(1000, dtype=jnp.float32)
    for t in (
        i / 999,  # XLA multiplies by 1/999, which rounds once more
        jnp.asarray(np.arange(1000) / 999, jnp.float32),
        jnp.linspace(0.0, 1.0, 1000),
        jnp.append(step_interval(i[:-1] / 999 + 5e-4, 999)[0], 1.0),
    ):
        np.testing.assert_allclose(at(t), want, rtol=1e-7)
    np.testing.assert_allclose(jax.vmap(at)(i.reshape(10, 100) / 999).ravel(), want, rtol=1e-7)


def test_ddpm_linear_is_straight_between_its_levels():
    module, want = schedules.DDPMLinear(), ddpm_levels()
    t = np.linspace(0.0, 1.0, 20_001)
    omega = np.asarray(apply(module, {}, jnp.asarray(t, jnp.float32)))
    np.testing.assert_allclose(omega, np.interp(t, np.arange(1000) / 999, want), atol=6e-6)
    assert (np.diff(omega) > 0).all()


def test_ddpm_linear_has_the_slope_of_its_own_differences():
    module, slopes = schedules.DDPMLinear(), 999 * np.diff(ddpm_levels())
    slope = jax.jit(lambda t: omega_dot(lambda t: module.apply({}, t), t))
    # On a level it is the slope of the segment above, on the last level of the one below.
    for place in (np.arange(999), np.arange(999) + 0.3, np.arange(999) + 0.7, 1 + np.arange(999)):
        got = slope(jnp.asarray(place / 999, jnp.float32))
        want = slopes[np.minimum(place.astype(int), 998)]
        np.testing.assert_allclose(got, want, rtol=1e-4)  # differences of float32 levels
        assert (np.asarray(got) > 9.9).all()


def test_ddpm_linear_is_not_beta_linear_at_small_times():
    # DDPM's sum of betas is about 1e-4 + 0.1 t + 9.95 t^2; VDM's closed form omits 0.1 t.
    t, levels = np.arange(1000) / 999, schedules.DDPMLinear().levels()
    difference = levels - np.log(np.expm1(1e-4 + 10 * t**2))
    np.testing.assert_allclose(difference[[0, 3, -1]], [5.0005e-5, 1.005164, 0.117619], atol=1e-6)
    assert difference.argmax() == 3
    later = difference[t >= 0.1]
    np.testing.assert_allclose([later.min(), later.max()], [0.0479, 0.1176], atol=1e-4)
    smooth = np.log(np.expm1(1e-4 + 0.1 * t + 9.95 * t**2))
    assert np.abs(levels - smooth).max() < 0.068


def test_cosine_is_the_tangent_formula():
    t = np.linspace(0, 1, 33)
    a, b = np.arctan(np.exp(-6.65)), np.arctan(np.exp(7.0))
    module = schedules.Cosine(-13.3, 14.0, learn_ends=False)
    want = 2 * np.log(np.tan(a + (b - a) * t))
    # 2e-5 absolute at omega_1 = 14; the tangent itself, in float32, is off by 4e-4.
    np.testing.assert_allclose(apply(module, {}, jnp.asarray(t, jnp.float32)), want, atol=2e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: schedules.Linear(5.0, -8.0), "must be below"),
        (lambda: schedules.Monotone(1.0, 1.0), "must be below"),
        (lambda: schedules.BetaLinear(-13.3, 5.0), "cannot reach omega = -13.3"),
        (lambda: schedules.DDPMLinear(num_levels=1), "num_levels = 1"),
        (lambda: schedules.DDPMLinear(beta_last=1.0), "beta_last = 1.0"),
    ],
)
def test_impossible_ends_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build().init(jax.random.key(0), jnp.zeros(()))


def test_learned_interior_starts_visible():
    # Its hidden part carries about half of the initial slope.
    module = LEARNED["monotone"]
    params = initial(module)
    full = apply(module, params, jnp.array([0.0, 0.25, 0.5, 0.75, 1.0]))
    gradient = jax.jit(jax.grad(lambda p: apply(module, p, jnp.float32(0.25))))(params)
    assert np.abs(gradient["params"]["centres"]).max() > 1e-2
    np.testing.assert_allclose(full, [-8, -4.75, -1.5, 1.75, 5], atol=1.0)


def published_net(t):
    """VDMNet with parameters that make every part visible, and the formula it follows."""
    k = 5
    params = {
        "l1": {"kernel": jnp.array([[-13.0]]), "bias": jnp.array([-12.0])},
        "l2": {"kernel": jnp.linspace(-4.0, 6.0, k)[None], "bias": jnp.linspace(-1.0, 2.0, k)},
        "l3": {"kernel": jnp.linspace(9.0, -20.0, k)[:, None]},
    }
    w = np.abs(np.linspace(-4.0, 6.0, k)) * (2 * t[:, None] - 1) + np.linspace(-1.0, 2.0, k)
    bent = (2 / (1 + np.exp(-w)) - 1) @ np.abs(np.linspace(9.0, -20.0, k)) / k
    return published_schedules.VDMNet(hidden_features=k), {"params": params}, 13.0 * t - 12.0 + bent


def test_vdm_net_is_its_formula_with_absolute_kernels():
    t = np.linspace(0, 1, 21)
    module, params, want = published_net(t)
    np.testing.assert_allclose(
        apply(module, params, jnp.asarray(t, jnp.float32)), want, rtol=1e-6, atol=1e-6
    )
    grid = apply(module, params, jnp.asarray(t, jnp.float32).reshape(3, 7))
    np.testing.assert_allclose(grid, want.reshape(3, 7), rtol=1e-6, atol=1e-6)
    assert apply(module, params, jnp.float32(0.25)).shape == ()


def test_published_schedules_start_on_the_line_between_their_ends():
    for module, hidden in (
        (published_schedules.VDMNet(-9.0, 4.0), 1e-3),
        (published_schedules.VDMScalar(-9.0, 4.0), 0),
    ):
        params = initial(module)
        t = jnp.array([0.0, 0.5, 1.0])
        np.testing.assert_allclose(apply(module, params, t), [-9, -2.5, 4], atol=hidden + 1e-6)
        shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(()))
        for leaf in jax.tree.leaves(shapes):
            assert leaf.dtype == jnp.float32
            assert not leaf.weak_type
    with pytest.raises(ValueError, match="must be below"):
        published_schedules.VDMScalar(1.0, 1.0).init(jax.random.key(0), jnp.zeros(()))


def test_vdm_scalar_increases_whatever_the_sign_of_its_weight():
    params = {"params": {"w": jnp.array([-10.0]), "b": jnp.array([-7.0])}}
    omega = apply(published_schedules.VDMScalar(), params, jnp.array([0.0, 0.3, 1.0]))
    np.testing.assert_allclose(omega, [-7.0, -4.0, 3.0], rtol=1e-6)
