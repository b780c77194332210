"""Describes the environment of a run: versions, devices, commit, command."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

PACKAGES = (
    "vdm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "diffrax",
    "constriction",
)  # fmt: skip


def describe(seed: int) -> dict[str, Any]:
    """The content of environment.json."""
    return {
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "platform": platform.platform(),
        "machine": machine(),
        "devices": [str(device) for device in jax.devices()],
        "processes": jax.process_count(),
        "commit": commit(),
        "command": ["python", *sys.orig_argv[1:]],
        "seed": seed,
    }


def machine() -> str:
    """The hardware of a run in words, such as "2 CPU cores" or the number and kind of devices."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    cores = os.cpu_count() or 1
    return f"{cores} CPU core{'s' if cores > 1 else ''}"


def commit() -> str | None:
    """The commit of the checkout that this code runs from; None for an installed package.

    It ends with "-dirty" if files have been changed.
    """
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
