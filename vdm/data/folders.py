"""Folders of pictures, and zips of such folders: which pictures are there, and of which split."""

import dataclasses
import functools
import hashlib
import os
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vdm.data.pictures import ENDINGS, File

# Beside what begins with a dot: what macOS, Synology, Windows and ext4 put among the pictures.
HIDDEN = ("__MACOSX", "@eaDir", "System Volume Information", "$RECYCLE.BIN", "lost+found")

# Pictures that are not read: the user is told of these apart from other files.
UNREAD_ENDINGS = (
    ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".jpe", ".jfif", ".apng",
    ".dib", ".pbm", ".pnm", ".pam", ".pfm", ".tga", ".ico", ".icns", ".svg", ".psd", ".exr", ".hdr",
    ".dds", ".pcx", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Found:
    """The pictures below a folder by their paths in it, and how many other files of which kind."""

    pictures: dict[str, File]
    skipped: Counter[str]

    def describe_skipped(self) -> str:
        """ "3 hidden, 2 .txt, 12 .heic (pictures ...)"; "nothing" where all files are pictures."""
        others = {kind: n for kind, n in self.skipped.items() if kind not in UNREAD_ENDINGS}
        parts = [_counted(others), self.describe_unread()]
        return ", ".join(part for part in parts if part) or "nothing"

    def describe_unread(self) -> str:
        """The pictures among them in formats that are not read; "" for none."""
        unread = {kind: n for kind, n in self.skipped.items() if kind in UNREAD_ENDINGS}
        return f"{_counted(unread)} (pictures not read: convert them to PNG)" if unread else ""


def _counted(kinds: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items(), key=lambda at: -at[1]))


def find(root: Path, labels: bool = False) -> Found:
    """The pictures in a folder and the folders in it, links followed, or in a .zip.

    Hidden files and folders are skipped, and so are links to a folder that they lie in. A zip
    whose pictures all lie in one folder is read as that folder, unless, with labels, that is the
    folder of their only class.

    Raises:
        ValueError: a folder cannot be read, a link leads nowhere, or a zip is damaged, encrypted or
            has names that lead out of it.
    """
    found = Found({}, Counter())
    for name, file in _members(root) if root.is_file() else _files(root, found.skipped):
        if any(_is_hidden(part) for part in PurePosixPath(name).parts):
            found.skipped["hidden"] += 1
        elif (ending := PurePosixPath(name).suffix.lower()) in ENDINGS:
            found.pictures[name] = file
        else:
            found.skipped[ending or "without an ending"] += 1
    if root.is_file():
        return Found(_without_top(found.pictures, labels), found.skipped)
    return found


def _without_top(pictures: dict[str, File], labels: bool) -> dict[str, File]:
    """The pictures by their paths in the folder that all of them lie in; with labels, none loses
    its class by that where all of them would."""
    tops = {name.partition("/")[0] for name in pictures}
    if len(tops) != 1 or tops & {*pictures, *_HALVES}:
        return pictures
    inside = {name.partition("/")[2]: file for name, file in pictures.items()}
    if labels and not any("/" in name for name in inside):
        return pictures
    return _without_top(inside, labels)


_HALVES = ("train", "test")


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part in HIDDEN


def _files(
    folder: Path, skipped: Counter[str], prefix: str = "", above: tuple = ()
) -> Iterator[tuple[str, File]]:
    """(path in the folder, file) of all files below it."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in above:
            skipped["links to a folder that they lie in"] += 1
            return
        with os.scandir(folder) as entries:
            listed = [(entry.name, entry.is_dir(), entry.is_file()) for entry in entries]
    except OSError as error:
        raise ValueError(
            f"{error.filename or folder} cannot be read ({error.strerror}): make it readable, or "
            "move it elsewhere"
        ) from error
    here = (*above, (status.st_dev, status.st_ino))
    for name, is_folder, is_file in sorted(listed):
        path = folder / name
        if is_folder and _is_hidden(name):
            # Nothing of it is read, so it may be forbidden; os.walk leaves out what it cannot read.
            skipped["hidden"] += sum(len(files) for _, _, files in os.walk(path))
        elif is_folder:
            yield from _files(path, skipped, f"{prefix}{name}/", here)
        elif path.is_symlink() and not path.exists() and not _is_hidden(name):
            raise ValueError(
                f"{path} is a link to {os.readlink(path)}, which is not there: bring that back, or "
                "remove the link"
            )
        elif is_file:
            yield prefix + name, path
        else:  # a pipe, from which reading may never end
            skipped["not files"] += 1


def _members(path: Path) -> Iterator[tuple[str, File]]:
    """(path in the zip, file) of all files in it."""
    try:
        base = zipfile.Path(path)
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{path} is not a folder of pictures, nor a .zip that can be read ({reason})"
        ) from error
    names = set()
    for info in base.root.infolist():
        name = info.filename
        if info.is_dir():
            continue
        if name in names or ".." in name.split("/") or name[:1] == "/" or "\\" in name:
            what = "more than once" if name in names else "which leads out of it"
            raise ValueError(f"{path} has a file {name!r}, {what}: make the zip again")
        if info.flag_bits & 1:
            raise ValueError(
                f"{path} is encrypted (its file {name!r}): extract it to a folder, and name that"
            )
        names.add(name)
        yield name, base / name


@dataclasses.dataclass(frozen=True)
class Splits:
    """The pictures for training and for testing, each by its path in the folder of that split, in
    the order of `place`; and what was skipped."""

    train: dict[str, File]
    test: dict[str, File]
    found: Found

    def describe(self) -> str:
        """How many pictures are read, and what was skipped."""
        return (
            f"read {len(self.train):,} pictures for training and {len(self.test):,} for testing; "
            f"skipped {self.found.describe_skipped()}"
        )

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the folders that the pictures of a split lie in, sorted: label i is of the
        i-th. ValueError for a picture outside of them or a class without training pictures."""
        for name, file in (self.train | self.test).items():
            if "/" not in name:
                raise ValueError(
                    f"{file} lies in no folder of a class: with data.kwargs.labels the pictures of "
                    "each class lie in a folder of its own"
                )
        classes, of_test = ({_class(name) for name in split} for split in (self.train, self.test))
        if of_test - classes:
            missing = sorted(of_test - classes)[0]
            raise ValueError(
                f"the class {missing!r} has pictures for testing and none for training: give it "
                "some, or set data.kwargs.labels = False"
            )
        return tuple(sorted(classes))

    def labels(self, split: str) -> list[int]:
        """The class of each picture."""
        number = {name: label for label, name in enumerate(self.classes)}
        return [number[_class(name)] for name in getattr(self, split)]


def _class(name: str) -> str:
    return _composed(name.partition("/")[0])


def split(root: Path, num_test: int, labels: bool = False) -> Splits:
    """The pictures in `root`, a folder or a .zip, by split.

    With folders train/ and test/ in it they are what is in these, else the last `num_test` of
    all are "test". With labels the folders inside are classes.

    Raises:
        ValueError: there are none, or as `find`.
    """
    if not root.is_dir() and not root.is_file():
        raise ValueError(
            f"{root} is not a folder, nor a .zip: set data.kwargs.path to a folder of pictures"
        )
    found = find(root, labels)
    halves = [
        half
        for half in _HALVES
        if (root / half).is_dir() or any(name.startswith(f"{half}/") for name in found.pictures)
    ]
    if not halves:
        ordered = _by_place(found.pictures, found.skipped)
        if not 0 < num_test < len(ordered):
            unread = found.describe_unread()
            raise ValueError(
                f"{root} has {len(ordered)} pictures{_also(unread)} and no folders train/ and "
                f"test/, and data.kwargs.num_test is {num_test}: set it to how many are for testing"
            )
        names = list(ordered)
        train, test = (
            {name: ordered[name] for name in part}
            for part in (names[:-num_test], names[-num_test:])
        )
        return Splits(train, test, found)
    if len(halves) < 2 or num_test:
        wrong = f"has {halves[0]}/ alone" if len(halves) < 2 else "has train/ and test/"
        raise ValueError(
            f"{root} {wrong}, and data.kwargs.num_test is {num_test}: have both folders and "
            "num_test = 0, or neither"
        )
    parts = []
    for half in halves:
        names = [name for name in found.pictures if name.startswith(f"{half}/")]
        inside = {name.partition("/")[2]: found.pictures[name] for name in names}
        parts.append(_by_place(inside, found.skipped))
        if not inside:
            unread = found.describe_unread()
            raise ValueError(f"{root / half} has no pictures ({', '.join(ENDINGS)}){_also(unread)}")
    outside = sum(not name.startswith(("train/", "test/")) for name in found.pictures)
    if outside:
        found.skipped["pictures outside of train/ and test/"] += outside
    return Splits(parts[0], parts[1], found)


def _also(unread: str) -> str:
    return f" and {unread}" if unread else ""


def _by_place(pictures: dict[str, File], skipped: Counter[str]) -> dict[str, File]:
    """The pictures in the order of `place`; one of two that have the same name in two forms of
    Unicode, where they are the same file. ValueError where they are not."""
    ordered: dict[str, File] = {}
    last = ""
    for name in sorted(pictures, key=place):
        if ordered and _composed(name) == _composed(last):
            if pictures[name].read_bytes() != ordered[last].read_bytes():
                raise ValueError(
                    f"{pictures[name]} is there twice, with its name in two forms of Unicode and "
                    "with other content: rename one"
                )
            skipped["of the same name in another form of Unicode"] += 1
            continue
        ordered[name], last = pictures[name], name
    return ordered


def place(path: str) -> tuple[str, str]:
    """What the relative paths of pictures are sorted by: their SHA-256. It mixes the classes, and
    is the same on every machine: macOS gives names decomposed (NFD), others as they were written,
    so they are composed (NFC) before."""
    composed = _composed(path).encode("utf-8", "surrogateescape")
    return hashlib.sha256(composed).hexdigest(), path


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
