"""Optional dependencies: imported when asked for, with the pip line in the error where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from jaxdreamer.config import MissingExtra

__all__ = ["require"]


def require(module: str, extra: str, purpose: str) -> Any:
    """Import ``module``, or raise :class:`~jaxdreamer.config.MissingExtra` that names the extra to install."""
    try:
        found = importlib.import_module(module)
        if getattr(found, "__file__", "") is None:  # as Weights & Biases' own folder of runs, in the working folder
            raise ImportError(f"{next(iter(found.__path__))} is a folder without a module")
        return found
    except ImportError as error:
        package = module.partition(".")[0]
        why = f"{purpose} needs the Python package {package}, which cannot be imported ({error})"
        raise MissingExtra(f"jaxdreamer[{extra}]", why) from error
