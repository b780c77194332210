"""Heads: how the outputs of a network become probabilities of integer codes (config.model.head).

A head reads outputs [batch, *dims, outputs_per_dim(V)], z_t and omega, and adds what z_t itself
says, q(z_t | x_k) (`vdm.diffusion.codes`).
"""

import dataclasses
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float

from vdm.diffusion.codes import code_log_probs
from vdm.diffusion.likelihood import expected_eps
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
