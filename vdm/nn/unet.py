"""The score network of VDM: a U-Net that never down-samples (VDM appendix B).

conv_in, `num_blocks` blocks down, block-attention-block in the middle, `num_blocks` + 1
blocks up, each fed the concatenated skip of its level, and a last convolution, zero at first.

With `outputs_per_dim` = 1 (VDM) z is added to it; with V outputs for each dimension it gives the
logits of V codes (model.prediction = "codes").
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from vdm.nn.blocks import Attention, Conditioning, ResidualBlock, check_image, group_norm
from vdm.nn.embeddings import (
    OMEGA_LOW,
    OMEGA_RANGE,
    fourier_features,
    fourier_frequencies,
    read_omega,
)


class UNet(nn.Module):
    """(z_t [batch, height, width, channels], omega [batch] or of z_t's shape, labels) -> the
    prediction, of z_t's shape, or with one axis more of `outputs_per_dim` > 1.

    `num_codes`, `num_classes` (0: unconditional) and `outputs_per_dim` are facts that the config
    fills in.

    The published network is num_groups = 32, frequencies = (64, 128) whatever V is,
    label_as_scalar = True and, for other end points than -13.3 and 5, omega_low = omega_0 and
    omega_range = omega_1 - omega_0. 0 groups and () choose by the width and by V.
    """

    num_codes: int
    num_classes: int = 0
    outputs_per_dim: int = 1
    width: int = 128
    num_blocks: int = 32
    dropout: float = 0.1
    fourier: bool = True
    omega_scale: float = 1000.0
    attention: Literal["middle", "all", "none"] = "middle"
    film: bool = False
    num_groups: int = 0
    frequencies: tuple[float, ...] = ()
    omega_low: float = OMEGA_LOW
    omega_range: float = OMEGA_RANGE
    label_as_scalar: bool = False

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b h w c"],
        omega: Float[Array, " b"] | Float[Array, "b h w c"],
        labels: Num[Array, " b"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w *c"]:
        check_image(z, "unet")
        if self.attention not in ("middle", "all", "none"):
            raise ValueError(f"attention is 'middle', 'all' or 'none', not {self.attention!r}")
        omega, inputs = read_omega(omega, self.omega_range)
        cond = Conditioning(
            self.width,
            self.num_classes,
            self.omega_scale,
            self.omega_low,
            self.omega_range,
            self.label_as_scalar,
            name="conditioning",
        )(omega, labels)
        groups = self.num_groups

        def block(h: Array, name: str, attend: bool) -> Array:
            h = ResidualBlock(self.width, self.dropout, self.film, groups, name=name)(
                h, cond, train
            )
            return Attention(groups, name=f"{name}_attention")(h) if attend else h

        frequencies = self.frequencies or fourier_frequencies(self.num_codes)
        if self.fourier and frequencies:
            inputs.append(fourier_features(z, frequencies))
        h = jnp.concatenate([z, *inputs], axis=-1)
        h = nn.Conv(self.width, (3, 3), name="conv_in")(h)

        everywhere = self.attention == "all"
        skips = [h]
        for i in range(self.num_blocks):
            h = block(h, f"down_{i}", everywhere)
            skips.append(h)
        h = block(h, "middle_0", self.attention != "none")
        h = block(h, "middle_1", False)
        for i in range(self.num_blocks + 1):
            h = block(jnp.concatenate([h, skips.pop()], axis=-1), f"up_{i}", everywhere)

        h = nn.swish(group_norm(h, "norm_out", groups))
        outputs = z.shape[-1] * self.outputs_per_dim
        zeros = nn.initializers.zeros
        h = nn.Conv(outputs, (3, 3), kernel_init=zeros, name="conv_out")(h)
        return z + h if self.outputs_per_dim == 1 else h.reshape(*z.shape, self.outputs_per_dim)
