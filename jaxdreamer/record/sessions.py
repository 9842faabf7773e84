"""When, where and with what a run was trained: ``sessions.jsonl``, a line for every start and for every failure."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from jaxdreamer.files import FileMissing, natural, number, parse_json, read_text, require
from jaxdreamer.saving import append_to, storing

__all__ = ["append", "newest", "read", "wall_seconds"]

_MOST = 2**22  # bytes
_FORM = {"time": number, "frames": natural, "parameters": natural, "versions": {...: str}, "failed": str}
"""Of those that are there; ``time`` always is."""


def append(path: str | os.PathLike[str], entry: Mapping[str, Any]) -> None:
    """Add a line of plain values; ``time`` among them is in seconds since 1970. Raises StorageError, FileUnusable."""
    with storing(path), append_to(path) as file:
        file.write(json.dumps(entry).encode() + b"\n")


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines, oldest first; none where the run is older than this file. Raises FileUnusable."""
    try:
        text = read_text(path, _MOST)
    except FileMissing:
        return []
    lines = [
        line for line in text.splitlines(keepends=True) if line.endswith("\n")
    ]  # the last may be cut off by a kill
    entries = [parse_json(path, line.encode()) for line in lines]
    for index, entry in enumerate(entries):
        require(entry, {"time": number}, where := f"{path}, line {index + 1}")
        require(entry, {name: form for name, form in _FORM.items() if name in entry}, where)
    return entries


def wall_seconds(entries: Iterable[Mapping[str, Any]], records: Iterable[Mapping[str, Any]]) -> float:
    """How long the run was trained, all sessions together: of each from its start to its last line of metrics.

    What a killed session did after its last checkpoint is cut off its metrics, and not counted.
    """
    starts = sorted(entry["time"] for entry in entries if "failed" not in entry)
    times = [record["time/unix"] for record in records if record.get("time/unix") is not None]
    if not starts:
        return max(times, default=0.0) - min(times, default=0.0)
    ends = [*starts[1:], float("inf")]
    last = [max((time for time in times if start <= time < end), default=start) for start, end in zip(starts, ends)]
    return sum(end - start for start, end in zip(starts, last))


def newest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the last start said of itself; empty where none did."""
    started = [entry for entry in read(path) if "failed" not in entry]
    return started[-1] if started else {}
