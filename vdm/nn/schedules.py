"""Noise schedules t -> omega(t) = -log SNR(t), increasing from omega_0 to omega_1.

Every schedule is a linen module, called with times t in [0, 1] of any shape. `jax.jvp` gives its
derivative, which for the closed forms here is the closed form of omega'. In continuous time the end
points change the bound, the interior only the variance of its estimate. Sources: VDM sections 3.2,
5.1 and 5.3, appendix H.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm.typing import Params


def softplus_inverse(y: float) -> float:
    """The x with log(1 + e^x) = y, in Python floats, for y > 0."""
    return y + math.log(-math.expm1(-y))


def check_ends(omega_0: float, omega_1: float) -> None:
    """Raises ValueError unless omega_0 < omega_1: signal at t = 0, noise at t = 1."""
    if not omega_0 < omega_1:
        raise ValueError(
            f"omega_0 = {omega_0} must be below omega_1 = {omega_1}: omega = -log SNR increases"
        )


class EndPoints(nn.Module):
    """The end points (omega_0, omega_1), learned or constant, with omega_0 < omega_1 for all
    parameter values."""

    omega_0: float
    omega_1: float
    learn: bool

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> tuple[Float[Array, ""], Float[Array, ""]]:
        check_ends(self.omega_0, self.omega_1)
        if not self.learn:
            return jnp.asarray(self.omega_0, dtype), jnp.asarray(self.omega_1, dtype)
        # omega_1 = omega_0 + softplus(upper - omega_0): when far apart, they move independently.
        upper_init = self.omega_0 + softplus_inverse(self.omega_1 - self.omega_0)
        omega_0 = self.param("omega_0", lambda _: jnp.float32(self.omega_0))
        upper = self.param("upper", lambda _: jnp.float32(upper_init))
        return omega_0, omega_0 + jax.nn.softplus(upper - omega_0)


def ends(schedule: nn.Module, t: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The end points of a schedule that has the fields omega_0, omega_1 and learn_ends."""
    return EndPoints(schedule.omega_0, schedule.omega_1, schedule.learn_ends, name="ends")(t.dtype)


class Linear(nn.Module):
    """The straight line omega(t) = omega_0 + (omega_1 - omega_0) t, fixed or with learned ends."""

    omega_0: float = -13.3
    omega_1: float = 5.0
    learn_ends: bool = True

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        omega_0, omega_1 = ends(self, t)
        return (1 - t) * omega_0 + t * omega_1


class Cosine(nn.Module):
    """The alpha-cosine schedule of Nichol & Dhariwal 2021 (arXiv:2102.09672) between given ends:
    omega(t) = 2 log tan(a + (b - a) t), a = atan e^{omega_0/2}, b = atan e^{omega_1/2}."""

    omega_0: float = -13.3
    omega_1: float = 5.0
    learn_ends: bool = True

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        omega_0, omega_1 = ends(self, t)
        # tan loses digits near pi/2 (omega is off by 2e-4 at omega_1 = 14 in float32), so the
        # complement co of the angle is interpolated too: tan(theta) = sin(theta) / sin(co).
        angle = (1 - t) * jnp.arctan(jnp.exp(omega_0 / 2)) + t * jnp.arctan(jnp.exp(omega_1 / 2))
        co = (1 - t) * jnp.arctan(jnp.exp(-omega_0 / 2)) + t * jnp.arctan(jnp.exp(-omega_1 / 2))
        return 2 * (jnp.log(jnp.sin(angle)) - jnp.log(jnp.sin(co)))


class BetaLinear(nn.Module):
    """The closed form of DDPM's linear beta that VDM compares with:
    omega = log expm1(1e-4 + 10 tau^2), tau = tau_0 + (tau_1 - tau_0) t.

    tau_0 and tau_1 re-time it to the given ends, which are fixed. At tau = 0 and 1 omega is -9.21
    and 10.00.
    """

    omega_0: float = -9.21
    omega_1: float = 10.0

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        check_ends(self.omega_0, self.omega_1)
        tau_0, tau_1 = self.time_of(self.omega_0), self.time_of(self.omega_1)
        tau = tau_0 + (tau_1 - tau_0) * t
        return jnp.log(jnp.expm1(1e-4 + 10 * jnp.square(tau)))

    @staticmethod
    def time_of(omega: float) -> float:
        """The tau at which the schedule reaches omega. Raises ValueError if it never does."""
        square = (math.log1p(math.exp(omega)) - 1e-4) / 10
        if square < 0:
            raise ValueError(
                f"the beta-linear schedule cannot reach omega = {omega}: its lowest value is "
                f"{math.log(math.expm1(1e-4)):.4f}; choose omega_0 above it, or another schedule"
            )
        return math.sqrt(square)


def between_levels(
    omegas: Float[Array, " points"], t: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """omega(t) through omegas at the equally spaced times i / T, T = points - 1, linear in between.

    A grid's t = i / T has a rounding error or two. A t that close to a level is moved to it, so
    that the grid's levels are the given ones to the last digit.
    """
    last = omegas.size - 1
    place = t * last
    slip = jnp.round(place) - place
    near = jnp.abs(slip) <= 2 * jnp.finfo(t.dtype).eps * place
    place += jax.lax.stop_gradient(jnp.where(near, slip, 0.0))
    index = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, last - 1)
    share = place - index
    return (1 - share) * omegas[index] + share * omegas[index + 1]


class DDPMLinear(nn.Module):
    """DDPM's exact levels, omega(i / 999) = -log(abar_{i+1} / (1 - abar_{i+1})), i = 0 ... 999.

    abar_i = (1 - beta_1) ... (1 - beta_i) with beta from 1e-4 to 0.02 in equal steps (Ho et al.
    2020, section 4; abar is our alpha^2). The ends follow: -9.210 and 10.118. DDPM's 1000 levels
    are num_steps = 999, and its x_1 is z_0. Between the levels omega(t) is linear, so that any
    other num_steps works too.
    """

    num_levels: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return between_levels(jnp.asarray(self.levels(), t.dtype), t)

    def levels(self) -> np.ndarray:
        """omega at every level, float64 [num_levels]."""
        if self.num_levels < 2 or not 0 < self.beta_first <= self.beta_last < 1:
            raise ValueError(
                f"num_levels = {self.num_levels}, beta_first = {self.beta_first}, beta_last = "
                f"{self.beta_last}: there must be two levels or more and 0 < beta_first <= "
                "beta_last < 1"
            )
        betas = np.linspace(self.beta_first, self.beta_last, self.num_levels)
        log_abar = np.cumsum(np.log1p(-betas))
        return np.log(np.expm1(-log_abar))  # (1 - abar) / abar without rounding 1 - abar


STEEPEST = 12.0
"""Largest log steepness of a unit: it rises within 1e-5 of t, and float32 still resolves that."""


class Monotone(nn.Module):
    """The learned SNR, omega(t) = omega_0 + (omega_1 - omega_0) (m(t) - m(0)) / (m(1) - m(0)).

    m(t) = a_0 t + sum_k a_k sigmoid(w_k (t - b_k)), with a = softmax of log_linear and log_heights
    and w = exp(log_widths), increases for every parameter value. The ends are separate parameters,
    met up to rounding (VDM Eq. 59). VDM's network (appendix H) is also 1 -> 1024 -> 1 with a linear
    path.
    """

    omega_0: float = -13.3
    omega_1: float = 5.0
    learn_ends: bool = True
    hidden_features: int = 1024

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        omega_0, omega_1 = ends(self, t)
        # The hidden part starts as large as the linear path, with units of width 1/10 all over
        # [0, 1], because a part that starts near zero never grows. Shares and widths are
        # exponentials of their parameters: for the best schedule of Gaussian data, whose slopes
        # differ by a factor of 150, they are 2% off after 3,000 steps of Adam; softplus is 17% off.
        k = self.hidden_features
        linear = self.param("log_linear", nn.initializers.zeros, (), jnp.float32)
        heights = self.param("log_heights", nn.initializers.zeros, (k,), jnp.float32)
        width = nn.initializers.constant(math.log(10.0))
        widths = self.param("log_widths", width, (k,), jnp.float32)
        centres = self.param(
            "centres", lambda _, n: (jnp.arange(n, dtype=jnp.float32) + 0.5) / n, k
        )
        # The share of a unit starts at 1/k of that of the linear path.
        logits = jnp.append(heights - math.log(k), linear)
        shares = jax.nn.softmax(logits)
        steepness = jnp.exp(jnp.minimum(widths, STEEPEST))

        def m(t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
            distance = t.reshape(-1, 1) - centres[None]
            hidden = jax.nn.sigmoid(steepness[None] * distance)
            # A sum, not a matrix product, which accelerators round to TF32 or bfloat16.
            hidden = jnp.sum(hidden * shares[None, :-1], axis=-1)
            return shares[-1] * t + hidden.reshape(t.shape)

        low, high = m(jnp.zeros((), t.dtype)), m(jnp.ones((), t.dtype))
        ratio = (m(t) - low) / (high - low)
        return (1 - ratio) * omega_0 + ratio * omega_1


class Polynomial(nn.Module):
    """The degree-5 polynomial of MuLAN (arXiv:2312.13236), increasing for all a, b, c:
    omega(t) = omega_0 + (omega_1 - omega_0) f(t) / f(1), f'(t) = (a t^2 + b t + c)^2 + 1/1000.

    It starts as a straight line. With `per_dimension` every dimension of an example has its own
    a, b, c between shared ends, and omega(t) has the axes `dims` of an example appended (`dims`
    follows from the data).
    """

    omega_0: float = -13.3
    omega_1: float = 5.0
    learn_ends: bool = False
    per_dimension: bool = False
    dims: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "..."]:
        omega_0, omega_1 = ends(self, t)
        shape = self.dims if self.per_dimension else ()
        a = self.param("a", nn.initializers.zeros, shape, jnp.float32)
        b = self.param("b", nn.initializers.zeros, shape, jnp.float32)
        c = self.param("c", nn.initializers.ones, shape, jnp.float32)
        # Horner's rule with the coefficients of t^5, t^4, ... t, whose sum is f(1).
        coefficients = jnp.stack(
            [a * a / 5, a * b / 2, (b * b + 2 * a * c) / 3, b * c, c * c + 1e-3]
        ).reshape((5,) + (1,) * t.ndim + shape)
        t = t.reshape(t.shape + (1,) * len(shape))
        f = jnp.zeros((), t.dtype)
        for coefficient in coefficients:
            f = (f + coefficient) * t
        ratio = f / jnp.sum(coefficients, axis=0)
        return (1 - ratio) * omega_0 + ratio * omega_1


FLOOR = 0.01
"""Share of the time that a `Tabulated` schedule spreads evenly over omega."""

PRIOR = 0.01
"""Draws that the overall mean counts for in each bin: few, as l^2 spans many orders."""


class Tabulated(nn.Module):
    """A schedule that follows an estimate of the loss: the density of omega is proportional to
    sqrt(E[l^2 | omega]), l = 1/2 ||eps - eps_hat||^2, which gives the estimate of the
    continuous-time bound the least variance.

    `adapt` learns it without gradients (schedule.train = "adaptive"). The adaptive noise schedule
    of VDM++ (arXiv:2303.00848) follows E[l | omega] instead. The range of omega is divided into
    `num_bins` equal bins and omega(t) is linear in each; a share `FLOOR` of the time is spread
    evenly, so that every bin is visited.

    num_bins: number of bins.
    memory: number of steps after which a draw counts 1/e.
    """

    omega_0: float = -13.3
    omega_1: float = 5.0
    learn_ends: bool = True
    num_bins: int = 64
    memory: int = 1000

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        omega_0, omega_1 = ends(self, t)
        n, zeros = self.num_bins, nn.initializers.zeros
        squares = self.param("squares", zeros, (n,), jnp.float32)  # Sums of l^2.
        counts = self.param("counts", zeros, (n,), jnp.float32)
        squares, counts = jax.lax.stop_gradient((squares, counts))
        # A bin without draws gets the mean of all, as every bin holds `PRIOR` draws of that mean.
        mean = _safe_ratio(squares.sum(), counts.sum())
        root = jnp.sqrt((squares + PRIOR * mean) / (counts + PRIOR) + jnp.finfo(jnp.float32).tiny)
        shares = (1 - FLOOR) * root / root.sum() + FLOOR / n
        mass = jnp.cumsum(shares)
        knots = jnp.append(0.0, mass / mass[-1]).astype(t.dtype)  # The last is exactly 1.
        ratio = jnp.interp(t, knots, jnp.append(jnp.arange(n) / n, 1.0).astype(t.dtype))
        return (1 - ratio) * omega_0 + ratio * omega_1

    def adapt(
        self,
        params: Params,
        position: Float[Array, " batch"],
        density: Float[Array, " batch"],
    ) -> Params:
        """Returns the table (the parameters without a gradient) updated with a batch.

        Args:
            params: the parameters of the schedule.
            position: (omega_t - omega_0) / (omega_1 - omega_0) of each example.
            density: the loss density l of each example there, in nats per unit of omega.
        """
        index = jnp.clip((position * self.num_bins).astype(jnp.int32), 0, self.num_bins - 1)
        kept = math.exp(-1 / self.memory)
        return {
            "squares": (kept * params["squares"]).at[index].add(jnp.square(density)),
            "counts": (kept * params["counts"]).at[index].add(1.0),
        }


def _safe_ratio(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, or 1 where both are 0."""
    return jnp.where(denominator > 0, numerator, 1.0) / jnp.where(denominator > 0, denominator, 1.0)
