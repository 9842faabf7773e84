"""One start of a run: what it runs on is written down, and how it failed where it did."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from jaxdreamer import __version__, families
from jaxdreamer.envs.host import libraries
from jaxdreamer.record import sessions
from jaxdreamer.saving import StorageError
from jaxdreamer.train.status import parameters

if TYPE_CHECKING:
    from jaxdreamer.train.loop import Loop

__all__ = ["session"]

_LONGEST = 500  # characters of an error


@contextmanager
def session(loop: Loop) -> Iterator[None]:
    """Around the training of one or several seeds; an error passes through, and is written beside their metrics."""
    _write(loop, about(loop))
    try:
        yield
    except Exception as error:
        with suppress(StorageError):  # as on a full disk, which may be the error itself
            _write(loop, {"failed": f"{type(error).__name__}: {error}"[:_LONGEST]})
        raise


def about(loop: Loop) -> dict[str, Any]:
    """Versions, hardware, size and place, JSON-ready."""
    record = families.find(loop.config.env.backend)
    names = ("jax", "jaxlib", "flax", "optax", "numpy", *(record.libraries if record else ()))
    devices = jax.devices()
    return {
        "frames": loop.counted,
        "updates": loop.updates,
        "parameters": parameters(loop),
        "loop": loop.name,
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        "devices": len(devices),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": processor(),
        "system": platform.platform(terse=True),
        "versions": {
            "jaxdreamer": __version__,
            "python": platform.python_version(),
            **{name: found for name, found in libraries.installed(*names).items() if found},
        },
    }


def processor() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _write(loop: Loop, entry: dict[str, Any]) -> None:
    if loop.placement.is_writer:
        for run in loop.runs:
            sessions.append(run.rundir.sessions, {"time": round(time.time(), 3), **entry})
