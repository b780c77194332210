"""Features of a classifier of pixels: by hand, against scikit-learn, and what is refused."""

import itertools
import zipfile

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from vdm.evaluation import features
from vdm.evaluation.features import (
    InceptionFeatures,
    read_inception_features,
    read_mlp_features,
    train_mlp_features,
)
from vdm.io.atomic import save_npz

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")  # short trainings


@pytest.fixture(scope="module")
def digits():
    pixels, labels = load_digits(return_X_y=True)
    return pixels.astype(np.uint8).reshape(-1, 8, 8, 1), labels


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "mlp.npz"
    codes, labels = digits
    return path, train_mlp_features(
        path, codes[:300], labels[:300], 17, hidden=(32, 16), seed=3, max_epochs=200
    )


def write_mlp(path, *sizes):
    arrays = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        arrays[f"weight_{i}"] = np.random.default_rng(i).standard_normal((inputs, outputs))
        arrays[f"bias_{i}"] = np.random.default_rng(9 + i).standard_normal(outputs)
    save_npz(path, **arrays)
    return arrays


def test_mlp_features_by_hand(tmp_path):
    arrays = write_mlp(tmp_path / "a.npz", 3, 6, 6, 5)
    codes = np.array([0, 8, 16, 3, 4, 5], np.uint8).reshape(2, 1, 1, 3)
    x = np.array([[1 / 17 - 1, 0.0, 33 / 17 - 1], [7 / 17 - 1, 9 / 17 - 1, 11 / 17 - 1]])
    h = np.maximum(0, x @ arrays["weight_0"] + arrays["bias_0"])
    h = np.maximum(0, h @ arrays["weight_1"] + arrays["bias_1"])
    found = read_mlp_features(tmp_path / "a.npz")
    got = found(codes, 17)
    np.testing.assert_allclose(got, h, rtol=1e-13)
    assert got.dtype == np.float64
    assert 0 < np.count_nonzero(h) < h.size
    labels = (h @ arrays["weight_2"] + arrays["bias_2"]).argmax(axis=1)
    assert found.accuracy(codes, labels, 17) == 1.0
    assert found.accuracy(codes, [labels[0], labels[1] + 1], 17) == 0.5


def test_trained_features_are_scikit_learns_classifier(digits, trained):
    codes, labels = digits
    inputs = (2 * codes.reshape(-1, 64) + 1.0) / 17 - 1
    theirs = MLPClassifier((32, 16), random_state=3, max_iter=200).fit(inputs[:300], labels[:300])
    path, ours = trained
    share = np.mean(theirs.predict(inputs[300:]) == labels[300:])
    assert ours.accuracy(codes[300:], labels[300:], 17) == share
    assert share > 0.7
    got = ours(codes, 17)
    assert got.shape == (1797, 16)
    np.testing.assert_allclose(
        theirs.predict_log_proba(inputs[:5]),
        log_softmax(got[:5] @ theirs.coefs_[-1] + theirs.intercepts_[-1]),
        rtol=1e-10,
    )
    again = read_mlp_features(path)
    assert again.name == ours.name
    np.testing.assert_array_equal(again(codes, 17), got)


def log_softmax(x):
    return x - np.logaddexp.reduce(x, axis=1, keepdims=True)


def test_name_is_the_files_and_follows_from_the_seed(digits, tmp_path):
    codes, labels = digits[0][:60], digits[1][:60]
    names = [
        train_mlp_features(
            tmp_path / f"{i}.npz", codes, labels, 17, hidden=(8,), seed=seed, max_epochs=200
        ).name
        for i, seed in enumerate((0, 0, 1))
    ]
    assert names[0] == names[1] != names[2]
    kind, digest = names[0].split("@sha256:")
    assert (kind, len(digest)) == ("mlp-8", 16)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.npz", "1.npz", "2.npz"]


def test_two_classes_have_two_logits(digits, tmp_path):
    codes, labels = digits
    two = labels < 2
    found = train_mlp_features(
        tmp_path / "a.npz", codes[two][:200], labels[two][:200], 17, hidden=(8,), max_epochs=500
    )
    assert found.layers[-1][0].shape == (8, 2)
    assert found.accuracy(codes[two][200:], labels[two][200:], 17) > 0.95


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({}, "holds nothing; features need weight_0"),
        ({"weight_0": np.ones((2, 2)), "bias_0": np.ones(2)}, "two layers or more"),
        ({"weight_0": 1, "bias_0": 1, "weight_2": 1, "bias_2": 1}, "holds weight_0, bias_0, w"),
        (
            {"weight_0": np.ones((2, 3)), "bias_0": np.ones(3),
             "weight_1": np.ones((4, 2)), "bias_1": np.ones(2)},
            r"weight_1 \[4, 2\] and bias_1 \[2\]; must be \[3, outputs\]",
        ),
        (
            {"weight_0": np.ones((2, 3)), "bias_0": np.ones(2),
             "weight_1": np.ones((3, 2)), "bias_1": np.ones(2)},
            r"bias_0 \[2\]; must be \[2, outputs\]",
        ),
    ],
)  # fmt: skip
def test_arrays_that_are_not_layers_are_refused(tmp_path, arrays, expected):
    save_npz(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=expected):
        read_mlp_features(tmp_path / "a.npz")


@pytest.mark.parametrize("read", [read_mlp_features, read_inception_features])
def test_files_that_are_not_npz_are_refused(tmp_path, read):
    with pytest.raises(ValueError, match=r"none\.npz cannot be read: No such file"):
        read(tmp_path / "none.npz")
    write_mlp(tmp_path / "whole.npz", 3, 2, 2)
    content = (tmp_path / "whole.npz").read_bytes()
    array = tmp_path / "array.npy"
    np.save(array, np.ones(3))
    for damaged in (b"", b"torch", content[:-30], array.read_bytes()):
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged\.npz is not an \.npz of numbers"):
            read(tmp_path / "damaged.npz")


@pytest.mark.parametrize("damage", ["deflate", "method", "encrypted", "header", "member"])
def test_every_kind_of_damage_is_one_line(tmp_path, damage):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, weight_0=np.ones((64, 3)), bias_0=np.ones(3))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    if damage == "deflate":  # zlib.error
        start = 30 + content[26] + content[28]  # behind the name and the extra field
        content[start : start + 12] = b"\xff" * 12
    elif damage == "method":  # NotImplementedError
        content[entry + 10] = 99
    elif damage == "encrypted":  # RuntimeError
        content[entry + 8] |= 1
    path.write_bytes(content)
    if damage in ("header", "member"):  # tokenize.TokenError; no .npy at all
        text = b"\x93NUMPY\x01\x00\x1d\x00{'descr': '|u1', 'shape': (6\n"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("weight_0.npy", text if damage == "header" else b"text")
    message = r"a\.npz is not an \.npz of numbers, or is damaged [^\n]*$"
    for read in (
        read_mlp_features,
        read_inception_features,
        features.read_features,
        lambda path: features.check_features(path, (8, 8, 1), 17),
    ):
        with pytest.raises(ValueError, match=message):
            read(path)


@pytest.mark.parametrize("num_codes", [np.array([17, 18]), np.array(16.5), np.array("many")])
def test_an_invalid_number_of_codes_is_named(tmp_path, num_codes):
    layers = write_mlp(tmp_path / "a.npz", 64, 3, 2)
    save_npz(tmp_path / "a.npz", **layers, num_codes=num_codes)
    with pytest.raises(ValueError, match=r"a\.npz: num_codes is .*; must be one integer"):
        read_mlp_features(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a\.npz: num_codes is .*; must be one integer"):
        features.check_features(tmp_path / "a.npz", (8, 8, 1), 17)


@pytest.mark.parametrize(
    ("codes", "num_codes", "expected"),
    [
        (np.zeros((2, 8, 8), np.uint8), 17, r"shape \(2, 8, 8\); must be \[N > 0, H, W, C\]"),
        (np.zeros((0, 8, 8, 1), np.uint8), 17, r"shape \(0, 8, 8, 1\)"),
        (np.zeros((2, 8, 8, 1)), 17, "images of float64; features take integers"),
        (np.full((2, 8, 8, 1), 17), 17, "codes from 17 to 17; 17 codes go from 0 to 16"),
        (np.full((2, 8, 8, 1), -1), 17, "codes from -1 to -1"),
        (np.zeros((2, 8, 8, 1), np.uint8), 1, "1 codes"),
    ],
)
def test_arrays_that_are_not_codes_are_refused(trained, tmp_path, codes, num_codes, expected):
    for take in (
        trained[1],
        InceptionFeatures({}, "none"),
        lambda codes, num_codes: train_mlp_features(tmp_path / "a.npz", codes, [0, 1], num_codes),
    ):
        with pytest.raises(ValueError, match=expected):
            take(codes, num_codes)
    assert not list(tmp_path.iterdir())


def test_other_images_than_the_weights_are_for_are_refused(trained):
    with pytest.raises(ValueError, match=r"\(8, 8, 3\), mlp-16@sha256:.* takes 64 numbers each"):
        trained[1](np.zeros((1, 8, 8, 3), np.uint8), 17)
    with pytest.raises(ValueError, match="images of 2 channels; Inception takes 1 or 3"):
        InceptionFeatures({}, "none")(np.zeros((1, 8, 8, 2), np.uint8), 17)
    with pytest.raises(ValueError, match="batch_size = 0"):
        InceptionFeatures({}, "none", 0)(np.zeros((1, 8, 8, 1), np.uint8), 17)


@pytest.mark.parametrize(
    ("labels", "hidden", "expected"),
    [
        ([0, 1, 2], (8,), r"shape \(3,\) for 4 images"),
        ([0, 1, 3, 1], (8,), r"classes \[0, 1, 3\]; give one for each image, 0 ... K - 1"),
        ([0, 0, 0, 0], (8,), "1 classes and hidden layers"),
        ([0, 1, 1, 0], (), r"hidden layers \[\]: a classifier needs"),
    ],
)
def test_labels_that_no_classifier_can_be_fitted_to_are_refused(tmp_path, labels, hidden, expected):
    codes = np.zeros((4, 2, 2, 1), np.uint8)
    with pytest.raises(ValueError, match=expected):
        train_mlp_features(tmp_path / "a.npz", codes, labels, 17, hidden=hidden)


def test_the_kind_of_a_file_is_told_by_its_arrays(tmp_path):
    rng = np.random.default_rng(0)
    layers = {"weight_0": rng.normal(size=(4, 3)), "bias_0": np.zeros(3),
              "weight_1": rng.normal(size=(3, 2)), "bias_1": np.zeros(2)}  # fmt: skip
    save_npz(tmp_path / "mlp.npz", **layers)
    assert features.read_features(tmp_path / "mlp.npz").name.startswith("mlp-3@sha256:")
    save_npz(tmp_path / "other.npz", **{"Conv2d_1a_3x3.conv.weight": np.zeros((32, 3, 3, 3))})
    with pytest.raises(ValueError, match="missing"):
        features.read_features(tmp_path / "other.npz")


def test_images_of_other_codes_than_trained_on_are_refused(trained, digits):
    path, ours = trained
    assert ours.num_codes == 17
    with pytest.raises(ValueError, match=r"images of 256 codes, mlp-16@.* was trained on 17"):
        ours(digits[0], 256)
    with pytest.raises(ValueError, match=r"sample\.features: images of 256 codes"):
        features.check_features(path, (8, 8, 1), 256)


@pytest.mark.parametrize(
    ("shape", "num_codes", "expected"),
    [
        ((8, 8, 3), 17, r"images of shape \(8, 8, 3\), .*mlp\.npz takes 64 numbers each"),
        ((32, 32, 3), 256, "takes 64 numbers each: train features on images of this shape"),
        ((64,), 17, r"are 17 codes of shape \(64,\): set it to ''"),
        ((2,), 0, r"are real numbers of shape \(2,\)"),
        ((8, 8, 1), 0, "are real numbers"),
    ],
)
def test_features_that_do_not_fit_the_data_are_recognised_from_the_file(
    tmp_path, shape, num_codes, expected
):
    write_mlp(tmp_path / "mlp.npz", 64, 6, 5)
    features.check_features(tmp_path / "mlp.npz", (8, 8, 1), 17)
    with pytest.raises(ValueError, match=expected):
        features.check_features(tmp_path / "mlp.npz", shape, num_codes)
