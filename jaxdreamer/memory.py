"""Available memory, and an error before an allocation that would not fit."""

from __future__ import annotations

import os
from pathlib import Path

from jaxdreamer.errors import JaxdreamerError


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
