"""Downloads are verified and resume where they stopped; a wrong file is refused in one line."""

import numpy as np
import pytest

from tests.data.servers import published
from vdm.data import downloads
from vdm.data.downloads import Original


def test_files_are_downloaded_verified_and_not_asked_for_again(server, tmp_path, capfd):
    files = {"a.gz": b"a" * 200_000, "b.gz": b"bcd"}
    paths = downloads.fetch(published(server, files), tmp_path / "new")
    assert [path.read_bytes() for path in paths] == list(files.values())
    out, err = capfd.readouterr()
    assert (out.count("\n"), err) == (2, "")  # no bar where there is no terminal
    assert "downloaded a.gz: 200,000 bytes, verified" in out
    downloads.fetch(published(server, files), tmp_path / "new")
    assert server.starts == [("/a.gz", 0), ("/b.gz", 0)]


def test_a_download_goes_on_where_it_stopped(server, tmp_path):
    content = np.random.default_rng(0).bytes(300_000)
    (file,) = published(server, {"a.gz": content})
    server.stop_at = 100_000
    with pytest.raises(
        ValueError, match=r"100,000 of 300,000 bytes; run the same command again to resume"
    ):
        downloads.fetch([file], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gz.part"]
    server.stop_at = 1 << 40
    (path,) = downloads.fetch([file], tmp_path)
    assert path.read_bytes() == content
    assert server.starts == [("/a.gz", 0), ("/a.gz", 100_000)]
    assert not (tmp_path / "a.gz.part").exists()


def test_a_whole_part_is_not_asked_for_and_a_server_without_ranges_starts_over(server, tmp_path):
    files = published(server, {"a.gz": b"abcdef", "b.gz": b"ghijkl"})
    server.ranges = False
    (tmp_path / "a.gz.part").write_bytes(b"abcdef")
    (tmp_path / "b.gz.part").write_bytes(b"ghi")
    paths = downloads.fetch(files, tmp_path)
    assert [path.read_bytes() for path in paths] == [b"abcdef", b"ghijkl"]
    assert server.starts == [("/b.gz", 0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"abcdeX", "its SHA-256 is"), (b"abcdefg", "it has 7 bytes, and the published one 6")],
)
def test_another_file_than_the_published_one_is_refused(server, tmp_path, content, message):
    (file,) = published(server, {"a.gz": b"abcdef"})
    server.files["/a.gz"] = content
    with pytest.raises(ValueError, match=message) as caught:
        downloads.fetch([file], tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())  # the next attempt starts anew
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        downloads.find([file], tmp_path)


@pytest.mark.parametrize("content", [b"abcdeX", b"abcdefg"])
def test_another_file_under_the_name_of_the_published_one_is_refused(server, tmp_path, content):
    (file,) = published(server, {"a.gz": b"abcdef"})
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"a\.gz is not the published file: .*; delete it"
    ) as caught:
        downloads.fetch([file], tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.gz").read_bytes() == content
    assert server.starts == []


def test_no_answer_is_one_line_with_the_way_around(tmp_path):
    file = Original("http://127.0.0.1:9/a.gz", 6, "0" * 64)  # nothing listens there
    with pytest.raises(ValueError, match=r"cannot download .* refused .*--from=FOLDER") as caught:
        downloads.fetch([file], tmp_path)
    assert "\n" not in str(caught.value)


def test_a_part_longer_than_the_file_of_the_server_is_dropped(server, tmp_path):
    (file,) = published(server, {"a.gz": b"abcdef"})
    server.files["/a.gz"] = b"abc"
    (tmp_path / "a.gz.part").write_bytes(b"abcd")
    with pytest.raises(ValueError, match="Range Not Satisfiable"):
        downloads.fetch([file], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", list(downloads.ORIGINALS))
def test_the_published_files_are_those_that_tfds_records(name):
    import tensorflow_datasets as tfds

    known = tfds.builder_cls(name).url_infos
    for file in downloads.ORIGINALS[name]:
        assert (known[file.url].size, known[file.url].checksum) == (file.size, file.sha256)
