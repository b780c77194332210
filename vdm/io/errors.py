"""Describes an error in one line, with the place in the user's own code where it occurred."""

import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

_NOT_OWN = tuple(
    os.path.realpath(folder) + os.sep
    for folder in (
        os.path.dirname(os.path.dirname(__file__)),
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    )
)


class Terminated(BaseException):
    """SIGTERM was received outside the training loop (the loop saves first).

    It derives from BaseException, like KeyboardInterrupt, because libraries swallow Exception.
    """


def one_line(error: BaseException) -> str:
    """The text of an error without line breaks and without tracebacks inside it."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = re.sub(r"Traceback \(most recent call last\):.*\n(?=\S)", "", text, flags=re.DOTALL)
    return " ".join(text.split())


def own_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost line of the user's own code in the traceback of the error or of its cause."""
    for cause in _causes(error):
        frames = traceback.extract_tb(cause.__traceback__)
        own = [frame for frame in frames if _is_own(frame.filename)]
        if own:
            return own[-1]
    return None


def is_own_message(error: BaseException) -> bool:
    """Whether the user's own code raised this ValueError or OSError, whose text then suffices."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        isinstance(error, ValueError | OSError)
        and bool(frames)
        and _is_own(frames[-1].filename)
        and (frames[-1].line or "").startswith("raise ")
    )


def describe(error: BaseException, config: Mapping[str, Any] | None = None) -> str:
    """The error in one line. If it occurred in the user's own code, it includes that line of code
    and the component of the config that is defined in the same file."""
    text, frame = one_line(error), own_frame(error)
    if not isinstance(error, ValueError | OSError) and str(error):
        text = f"{type(error).__name__}: {text}"
    if frame is None or is_own_message(error):
        return text
    place = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
    if place in text:  # an error in a config file already names the place
        return text
    owner = next(_components(config or {}, os.path.realpath(frame.filename)), "")
    named = f"{owner}: " if owner and owner not in text else ""
    return f"{named}{text} ({place}: {(frame.line or '').strip()})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_own(filename: str) -> bool:
    path = os.path.realpath(filename)
    packages = f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}"
    return (
        not filename.startswith("<")
        and not path.startswith(_NOT_OWN)
        and not any(folder in path for folder in packages)
    )


def _components(config: Mapping[str, Any], path: str, prefix: str = "") -> Iterator[str]:
    """Yields the components "package.module:Thing" of a config that are defined in that file."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _components(value, path, f"{prefix}{key}.")
        elif key == "name" and isinstance(value, str) and ":" in value:
            module = sys.modules.get(value.partition(":")[0])
            if os.path.realpath(getattr(module, "__file__", None) or "") == path:
                yield f"{prefix}name = {value!r}"
