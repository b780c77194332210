"""The journal that lets a killed evaluation, or killed sampling, resume."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import DTypeLike

from vdm.evaluation.calls import Parts
from vdm.io.journal import Journal
from vdm.runs.run import Run


@contextlib.contextmanager
def open_journal(
    run: Run, name: str, doing: str, identity: dict[str, Any], dtype: DTypeLike = np.float32
) -> Iterator[Journal]:
    """Opens the journal `<name>.partial` in the workdir. If several processes compute together, it
    is temporary, because each of them would have to know which parts are finished.

    doing: the activity, for the message of the ValueError if another process has the journal.
    identity: everything that the parts depend on; parts of another identity are dropped.
    """
    with contextlib.ExitStack() as stack:
        folder = run.workdir
        if jax.process_count() > 1:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            journal = Journal(folder / f"{name}.partial", identity, dtype)
        except BlockingIOError:
            raise ValueError(
                f"another process is {doing} {run.workdir}: wait for it, or stop it"
            ) from None
        yield stack.enter_context(journal)


def parts_in(journal: Journal | None, **settings: Any) -> Parts:
    """Returns the parts of a computation: those in the journal count as finished, and new ones are
    appended to it. settings: the other fields of `Parts`."""
    if journal is None:
        return Parts(**settings)
    return Parts(finished=tuple(journal.parts), on_part=journal.append, **settings)
