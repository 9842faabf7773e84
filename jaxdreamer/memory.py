"""Available memory, an error before an allocation that would not fit, and memory that is kept between updates."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jaxdreamer.errors import JaxdreamerError

# For glibc's mallopt(3): no mappings apart, nothing given back, 256 MB asked for at once; one arena for all threads.
_KEEP = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_TOP_PAD": (-2, 2**28)}
_ONE_ARENA = {"M_ARENA_MAX": (-8, 1)}


class TooLarge(JaxdreamerError, MemoryError):
    """An allocation would exceed this machine's memory; the message says how many bytes it would take."""


def refuse_beyond_memory(what: str, nbytes: int, advice: str) -> None:
    """TooLarge where ``nbytes`` are more than is available. ``advice`` says what to do."""
    available = available_memory()
    if nbytes > available:
        raise TooLarge(
            f"{what} would take {human(nbytes)} ({nbytes:,} bytes), but only {human(available)} is available: {advice}"
        )


def available_memory() -> int:
    """Bytes a new allocation may take: the machine's available memory, or less where a cgroup limits this process."""
    import psutil

    return min([psutil.virtual_memory().available, *cgroup_room()])


def cgroup_room(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> list[int]:
    """Bytes left under every cgroup limit found (version 2 and 1, own group and root), page cache not counted."""
    folders = [Path(root), Path(root, "memory")]
    try:
        for line in Path(own).read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or "memory" in controllers.split(","):
                base = Path(root) if controllers == "" else Path(root, "memory")
                group = base / path.lstrip("/")
                folders += [group, *(parent for parent in group.parents if base in parent.parents)]
    except (OSError, ValueError):
        pass
    room = []
    for folder in folders:
        for limit_name, usage_name, cache_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            try:
                limit = int((folder / limit_name).read_text())  # "max" is no number: no limit
                used = int((folder / usage_name).read_text())
            except (OSError, ValueError):
                continue
            room.append(max(0, limit - used + _stat(folder / "memory.stat", cache_name)))
    return room


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees, for its next allocation; whether that could be set.

    An update's buffers are large, and glibc gives such back to the system: each update then begins by being handed a
    million empty pages, an eighth of its time on a CPU. To be called before JAX starts, by a process that is all for
    training, as the command line's is. Nothing is done without glibc, nor where the user has set ``MALLOC_*`` or
    ``GLIBC_TUNABLES``.
    """
    return _set(_KEEP)


def use_one_arena() -> bool:
    """Make all threads of this process share what :func:`keep_freed_memory` keeps; whether that could be set.

    For large updates: else each thread keeps buffers of its own. In small ones the threads wait for each other at the one
    arena, longer than they gain by it. Likewise to be called before JAX starts.
    """
    return _set(_ONE_ARENA)


def _set(options: dict[str, tuple[int, int]]) -> bool:
    chosen = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    if sys.platform != "linux" or chosen:
        return False
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # another C library has none
    return mallopt is not None and all(mallopt(name, value) for name, value in options.values())


def _stat(path: os.PathLike[str], name: str) -> int:
    try:
        lines = (line.split() for line in Path(path).read_text().splitlines())
        return next((int(value) for key, value in lines if key == name), 0)
    except (OSError, ValueError):
        return 0


def human(size: float) -> str:
    """Bytes in the unit that suits them, to three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
