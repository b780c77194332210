"""The measured cases: three networks, each with the choices of this repository and with those of
the published code.

The published choices are put into the modules one by one or all together. The mathematics is the
same, except for the number of groups of a GroupNorm.
"""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer
from ml_collections import ConfigDict

from vdm.api import load_config
from vdm.diffusion.likelihood import Discretised
from vdm.nn import attention, blocks
from vdm.typing import EndPoint

CIFAR10 = Path(__file__).parent.parent.parent / "configs" / "cifar10.py"


@dataclasses.dataclass(frozen=True)
class Case:
    """The size of a network like the paper's, and of a batch."""

    shape: tuple[int, int, int]
    width: int
    num_blocks: int
    batch_size: int


CASES = {
    "A": Case((32, 32, 3), 64, 4, 16),
    "B": Case((32, 32, 3), 32, 2, 64),
    "C": Case((8, 8, 3), 32, 2, 128),
    "cifar10": Case((32, 32, 3), 128, 32, 128),  # the paper's network, for accelerators
}

CHOICES = {
    "one_device": "all cores are one device",
    "one_hot_decoder": "log p(x | z_0) of all 256 codes, the true one taken by a one-hot product",
    "whole_attention": "the matrix of attention in memory, kept for the backward pass",
    "flax_norms": "GroupNorm of 32 groups, swish and Dropout differentiated by JAX",
}
"""The choices of the published code."""

VARIANTS: dict[str, tuple[str, ...]] = {
    "ours": (),
    "published": tuple(CHOICES),
    **{name: (name,) for name in CHOICES},
    "bfloat16": (),
    "codes": (),
    "codes, T=10": (),
}

CODES = {"model.prediction": "codes", "model.head.name": "normals"}
SETTINGS: dict[str, dict[str, Any]] = {
    "bfloat16": {"network.kwargs.dtype": "bfloat16"},
    "codes": CODES,
    "codes, T=10": CODES | {
        "model.num_steps": 10, "model.kernel": "mixture", "model.decoder": "network",
        "schedule.train": "bound",
    },
}  # fmt: skip
"""What some variants change in the config."""


def make_config(case: Case, variant: str) -> ConfigDict:
    """The paper's config with the network of a case and the choices of a variant, on random
    images."""
    choices = VARIANTS[variant]
    config = load_config(CIFAR10)
    config.data.name = "synthetic"
    config.data.kwargs = {
        "shape": case.shape, "num_codes": 256, "num_train": 50_000, "num_test": 8,
    }  # fmt: skip
    config.network.kwargs.width = case.width
    config.network.kwargs.num_blocks = case.num_blocks
    config.train.batch_size = case.batch_size
    if "one_device" in choices:
        config.train.num_devices = 1
    if "one_hot_decoder" in choices:
        config.likelihood.name = "experiments.throughput.cases:OneHot"
    if "flax_norms" in choices:
        config.network.kwargs.num_groups = 32
    config.update_from_flattened_dict(SETTINGS.get(variant, {}))
    return config


def install(variant: str) -> None:
    """Replaces parts of vdm, in this process, by those published choices that no config field
    controls."""
    choices = VARIANTS[variant]
    parts: Any = blocks
    functions: Any = attention
    if "whole_attention" in choices:
        functions.attend = functions.attend_to_train = attend_with_matrix
    if "flax_norms" in choices:
        parts.NormSwish = FlaxNormSwish
        blocks.dropout = flax_dropout


@dataclasses.dataclass(frozen=True)
class OneHot(Discretised):
    """The published decoder, which takes a softmax over all codes for each dimension."""

    def reconstruction(
        self,
        data: Integer[Array, "batch *dims"],
        eps_0: Float[Array, "batch *dims"],
        omega_0: EndPoint,
    ) -> Float[Array, " batch"]:
        z = self.encode(data) + jnp.exp(0.5 * omega_0) * eps_0
        codes = self.encode(jnp.arange(self.num_codes)).reshape((1,) * z.ndim + (-1,))
        logits = -0.5 * jnp.square((z[..., None] - codes) * jnp.exp(-0.5 * omega_0))
        log_probs = jax.nn.log_softmax(logits)
        chosen = jax.nn.one_hot(data, self.num_codes) * log_probs
        return -jnp.sum(chosen, axis=tuple(range(1, chosen.ndim)))


def attend_with_matrix(q: Array, k: Array, v: Array) -> Array:
    """The published attention, softmax(q k^T / sqrt(c)) v with the whole matrix in memory."""
    logits = jnp.einsum("bqc,bkc->bqk", q, k) / jnp.sqrt(q.shape[-1])
    return jnp.einsum("bqk,bkc->bqc", jax.nn.softmax(logits), v)


class FlaxNormSwish(nn.Module):
    """The published norm, swish(GroupNorm(x)) differentiated by JAX."""

    groups: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool, film: Any = None) -> Array:
        return nn.swish(nn.GroupNorm(self.groups, epsilon=1e-6)(x))


def flax_dropout(x: Array, rate: float, key: Array) -> Any:
    """The published dropout, that of flax."""
    return nn.Dropout(rate).apply({}, x, deterministic=False, rng=key)
