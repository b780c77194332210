"""An error in one line, with the place in the user's own code where it arose."""

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
    """SIGTERM outside the training loop, which saves first. Derives from BaseException, like
    KeyboardInterrupt, because libraries below swallow Exception."""


def one_line(error: BaseException) -> str:
    """An error's text, line breaks and tracebacks inside it left out."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = re.sub(r"Traceback \(most recent call last\):.*\n(?=\S)", "", text, flags=re.DOTALL)
    return " ".join(text.split())


def own_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost line of the user's own code that the error, or what caused it, went through."""
    for cause in _causes(error):
        frames = traceback.extract_tb(cause.__traceback__)
        own = [frame for frame in frames if _is_own(frame.filename)]
        if own:
            return own[-1]
    return None


def is_own_message(error: BaseException) -> bool:
    """Whether the user's own code raised this mistake, whose text then says what it should."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        isinstance(error, ValueError | OSError)
        and bool(frames)
        and _is_own(frames[-1].filename)
        and (frames[-1].line or "").startswith("raise ")
    )


def describe(error: BaseException, config: Mapping[str, Any] | None = None) -> str:
    """The error in one line; where it arose in the user's own code, with that line of it and the
    component of the config that is in the same file."""
    text, frame = one_line(error), own_frame(error)
    if not isinstance(error, ValueError | OSError) and str(error):
        text = f"{type(error).__name__}: {text}"
    if frame is None or is_own_message(error):
        return text
    place = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
    if place in text:  # a config file's, which is described already
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
    """The components "package.module:Thing" of a config that are in that file."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _components(value, path, f"{prefix}{key}.")
        elif key == "name" and isinstance(value, str) and ":" in value:
            module = sys.modules.get(value.partition(":")[0])
            if os.path.realpath(getattr(module, "__file__", None) or "") == path:
                yield f"{prefix}name = {value!r}"
