"""--mode=compress and --mode=decompress give the same files back."""

import dataclasses
import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import vdm
from tests.data import png
from vdm.compression import container
from vdm.compression.lattice import DamagedError
from vdm.config.compatibility import earlier_model_fields
from vdm.io.atomic import read_json
from vdm.runs import compress, levels, states
from vdm.runs.run import open_run

pytestmark = pytest.mark.usefixtures("at_home")


ROOT = Path(__file__).parents[2]


FASHION = ROOT.parent / "shared" / "data" / "fashion_mnist" / "t10k-images-idx3-ubyte.gz"


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


@pytest.mark.parametrize(
    "devices", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
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


@pytest.mark.parametrize("decoder", ["bayes", "network"])
def test_kernel_decoder_and_levels_of_a_file_are_in_its_header(model, images, monkeypatch, decoder):
    chosen = (10, 400, 900)
    monkeypatch.setattr(levels, "least_bound_levels", lambda run, params, num_steps: chosen)
    mixture = dataclasses.replace(model.vdm, reverse="mixture", decoder_rule=decoder)
    other = dataclasses.replace(model, run=dataclasses.replace(model.run, model=mixture))
    content = other.compress(images[:20], num_steps=2, grid="least_bound")
    header, words = container.read(content)
    assert (header.kernel, header.decoder, header.chosen) == ("mixture", decoder, chosen)
    np.testing.assert_array_equal(model.decompress(content), images[:20])
    plain = other.compress(images[:20], num_steps=2)
    assert container.read(plain)[0].chosen == ()
    np.testing.assert_array_equal(model.decompress(plain), images[:20])
    for change in ({"kernel": "gaussian"}, {"chosen": (10, 401, 900)}, {"chosen": ()},
                   {"decoder": "bayes" if decoder == "network" else "network"}):  # fmt: skip
        wrong = container.write(dataclasses.replace(header, **change), words)
        with pytest.raises(DamagedError, match="computes the model differently"):
            model.decompress(wrong)
    # Any grid will do: the file names the nearest of the fine levels.
    content = other.compress(images[:2], num_steps=2, grid="karras")
    assert container.read(content)[0].chosen[::2] == (0, 1024)
    np.testing.assert_array_equal(model.decompress(content), images[:2])
    with pytest.raises(ValueError, match="did you mean 'karras'"):
        model.compress(images[:2], grid="karas")


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
