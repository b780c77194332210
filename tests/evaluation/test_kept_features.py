"""Features of the data are computed once and kept in a file."""

import numpy as np
import pytest

from vdm.evaluation import kept_features
from vdm.evaluation.kept_features import data_features, features_in_batches


class Pixels:
    """Features that are the pixels; counts the images it is given."""

    def __init__(self, name="pixels", scale=1.0):
        self.name, self.scale, self.images = name, scale, 0

    def __call__(self, codes, num_codes):
        self.images += len(codes)
        return codes.reshape(len(codes), -1) * (self.scale / num_codes)


CODES = np.random.default_rng(0).integers(0, 17, (11, 2, 1, 1), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(kept_features, "BATCH", 4)


def test_batches_are_put_together_and_counted():
    places = []
    found = features_in_batches(Pixels(), CODES, 17, lambda *place: places.append(place))
    np.testing.assert_array_equal(found, CODES.reshape(11, 2) * (1 / 17))
    assert places == [(4, 11), (8, 11), (11, 11)]


@pytest.mark.parametrize("scale", [1.0, 17.0])  # 17: float32 holds them
def test_they_are_computed_once_for_each_data_and_function(tmp_path, scale):
    pixels = Pixels(scale=scale)
    found = data_features(tmp_path / "new", "sha256:a", pixels, CODES, 17)
    again = data_features(tmp_path / "new", "sha256:a", pixels, CODES, 17)
    np.testing.assert_array_equal(again, found)
    assert again.dtype == np.float64
    assert pixels.images == 11
    for fingerprint, function, codes, num_codes in (
        ("sha256:b", pixels, CODES, 17),
        ("sha256:a", Pixels("others", scale), CODES, 17),
        ("sha256:a", pixels, CODES[:9], 17),
        ("sha256:a", pixels, CODES, 18),
    ):
        function.images = 0
        other = data_features(tmp_path / "new", fingerprint, function, codes, num_codes)
        assert function.images == len(codes) == len(other)


HARMS = "cut", "changed", "compression", "empty", "another file", "other rows"


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_file_is_made_again(tmp_path, capsys, harm):
    pixels = Pixels()
    found = data_features(tmp_path, "sha256:a", pixels, CODES, 17)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    if harm == "cut":
        path.write_bytes(content[:-50])
    elif harm == "changed":
        middle = content.index(found.astype("<f8").tobytes()[:16])
        path.write_bytes(content[:middle] + b"\x01" + content[middle + 1 :])
    elif harm == "compression":  # an unknown method
        entry = content.index(b"PK\x01\x02")
        path.write_bytes(content[: entry + 10] + b"\x20" + content[entry + 11 :])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "another file":
        np.savez(path, other=1)
    else:
        with np.load(path) as file:
            key = file["key"]
        np.savez(path, key=key, features=found[:3])
    for _ in range(2):  # the second time from the new file
        again = data_features(tmp_path, "sha256:a", pixels, CODES, 17)
        np.testing.assert_array_equal(again, found)
    assert pixels.images == 22
    assert "is damaged: computing the features of the data again" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_costs_only_the_file(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    found = data_features(tmp_path / "file", "sha256:a", Pixels(), CODES, 17)
    np.testing.assert_array_equal(found, CODES.reshape(11, 2) * (1 / 17))
    assert "the features of the data are not kept" in capsys.readouterr().out
