"""Variational diffusion models with a learned SNR."""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vdm.api import BitsPerDim, Model, build, load, train
    from vdm.config.files import load_config

__all__ = ["BitsPerDim", "Model", "build", "load", "load_config", "train"]


def __getattr__(name: str) -> Any:
    """The API and the modules, on first use: `python -m vdm.main --help` must not import JAX, nor
    a config file that calls load_config."""
    if name in __all__:
        module = "vdm.config.files" if name == "load_config" else "vdm.api"
        return getattr(importlib.import_module(module), name)
    if not name.startswith("_") and importlib.util.find_spec(f"vdm.{name}"):
        return importlib.import_module(f"vdm.{name}")
    raise AttributeError(f"module 'vdm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
