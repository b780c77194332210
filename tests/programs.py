"""Python programs in processes of their own, for claims about a process."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_python(
    script: str, *arguments: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a script that finds `vdm` and `tests`, and returns the finished process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # orbax waits 600 s for a folder that cannot be made
    )
