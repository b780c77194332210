import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vdm.diffusion import timesteps

low_discrepancy = jax.jit(timesteps.low_discrepancy, static_argnums=1)


# For 49, 98, 103 and so on arange(0, 1, 1/num) has one item too many.
SIZES = (1, 2, 5, 32, 49, 98, 103, 107, 196, 197, 206, 300)


@given(num=st.sampled_from(SIZES), seed=st.integers(0, 2**31 - 1))
def test_low_discrepancy_times_fall_one_into_each_cell(num, seed):
    t = np.asarray(low_discrepancy(jax.random.key(seed), num), np.float64)
    assert t.shape == (num,)
    assert (t >= 0).all()
    assert (t < 1).all()
    gaps = np.diff(np.sort(t))
    np.testing.assert_allclose(gaps, 1 / num, atol=3e-7)


def test_each_time_is_uniform():
    keys = jax.random.split(jax.random.key(0), 20_000)
    third = jax.jit(jax.vmap(lambda key: timesteps.low_discrepancy(key, 5)[3]))(keys)
    quantiles = np.quantile(third, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.5, 0.9], atol=0.012)


@given(num_steps=st.integers(1, 5000), t=st.floats(0, 1, exclude_max=True, width=32))
def test_step_interval_holds_t_and_stays_inside(num_steps, t):
    s, end = timesteps.step_interval(jnp.float32(t), num_steps)
    assert 0 <= s < end <= 1
    assert s <= t + 1e-6
    assert t <= end + 1e-6
    np.testing.assert_allclose(end - s, 1 / num_steps, atol=1.2e-7)


def test_step_interval_at_a_tie_takes_the_step_that_begins():
    s, t = timesteps.step_interval(jnp.float32([0.0, 0.5]), 10)
    np.testing.assert_allclose(s, [0.0, 0.5])
    np.testing.assert_allclose(t, [0.1, 0.6], rtol=1e-6)
