"""jax's devices, with a readable error where there are none, and its cache of compiled programs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import jax

from jaxdreamer.errors import JaxdreamerError

__all__ = ["DeviceError", "devices", "how_often", "keep_compiled"]

logger = logging.getLogger(__name__)


class DeviceError(JaxdreamerError, RuntimeError):
    """jax finds no device of the kind that JAX_PLATFORMS names."""


def devices() -> list[jax.Device]:
    """jax's devices, the default one first. Raises DeviceError; called before anything is computed."""
    try:
        return jax.devices()
    except (AssertionError, RuntimeError) as error:  # which one depends on the platform
        asked = jax.config.values.get("jax_platforms") or ""
        reason = (str(error).splitlines() or ["jax does not say why"])[0].partition(" (set JAX_PLATFORMS")[0]
        raise DeviceError(
            f"JAX_PLATFORMS={asked}: jax cannot use that here ({reason}); unset it to use what is here, or "
            "install what it needs, such as pip install 'jax[cuda13]' for an NVIDIA GPU"
        ) from error


def keep_compiled() -> None:
    """Keep compiled programs between runs, unless jax is configured to already.

    In ``$JAX_COMPILATION_CACHE_DIR``, or ``jaxdreamer`` in the user's cache folder; a warning where that cannot be written.
    """
    if jax.config.values.get("jax_compilation_cache_dir") is not None:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxdreamer" / "xla"
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        logger.warning(
            "compiled programs are not kept for the next run (%s): set JAX_COMPILATION_CACHE_DIR to a writable folder",
            error,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def how_often() -> str:
    """When a program is compiled, for the message about it."""
    kept = jax.config.values.get("jax_compilation_cache_dir") is not None
    return "unless it is cached" if kept else "for this run"
