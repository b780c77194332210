"""Prepare a data set once; training and evaluation then read it by name.

python -m vdm.data.prepare cifar10
python -m vdm.data.prepare cifar10 --data_dir=DIR --from=cifar-10-binary.tar.gz
python -m vdm.data.prepare imagenet64_old --data_dir=DIR --from=FOLDER

NAME            digits, mnist, fashion_mnist, cifar10, imagenet32_old, imagenet32_new,
                imagenet64_old, imagenet64_new
--data_dir=DIR  where prepared sets live (default: $VDM_DATA_DIR, or ~/.cache/vdm/data)
--from=PATH     a folder with the original files, instead of a download; for cifar10 also the
                archive; required for ImageNet, which has no open address

The two ImageNets are different data, and their bits/dim cannot be compared. "old" is the set of
van den Oord et al. (2016): train_32x32 and valid_32x32 (or 64x64), as .tar, .zip or folders of
PNGs, 49,999 for validation. "new" is the set that replaced it: train_data_batch_1 to 10 and
val_data, as .npz or pickles, 50,000 for validation.

Run the same command again after an interruption: downloads resume, preparation restarts, and
incomplete data sets are never used.
"""

# Nothing slow is imported at the top, so that --help answers at once.
import argparse
import contextlib
import difflib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from vdm.io import streams

NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "imagenet32_old", "imagenet32_new",
         "imagenet64_old", "imagenet64_new")  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")

    def format_help(self) -> str:
        return __doc__ or ""


@streams.forgiving()
def main(argv: Sequence[str]) -> int:
    """Runs the program; returns exit status 0, 2 for a user's mistake, or 130 if interrupted."""
    parser = _Parser(allow_abbrev=False)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--data_dir", default="", metavar="DIR")
    parser.add_argument("--from", default="", metavar="PATH", dest="origin")
    origin = ""
    try:
        flags = parser.parse_args(argv)
        origin = flags.origin
        prepare(flags.name, flags.data_dir, origin)
    except (ValueError, OSError) as error:
        text = _explained(error, origin) if isinstance(error, OSError) else str(error)
        print(f"error: {' '.join(text.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _explained(error: OSError, origin: str) -> str:
    """A line that says what failed, with which file if the system reports one, and the remedy."""
    reason = error.strerror or str(error)
    text = f"{reason}: {error.filename}" if error.filename else reason
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}; free some space, or set --data_dir to a folder with enough space"
    if not error.filename:
        return f"{text}; check the disks of --data_dir and --from"
    below = Path(origin).expanduser().absolute() if origin else None
    if below and Path(os.fsdecode(error.filename)).absolute().is_relative_to(below):
        return f"{text}; name readable original files with --from"
    return f"{text}; set --data_dir to a writable folder"


def prepare(name: str, data_dir: str = "", origin: str = "") -> None:
    """Prepares a data set in `data_dir`, unless it is there already.

    Args:
        name: one of NAMES.
        data_dir: where prepared sets live; "" means the default.
        origin: where the original files are; "" downloads them.

    Raises:
        ValueError: the name is unknown, or the set cannot be prepared; one line with the remedy.
    """
    from vdm.data.records import resolve_data_dir

    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown data set {name!r}; {hint}known: {', '.join(NAMES)}")
    root = resolve_data_dir(data_dir)
    path = Path(origin).expanduser().absolute() if origin else None
    if path is not None and not path.exists():
        raise ValueError(f"--from={origin} does not exist: name the original files of {name}")
    folder, is_there, write = _plan(name, root, path)
    there = is_there()  # checked before locking, which a read-only shared folder does not allow
    if not there:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root, name):
            there = is_there()
            if not there:
                write()
    state = "there already" if there else "prepared"
    streams.write(sys.stdout, f"{name} is {state}: {folder}\n")


def _plan(
    name: str, root: Path, origin: Path | None
) -> tuple[Path, Callable[[], bool], Callable[[], None]]:
    """Returns the set's folder, a check whether the set is prepared, and a function to write it."""
    from vdm.data.records import is_prepared

    if name.startswith("imagenet"):
        from vdm.data import arrays, imagenet

        folder = root / name
        return (
            folder,
            lambda: (folder / arrays.FACTS).is_file(),
            lambda: imagenet.prepare(name, root, origin),
        )
    if name == "digits":
        from vdm.data import digits

        folder = root / name / digits.DIGITS_VERSION
        return folder, lambda: is_prepared(folder), lambda: digits.prepare(root)
    from vdm.data import image_sets
    from vdm.data.downloads import ORIGINALS

    facts = image_sets.SETS[name]
    folder = root / name / facts.version
    return (
        folder,
        lambda: is_prepared(folder),
        lambda: image_sets.prepare(facts, root, origin, ORIGINALS[name]),
    )


@contextlib.contextmanager
def _alone(root: Path, name: str) -> Iterator[None]:
    """Locks the set, so that no other process prepares it; a killed process loses its lock."""
    import fcntl

    descriptor = os.open(root / f".{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is preparing {name} in {root}: wait until it is done"
            ) from error
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
