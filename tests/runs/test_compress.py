"""--mode=compress and --mode=decompress: the same files come out, and mistakes harm nothing."""

import dataclasses
import gzip
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import vdm
from tests.data import png
from vdm import main as program
from vdm.compression import container
from vdm.compression.lattice import DamagedError
from vdm.config.compatibility import earlier_model_fields
from vdm.data.sources import digits
from vdm.io.atomic import read_json
from vdm.runs import compress, states
from vdm.runs.run import open_run

ROOT = Path(__file__).parents[2]
FASHION = ROOT.parent / "shared" / "data" / "fashion_mnist" / "t10k-images-idx3-ubyte.gz"


@pytest.fixture(autouse=True)
def _at_home(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", sys.argv)
    jax.devices()


@pytest.fixture
def call(finished_run, capsys):
    """(mode, input, output, fields) -> (status, stdout, stderr) on the finished run."""
    import json

    def in_process(mode, source, target, **fields):
        saved = json.loads((finished_run / "config.json").read_text())
        overrides = {"compress__num_steps": 3, "compress__lanes": 16} | fields
        flags = [f"--config.{key.replace('__', '.')}={value}" for key, value in overrides.items()]
        for key in (
            "network.kwargs.width", "network.kwargs.num_blocks", "schedule.kwargs.hidden_features",
            "train.num_devices", "train.batch_size", "train.num_steps", "optim.kwargs.decay",
        ):  # fmt: skip
            value = saved
            for part in key.split("."):
                value = value[part]
            flags.append(f"--config.{key}={value}")
        status = program.main(
            ["vdm.main", "--config=configs/digits.py", f"--workdir={finished_run}",
             f"--mode={mode}", f"--input={source}", f"--output={target}", *flags]
        )  # fmt: skip
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return in_process


@pytest.fixture(scope="module")
def images():
    return digits("", 0).load("test").examples


@pytest.fixture(scope="module")
def model(finished_run):
    return vdm.load(finished_run)


def test_the_digits_come_back_bit_for_bit(call, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    status, out, _ = call("compress", tmp_path / "images.npy", tmp_path / "images.vdm")
    assert status == 0
    size = (tmp_path / "images.vdm").stat().st_size
    assert f"{size:,} bytes, {8 * size / images.size:.4f} bits/dim" in out
    status, out, _ = call("decompress", tmp_path / "images.vdm", tmp_path / "back.npy")
    assert status == 0
    assert "297 images" in out
    assert (tmp_path / "back.npy").read_bytes() == (tmp_path / "images.npy").read_bytes()


@pytest.mark.parametrize("devices", [8, 2, 1])
def test_another_process_gives_them_back(finished_run, model, images, tmp_path, devices):
    content = model.compress(images[:20], num_steps=2)  # by eight devices
    (tmp_path / "images.vdm").write_bytes(content)
    code = (
        "import sys, vdm, numpy, jax; jax.config.update('jax_num_cpu_devices', int(sys.argv[4])); "
        "jax.devices(); "
        "content = open(sys.argv[2], 'rb').read(); "
        "numpy.save(sys.argv[3], vdm.load(sys.argv[1]).decompress(content))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    arguments = [finished_run, tmp_path / "images.vdm", tmp_path / "back.npy", devices]
    subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, env=environment, check=True
    )
    np.testing.assert_array_equal(np.load(tmp_path / "back.npy"), images[:20])


def test_the_command_line_and_a_saved_config_read_each_others_files(
    call, finished_run, images, tmp_path
):
    # As vdm.load opens it, but on the devices that the command line has here.
    run = open_run(ConfigDict(read_json(finished_run / "config.json")), finished_run)
    step, params = states.trained_params(run)
    trained = compress.Trained(run, params, step)
    options = dataclasses.replace(run.options.compress, num_steps=2, lanes=16)
    (tmp_path / "api.vdm").write_bytes(compress.pack(trained, images[:5], options)[0])
    status, _, err = call("decompress", tmp_path / "api.vdm", tmp_path / "back.npy")
    assert (status, err) == (0, "")
    np.testing.assert_array_equal(np.load(tmp_path / "back.npy"), images[:5])
    np.save(tmp_path / "images.npy", images[:5])
    status, _, err = call("compress", tmp_path / "images.npy", tmp_path / "cli.vdm")
    assert (status, err) == (0, "")
    found = compress.unpack(trained, (tmp_path / "cli.vdm").read_bytes())
    np.testing.assert_array_equal(found.images, images[:5])


@pytest.mark.parametrize("form", [0, 1])
def test_files_with_the_fingerprint_of_an_earlier_version_are_read(model, images, form):
    header, words = container.read(model.compress(images[:5], num_steps=2))
    settings = earlier_model_fields(model.run.resolved)[form]
    earlier = container.earlier_fingerprint(model.params, settings)
    assert earlier != header.fingerprint
    content = container.write(dataclasses.replace(header, fingerprint=earlier), words)
    np.testing.assert_array_equal(model.decompress(content), images[:5])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_dtype_and_missing_channel_are_restored(model, images, dtype):
    flat = images[:5, :, :, 0].astype(dtype)
    found = model.decompress(model.compress(flat, num_steps=2))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, flat)


def test_no_image_is_an_image_too_few_but_no_mistake(model, images):
    assert model.decompress(model.compress(images[:0], num_steps=2)).shape == (0, 8, 8, 1)


def test_a_folder_of_pictures_comes_back_with_its_names(call, images, tmp_path):
    for name, image in zip(("b.png", "a.png", "more/c.bmp"), images, strict=False):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0].astype(np.uint8)).save(tmp_path / "in" / name)
    assert call("compress", tmp_path / "in", tmp_path / "all.vdm")[0] == 0
    assert call("decompress", tmp_path / "all.vdm", tmp_path / "out")[0] == 0
    found = sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("out/**/*.png")
    )
    assert found == ["a.png", "b.png", "more/c.bmp.png"]
    for name, image in zip(("b.png", "a.png", "more/c.bmp.png"), images, strict=False):
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / "out" / name)), image[..., 0]
        )
    assert call("decompress", tmp_path / "all.vdm", tmp_path / "array.npy")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "array.npy")[1], images[0])
    status, _, err = call("decompress", tmp_path / "all.vdm", tmp_path / "out")
    assert status == 2
    assert "is there already" in err


def test_a_folder_is_compressed_whole_and_counted(call, images, tmp_path):
    for name, image in zip(("in/a.png", "in/b.png", "elsewhere/c.png"), images, strict=False):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image[..., 0].astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "in/linked").symlink_to("../elsewhere")
    (tmp_path / "elsewhere/round").symlink_to("../in")
    (tmp_path / "in/.ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/a-checkpoint.png", "d.heic", "notes.txt"):
        (tmp_path / "in" / name).write_bytes((tmp_path / "in/a.png").read_bytes())
    status, out, _ = call("compress", tmp_path / "in", tmp_path / "all.vdm")
    assert status == 0
    told, wrote, *_ = out.splitlines()
    assert told.startswith(f"read 3 pictures in {tmp_path / 'in'}; skipped 1 ")
    for says in ("1 hidden", "1 .heic", "1 .txt", "1 links to a folder that contains them"):
        assert says in told
    assert wrote.startswith(f"wrote {tmp_path / 'all.vdm'}: 3 images, ")
    status, out, _ = call("decompress", tmp_path / "all.vdm", tmp_path / "out")
    assert (status, "3 images" in out) == (0, True)
    for name, image in zip(("a.png", "b.png", "linked/c.png"), images, strict=False):
        samples, depth, colour = png.read(tmp_path / "out" / name)  # not by PIL
        assert (depth, colour) == (8, 0)
        np.testing.assert_array_equal(samples, image)
        np.testing.assert_array_equal(samples, png.read(tmp_path / "in" / name)[0])


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


def test_a_file_larger_than_its_codes_gets_a_note(call, images, tmp_path):
    np.save(tmp_path / "one.npy", images[:1])
    _, out, _ = call("compress", tmp_path / "one.npy", tmp_path / "one.vdm")
    assert f"more than the {images[:1].nbytes:,} bytes of the codes themselves" in out
    np.save(tmp_path / "wide.npy", images.astype(np.int64))
    _, out, _ = call("compress", tmp_path / "wide.npy", tmp_path / "wide.vdm")
    assert "themselves" not in out


def test_a_second_file_gives_the_initial_bits_and_comes_back(call, images, tmp_path):
    np.save(tmp_path / "images.npy", images[:10])
    (tmp_path / "notes").write_bytes(b"any bytes, even these" * 200 + b"!")
    given = {"compress__initial_bits": tmp_path / "notes"}
    _, out, _ = call("compress", tmp_path / "images.npy", tmp_path / "both.vdm", **given)
    assert "0.0000 of initial bits" in out
    _, out, _ = call("decompress", tmp_path / "both.vdm", tmp_path / "back.npy")
    assert "another file, its initial bits" in out
    back = {"compress__initial_bits": tmp_path / "notes2"}
    call("decompress", tmp_path / "both.vdm", tmp_path / "back.npy", **back)
    assert (tmp_path / "notes2").read_bytes() == (tmp_path / "notes").read_bytes()
    (tmp_path / "notes2").write_bytes(b"mine")
    status, _, err = call("decompress", tmp_path / "both.vdm", tmp_path / "no.npy", **back)
    assert status == 2
    assert "is there already" in err
    assert (tmp_path / "notes2").read_bytes() == b"mine"
    assert not (tmp_path / "no.npy").exists()
    np.testing.assert_array_equal(np.load(tmp_path / "back.npy"), images[:10])


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


def test_a_conditional_model_asks_for_labels(make_tiny_config, images):
    model = vdm.build(make_tiny_config(model__class_conditional=True))
    with pytest.raises(ValueError, match="give labels"):
        model.compress(images[:2], num_steps=1)
    with pytest.raises(ValueError, match="expected 0 to 9"):
        model.compress(images[:2], np.array([3, 10]), num_steps=1)
    labels = np.array([3, 9])
    content = model.compress(images[:2], labels, num_steps=1)
    trained = compress.Trained(model.run, model.params, model.step)
    np.testing.assert_array_equal(compress.unpack(trained, content).labels, labels)


def test_labels_that_would_be_lost_are_refused(make_tiny_config, images):
    model = vdm.build(make_tiny_config())
    with pytest.raises(ValueError, match="the labels would be lost"):
        model.compress(images[:2], np.array([3, 9]), num_steps=1)
    with pytest.raises(ValueError, match="no classes to draw from"):
        model.sample(2, labels=[3, 9], num_steps=1)


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_file(), reason="needs ../shared/data/fashion_mnist")
def test_a_thousand_pictures_of_256_codes_come_back(make_tiny_config):
    codes = np.frombuffer(gzip.decompress(FASHION.read_bytes()), np.uint8, offset=16)
    codes = codes.reshape(-1, 28, 28, 1)[:1000]
    config = vdm.load_config(ROOT / "configs" / "fashion_mnist.py")
    config.network.kwargs.width, config.network.kwargs.num_blocks = 8, 0
    config.data.name, config.data.kwargs.num_codes = "synthetic", 256
    config.data.kwargs.shape = (28, 28, 1)
    model = vdm.build(config)
    content = model.compress(codes, num_steps=2)
    np.testing.assert_array_equal(model.decompress(content), codes)
