"""Inception-v3 as FID uses it, up to its 2,048 pooled features, for inference only.

This is the network of Szegedy et al. 2016 (arXiv:1512.00567) in the variant of Heusel et al. 2017
(arXiv:1706.08500), whose weights of 2015 need two changes: average pools do not count their
padding, and the pool branch of the last block takes the maximum. Modules are named as in the
PyTorch port, so that a name there, "Mixed_5b.branch1x1.conv.weight", is a path here.
"""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm.typing import Params

LISTED = 4
"""Most arrays of each kind that an error message names; it counts the others."""

Size = tuple[int, int]


class Convolution(nn.Module):
    """A convolution without bias, batch norm with its running statistics, and ReLU."""

    features: int
    kernel: Size = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w features"]:
        # Highest precision, so that features do not depend on the device (TF32, bfloat16).
        x = nn.Conv(
            self.features,
            self.kernel,
            self.stride,
            self.padding,
            use_bias=False,
            kernel_init=nn.initializers.zeros,  # Weights are always loaded.
            precision=jax.lax.Precision.HIGHEST,
            name="conv",
        )(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


def chain(x: Array, name: str, *layers: tuple[int, Size]) -> Array:
    """Applies convolutions (features, kernel) in turn; they are named name_1, name_2 and so on."""
    for number, (features, kernel) in enumerate(layers, 1):
        x = Convolution(features, kernel, name=f"{name}_{number}")(x)
    return x


def halve(x: Array, features: int, name: str) -> Array:
    """Halves the image by a 3 x 3 convolution with stride 2 and no padding."""
    return Convolution(features, (3, 3), 2, "VALID", name=name)(x)


def average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The mean over 3 x 3 pixels, counting only those inside the image."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def max_pool(
    x: Float[Array, "b h w c"], stride: int = 2, padding: str = "VALID"
) -> Float[Array, "b i j c"]:
    """The maximum over 3 x 3 pixels."""
    return nn.max_pool(x, (3, 3), (stride, stride), padding)


class Mixed5(nn.Module):
    """The blocks Mixed_5b, 5c and 5d, with 224 + pool_features channels."""

    pool_features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        branches = [
            Convolution(64, name="branch1x1")(x),
            chain(x, "branch5x5", (48, (1, 1)), (64, (5, 5))),
            chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
            Convolution(self.pool_features, name="branch_pool")(average_pool(x)),
        ]
        return jnp.concatenate(branches, axis=-1)


class Mixed6a(nn.Module):
    """The block Mixed_6a, which halves height and width and adds 480 channels."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        double = chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)))
        branches = [halve(x, 384, "branch3x3"), halve(double, 96, "branch3x3dbl_3"), max_pool(x)]
        return jnp.concatenate(branches, axis=-1)


class Mixed6(nn.Module):
    """The blocks Mixed_6b ... 6e, with 768 channels, `width` inside the 7 x 7 branches."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w 768"]:
        point, across, down = (1, 1), (1, 7), (7, 1)
        w = self.width
        branches = [
            Convolution(192, name="branch1x1")(x),
            chain(x, "branch7x7", (w, point), (w, across), (192, down)),
            chain(x, "branch7x7dbl", (w, point), (w, down), (w, across), (w, down), (192, across)),
            Convolution(192, name="branch_pool")(average_pool(x)),
        ]
        return jnp.concatenate(branches, axis=-1)


class Mixed7a(nn.Module):
    """The block Mixed_7a, which halves height and width and adds 512 channels."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        seven = chain(x, "branch7x7x3", (192, (1, 1)), (192, (1, 7)), (192, (7, 1)))
        branches = [
            halve(chain(x, "branch3x3", (192, (1, 1))), 320, "branch3x3_2"),
            halve(seven, 192, "branch7x7x3_4"),
            max_pool(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class Mixed7(nn.Module):
    """The blocks Mixed_7b and 7c, with 2,048 channels; the pool takes the mean in 7b and the
    maximum in 7c."""

    pool_maximum: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w 2048"]:
        def fork(y: Array, name: str) -> list[Array]:
            return [
                Convolution(384, (1, 3), name=f"{name}a")(y),
                Convolution(384, (3, 1), name=f"{name}b")(y),
            ]

        single = chain(x, "branch3x3", (384, (1, 1)))
        double = chain(x, "branch3x3dbl", (448, (1, 1)), (384, (3, 3)))
        # In 7c the published graph takes a maximum where the paper has a mean.
        pooled = max_pool(x, 1, "SAME") if self.pool_maximum else average_pool(x)
        branches = [
            Convolution(320, name="branch1x1")(x),
            *fork(single, "branch3x3_2"),
            *fork(double, "branch3x3dbl_3"),
            Convolution(192, name="branch_pool")(pooled),
        ]
        return jnp.concatenate(branches, axis=-1)


class InceptionV3(nn.Module):
    """The network: images in [-1, 1], [batch, 299, 299, 3] (at least 75 pixels wide and high), ->
    features [batch, 2048].

    Its variables are {"params": ..., "batch_stats": ...}; `from_pytorch` makes them.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b 2048"]:
        x = halve(x, 32, "Conv2d_1a_3x3")
        x = Convolution(32, (3, 3), padding="VALID", name="Conv2d_2a_3x3")(x)
        x = max_pool(Convolution(64, (3, 3), name="Conv2d_2b_3x3")(x))
        x = Convolution(80, name="Conv2d_3b_1x1")(x)
        x = max_pool(Convolution(192, (3, 3), padding="VALID", name="Conv2d_4a_3x3")(x))
        for letter, pool_features in zip("bcd", (32, 64, 64), strict=True):
            x = Mixed5(pool_features, name=f"Mixed_5{letter}")(x)
        x = Mixed6a(name="Mixed_6a")(x)
        for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
            x = Mixed6(width, name=f"Mixed_6{letter}")(x)
        x = Mixed7a(name="Mixed_7a")(x)
        x = Mixed7(pool_maximum=False, name="Mixed_7b")(x)
        x = Mixed7(pool_maximum=True, name="Mixed_7c")(x)
        return x.mean(axis=(1, 2))


def pytorch_shapes() -> dict[str, tuple[int, ...]]:
    """The shapes of the 470 arrays (94 convolutions of five arrays each) by their names in the
    PyTorch port, where kernels are [out, in, height, width]."""
    return {name: shape for name, (_, shape) in _arrays_of_the_port().items()}


_LEAVES = {
    "conv/kernel": "conv.weight",
    "bn/scale": "bn.weight",
    "bn/bias": "bn.bias",
    "bn/mean": "bn.running_mean",
    "bn/var": "bn.running_var",
}
"""The name of an array inside a `Convolution`, here -> in the PyTorch port."""

_TO_OIHW, _TO_HWIO = (3, 2, 0, 1), (2, 3, 1, 0)


def from_pytorch(arrays: Mapping[str, np.ndarray]) -> Params:
    """Converts the arrays of a PyTorch state dict, by name, to the float32 variables of
    `InceptionV3`.

    The classifier (`fc.*`) and the counters `*.num_batches_tracked` are ignored. Raises ValueError
    for arrays that are missing, unexpected or of another shape: torchvision's own Inception-v3 has
    `AuxLogits.*`, and other weights than FID's.
    """
    check_pytorch({name: np.shape(array) for name, array in arrays.items()})
    variables: Params = {}
    for name, (path, _) in _arrays_of_the_port().items():
        array = np.asarray(arrays[name], np.float32)
        *parents, leaf = path
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array.transpose(_TO_HWIO) if array.ndim == 4 else array
    return variables


def check_pytorch(all_given: Mapping[str, tuple[int, ...]]) -> None:
    """Raises the ValueError of `from_pytorch` from the shapes of the arrays alone."""
    shapes = pytorch_shapes()
    given = {
        name: shape
        for name, shape in all_given.items()
        if not name.startswith("fc.") and not name.endswith(".num_batches_tracked")
    }
    lists = {
        "missing": [name for name in shapes if name not in given],
        "unexpected": [name for name in given if name not in shapes],
        "of other shape": [
            f"{name} {list(given[name])} for {list(shape)}"
            for name, shape in shapes.items()
            if name in given and given[name] != shape
        ],
    }
    wrong = [f"{len(names)} {kind}: {_listing(names)}" for kind, names in lists.items() if names]
    if wrong:
        raise ValueError(
            f"not the weights of FID's Inception-v3, {'; '.join(wrong)}: convert those of the "
            "PyTorch port, as `vdm.evaluation.features.read_inception_features` says"
        )


@functools.cache
def _arrays_of_the_port() -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """The name of an array in the PyTorch port -> its path in our variables, its shape there."""
    image = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    variables = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)
    arrays = {}
    for keys, leaf in jax.tree.leaves_with_path(variables):
        path = tuple(key.key for key in keys)
        name = ".".join((*path[1:-2], _LEAVES["/".join(path[-2:])]))
        is_kernel = len(leaf.shape) == 4
        arrays[name] = (path, tuple(leaf.shape[i] for i in _TO_OIHW) if is_kernel else leaf.shape)
    return arrays


def _listing(names: list[str]) -> str:
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
