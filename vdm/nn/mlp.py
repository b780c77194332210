"""A residual MLP that denoises vectors, such as 2-D toy data and the latents of an encoder."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vdm.arguments import check_share
from vdm.nn.blocks import Conditioning
from vdm.nn.embeddings import fourier_features, fourier_frequencies, read_omega


class MLP(nn.Module):
    """The network for vectors: (z_t [batch, dim], omega [batch] or [batch, dim], labels, which
    examples are augmented) -> the prediction, in z_t's shape, with one more axis if
    `outputs_per_dim` > 1.

    `num_codes`, `num_classes` (0: unconditional), `augmented` (whether the network is told which
    examples are augmented) and `outputs_per_dim` follow from the data and the rest of the config.
    """

    num_codes: int = 0
    num_classes: int = 0
    outputs_per_dim: int = 1
    augmented: bool = False
    width: int = 128
    num_blocks: int = 3
    dropout: float = 0.0
    fourier: bool = True
    omega_scale: float = 1000.0

    def __post_init__(self) -> None:
        check_share("network.kwargs.dropout", self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b d"],
        omega: Float[Array, " b"] | Float[Array, "b d"],
        labels: Int[Array, " b"] | None = None,
        train: bool = False,
        augmented: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b *d"]:
        if z.ndim != 2:
            grey = ", and give grey images x a channel axis, x[..., None]" if z.ndim == 3 else ""
            raise ValueError(
                f"network 'mlp' takes vectors [batch, dim], not shape {z.shape}; for images "
                f"choose network.name = 'unet'{grey}"
            )
        omega, inputs = read_omega(omega)
        cond = Conditioning(
            self.width,
            self.num_classes,
            self.omega_scale,
            augmented=self.augmented,
            name="conditioning",
        )(omega, labels, augmented)
        frequencies = fourier_frequencies(self.num_codes) if self.fourier else ()
        if frequencies:
            inputs.append(fourier_features(z, frequencies))
        h = jnp.concatenate([z, *inputs], axis=-1)
        h = nn.Dense(self.width, name="dense_in")(h)
        for i in range(self.num_blocks):
            r = nn.LayerNorm(name=f"block_{i}_norm")(h)
            r = nn.Dense(self.width, name=f"block_{i}_dense_0")(r)
            r = nn.swish(r + nn.Dense(self.width, name=f"block_{i}_cond")(cond))
            r = nn.Dropout(self.dropout, deterministic=not train)(r)
            h += nn.Dense(self.width, name=f"block_{i}_dense_1")(r)
        h = nn.swish(nn.LayerNorm(name="norm_out")(h))
        outputs = z.shape[-1] * self.outputs_per_dim
        h = nn.Dense(outputs, kernel_init=nn.initializers.zeros, name="dense_out")(h)
        return z + h if self.outputs_per_dim == 1 else h.reshape(*z.shape, self.outputs_per_dim)
