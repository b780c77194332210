"""Classifiers of noisy examples, for classifier guidance."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm.arguments import check_share
from vdm.nn.blocks import Conditioning, ResidualBlock, check_image, group_norm
from vdm.nn.embeddings import read_omega


class ConvNet(nn.Module):
    """A convolutional classifier of images: `stages` residual blocks, with the image halved between
    them, and a mean over the remaining pixels.

    (z_t [batch, height, width, channels], omega [batch] or of z_t's shape) -> logits
    [batch, num_classes].
    """

    num_classes: int
    width: int = 32
    stages: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_share("classifier.kwargs.dropout", self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b h w c"],
        omega: Float[Array, " b"] | Float[Array, "b h w c"],
        train: bool = False,
    ) -> Float[Array, "b classes"]:
        check_image(z, "classifier 'convnet'", "classifier.name = 'perceptron'")
        omega, inputs = read_omega(omega)
        cond = Conditioning(self.width, omega_scale=100.0, name="conditioning")(omega, None)
        h = jnp.concatenate([z, *inputs], axis=-1)
        h = nn.Conv(self.width, (3, 3), name="conv_in")(h)
        for i in range(self.stages):
            features = self.width * 2**i
            if i:
                h = nn.avg_pool(h, (2, 2), strides=(2, 2), padding="SAME")
            h = ResidualBlock(features, self.dropout, film=True, name=f"stage_{i}")(h, cond, train)
        h = nn.swish(group_norm(h, "norm_out"))
        return nn.Dense(self.num_classes, name="dense_out")(jnp.mean(h, axis=(1, 2)))


class Perceptron(nn.Module):
    """A classifier of vectors with `stages` hidden layers, each scaled and shifted by features of
    omega.

    (z_t [batch, dim], omega [batch] or [batch, dim]) -> logits [batch, num_classes].
    """

    num_classes: int
    width: int = 64
    stages: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_share("classifier.kwargs.dropout", self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b d"],
        omega: Float[Array, " b"] | Float[Array, "b d"],
        train: bool = False,
    ) -> Float[Array, "b classes"]:
        if z.ndim != 2:
            raise ValueError(
                f"classifier 'perceptron' takes vectors [batch, dim], not shape {z.shape}; for "
                "images choose classifier.name = 'convnet'"
            )
        omega, inputs = read_omega(omega)
        cond = Conditioning(self.width, omega_scale=100.0, name="conditioning")(omega, None)
        h = jnp.concatenate([z, *inputs], axis=-1)
        for i in range(self.stages):
            scale, shift = jnp.split(nn.Dense(2 * self.width, name=f"cond_{i}")(cond), 2, axis=-1)
            h = nn.LayerNorm(name=f"norm_{i}")(nn.Dense(self.width, name=f"dense_{i}")(h))
            h = nn.Dropout(self.dropout, deterministic=not train)(nn.swish(h * (1 + scale) + shift))
        return nn.Dense(self.num_classes, name="dense_out")(h)
