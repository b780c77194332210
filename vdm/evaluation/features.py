"""Feature functions, by which sets of images are compared (`vdm.evaluation.quality`).

A feature function maps codes [N, H, W, C] in 0 ... num_codes - 1 to features [N, d], float64. Its
name identifies its weights: results under different names are not comparable. The user supplies the
files with the weights; nothing is downloaded.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from vdm.evaluation.feature_files import read_arrays, read_num_codes, read_shapes
from vdm.io.atomic import save_npz
from vdm.nn.inception import InceptionV3, check_pytorch, from_pytorch
from vdm.typing import Params


class FeatureFunction(Protocol):
    """A function that maps images to feature vectors."""

    @property
    def name(self) -> str:
        """The kind and the weights; it is recorded with results."""
        ...

    def __call__(self, codes: ArrayLike, num_codes: int) -> np.ndarray:
        """Maps integer codes [N, H, W, C] to features [N, d], float64; row i depends on image i
        only."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class MLPFeatures:
    """Features from the last hidden layer of a classifier of pixels, after its ReLU.

    Inputs are x = 2 (code + 1/2) / V - 1, flattened in the order of the array. Distances between
    these features are specific to the classifier; they are not FID.

    Attributes:
        layers: (weight [inputs, outputs], bias [outputs]) of each layer; the last gives the logits.
        name: "mlp-D@sha256:...", from the file; D is the number of features.
        num_codes: V of the images that it was trained on; 0 if the file does not state it.
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    name: str
    num_codes: int = 0

    def __call__(self, codes: ArrayLike, num_codes: int) -> np.ndarray:
        codes = _check_codes(codes, num_codes)
        inputs = len(self.layers[0][0])
        _check_inputs(self.name, inputs, self.num_codes, codes.shape[1:], num_codes)
        x = _to_x(codes, num_codes)
        for weight, bias in self.layers[:-1]:
            x = np.maximum(x @ weight + bias, 0.0)
        return x

    def accuracy(self, codes: ArrayLike, labels: ArrayLike, num_codes: int) -> float:
        """Returns the share of images whose largest logit is that of their label."""
        weight, bias = self.layers[-1]
        logits = self(codes, num_codes) @ weight + bias
        return float(np.mean(logits.argmax(axis=1) == np.asarray(labels)))


def read_mlp_features(path: str | Path) -> MLPFeatures:
    """Reads features from an .npz of `weight_0, bias_0, weight_1, ...` (`train_mlp_features`).

    Raises:
        ValueError: the file is missing, is not an .npz, or does not hold a network with a hidden
            layer.
    """
    arrays, digest = read_arrays(path)
    num_codes = read_num_codes(path, arrays.pop("num_codes", np.int64(0)))
    depth = _check_layers(path, {name: array.shape for name, array in arrays.items()})
    layers = tuple(
        (arrays[f"weight_{i}"].astype(np.float64), arrays[f"bias_{i}"].astype(np.float64))
        for i in range(depth)
    )
    return MLPFeatures(layers, f"mlp-{len(layers[-1][0])}@sha256:{digest}", num_codes)


def _check_layers(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Returns the number of layers; ValueError if the arrays do not form consecutive layers."""
    depth = len(shapes) // 2
    names = [(f"weight_{i}", f"bias_{i}") for i in range(depth)]
    if depth < 2 or {name for pair in names for name in pair} != set(shapes):
        raise ValueError(
            f"{path} holds {', '.join(shapes) or 'nothing'}; features need weight_0, bias_0, "
            "weight_1, bias_1 and so on, two layers or more"
        )
    size = (*shapes["weight_0"], 0)[0]
    for weight, bias in names:
        kernel, offset = shapes[weight], shapes[bias]
        if len(kernel) != 2 or kernel[0] != size or offset != kernel[1:]:
            raise ValueError(
                f"{path}: {weight} {list(kernel)} and {bias} {list(offset)}; must be "
                f"[{size}, outputs] and [outputs]"
            )
        size = offset[0]
    return depth


def _check_inputs(
    name: str, inputs: int, trained_codes: int, shape: Sequence[int], num_codes: int
) -> None:
    """Raises ValueError if a classifier of other inputs or codes is applied to these images."""
    if math.prod(shape) != inputs:
        raise ValueError(
            f"images of shape {tuple(shape)}, {name} takes {inputs} numbers each: "
            "train features on images of this shape"
        )
    if trained_codes not in (0, num_codes):
        raise ValueError(
            f"images of {num_codes} codes, {name} was trained on {trained_codes}: train features "
            "on images of these codes"
        )


def train_mlp_features(
    path: str | Path,
    codes: ArrayLike,
    labels: ArrayLike,
    num_codes: int,
    *,
    hidden: Sequence[int] = (128, 64),
    seed: int = 0,
    max_epochs: int = 200,
) -> MLPFeatures:
    """Fits a classifier, writes it to `path` (.npz, atomically) and returns its features.

    It is scikit-learn's MLPClassifier, trained by Adam until the loss stops falling or `max_epochs`
    is reached: some ten seconds for the digits on two cores. On one machine the same arguments give
    the same file.

    Args:
        codes: [N, H, W, C] of the training split. Judge `accuracy` on another split.
        labels: [N], 0 ... K - 1, each of the K >= 2 classes at least once.
        hidden: sizes of the hidden layers; the last is the dimension of the features.
    """
    from sklearn.neural_network import MLPClassifier  # this import takes half a second

    codes, labels = _check_codes(codes, num_codes), np.asarray(labels)
    classes = np.unique(labels)
    if labels.shape != codes.shape[:1] or not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError(
            f"labels of shape {labels.shape} for {len(codes)} images, classes "
            f"{classes[:20].tolist()}; give one for each image, 0 ... K - 1"
        )
    if len(classes) < 2 or not hidden or min(hidden) < 1:
        raise ValueError(
            f"{len(classes)} classes and hidden layers {list(hidden)}: a classifier needs two "
            "classes and one hidden layer or more"
        )
    model = MLPClassifier(tuple(hidden), random_state=seed, max_iter=max_epochs)
    model.fit(_to_x(codes, num_codes), labels)
    weights, biases = list(model.coefs_), list(model.intercepts_)
    if len(classes) == 2:  # scikit-learn keeps the difference of the two logits
        weights[-1] = np.pad(weights[-1], ((0, 0), (1, 0)))
        biases[-1] = np.pad(biases[-1], (1, 0))
    arrays = {f"weight_{i}": weight for i, weight in enumerate(weights)}
    arrays |= {f"bias_{i}": bias for i, bias in enumerate(biases)}
    save_npz(path, **arrays, num_codes=num_codes)
    return read_mlp_features(path)


@dataclasses.dataclass(frozen=True, eq=False)
class InceptionFeatures:
    """The 2,048 pooled features of FID's Inception-v3, from a file of the user's own.

    Codes are scaled to 0 ... 255 and then, in float32, to -1 ... 1; grey images are repeated to
    three channels. Images are resized to 299 x 299 by bilinear interpolation without antialiasing,
    with pixel centres at halves, as the PyTorch port does. Distances depend on this: the original
    TensorFlow graph places pixels differently, and "clean" variants smooth first.

    Attributes:
        variables: of `vdm.nn.inception.InceptionV3`.
        name: "inception-v3-pool3@sha256:...", from the file.
        batch_size: images processed at a time; it changes the features only by rounding.
    """

    variables: Params
    name: str
    batch_size: int = 32

    def __call__(self, codes: ArrayLike, num_codes: int) -> np.ndarray:
        codes = _check_codes(codes, num_codes)
        _check_channels(codes.shape)
        if self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size}: choose 1 or more")
        variables = jax.tree.map(jnp.asarray, self.variables)
        size = min(self.batch_size, len(codes))
        features = []
        for start in range(0, len(codes), size):
            # The last batch repeats its last image, so that one shape is compiled.
            index = np.minimum(np.arange(start, start + size), len(codes) - 1)
            images = codes[index].astype(np.int32)
            features.append(np.asarray(_pool3(variables, images, num_codes), np.float64))
        return np.concatenate(features)[: len(codes)]


def read_inception_features(path: str | Path, batch_size: int = 32) -> InceptionFeatures:
    """Reads features from an .npz of the PyTorch port's weights (`pt_inception-2015-12-05-*.pth`).

    Two lines make this file, wherever torch is installed:

        state = torch.load("pt_inception-2015-12-05-6726825d.pth", map_location="cpu")
        numpy.savez("inception.npz", **{name: array.numpy() for name, array in state.items()})

    Raises:
        ValueError: the file is missing or is not an .npz, or arrays are missing, unexpected or of
            the wrong shape.
    """
    arrays, digest = read_arrays(path)
    try:
        variables = from_pytorch(arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return InceptionFeatures(variables, f"inception-v3-pool3@sha256:{digest}", batch_size)


def read_features(path: str | Path) -> FeatureFunction:
    """Reads the features of either kind of file, which its arrays reveal."""
    arrays, _ = read_arrays(path)
    return read_mlp_features(path) if "weight_0" in arrays else read_inception_features(path)


def check_features(path: str | Path, shape: Sequence[int], num_codes: int) -> None:
    """Raises ValueError if the features in a file do not apply to images of this shape and number
    of codes. Of the file's arrays, it reads only the shapes."""
    if len(shape) != 3 or num_codes < 2:
        kind = f"{num_codes} codes" if num_codes else "real numbers"
        raise ValueError(
            f"sample.features = {str(path)!r} compares images of codes, and the data are "
            f"{kind} of shape {tuple(shape)}: set it to ''"
        )
    shapes, trained_codes = read_shapes(path)
    try:
        if "weight_0" in shapes:
            _check_layers(path, shapes)
            _check_inputs(str(path), shapes["weight_0"][0], trained_codes, shape, num_codes)
        else:
            try:
                check_pytorch(shapes)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            _check_channels(shape)
    except ValueError as error:
        raise ValueError(f"sample.features: {error}") from error


def _check_channels(shape: Sequence[int]) -> None:
    if shape[-1] not in (1, 3):
        raise ValueError(f"images of {shape[-1]} channels; Inception takes 1 or 3")


def inception_images(codes: Int[Array, "n h w c"], num_codes: int) -> Float[Array, "n 299 299 3"]:
    """Returns the images as the network reads them."""
    x = codes.astype(jnp.float32) * (255 / (num_codes - 1))
    shape = (len(codes), 299, 299, codes.shape[-1])
    x = jax.image.resize(x, shape, "bilinear", antialias=False) / 127.5 - 1
    return jnp.broadcast_to(x, (*shape[:3], 3))


@functools.partial(jax.jit, static_argnames="num_codes")
def _pool3(variables: Params, codes: Array, num_codes: int) -> Array:
    return jnp.asarray(InceptionV3().apply(variables, inception_images(codes, num_codes)))


def _to_x(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """Returns the images as [N, inputs] in (-1, 1), the scale of the model."""
    return (2 * codes.reshape(len(codes), -1).astype(np.float64) + 1) / num_codes - 1


def _check_codes(codes: ArrayLike, num_codes: int) -> np.ndarray:
    codes = np.asarray(codes)
    if codes.ndim != 4 or codes.size == 0:
        raise ValueError(f"images of shape {codes.shape}; must be [N > 0, H, W, C]")
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"images of {codes.dtype}; features take integers, 0 ... {num_codes - 1}")
    if num_codes < 2 or codes.min() < 0 or codes.max() >= num_codes:
        raise ValueError(
            f"codes from {codes.min()} to {codes.max()}; {num_codes} codes go from 0 to "
            f"{num_codes - 1}"
        )
    return codes.astype(codes.dtype.newbyteorder("="), copy=False)  # all that JAX accepts
