"""Noise schedules t -> omega(t) = -log SNR(t), increasing from omega_0 to omega_1.

Every schedule is a linen module called with times t in [0, 1] of any shape. Its derivative
is taken by `jax.jvp`, which for the closed forms here is the closed form of omega'.
Sources: VDM sections 3.2, 5.1 and 5.2, appendix H. The interior changes only the variance of
the continuous-time bound, the end points change the bound.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def softplus_inverse(y: float) -> float:
    """The x > 0 with log(1 + e^x) = y, in Python floats."""
    return y + math.log(-math.expm1(-y))


def check_ends(omega_0: float, omega_1: float) -> None:
    """omega must increase: signal at t = 0, noise at t = 1."""
    if not omega_0 < omega_1:
        raise ValueError(
            f"omega_0 = {omega_0} must be below omega_1 = {omega_1}: omega = -log SNR increases"
        )


class EndPoints(nn.Module):
    """(omega_0, omega_1), learned or constant; omega_0 < omega_1 for all parameter values."""

    omega_0: float
    omega_1: float
    learn: bool

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> tuple[Float[Array, ""], Float[Array, ""]]:
        check_ends(self.omega_0, self.omega_1)
        if not self.learn:
            return jnp.asarray(self.omega_0, dtype), jnp.asarray(self.omega_1, dtype)
        # omega_1 = omega_0 + softplus(upper - omega_0): far apart, the two move independently.
        upper_init = self.omega_0 + softplus_inverse(self.omega_1 - self.omega_0)
        omega_0 = self.param("omega_0", lambda _: jnp.float32(self.omega_0))
        upper = self.param("upper", lambda _: jnp.float32(upper_init))
        return omega_0, omega_0 + jax.nn.softplus(upper - omega_0)


def ends(schedule: nn.Module, t: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The end points of a schedule with fields omega_0, omega_1, learn_ends."""
    return EndPoints(schedule.omega_0, schedule.omega_1, schedule.learn_ends, name="ends")(t.dtype)


class Linear(nn.Module):
    """omega(t) = omega_0 + (omega_1 - omega_0) t: fixed, or a learned straight line."""

    omega_0: float = -13.3
    omega_1: float = 5.0
    learn_ends: bool = True

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        omega_0, omega_1 = ends(self, t)
        return (1 - t) * omega_0 + t * omega_1


class Cosine(nn.Module):
    """omega(t) = 2 log tan(a + (b - a) t), a = atan e^{omega_0/2}, b = atan e^{omega_1/2}.

    The alpha-cosine schedule of Nichol & Dhariwal 2021 (arXiv:2102.09672) between given ends.
    """

    omega_0: float = -13.3
    omega_1: float = 5.0
    learn_ends: bool = True

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        omega_0, omega_1 = ends(self, t)
        # tan near pi/2 keeps few digits (omega is off by 2e-4 at omega_1 = 14 in float32), so
        # the complement of the angle is interpolated too: tan(theta) = sin(theta) / sin(co).
        angle = (1 - t) * jnp.arctan(jnp.exp(omega_0 / 2)) + t * jnp.arctan(jnp.exp(omega_1 / 2))
        co = (1 - t) * jnp.arctan(jnp.exp(-omega_0 / 2)) + t * jnp.arctan(jnp.exp(-omega_1 / 2))
        return 2 * (jnp.log(jnp.sin(angle)) - jnp.log(jnp.sin(co)))


class BetaLinear(nn.Module):
    """omega = log expm1(1e-4 + 10 tau^2), tau = tau_0 + (tau_1 - tau_0) t.

    The closed form of DDPM's linear beta that VDM compares with; tau_0 and tau_1 re-time it to
    the given ends, which are fixed. At tau = 0 and 1 these are -9.21 and 10.00.
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
        """tau at which the schedule passes omega."""
        square = (math.log1p(math.exp(omega)) - 1e-4) / 10
        if square < 0:
            raise ValueError(
                f"the beta-linear schedule cannot reach omega = {omega}: its lowest value is "
                f"{math.log(math.expm1(1e-4)):.4f}; choose omega_0 above it, or another schedule"
            )
        return math.sqrt(square)


class Monotone(nn.Module):
    """The learned SNR: omega_0 + (omega_1 - omega_0) (m(t) - m(0)) / (m(1) - m(0)).

    m(t) = a t + 1/K sum_k c_k sigmoid(w_k (t - b_k)), with a, c, w > 0 (softplus), is
    increasing for every parameter value; the ends are parameters of their own, met to rounding
    (VDM Eq. 59). VDM's network (appendix H) is 1 -> 1024 -> 1 with a linear path too.
    """

    omega_0: float = -13.3
    omega_1: float = 5.0
    learn_ends: bool = True
    hidden_features: int = 1024

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        omega_0, omega_1 = ends(self, t)
        # The hidden part starts as large as the linear path, with units of width 1/10 all over
        # [0, 1]: a part that starts near zero never grows.
        k = self.hidden_features
        constant = nn.initializers.constant
        linear = self.param("linear", constant(softplus_inverse(1.0)), (), jnp.float32)
        heights = self.param("heights", constant(softplus_inverse(1.0)), (k,), jnp.float32)
        widths = self.param("widths", constant(softplus_inverse(10.0)), (k,), jnp.float32)
        centres = self.param(
            "centres", lambda _, n: (jnp.arange(n, dtype=jnp.float32) + 0.5) / n, k
        )

        def m(t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
            distance = t.reshape(-1, 1) - centres[None]
            hidden = jax.nn.sigmoid(jax.nn.softplus(widths)[None] * distance)
            # A sum, not a matrix product, which accelerators round to TF32 or bfloat16.
            hidden = jnp.sum(hidden * (jax.nn.softplus(heights) / k)[None], axis=-1)
            return jax.nn.softplus(linear) * t + hidden.reshape(t.shape)

        low, high = m(jnp.zeros((), t.dtype)), m(jnp.ones((), t.dtype))
        ratio = (m(t) - low) / (high - low)
        return (1 - ratio) * omega_0 + ratio * omega_1


class AbsDense(nn.Module):
    """x -> x |kernel| + bias over the last axis: increasing in every input (VDM appendix H)."""

    features: int
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer | None

    @nn.compact
    def __call__(self, x: Float[Array, "n inputs"]) -> Float[Array, "n features"]:
        shape = (x.shape[-1], self.features)
        kernel = jnp.abs(self.param("kernel", self.kernel_init, shape, jnp.float32))
        # A sum, not a matrix product, which accelerators round to TF32 or bfloat16.
        y = jnp.sum(x[:, :, None] * kernel[None], axis=1)
        if self.bias_init is None:
            return y
        return y + self.param("bias", self.bias_init, (self.features,), jnp.float32)[None]


class VDMNet(nn.Module):
    """omega(t) = l1(t) + l3(2 sigmoid(l2(2 t - 1)) - 1) / K, each l an `AbsDense`.

    The learned SNR of VDM's published code. omega_0 and omega_1 initialise l1 and nothing else:
    the ends are not normalised, they follow from all the weights, and the hidden part starts at
    1e-4 of the linear one.
    """

    omega_0: float = -13.3
    omega_1: float = 5.0
    hidden_features: int = 1024

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        check_ends(self.omega_0, self.omega_1)
        k, column = self.hidden_features, t.reshape(-1, 1)
        constant, small = nn.initializers.constant, nn.initializers.normal(0.01)
        slope, start = constant(self.omega_1 - self.omega_0), constant(self.omega_0)
        linear = AbsDense(1, slope, start, name="l1")(column)
        hidden = AbsDense(k, small, nn.initializers.zeros, name="l2")(2 * column - 1)
        bent = AbsDense(1, small, None, name="l3")(2 * jax.nn.sigmoid(hidden) - 1)
        return (linear + bent / k).reshape(t.shape)


class VDMScalar(nn.Module):
    """omega(t) = b + |w| t: the straight line of VDM's published code and its CIFAR-10 model."""

    omega_0: float = -13.3
    omega_1: float = 5.0

    @nn.compact
    def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        check_ends(self.omega_0, self.omega_1)
        constant = nn.initializers.constant
        w = self.param("w", constant(self.omega_1 - self.omega_0), (1,), jnp.float32)
        b = self.param("b", constant(self.omega_0), (1,), jnp.float32)
        return b[0] + jnp.abs(w[0]) * t
