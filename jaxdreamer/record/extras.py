"""Optional dependencies: imported when asked for, with the pip line in the error where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from jaxdreamer.config import ConfigError

__all__ = ["MissingExtra", "require"]


class MissingExtra(ConfigError, ImportError):
    """A feature was asked for whose optional dependency is not installed."""


def require(module: str, extra: str, purpose: str) -> Any:
    """Import ``module``, or raise :class:`MissingExtra` that names the extra to install.

    >>> require("json", extra="video", purpose="nothing").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{purpose} needs the Python package {module.partition('.')[0]}, which cannot be imported ({error}): "
            f"pip install 'jaxdreamer[{extra}]'"
        ) from error
