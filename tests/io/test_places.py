"""A URL in place of a folder or a file is refused before anything is created."""

import os
import sys
from pathlib import Path

import pytest

import vdm
from vdm import compare
from vdm import main as program
from vdm.config import build as configs
from vdm.config import options
from vdm.data.records import resolve_data_dir
from vdm.io.places import check_local
from vdm.runs.run import open_run

ROOT = Path(__file__).parents[2]
URLS = ["gs://bucket/run", "s3://bucket/run", "https://host/run", "file:///tmp/run", "abc+d://x"]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    """Works in a folder that must stay empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    yield
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", [*URLS, *map(Path, URLS[:4]), "GS://Bucket", "gs:/bucket"])
def test_a_url_is_refused(place):
    with pytest.raises(ValueError, match=r"^--workdir=.* is a URL, but only folders") as refused:
        check_local("--workdir", place)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "place",
    [None, "", "runs/digits", "/a/gs:/b", "lr=0.1:3", "a:b", Path("C:"), "./gs:/x", "gs", "~/s3:"],
)
def test_a_folder_is_none(place):
    check_local("--workdir", place)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "flags",
    [
        ["--workdir={}"],
        ["--workdir=run", "--init_from={}"],
        ["--workdir=run", "--mode=eval", "--init_from={}"],
        ["--workdir=run", "--mode=compress", "--input={}", "--output=x.vdm"],
        ["--workdir=run", "--mode=decompress", f"--input={__file__}", "--output={}"],
        ["--workdir=run", "--config.data.data_dir={}"],
        ["--workdir=run", "--config.data.name=npy", "--config.data.kwargs.path={}"],
        ["--workdir=run", "--config.sample.features={}"],
        ["--workdir=run", "--config.compress.labels={}"],
        ["--workdir=run", "--config.compress.initial_bits={}"],
    ],
)
def test_the_command_line_answers_with_one_line(flags, url, capsys):
    status = program.main(
        ["vdm.main", f"--config={ROOT}/configs/digits.py", *(f.format(url) for f in flags)]
    )
    err = capsys.readouterr().err
    assert status == 2
    assert err.count("\n") == 1
    assert f"={url} is a URL" in err


@pytest.mark.parametrize("url", ["s3://bucket/run", Path("gs://bucket/run")])
def test_the_api_answers_with_one_line(url, make_tiny_config):
    config = make_tiny_config()
    for use in (
        lambda: vdm.train(config, url),
        lambda: vdm.train(config, "run", init_from=url),
        lambda: vdm.load(url),
        lambda: open_run(config, url),
        lambda: vdm.build(make_tiny_config(data__data_dir=str(url))),
        lambda: configs.build_source(
            make_tiny_config(data__name="folder", data__kwargs__path=str(url)).data
        ),
    ):
        with pytest.raises(ValueError, match="is a URL"):
            use()


def test_every_place_in_a_config_is_checked(make_tiny_config):
    for place in options.PLACES:
        with pytest.raises(ValueError, match=f"^{place}=s3://b/x is a URL"):
            options.read(make_tiny_config(**{place.replace(".", "__"): "s3://b/x"}))


def test_the_environment_and_other_programs_are_checked(monkeypatch, capsys):
    monkeypatch.setenv("VDM_DATA_DIR", "gs://bucket/data")
    with pytest.raises(ValueError, match="is a URL"):
        resolve_data_dir("")
    assert compare.main([str(ROOT), "--outdir=s3://bucket/x"]) == 2
    assert "is a URL" in capsys.readouterr().err
