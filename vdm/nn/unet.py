"""The score network of VDM: a U-Net that never down-samples (VDM appendix B).

conv_in, `num_blocks` blocks down, block-attention-block in the middle, `num_blocks` + 1
blocks up, each fed the concatenated skip of its level, and a last convolution, zero at first,
to which z is added.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vdm.nn.blocks import Attention, Conditioning, ResidualBlock, check_image, group_norm
from vdm.nn.embeddings import fourier_features, fourier_frequencies


class UNet(nn.Module):
    """(z_t, omega, labels) -> the prediction, same shape as z_t [batch, height, width, channels].

    `num_codes` and `num_classes` are facts of the data, filled in by the config; num_classes
    is 0 for an unconditional model.
    """

    num_codes: int
    num_classes: int = 0
    width: int = 128
    num_blocks: int = 32
    dropout: float = 0.1
    fourier: bool = True
    attention: Literal["middle", "all", "none"] = "middle"

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b h w c"],
        omega: Float[Array, " b"],
        labels: Int[Array, " b"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w c"]:
        check_image(z, "unet")
        if self.attention not in ("middle", "all", "none"):
            raise ValueError(f"attention is 'middle', 'all' or 'none', not {self.attention!r}")
        cond = Conditioning(self.width, self.num_classes, name="conditioning")(omega, labels)

        def block(h: Array, name: str, attend: bool) -> Array:
            h = ResidualBlock(self.width, self.dropout, name=name)(h, cond, train)
            return Attention(name=f"{name}_attention")(h) if attend else h

        h = z
        frequencies = fourier_frequencies(self.num_codes) if self.fourier else ()
        if frequencies:
            h = jnp.concatenate([z, fourier_features(z, frequencies)], axis=-1)
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

        h = nn.swish(group_norm(h, "norm_out"))
        zeros = nn.initializers.zeros
        return z + nn.Conv(z.shape[-1], (3, 3), kernel_init=zeros, name="conv_out")(h)
