"""The journal of an evaluation or of samples, by which they survive a kill."""

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
    """The journal of the evaluation or the samples, `<name>.partial` in the workdir. What several
    processes do is not kept, as each would have to know what is finished."""
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
    """The parts of a computation: those in the journal are finished, and new ones are kept in it;
    settings: the other fields of `Parts`."""
    if journal is None:
        return Parts(**settings)
    return Parts(finished=tuple(journal.parts), on_part=journal.append, **settings)
