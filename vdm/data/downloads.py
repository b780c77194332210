"""Finds or downloads the original files of data sets and verifies that they are as published.

Sizes and SHA-256 are those that tensorflow_datasets records for the same addresses. A download is
written to `NAME.part` and renamed once its checksum is right; after an interruption it resumes
where the part ends. A file that already exists under its final name is verified as well: the user
may have put it there, and sets share names (both MNISTs have a train-images-idx3-ubyte.gz).
"""

import dataclasses
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from vdm.io.streams import Forgiving, write

_BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Original:
    """A published file: its address, size in bytes and SHA-256."""

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name, the last part of the address."""
        return self.url.rpartition("/")[2]


_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

ORIGINALS: dict[str, tuple[Original, ...]] = {
    "mnist": (
        Original(
            _MNIST + "train-images-idx3-ubyte.gz", 9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        Original(
            _MNIST + "train-labels-idx1-ubyte.gz", 28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        Original(
            _MNIST + "t10k-images-idx3-ubyte.gz", 1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        Original(
            _MNIST + "t10k-labels-idx1-ubyte.gz", 4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion_mnist": (
        Original(
            _FASHION + "train-images-idx3-ubyte.gz", 26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        Original(
            _FASHION + "train-labels-idx1-ubyte.gz", 29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        Original(
            _FASHION + "t10k-images-idx3-ubyte.gz", 4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        Original(
            _FASHION + "t10k-labels-idx1-ubyte.gz", 5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "cifar10": (
        Original(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", 170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
}  # fmt: skip
"""Name of the data set -> its files."""


def find(files: Sequence[Original], folder: Path) -> list[Path]:
    """The paths of the files in a folder of the user, each verified.

    Raises:
        ValueError: a file is missing or differs from the published one.
    """
    paths = [folder / file.name for file in files]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"--from={folder} has no {', '.join(missing)}: name the folder with the original files "
            f"{', '.join(file.name for file in files)}, or leave --from out to download them"
        )
    for file, path in zip(files, paths, strict=True):
        problem = difference(file, path)
        if problem:
            raise ValueError(
                f"{path} is not the published file: {problem}; get it again from {file.url}"
            )
    return paths


def fetch(files: Sequence[Original], folder: Path) -> list[Path]:
    """The paths of the files in `folder`; those that are missing are downloaded first.

    Raises:
        ValueError: a file cannot be downloaded, or differs from the published one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / file.name for file in files]
    for file, path in zip(files, paths, strict=True):
        if path.exists():
            problem = difference(file, path)
            if problem:
                raise ValueError(
                    f"{path} is not the published file: {problem}; delete it and run the same "
                    "command again, which downloads it"
                )
            write(sys.stdout, f"{path.name} exists and is verified\n")
            continue
        part = path.with_name(path.name + ".part")
        _download(file, part)
        problem = difference(file, part)
        if problem:
            part.unlink()  # resuming from it could never succeed
            raise ValueError(
                f"{file.url} is no longer the published file: {problem}; run the same command "
                "again, or get the file elsewhere and name its folder with --from=FOLDER"
            )
        os.replace(part, path)
        write(sys.stdout, f"downloaded {path.name}: {file.size:,} bytes, verified\n")
    return paths


def difference(file: Original, path: Path) -> str:
    """How the file at `path` differs from the published one; "" if they are equal."""
    size = path.stat().st_size
    if size != file.size:
        return f"it has {size:,} bytes, and the published one {file.size:,}"
    with path.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    if sha256 != file.sha256:
        return (
            f"its SHA-256 is {sha256[:12]}..., and that of the published one {file.sha256[:12]}..."
        )
    return ""


def _download(file: Original, part: Path) -> None:
    """Completes `part` with an HTTP Range request; starts over if the server ignores the range."""
    import http.client
    import urllib.error
    import urllib.request

    have = part.stat().st_size if part.exists() else 0
    if have >= file.size:
        return
    request = urllib.request.Request(file.url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=60) as response, part.open("ab") as out:
            if have and response.status != 206:
                out.truncate(0)
                have = 0
            _copy(file, response, out, have)
            out.flush()
            os.fsync(out.fileno())
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:
            part.unlink()  # it is longer than the server's file, so it cannot be a part of that
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ValueError(_interrupted(file, part, " ".join(str(reason).split()))) from error
    if part.stat().st_size < file.size:
        raise ValueError(_interrupted(file, part, "the connection ended"))


def _copy(file: Original, response: Any, out: IO[bytes], have: int) -> None:
    from tqdm import tqdm

    with tqdm(
        desc=file.name, total=file.size, initial=have, unit="B", unit_scale=True, leave=False,
        disable=None, file=Forgiving(sys.stderr),  # None: a bar on a terminal only
    ) as bar:  # fmt: skip
        # Stop when a server sends more than the file: the checksum is wrong anyway.
        while have <= file.size and (block := response.read1(_BLOCK)):
            out.write(block)
            out.flush()  # so that a kill loses nothing
            have += len(block)
            bar.update(len(block))


def _interrupted(file: Original, part: Path, reason: str) -> str:
    have = part.stat().st_size if part.exists() else 0
    return (
        f"cannot download {file.url}: {reason} after {have:,} of {file.size:,} bytes; run the same "
        "command again to resume, or get the file elsewhere and name its folder with --from=FOLDER"
    )
