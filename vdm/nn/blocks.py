"""The parts of the U-Net: conditioning and residual block (VDM appendix B)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Num

from vdm.arguments import check_share
from vdm.nn.embeddings import OMEGA_LOW, OMEGA_RANGE, omega_embedding
from vdm.nn.norm_swish import EPSILON, NormSwish
from vdm.typing import NO_LABEL, PRNGKey

MAX_GROUPS = 32
MIN_GROUP_SIZE = 4


def num_groups(channels: int) -> int:
    """The number of groups for GroupNorm: as many as possible, up to 32, with at least 4 channels
    in each.

    With one channel per group (32 groups on 32 channels, as published) the normalisation
    subtracts exactly what the conditioning added, and the network is blind to omega.
    """
    candidates = range(min(MAX_GROUPS, max(1, channels // MIN_GROUP_SIZE)), 0, -1)
    return next(g for g in candidates if channels % g == 0)


def group_norm(
    x: Float[Array, "..."], name: str, groups: int = 0, dtype: DTypeLike | None = None
) -> Float[Array, "..."]:
    """Applies GroupNorm over the last axis of x; call it inside a compact module. Its statistics
    are at least float32.

    groups: the number of groups; 0 takes that of `num_groups`. The published networks have 32 for
        every width.
    dtype: of the result; None means that of x and the parameters.
    """
    groups = check_groups(groups, x.shape[-1])
    return nn.GroupNorm(groups, epsilon=EPSILON, dtype=dtype, name=name)(x)


def check_groups(groups: int, channels: int) -> int:
    """Returns `groups`, or the choice of `num_groups` if it is 0. Raises ValueError if the number
    does not divide the channels."""
    if groups and channels % groups:
        raise ValueError(
            f"network.kwargs.num_groups = {groups} does not divide {channels} channels: choose "
            "another width, or 0"
        )
    return groups or num_groups(channels)


def dropout(
    x: Float[Array, "*shape channels"], rate: float, key: PRNGKey
) -> Float[Array, "*shape channels"]:
    """Dropout: each entry becomes x / q with probability q and 0 otherwise, where q is 1 - rate,
    rounded to a multiple of 1/65,536 and never 0. Raises ValueError for a rate outside [0, 1).

    One random word serves two entries, whereas flax's Dropout draws one word for each. The backward
    pass draws the mask again: a loop over blocks would store the masks of all blocks, which at 32
    images of 32 x 32 x 128 per chip do not fit into the scoped memory of TPU v4 and v5.
    """
    return _redrawn_dropout(x, check_share("dropout", rate), key)


def _where_kept(x: Array, rate: float, key: PRNGKey) -> Array:
    kept = max(1, round((1 - rate) * 65536))
    if kept == 65536:  # In 16 bits this would be 0.
        return x
    words = jax.random.bits(key, (*x.shape[:-1], (x.shape[-1] + 1) // 2), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16)
    bits = halves.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
    return jnp.where(bits < kept, x * (65536 / kept), 0)


_redrawn_dropout = jax.custom_vjp(_where_kept, nondiff_argnums=(1,))


def _dropout_forward(x: Array, rate: float, key: PRNGKey) -> tuple[Array, PRNGKey]:
    return _where_kept(x, rate, key), key


def _dropout_backward(rate: float, key: PRNGKey, grad: Array) -> tuple[Array, None]:
    return _where_kept(grad, rate, key), None  # Dropout is linear in x and its own transpose.


_redrawn_dropout.defvjp(_dropout_forward, _dropout_backward)


class Conditioning(nn.Module):
    """Maps omega, and optionally a class label, to features that every block reads.

    A label is passed as a learned embedding (NO_LABEL adds nothing), or, with label_as_scalar, as
    one number beside the features of omega, as in the published code: any real number, 0 if no
    labels are given. With `augmented` the network is also told which images are augmented, by one
    more embedding, or with label_as_scalar by setting that number to 1 for them; without that
    information it treats every image as not augmented.
    """

    features: int
    num_classes: int = 0
    omega_scale: float = 1000.0
    omega_low: float = OMEGA_LOW
    omega_range: float = OMEGA_RANGE
    label_as_scalar: bool = False
    augmented: bool = False

    @nn.compact
    def __call__(
        self,
        omega: Float[Array, " batch"],
        labels: Num[Array, " batch"] | None,
        augmented: Bool[Array, " batch"] | None = None,
    ) -> Float[Array, "batch cond"]:
        cond = omega_embedding(
            omega, self.features, self.omega_scale, self.omega_low, self.omega_range
        )
        if self.num_classes and labels is None:
            raise ValueError(
                f"this network is conditional on {self.num_classes} classes: it needs labels"
            )
        # NO_LABEL would be the number -1 here: dropped labels need an embedding.
        if self.label_as_scalar:
            number = augmented if self.augmented else labels
            scalar = jnp.zeros_like(omega) if number is None else number.astype(omega.dtype)
            cond = jnp.concatenate([cond, scalar[:, None]], axis=-1)
        cond = nn.swish(nn.Dense(4 * self.features, name="dense_0")(cond))
        cond = nn.Dense(4 * self.features, name="dense_1")(cond)
        if self.num_classes and labels is not None and not self.label_as_scalar:
            embed = nn.Embed(self.num_classes, 4 * self.features, name="label")
            given = jnp.not_equal(labels, NO_LABEL)
            cond += jnp.where(given[:, None], embed(jnp.where(given, labels, 0)), 0.0)
        if self.augmented and not self.label_as_scalar:
            shift = self.param("augmented", nn.initializers.normal(1.0), cond.shape[1:])
            if augmented is not None:
                cond += jnp.where(augmented[:, None], shift[None], 0.0)
        return nn.swish(cond)


class ResidualBlock(nn.Module):
    """A residual block: norm, swish, convolution, conditioning, norm, swish, dropout and a
    convolution that starts at zero, added to the input (through a dense layer if widths differ).

    The conditioning shifts each channel before the second norm (VDM). With `film` it scales and
    shifts each channel after that norm (Perez et al. 2018, arXiv:1709.07871), so that the norm
    cannot undo it.

    dtype: of all computations but the statistics of the norms; None means that of the inputs and
        the parameters.
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
        h = self._norm_swish(x, "norm_0", train)
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
            h = self._norm_swish(h, "norm_1", train, (scale, shift))
        else:
            h = self._norm_swish(h + modulation, "norm_1", train)
        if train and self.dropout:
            h = dropout(h, self.dropout, self.make_rng("dropout"))
        zeros = nn.initializers.zeros
        h = nn.Conv(self.features, (3, 3), kernel_init=zeros, dtype=self.dtype, name="conv_1")(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h

    def _norm_swish(
        self, x: Array, name: str, train: bool, film: tuple[Array, Array] | None = None
    ) -> Array:
        groups = check_groups(self.num_groups, x.shape[-1])
        return NormSwish(groups, self.dtype, name=name)(x, train, film)


def check_image(z: jax.Array, what: str, for_vectors: str) -> None:
    """Raises ValueError unless z has the shape of images, [batch, height, width, channels].

    what: the component that needs images, for the message.
    for_vectors: the setting that the message recommends for vectors.
    """
    if z.ndim != 4:
        raise ValueError(
            f"{what} takes images [batch, height, width, channels], not shape {z.shape}; "
            + (
                "grey images x need an axis for their one channel, x[..., None]"
                if z.ndim == 3
                else f"for vectors choose {for_vectors}"
            )
        )
