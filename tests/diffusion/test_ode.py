"""The probability-flow ODE against flows that are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.closed_forms import gauss_legendre, log_normal
from vdm.diffusion import noise
from vdm.diffusion.exact import GaussianData, MixtureData
from vdm.diffusion.ode import Solver, flow_log_density

KEY = jax.random.key(0)
EXACT = Solver(rtol=1e-9, atol=1e-9, divergence="exact")


def mixture():
    weights, means = [0.2, 0.5, 0.3], [[-0.6, 0.3], [0.1, -0.5], [0.9, 0.4]]
    return MixtureData(*(jnp.asarray(v) for v in (weights, means, [0.2, 0.3, 0.4])))


def flow(denoiser, z, omegas, solver):
    """flow_log_density, compiled, for a batch of z."""
    return jax.jit(jax.vmap(lambda z: flow_log_density(KEY, z, omegas, denoiser, solver)))(z)


def gaussian_log_density(std, z, omegas):
    variance = float(GaussianData(std).flow_variance(omegas[0], omegas[-1]))
    return log_normal(np.asarray(z, np.float64), 0.0, variance).sum(-1)


@pytest.mark.equation("S4 14", "vdm.diffusion.ode:flow_log_density")
def test_density_of_the_linear_flow_is_its_closed_form():
    with jax.enable_x64(True):
        omegas, stds = jnp.array([-8.0, 5.0]), jnp.array([0.1, 3.0])
        z = jnp.array([[0.1, -0.5, 0.7], [0.0, 0.02, -0.05]])

        @jax.jit  # one program for both widths; each path has its own steps
        @jax.vmap
        def density(std):
            def denoiser(z, omega):  # GaussianData.eps_hat for a traced width
                variance = (noise.alpha(omega) * std) ** 2 + noise.sigma(omega) ** 2
                return (noise.sigma(omega) / variance)[:, None] * z

            return jax.vmap(lambda z: flow_log_density(KEY, z, omegas, denoiser, EXACT))(z)

        for std, got in zip(stds, density(stds).log_prob[..., 0], strict=True):
            want = gaussian_log_density(float(std), z, omegas)
            np.testing.assert_allclose(got, want, atol=2e-7, rtol=1e-9)


@pytest.mark.slow
def test_density_of_the_flow_is_the_mixture_at_omega_0():
    # omega_1 = 34: the mixture is N(0, I) there up to alpha_1 = 4e-8.
    with jax.enable_x64(True):
        data, omegas = mixture(), jnp.array([-6.0, 34.0])
        z = jax.random.normal(jax.random.key(1), (6, 2), jnp.float64)
        got = flow(data.eps_hat, z, omegas, EXACT).log_prob[:, 0]
        np.testing.assert_allclose(got, data.log_prob(z, omegas[0]), atol=1e-6)


def test_hutchinson_averages_to_the_exact_divergence():
    # In two dimensions v'Jv takes two values, tr J +- (J_12 + J_21). With fixed steps all probes
    # see the same path, so the mean of the two values is exact.
    with jax.enable_x64(True):
        omegas, z = jnp.linspace(-6.0, 5.0, 13), jnp.array([[0.3, -0.2]])
        exact = flow(mixture().eps_hat, z, omegas, Solver(num_steps=12, divergence="exact"))
        probes = flow(mixture().eps_hat, z, omegas, Solver(num_steps=12, probes=16)).log_prob[0]
        assert len(np.unique(np.round(probes, 9))) == 2
        middle = (probes.max() + probes.min()) / 2
        assert probes.max() - probes.min() > 1e-3
        np.testing.assert_allclose(middle, exact.log_prob[0, 0], rtol=1e-12)


def test_tolerance_is_kept_for_z_and_for_the_log_density():
    # z stays at z_0, so that only the log density changes. If the solver measured its error by a
    # mean over all 1000 dimensions and the log density, the zeros of z would hide that of the
    # latter.
    dims = 1000
    with jax.enable_x64(True):
        z_0 = jnp.linspace(-1.0, 1.0, dims)

        def denoiser(z, omega):
            omega = omega[:, None]
            return noise.sigma(omega) * z + 10 * jnp.cos(3 * omega) * (z - z_0[None])

        omegas = jnp.array([-8.0, 5.0])
        solver = Solver(rtol=1e-6, atol=1e-6, probes=1)
        got = flow(denoiser, z_0[None], omegas, solver)
        nodes, weights = gauss_legendre(200)
        nodes, weights = -8.0 + 13.0 * nodes, 13.0 * weights
        growth = np.sum(weights * 5 * np.cos(3 * nodes) / np.sqrt(1 + np.exp(-nodes)))
        log_prior = -0.5 * np.sum(np.square(z_0)) - 0.5 * dims * np.log(2 * np.pi)
        np.testing.assert_allclose(got.log_prob[0, 0] - log_prior, dims * growth, atol=5e-6 * dims)


@pytest.mark.slow
def test_fixed_steps_converge_with_the_fifth_order():
    # The local slope is 5.7 at 32 steps and falls to 5.
    with jax.enable_x64(True):
        z, errors = jnp.array([[0.5, -0.2]]), []
        for num in (16, 64):
            omegas = jnp.linspace(-8.0, 5.0, num + 1)
            got = flow(GaussianData(0.5).eps_hat, z, omegas, Solver(num_steps=num, probes=1))
            errors.append(abs(got.log_prob[0, 0] - gaussian_log_density(0.5, z, omegas)[0]))
        assert 4.7 < np.log2(errors[0] / errors[1]) / 2 < 6.3


@pytest.mark.slow
@pytest.mark.parametrize("solver", [Solver(), Solver(num_steps=6)])
def test_a_path_does_not_depend_on_its_batch_or_its_device(solver):
    with jax.enable_x64(True):
        omegas = jnp.linspace(-6.0, 5.0, 7)
        z = jax.random.normal(jax.random.key(2), (16, 2), jnp.float64)
        alone = flow(mixture().eps_hat, z[3:4], omegas, solver)
        sharding = NamedSharding(Mesh(np.array(jax.devices()), "data"), PartitionSpec("data"))
        spread = flow(mixture().eps_hat, jax.device_put(z, sharding), omegas, solver)
        assert spread.log_prob.sharding.is_equivalent_to(sharding, 2)
        np.testing.assert_allclose(spread.log_prob[3], alone.log_prob[0], rtol=1e-12)
        assert spread.num_evaluations[3] == alone.num_evaluations[0]


@pytest.mark.parametrize(
    "solver", [pytest.param(Solver(), marks=pytest.mark.slow), Solver(num_steps=4)]
)
def test_evaluations_are_counted_and_fixed_steps_lie_on_the_grid(solver):
    calls = []

    def denoiser(z, omega):
        jax.debug.callback(lambda omega: calls.append(float(omega[0])), omega)
        return GaussianData(0.5).eps_hat(z, omega)

    z, omegas = jnp.array([0.5, -0.2]), jnp.array([-6.0, -1.0, 0.5, 1.5, 5.0])
    got = jax.jit(lambda z: flow_log_density(KEY, z, omegas, denoiser, solver))(z)
    jax.effects_barrier()
    assert int(got.num_evaluations) == len(calls)
    if solver.num_steps:
        np.testing.assert_allclose(sorted(calls)[::6], omegas, rtol=1e-6)


@pytest.mark.slow
def test_float32_reaches_its_tolerance():
    z = jax.random.normal(jax.random.key(3), (8, 4))
    omegas = jnp.array([-13.3, 5.0])
    got = flow(GaussianData(0.5).eps_hat, z, omegas, Solver())
    want = gaussian_log_density(0.5, z, omegas)
    np.testing.assert_allclose(got.log_prob[:, 0], want, atol=4 * 1e-4)  # 1e-4 nats/dim
    assert int(got.num_evaluations.max()) < 200


@pytest.mark.parametrize(
    "solver", [pytest.param(Solver(), marks=pytest.mark.slow), Solver(num_steps=6)]
)
def test_a_nan_of_the_denoiser_ends_that_path_alone(solver):
    omegas, z = jnp.linspace(-6.0, 5.0, 7), jnp.array([[0.5, -0.2], [2.0, 0.0]])

    def denoiser(z, omega):
        late = (omega > 1)[:, None] & (z[:, :1] > 1)
        return jnp.where(late, jnp.nan, GaussianData(0.5).eps_hat(z, omega))

    got = flow(denoiser, z, omegas, solver)
    assert np.isfinite(got.log_prob[0]).all()
    assert np.isnan(got.log_prob[1]).all()
    assert int(got.num_evaluations[1]) < 200


def test_a_path_that_needs_too_many_steps_is_nan():
    def denoiser(z, omega):
        return z * jnp.sin(1e6 * omega)[:, None] * 1e3

    got = flow(denoiser, jnp.ones((1, 2)), jnp.array([-6.0, 5.0]), Solver(rtol=1e-7, atol=1e-7))
    assert np.isnan(got.log_prob).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"divergence": "skilling"}, "unknown divergence 'skilling'; known: exact, hutchinson"),
        ({"num_steps": -1}, "num_steps = -1"),
        ({"probes": 0}, "probes = 0"),
        ({"atol": 0.0}, "atol = 0.0"),
    ],
)
def test_a_wrong_solver_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Solver(**fields)


def test_a_grid_of_other_length_is_refused():
    with pytest.raises(ValueError, match="3 points for num_steps = 4"):
        flow_log_density(
            KEY,
            jnp.ones(2),
            jnp.linspace(-5.0, 5.0, 3),
            GaussianData(1.0).eps_hat,
            Solver(num_steps=4),
        )
