"""scikit-learn's handwritten digits as a TFDS set in array_record, written without TensorFlow.

The set has 1,797 real 8 x 8 images of 17 grey levels. In scikit-learn's order the first 1,500 are
"train" and the other 297 "test". TFDS shuffles on writing, so each record stores its index.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vdm.data.tfds_writer import write

DIGITS_VERSION = "1.0.0"
NUM_TRAIN = 1500
NUM_EXAMPLES = 1797


class Digits(tfds.core.GeneratorBasedBuilder):
    """Builds the TFDS set "digits": image uint8 [8, 8, 1] in 0 ... 16, label, original index."""

    VERSION = tfds.core.Version(DIGITS_VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
        # Tensor, not Image: PNG gains nothing at 64 pixels, and TFDS needs TensorFlow to encode
        # NumPy arrays as PNG.
        features = {
            "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=10),
            "index": tfds.features.Scalar(dtype=np.int32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager  # the images come with scikit-learn
        return {
            "train": self._generate_examples(0, NUM_TRAIN),
            "test": self._generate_examples(NUM_TRAIN, NUM_EXAMPLES),
        }

    def _generate_examples(self, start: int, stop: int) -> Iterator[tuple[int, dict]]:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        images = np.asarray(pixels, np.uint8).reshape(NUM_EXAMPLES, 8, 8, 1)
        for index in range(start, stop):
            yield index, {"image": images[index], "label": int(labels[index]), "index": index}


def prepare(data_dir: pathlib.Path) -> None:
    """Writes the set to `<data_dir>/digits/1.0.0` unless it exists.

    Raises:
        ValueError: the folder cannot be written.
    """
    write(
        lambda: Digits(data_dir=str(data_dir), file_format="array_record"),
        data_dir / "digits" / DIGITS_VERSION,
        replace=True,  # nothing is lost: the images come with scikit-learn
    )
