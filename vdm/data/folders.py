"""Lists the pictures in a folder, or a zip of one, and assigns them to splits."""

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

# Besides names that begin with a dot: what macOS, Synology, Windows and ext4 add to folders.
HIDDEN = ("__MACOSX", "@eaDir", "System Volume Information", "$RECYCLE.BIN", "lost+found")

# Picture formats that are not read; messages list them separately from other skipped files.
UNREAD_ENDINGS = (
    ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".jpe", ".jfif", ".apng",
    ".dib", ".pbm", ".pnm", ".pam", ".pfm", ".tga", ".ico", ".icns", ".svg", ".psd", ".exr", ".hdr",
    ".dds", ".pcx", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder contains: its pictures, and how many other files were skipped.

    Attributes:
        pictures: path inside the folder -> file.
        skipped: kind of file ("hidden", ".txt", ...) -> number of such files.
    """

    pictures: dict[str, File]
    skipped: Counter[str]

    def describe_skipped(self) -> str:
        """Such as "3 hidden, 2 .txt, 12 .heic (pictures ...)"; "nothing" if nothing was skipped."""
        others = {kind: n for kind, n in self.skipped.items() if kind not in UNREAD_ENDINGS}
        parts = [_counted(others), self.describe_unread()]
        return ", ".join(part for part in parts if part) or "nothing"

    def describe_unread(self) -> str:
        """The skipped pictures, whose formats are not read; "" if there are none."""
        unread = {kind: n for kind, n in self.skipped.items() if kind in UNREAD_ENDINGS}
        return f"{_counted(unread)} (pictures not read: convert them to PNG)" if unread else ""


def _counted(kinds: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items(), key=lambda at: -at[1]))


def find(root: Path, labels: bool = False) -> Listing:
    """Finds the pictures in a folder and its subfolders, or in a .zip. Links are followed.

    Hidden files and folders are skipped, and so are links to a folder that contains them. If all
    pictures of a zip lie in one folder, paths start inside that folder, unless `labels` is set and
    that folder is their only class.

    Args:
        labels: the folders that pictures lie in are classes.

    Raises:
        ValueError: a folder cannot be read, a link is broken, or a zip is damaged, encrypted or
            has names that lead out of it.
    """
    listing = Listing({}, Counter())
    for name, file in _members(root) if root.is_file() else _files(root, listing.skipped):
        if any(_is_hidden(part) for part in PurePosixPath(name).parts):
            listing.skipped["hidden"] += 1
        elif (ending := PurePosixPath(name).suffix.lower()) in ENDINGS:
            listing.pictures[name] = file
        else:
            listing.skipped[ending or "without an ending"] += 1
    if root.is_file():
        return Listing(_without_top(listing.pictures, labels), listing.skipped)
    return listing


def _without_top(pictures: dict[str, File], labels: bool) -> dict[str, File]:
    """Strips the folders that all pictures share from their paths; with labels, not the last one,
    which is their class."""
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
    """Yields (path in the folder, file) for all files below it. `above` holds the device and inode
    of each enclosing folder, to detect links that lead back."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in above:
            skipped["links to a folder that contains them"] += 1
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
            # Only counted, so it may be unreadable: os.walk skips what it cannot read.
            skipped["hidden"] += sum(len(files) for _, _, files in os.walk(path))
        elif is_folder:
            yield from _files(path, skipped, f"{prefix}{name}/", here)
        elif path.is_symlink() and not path.exists() and not _is_hidden(name):
            raise ValueError(
                f"{path} is a link to {os.readlink(path)}, which does not exist: restore that, or "
                "remove the link"
            )
        elif is_file:
            yield prefix + name, path
        else:  # such as a pipe, from which reading may never end
            skipped["not files"] += 1


def _members(path: Path) -> Iterator[tuple[str, File]]:
    """Yields (path in the zip, file) for all files in it."""
    try:
        base = zipfile.Path(path)
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{path} is neither a folder of pictures nor a .zip that can be read ({reason})"
        ) from error
    names = set()
    for info in base.root.infolist():
        name = info.filename
        if info.is_dir():
            continue
        if name in names or ".." in name.split("/") or name[:1] == "/" or "\\" in name:
            what = "more than once" if name in names else "whose path leads out of the zip"
            raise ValueError(f"{path} has a file {name!r} {what}: create the zip again")
        if info.flag_bits & 1:
            raise ValueError(
                f"{path} is encrypted (its file {name!r}): extract it to a folder and give that one"
            )
        names.add(name)
        yield name, base / name


@dataclasses.dataclass(frozen=True)
class Splits:
    """The pictures for training and for testing.

    Attributes:
        train, test: path in the folder of that split -> file, in the order of `sort_key`.
        listing: all pictures that were found, and what was skipped.
    """

    train: dict[str, File]
    test: dict[str, File]
    listing: Listing

    def describe(self) -> str:
        """A sentence that says how many pictures are read and what was skipped."""
        return (
            f"read {len(self.train):,} pictures for training and {len(self.test):,} for testing; "
            f"skipped {self.listing.describe_skipped()}"
        )

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """The sorted names of the folders that the pictures lie in; label i is the i-th name.

        Raises ValueError for a picture outside such a folder or a class without training pictures.
        """
        for name, file in (self.train | self.test).items():
            if "/" not in name:
                raise ValueError(
                    f"{file} does not lie in the folder of a class: with data.kwargs.labels, each "
                    "class needs a folder of its own"
                )
        classes, tested = ({_class(name) for name in split} for split in (self.train, self.test))
        if tested - classes:
            missing = sorted(tested - classes)[0]
            raise ValueError(
                f"the class {missing!r} has pictures for testing and none for training: add some, "
                "or set data.kwargs.labels = False"
            )
        return tuple(sorted(classes))

    def labels(self, split: str) -> list[int]:
        """The label of each picture of "train" or "test"."""
        number = {name: label for label, name in enumerate(self.classes)}
        return [number[_class(name)] for name in getattr(self, split)]


def _class(name: str) -> str:
    return _composed(name.partition("/")[0])


def split(root: Path, num_test: int, labels: bool = False) -> Splits:
    """Finds the pictures in `root`, a folder or a .zip, and assigns them to splits.

    If `root` contains folders train/ and test/, these are the splits; otherwise the last `num_test`
    pictures are "test". With `labels`, the folders inside are classes.

    Raises:
        ValueError: a split has no pictures, or `find` raises.
    """
    if not root.is_dir() and not root.is_file():
        raise ValueError(
            f"{root} is neither a folder nor a .zip: set data.kwargs.path to a folder of pictures"
        )
    listing = find(root, labels)
    halves = [
        half
        for half in _HALVES
        if (root / half).is_dir() or any(name.startswith(f"{half}/") for name in listing.pictures)
    ]
    if not halves:
        ordered = _sorted(listing.pictures, listing.skipped)
        if not 0 < num_test < len(ordered):
            unread = listing.describe_unread()
            raise ValueError(
                f"{root} has {len(ordered)} pictures{_also(unread)} and no folders train/ and "
                f"test/, and data.kwargs.num_test is {num_test}: set it to the number of pictures "
                "for testing"
            )
        names = list(ordered)
        train, test = (
            {name: ordered[name] for name in part}
            for part in (names[:-num_test], names[-num_test:])
        )
        return Splits(train, test, listing)
    if len(halves) < 2 or num_test:
        wrong = f"has only {halves[0]}/" if len(halves) < 2 else "has train/ and test/"
        raise ValueError(
            f"{root} {wrong}, and data.kwargs.num_test is {num_test}: use either both folders with "
            "num_test = 0, or neither folder with num_test > 0"
        )
    parts = []
    for half in halves:
        names = [name for name in listing.pictures if name.startswith(f"{half}/")]
        inside = {name.partition("/")[2]: listing.pictures[name] for name in names}
        parts.append(_sorted(inside, listing.skipped))
        if not inside:
            unread = listing.describe_unread()
            raise ValueError(f"{root / half} has no pictures ({', '.join(ENDINGS)}){_also(unread)}")
    outside = sum(not name.startswith(("train/", "test/")) for name in listing.pictures)
    if outside:
        listing.skipped["pictures outside train/ and test/"] += outside
    return Splits(parts[0], parts[1], listing)


def _also(unread: str) -> str:
    return f" and {unread}" if unread else ""


def _sorted(pictures: dict[str, File], skipped: Counter[str]) -> dict[str, File]:
    """The pictures in the order of `sort_key`. Of two equal files whose names differ only in their
    Unicode form, one is kept; raises ValueError if the files differ."""
    ordered: dict[str, File] = {}
    last = ""
    for name in sorted(pictures, key=sort_key):
        if ordered and _composed(name) == _composed(last):
            if pictures[name].read_bytes() != ordered[last].read_bytes():
                raise ValueError(
                    f"{pictures[name]} exists twice, with its name in two forms of Unicode and "
                    "with different content: rename one"
                )
            skipped["of the same name in another form of Unicode"] += 1
            continue
        ordered[name], last = pictures[name], name
    return ordered


def sort_key(path: str) -> tuple[str, str]:
    """The sort key of a picture: the SHA-256 of its relative path, then the path.

    This order mixes the classes and is the same on every machine: macOS returns names decomposed
    (NFD) and other systems return them as written, so they are composed (NFC) before hashing.
    """
    composed = _composed(path).encode("utf-8", "surrogateescape")
    return hashlib.sha256(composed).hexdigest(), path


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
