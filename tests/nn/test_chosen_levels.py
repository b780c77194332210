import jax
import jax.numpy as jnp
import numpy as np

from vdm.diffusion.grids import equal_times
from vdm.diffusion.timesteps import step_interval
from vdm.nn.chosen_levels import ChosenLevels


def test_every_step_of_equal_times_ends_at_its_level():
    for num_steps in (1, 2, 3, 7, 20, 49, 93, 509, 512):
        omegas = np.cumsum(0.01 + np.random.default_rng(num_steps).random(num_steps + 1))
        omegas = omegas.astype(np.float32)
        schedule, params = ChosenLevels(num_steps), {"params": {"omegas": jnp.asarray(omegas)}}
        assert schedule.init(jax.random.key(0), jnp.zeros(()))["params"]["omegas"].shape == (
            num_steps + 1,
        )

        @jax.jit
        def levels(t):
            def omega(t):
                return schedule.apply(params, t)  # noqa: B023

            s, t = step_interval(t, num_steps)  # noqa: B023
            parts = jnp.round(t * num_steps)  # noqa: B023
            return omega(s), omega(t), omega(parts / num_steps), equal_times(omega, num_steps)  # noqa: B023

        low, high, of_parts, grid = levels((jnp.arange(num_steps) + 0.5) / num_steps)
        np.testing.assert_array_equal(grid, omegas)
        np.testing.assert_array_equal(low, omegas[:-1])
        np.testing.assert_array_equal(high, omegas[1:])
        np.testing.assert_array_equal(of_parts, omegas[1:])


def test_levels_are_joined_by_straight_lines():
    params = {"params": {"omegas": jnp.asarray([-2.0, 0.0, 4.0])}}
    omega = ChosenLevels(2).apply(params, jnp.asarray([0.25, 0.75]))
    np.testing.assert_allclose(omega, [-1.0, 2.0])
