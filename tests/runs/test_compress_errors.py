"""Mistakes with --mode=compress and --mode=decompress are one line and leave nothing behind."""

import dataclasses
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import vdm
from tests.data import png
from vdm import main as program
from vdm.compression import container
from vdm.compression.lattice import DamagedError
from vdm.runs import compress

pytestmark = pytest.mark.usefixtures("at_home")


ROOT = Path(__file__).parents[2]


def test_pictures_that_would_not_come_back_are_refused_before_anything_is_written(call, tmp_path):
    (tmp_path / "in").mkdir()
    for samples, depth, colour, says in (
        (np.full((8, 8, 3), 255), 16, 2, "more than 8 bits"),
        (np.full((8, 8, 2), 255), 16, 4, "more than 8 bits"),
        (np.full((8, 8, 2), 12), 8, 4, "with transparency"),
    ):
        png.write(tmp_path / "in/a.png", samples, depth, colour)
        status, _, err = call("compress", tmp_path / "in", tmp_path / "no.vdm")
        assert (status, err.count("\n")) == (2, 1)
        assert f"error: {tmp_path / 'in/a.png'}" in err
        assert says in err
    assert not (tmp_path / "no.vdm").exists()


@pytest.mark.parametrize("num_codes", [2, 4, 17])
def test_pictures_whose_greys_are_no_codes_are_told_how_to_become_them(num_codes):
    codes = np.random.default_rng(0).integers(0, num_codes, (4, 8, 8), np.uint8)
    codes[0, 0] = num_codes - 1
    greys = np.rint(codes * (255 / (num_codes - 1))).astype(np.uint8)
    run = SimpleNamespace(model=SimpleNamespace(likelihood=SimpleNamespace(num_codes=num_codes)))
    compress._check_greys(run, codes, "in")
    with pytest.raises(ValueError, match=f"greys up to 255, .* 0 to {num_codes - 1}") as caught:
        compress._check_greys(run, greys, "in")
    remedy = re.search(r"numpy\.rint.*numpy\.uint8\)", str(caught.value))
    assert (remedy is None) == (num_codes > 16)
    if remedy:
        np.testing.assert_array_equal(eval(remedy[0], {"numpy": np, "x": greys}), codes)


def test_arrays_that_are_no_codes_or_labels_are_told_what_this_model_takes(call, images, tmp_path):
    np.save(tmp_path / "in.npy", images[:2] / 16)
    status, _, err = call("compress", tmp_path / "in.npy", tmp_path / "no.vdm")
    assert (status, err.count("\n")) == (2, 1)
    assert "with x = numpy.load(...): for images in [0, 1], numpy.rint(16 * x).astype(" in err
    np.save(tmp_path / "in.npy", images[:2])
    np.save(tmp_path / "labels.npy", np.array([0.0, 1.0]))
    labels = {"compress__labels": tmp_path / "labels.npy"}
    status, _, err = call("compress", tmp_path / "in.npy", tmp_path / "no.vdm", **labels)
    assert (status, err.count("\n")) == (2, 1)
    assert "labels are integers, one for each image; with x = numpy.load(...): x.astype(" in err


def test_mistakes_are_one_line_and_leave_nothing(call, images, tmp_path):
    np.save(tmp_path / "images.npy", images[:4])
    assert call("compress", tmp_path / "images.npy", tmp_path / "good.vdm")[0] == 0
    good = (tmp_path / "good.vdm").read_bytes()
    flipped = bytearray(good)
    flipped[-9] ^= 4
    (tmp_path / "flipped.vdm").write_bytes(flipped)
    (tmp_path / "cut.vdm").write_bytes(good[:-40])
    header, words = container.read(good)
    (tmp_path / "seed.vdm").write_bytes(container.write(
        dataclasses.replace(header, seed=2**70, cells=2**30), words
    ))  # fmt: skip
    (tmp_path / "version.vdm").write_bytes(good[:4] + b"\x07" + good[5:])
    np.save(tmp_path / "real.npy", images[:4] / 16)
    np.save(tmp_path / "large.npy", images[:4] + 5)
    np.save(tmp_path / "shape.npy", images[:4, :5])
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "zip.npy", "w") as archive:
        archive.writestr("a.txt", "no array")
    (tmp_path / "twice").mkdir()
    for name in ("a.bmp", "a.bmp.png"):
        Image.fromarray(images[0, ..., 0].astype(np.uint8)).save(tmp_path / "twice" / name)
    output, before = tmp_path / "output", sorted(tmp_path.iterdir())
    for mode, source, says in [
        ("decompress", "flipped.vdm", "its checksum is wrong"),
        ("decompress", "cut.vdm", "its checksum is wrong"),
        ("decompress", "seed.vdm", "header makes no sense"),
        ("decompress", "version.vdm", "its format has version 7"),
        ("decompress", "images.npy", "not a file of compressed images"),
        ("decompress", "missing.vdm", "is not there"),
        ("compress", "real.npy", "integers"),
        ("compress", "large.npy", "expected 0 to 16"),
        ("compress", "shape.npy", "expected [N, 8, 8, 1]"),
        ("compress", "text.npy", "is not an .npy"),
        ("compress", "empty", "has no pictures"),
        ("compress", "zip.npy", "holds several arrays"),
        ("compress", "twice", "two PNGs would be named a.bmp.png"),
        ("compress", "good.vdm", "an .npy of codes, or a folder"),
    ]:
        status, _, err = call(mode, tmp_path / source, output)
        assert (status, err.count("\n")) == (2, 1), (source, err)
        assert says in err
    status, _, err = call("decompress", tmp_path / "good.vdm", output, eval__params="raw")
    assert status == 2
    assert "other parameters (ema parameters of step 30; these are the raw" in err
    assert call("decompress", tmp_path / "good.vdm", tmp_path / "x.png")[0] == 2
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--mode=compress"], "needs --input=PATH"),
        (["--mode=compress", "--input=README.md"], "needs --output=PATH"),
        (["--mode=compress", "--input=README.md", "--output=README.md"], "are the same"),
        (["--mode=eval", "--input=README.md"], "--input is for"),
        (["--mode=compress", "--input=tests", "--output=y", "--config.compress.order=up"], "known"),
    ],
)  # fmt: skip
def test_flags_that_make_no_sense_are_refused(flags, says, capsys, tmp_path):
    arguments = ["--config=configs/digits.py", f"--workdir={tmp_path / 'run'}", *flags]
    assert program.main(["vdm.main", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_bits_that_changed_under_a_valid_checksum_give_no_images(model, images):
    content = model.compress(images[:3], num_steps=1)
    header, words = container.read(content)
    trained = compress.Trained(model.run, model.params, model.step)
    rng = np.random.default_rng(0)
    for _ in range(60):
        changed = words.copy()
        changed[rng.integers(len(words))] ^= np.uint32(1 << rng.integers(32))
        with pytest.raises(DamagedError):
            compress.unpack(trained, container.write(header, changed))
    for change in ({"shape": (4, 8, 8, 1)}, {"shape": (3, 8, 9, 1)}, {"num_steps": 2},
                   {"checksum": b"12345678"}, {"dtype": "i8", "num_given": 40},
                   {"num_steps": 0}, {"cells": 0}, {"lanes": 0}):  # fmt: skip
        with pytest.raises(DamagedError):
            compress.unpack(trained, container.write(dataclasses.replace(header, **change), words))


def test_another_machine_is_named(model, images):
    header, words = container.read(model.compress(images[:2], num_steps=1))
    trained = compress.Trained(model.run, model.params, model.step)
    elsewhere = dataclasses.replace(header, environment="4 x NVIDIA H100; jax 0.9")
    with pytest.raises(DamagedError, match=r"on 4 x NVIDIA H100, and this is [28] x cpu"):
        compress.unpack(trained, container.write(elsewhere, words))
    otherwise = dataclasses.replace(header, probe=b"0000")
    with pytest.raises(DamagedError, match="computes the model differently"):
        compress.unpack(trained, container.write(otherwise, words))


def test_labels_that_would_be_lost_are_refused(make_tiny_config, images):
    model = vdm.build(make_tiny_config())
    with pytest.raises(ValueError, match="the labels would be lost"):
        model.compress(images[:2], np.array([3, 9]), num_steps=1)
    with pytest.raises(ValueError, match="no classes to draw from"):
        model.sample(2, labels=[3, 9], num_steps=1)
