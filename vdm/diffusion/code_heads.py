"""Heads: how the outputs of a network become probabilities of integer codes (config.model.head).

A head reads outputs [batch, *dims, outputs_per_dim(V)], z_t and omega, and adds what z_t itself
says, q(z_t | x_k) (`vdm.diffusion.codes`).
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from vdm.arguments import check_count
from vdm.diffusion.codes import code_log_probs
from vdm.diffusion.lattice_sums import log_sum_and_mean
from vdm.diffusion.likelihood import codes_to_x, expected_eps, x_to_codes
from vdm.diffusion.noise import alpha, expand, sigma
from vdm.typing import PerExample


@runtime_checkable
class CodeHead(Protocol):
    """A head. It is frozen and hashable, because what is compiled for a model is kept by it."""

    def outputs_per_dim(self, num_codes: int) -> int:
        """The numbers that the network gives for each dimension."""
        ...

    def eps_hat(
        self,
        outputs: Float[Array, "batch *dims outputs"],
        z: Float[Array, "batch *dims"],
        omega: PerExample,
    ) -> Float[Array, "batch *dims"]:
        """The mean of eps given z_t."""
        ...

    def log_probs(
        self,
        outputs: Float[Array, "batch *dims outputs"],
        z: Float[Array, "batch *dims"],
        omega: PerExample,
    ) -> Float[Array, "batch *dims codes"]:
        """log p(code k | z_t) of every code, nats."""
        ...


@dataclasses.dataclass(frozen=True)
class Table:
    """One logit for each code: any distribution, with V outputs for each dimension."""

    def outputs_per_dim(self, num_codes: int) -> int:
        """V."""
        return num_codes

    def eps_hat(self, outputs: Array, z: Array, omega: PerExample) -> Array:
        """The mean of the codes, `vdm.diffusion.likelihood.expected_eps`."""
        return expected_eps(outputs, z, omega)

    def log_probs(self, outputs: Array, z: Array, omega: PerExample) -> Array:
        """`vdm.diffusion.codes.code_log_probs`."""
        return code_log_probs(outputs, z, omega)


TABLE = Table()


WIDEST = 4.0
"""The largest scale of a component of `Normals`: nearly the same for all codes, which are in
[-1, 1]."""

NARROWEST = 0.25
"""The smallest scale, in codes: at the nearest code's centre, exp(-8) is left for its neighbours.
"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Components:
    """The M components of `Normals` times q(z_t | x_k), each of which is again a normal over codes;
    arrays [batch, *dims, M].

    nearest: the code nearest to the normal's centre. slope, precision: of
    `vdm.diffusion.lattice_sums`. from_z: (z_t - alpha x_nearest) / sigma. per_code: what that loses
    from one code to the next. logits: of the components' weights. log_sum, mean: of `lattice_sums`.
    """

    num_codes: int = dataclasses.field(metadata={"static": True})
    nearest: Int[Array, "batch *dims components"]
    slope: Float[Array, "batch *dims components"]
    precision: Float[Array, "batch *dims components"]
    from_z: Float[Array, "batch *dims components"]
    per_code: Float[Array, "..."]
    logits: Float[Array, "batch *dims components"]
    log_sum: Float[Array, "batch *dims components"]
    mean: Float[Array, "batch *dims components"]

    @property
    def log_weight(self) -> Float[Array, "batch *dims components"]:
        """The log of each component's weight, less that of the sum of its terms."""
        return jax.nn.log_softmax(self.logits, axis=-1) - self.log_sum

    def eps_hat(self) -> Float[Array, "batch *dims"]:
        """The mean of (z_t - alpha x_k) / sigma."""
        distance = self.from_z - self.per_code * self.mean
        return jnp.sum(jax.nn.softmax(self.logits, axis=-1) * distance, axis=-1)

    def log_prob_of(self, codes: Integer[Array, "batch *dims"]) -> Float[Array, "batch *dims"]:
        """log p_k at the given codes."""
        j = codes[..., None].astype(jnp.int32) - self.nearest
        exponent = j * (self.slope - 0.5 * j * self.precision)
        return jax.nn.logsumexp(self.log_weight + exponent, axis=-1)

    def log_probs(self) -> Float[Array, "batch *dims codes"]:
        """log p_k of every code; one component at a time, as no array has both axes."""
        codes = jnp.arange(self.num_codes).reshape((1,) * (self.nearest.ndim - 1) + (-1,))
        table = jnp.full((*self.nearest.shape[:-1], self.num_codes), -jnp.inf)
        for m in range(self.nearest.shape[-1]):
            nearest, slope, precision, log_weight = (
                array[..., m, None]
                for array in (self.nearest, self.slope, self.precision, self.log_weight)
            )
            j = codes - nearest
            table = jnp.logaddexp(table, log_weight + j * (slope - 0.5 * j * precision))
        return table

    def log_mean_exp(
        self,
        x: Float[Array, "batch *dims"],
        c: Float[Array, "..."],
        xi: Float[Array, "batch *dims"],
    ) -> Float[Array, "batch *dims"]:
        """log sum_k p_k exp(xi delta_k - 1/2 delta_k^2) with delta_k = c (x_k - x): the factor is
        a normal over codes too, so the result has the sums of M normals and no table."""
        c, xi, x = c[..., None], xi[..., None], x[..., None]
        step = 2 / self.num_codes * c
        precision = self.precision + jnp.square(step)
        # The products' own nearest codes, j of them further. Both factors are measured from there:
        # from the components' own, c = 773 has terms of 3e5 whose difference is 0.1 off.
        slope = self.slope + step * (xi - c * (codes_to_x(self.nearest, self.num_codes) - x))
        j = jax.lax.stop_gradient(jnp.round(slope / precision)).astype(jnp.int32)
        nearest = jnp.clip(self.nearest + j, 0, self.num_codes - 1)
        j = nearest - self.nearest
        delta = c * (codes_to_x(nearest, self.num_codes) - x)
        slope = self.slope - j * self.precision + step * (xi - delta)
        log_sum, _ = log_sum_and_mean(self.num_codes, nearest, slope, precision)
        exponent = delta * (xi - 0.5 * delta) + j * (self.slope - 0.5 * j * self.precision)
        return jax.nn.logsumexp(self.log_weight + exponent + log_sum, axis=-1)


@dataclasses.dataclass(frozen=True)
class Normals:
    """A mixture of M normals over the lattice of codes, with 3 M outputs for each dimension:

        p_k(z_t) proportional to q(z_t | x_k) sum_m w_m exp(-1/2 (x_k - mu_m)^2 / s_m^2) / s_m

    The outputs are the log weights, the means and the log scales, in this order. A mean is measured
    from alpha z_t in units of sqrt(s_m^2 + sigma^2), so that eps_hat changes by at most as much as
    this output, at every noise level and scale; x itself as the output would count 1 / s_m times.
    All 0, as those of a network at its start, they are equal weights, scales of 2 / M and means
    that spread the components over [-1, 1] where z_t is noise. (Salimans et al. 2017,
    arXiv:1701.05517, have logistics.)
    """

    num_codes: int
    components: int = 4

    def __post_init__(self) -> None:
        check_count("components", self.components, 1)

    def outputs_per_dim(self, num_codes: int) -> int:
        """3 M."""
        del num_codes
        return 3 * self.components

    def parameters(
        self,
        outputs: Float[Array, "batch *dims outputs"],
        z: Float[Array, "batch *dims"],
        omega: PerExample,
    ) -> tuple[Float[Array, "batch *dims components"], ...]:
        """log w_m up to a constant, mu_m and log s_m."""
        log_weight, raw_mean, raw_scale = jnp.split(outputs, 3, axis=-1)
        spread = codes_to_x(jnp.arange(self.components), self.components)
        spread = spread.reshape((1,) * (outputs.ndim - 1) + (-1,))
        spacing = 2 / self.num_codes
        least, most = math.log(NARROWEST * spacing), math.log(WIDEST)
        share = (math.log(max(2 / self.components, spacing)) - least) / (most - least)
        share_of_range = jax.nn.sigmoid(raw_scale + math.log(share / (1 - share)))
        log_scale = least + (most - least) * share_of_range
        omega = expand(omega, z)[..., None]
        unit = jnp.sqrt(jnp.exp(2 * log_scale) + jax.nn.sigmoid(omega))
        return log_weight, alpha(omega) * z[..., None] + unit * (raw_mean + spread), log_scale

    def at(self, outputs: Array, z: Array, omega: PerExample) -> Components:
        """The components times q(z_t | x_k)."""
        log_weight, mean, log_scale = self.parameters(outputs, z, omega)
        omega, z = expand(omega, z)[..., None], z[..., None]
        spacing = 2 / self.num_codes
        # In a code's distance to the next: standard deviations of the noise, and of the component.
        of_noise, of_scale = spacing * jnp.exp(-0.5 * omega), spacing * jnp.exp(-log_scale)
        precision = jnp.square(of_noise) + jnp.square(of_scale)
        # What is measured from this code does not depend on which it is, so it needs no gradient.
        from_mean = jnp.square(of_scale) / precision * (mean - z / alpha(omega))
        centre = jax.lax.stop_gradient(z / alpha(omega) + from_mean)
        nearest = x_to_codes(centre, self.num_codes)
        x = codes_to_x(nearest, self.num_codes)
        from_z, from_mean = (z - alpha(omega) * x) / sigma(omega), (mean - x) * jnp.exp(-log_scale)
        slope = of_noise * from_z + of_scale * from_mean
        log_sum, j = log_sum_and_mean(self.num_codes, nearest, slope, precision)
        squares = jnp.square(from_z) + jnp.square(from_mean)
        logits = log_weight - log_scale - 0.5 * squares + log_sum
        return Components(
            self.num_codes, nearest, slope, precision, from_z, of_noise, logits, log_sum, j
        )

    def eps_hat(self, outputs: Array, z: Array, omega: PerExample) -> Array:
        """The mean of (z_t - alpha x_k) / sigma; no array has an axis of V codes."""
        return self.at(outputs, z, omega).eps_hat()

    def log_probs(self, outputs: Array, z: Array, omega: PerExample) -> Array:
        """The log of the sum over components of their weight times their share of each code."""
        return self.at(outputs, z, omega).log_probs()
