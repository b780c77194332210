"""Levels by dynamic programming against all subsets, and against direct minimisation for Gaussian
data, of which every cost is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import LinearConstraint, minimize

from vdm.diffusion import least_bound
from vdm.diffusion.exact import GaussianData
from vdm.diffusion.least_bound import StepCosts, choose, fine_levels, fine_steps

LOW, HIGH = -9.0, 4.0
STD = 0.05
DATA = GaussianData(STD)


def prior(omega):
    """KL(q(z | x) || N(0, 1)), the mean over x ~ N(0, STD^2)."""
    return 0.5 * ((STD**2 - 1) * jax.nn.sigmoid(-omega) + jax.nn.softplus(-omega))


def decoder(omega):
    """The mean of -log N(x; z / alpha, exp(omega))."""
    return 0.5 * (1 + omega + np.log(2 * np.pi))


@jax.jit
def gaussian_bound(omegas):
    """The T-step bound of the ideal denoiser, nats, and its gradient."""

    def bound(omegas):
        matching = DATA.denoising_term_of_steps(omegas)
        return decoder(omegas[0]) + matching + prior(omegas[-1])

    return jax.value_and_grad(bound)(omegas)


def bound_of(omegas):
    with jax.enable_x64(True):
        return float(gaussian_bound(np.asarray(omegas, np.float64))[0])


def gaussian_costs():
    omegas = np.linspace(LOW, HIGH, least_bound.COARSE + 1)
    apart = omegas[None, :] - omegas[:, None]
    with jax.enable_x64(True):
        errors, of_prior = map(np.asarray, (DATA.share(jnp.asarray(omegas)), prior(omegas)))
    rates = 0.5 * errors * np.expm1(apart) / np.where(apart == 0, 1.0, apart)
    np.fill_diagonal(rates, 0.5 * errors)
    return StepCosts(omegas, rates, decoder(omegas), of_prior)


@pytest.mark.parametrize("num_steps", [3, 5, 10, 40])
def test_levels_of_gaussian_data_are_those_of_direct_minimisation(num_steps):
    found = bound_of(fine_levels(LOW, HIGH)[list(choose(gaussian_costs(), num_steps))])
    # From equal levels the minimiser ends in a local minimum: one step crosses most of the noise.
    start = np.append(np.linspace(-8.0, -4.0, num_steps), HIGH)
    ordered = LinearConstraint(np.diff(np.eye(num_steps + 1), axis=0), 1e-3, np.inf)
    with jax.enable_x64(True):
        best = minimize(
            gaussian_bound, start, jac=True, method="SLSQP", bounds=[(LOW, HIGH)] * len(start),
            constraints=ordered, options={"maxiter": 1000},
        )  # fmt: skip
    assert best.success
    # The fine levels are 0.013 apart, and costs are interpolated over 0.2.
    assert best.fun - 1e-6 < found < best.fun + 5e-4
    assert found <= bound_of(np.linspace(LOW, HIGH, num_steps + 1))


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_chosen_levels_are_the_best_of_all_subsets(monkeypatch, num_steps):
    monkeypatch.setattr(least_bound, "FINE", 12)
    monkeypatch.setattr(least_bound, "COARSE", 6)
    rng = np.random.default_rng(num_steps)
    rates, ends = rng.uniform(0.5, 3.0, (7, 7)), rng.uniform(0, 4, (2, 7))
    costs = StepCosts(np.linspace(-3.0, 3.0, 7), rates, *ends)
    steps = fine_steps(costs)
    lowest, highest = (np.interp(np.arange(13), np.arange(0, 13, 2), end) for end in ends)

    def bound(levels):
        of_steps = sum(steps[t, s] for s, t in itertools.pairwise(levels))
        return lowest[levels[0]] + of_steps + highest[levels[-1]]

    best = min(itertools.combinations(range(13), num_steps + 1), key=bound)
    assert choose(costs, num_steps) == best


def test_costs_are_exact_at_the_measured_levels_and_near_between():
    costs = gaussian_costs()
    steps, fine = fine_steps(costs), np.linspace(LOW, HIGH, least_bound.FINE + 1)
    with jax.enable_x64(True):
        errors = np.asarray(DATA.share(jnp.asarray(fine)))[:, None]
    exact = 0.5 * np.expm1(fine[:, None] - fine[None, :]) * errors  # [t, s]
    below = np.tri(len(fine), k=-1, dtype=bool)
    assert (steps[~below] == np.inf).all()
    np.testing.assert_allclose(steps[below], exact[below], rtol=2e-3)
    measured = np.arange(0, least_bound.FINE + 1, least_bound.FINE // least_bound.COARSE)
    t, s = np.tril_indices(len(measured), k=-1)
    np.testing.assert_allclose(
        steps[measured[t], measured[s]], exact[measured[t], measured[s]], rtol=1e-5
    )


def test_more_steps_than_can_be_chosen_are_refused():
    levels = choose(gaussian_costs(), 512)
    assert len(levels) == 513
    assert (np.diff(levels) > 0).all()
    for num_steps in (0, 513):
        with pytest.raises(ValueError, match="1 to 512 steps, or the grid 'equal_times'"):
            choose(gaussian_costs(), num_steps)


def test_fine_levels_are_rounded_once():
    omega_0, omega_1 = float(np.float32(-8.18)), float(np.float32(5.24))
    levels = fine_levels(omega_0, omega_1)
    assert levels.dtype == np.float32
    assert levels.shape == (1025,)
    for i in (0, 1, 333, 1024):
        assert levels[i] == np.float32(omega_0 + (omega_1 - omega_0) * i / 1024)
