"""The parts of the U-Net: conditioning, residual block, attention (VDM appendix B)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from vdm.nn.embeddings import OMEGA_LOW, OMEGA_RANGE, omega_embedding
from vdm.typing import NO_LABEL

MAX_GROUPS = 32
MIN_GROUP_SIZE = 4


def num_groups(channels: int) -> int:
    """Groups for GroupNorm: the most, up to 32, with at least 4 channels in each.

    With one channel per group (32 groups on 32 channels, as published) the normalisation
    subtracts exactly what the conditioning added, and the network is blind to omega.
    """
    candidates = range(min(MAX_GROUPS, max(1, channels // MIN_GROUP_SIZE)), 0, -1)
    return next(g for g in candidates if channels % g == 0)


def group_norm(
    x: Float[Array, "..."], name: str, groups: int = 0, dtype: DTypeLike | None = None
) -> Float[Array, "..."]:
    """GroupNorm over the last axis of x, called inside a compact module; its statistics are
    float32, or what x has beyond it.

    groups = 0 chooses as `num_groups` does; the published networks have 32 whatever the width.
    dtype: of what comes out, None: that of x and the parameters.
    """
    channels = x.shape[-1]
    if groups and channels % groups:
        raise ValueError(
            f"network.kwargs.num_groups = {groups} does not divide {channels} channels: choose "
            "another width, or 0"
        )
    return nn.GroupNorm(groups or num_groups(channels), epsilon=1e-6, dtype=dtype, name=name)(x)


class Conditioning(nn.Module):
    """omega, and optionally a class label, -> features that every block reads.

    The label has an embedding of its own, NO_LABEL none; or with label_as_scalar it is one number
    more beside the features of omega, as published: any real number, 0 where no labels are given.
    """

    features: int
    num_classes: int = 0
    omega_scale: float = 1000.0
    omega_low: float = OMEGA_LOW
    omega_range: float = OMEGA_RANGE
    label_as_scalar: bool = False

    @nn.compact
    def __call__(
        self, omega: Float[Array, " batch"], labels: Num[Array, " batch"] | None
    ) -> Float[Array, "batch cond"]:
        cond = omega_embedding(
            omega, self.features, self.omega_scale, self.omega_low, self.omega_range
        )
        if self.num_classes and labels is None:
            raise ValueError(
                f"this network is conditional on {self.num_classes} classes: it needs labels"
            )
        # NO_LABEL would be the number -1 here: withheld labels need an embedding.
        if self.label_as_scalar:
            scalar = jnp.zeros_like(omega) if labels is None else labels.astype(omega.dtype)
            cond = jnp.concatenate([cond, scalar[:, None]], axis=-1)
        cond = nn.swish(nn.Dense(4 * self.features, name="dense_0")(cond))
        cond = nn.Dense(4 * self.features, name="dense_1")(cond)
        if self.num_classes and labels is not None and not self.label_as_scalar:
            embed = nn.Embed(self.num_classes, 4 * self.features, name="label")
            given = jnp.not_equal(labels, NO_LABEL)
            cond += jnp.where(given[:, None], embed(jnp.where(given, labels, 0)), 0.0)
        return nn.swish(cond)


class ResidualBlock(nn.Module):
    """norm, swish, conv, + conditioning, norm, swish, dropout, conv (zero at first), + shortcut.

    The conditioning shifts each channel before the second norm (VDM), or with `film` scales and
    shifts it after that norm, which the norm then cannot undo.

    dtype: what is computed in, but for the statistics of the norms; None: as inputs and parameters.
    """

    features: int
    dropout: float
    film: bool = False
    num_groups: int = 0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], cond: Float[Array, "b cond"], train: bool
    ) -> Float[Array, "b h w features"]:
        h = nn.swish(group_norm(x, "norm_0", self.num_groups, self.dtype))
        h = nn.Conv(self.features, (3, 3), dtype=self.dtype, name="conv_0")(h)
        modulation = nn.Dense(
            (2 if self.film else 1) * self.features,
            use_bias=False,
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="cond",
        )(cond)[:, None, None, :]
        if self.film:
            scale, shift = jnp.split(modulation, 2, axis=-1)
            h = group_norm(h, "norm_1", self.num_groups, self.dtype) * (1 + scale) + shift
        else:
            h = group_norm(h + modulation, "norm_1", self.num_groups, self.dtype)
        h = nn.swish(h)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        zeros = nn.initializers.zeros
        h = nn.Conv(self.features, (3, 3), kernel_init=zeros, dtype=self.dtype, name="conv_1")(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h


class Attention(nn.Module):
    """Single-head self-attention over all pixels, residual, zero at first."""

    num_groups: int = 0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        dtype, zeros = self.dtype, nn.initializers.zeros
        normed = group_norm(x, "norm", self.num_groups, dtype).reshape(b, h * w, 1, c)
        q, k, v = (
            nn.Dense(c, dtype=dtype, name=name)(normed) for name in ("query", "key", "value")
        )
        out = attend(q, k, v).reshape(b, h, w, c)
        return x + nn.Dense(c, kernel_init=zeros, dtype=dtype, name="out")(out)


def attend(
    q: Float[Array, "b p heads c"], k: Float[Array, "b p heads c"], v: Float[Array, "b p heads c"]
) -> Float[Array, "b p heads c"]:
    """softmax(q k^T / sqrt(c)) v over the pixels p."""
    if q.dtype != jnp.float64:
        return jax.nn.dot_product_attention(q, k, v)
    # jax.nn.dot_product_attention takes every softmax in float32: 2e-8 off in float64.
    logits = jnp.einsum("bqhc,bkhc->bhqk", q, k) / math.sqrt(q.shape[-1])
    return jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(logits, axis=-1), v)


def check_image(z: jax.Array, network: str) -> None:
    """Images are [batch, height, width, channels]."""
    if z.ndim != 4:
        raise ValueError(
            f"network {network!r} takes images [batch, height, width, channels], not shape "
            f"{z.shape}; for vectors choose network.name = 'mlp'"
        )
