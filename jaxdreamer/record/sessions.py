"""When, where and with what a run was trained: ``sessions.jsonl``, a line for every start and for every failure."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

from jaxdreamer.files import FileMissing, FileUnusable, natural, number, parse_json, read_text, require
from jaxdreamer.saving import append_to, storing

__all__ = ["append", "newest", "read", "wall_seconds"]

_log = logging.getLogger("jaxdreamer")
_MOST = 2**22  # bytes
_FORM = {"time": number, "frames": natural, "parameters": natural, "versions": {...: str}, "failed": str}
"""Of those that are there; ``time`` always is."""


def append(path: str | os.PathLike[str], entry: Mapping[str, Any]) -> None:
    """Add a line of plain values; ``time`` among them is in seconds since 1970. Raises StorageError, FileUnusable."""
    with storing(path), append_to(path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 1))
        cut_off = file.read(1) not in (b"", b"\n")  # by a kill: the line is lost, the next must not be
        file.write(b"\n" * cut_off + json.dumps(entry).encode() + b"\n")


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines, oldest first; none where the run is older than this file. What is no such line is left out, with a warning.

    Raises FileUnusable for what is no text file of a few megabytes.
    """
    try:
        text = read_text(path, _MOST)
    except FileMissing:
        return []
    entries, damaged = [], []
    for index, line in enumerate(text.split("\n")[:-1]):  # the last is empty, or being written at this moment
        try:
            entries.append(_entry(parse_json(path, line.encode())))
        except FileUnusable:
            damaged.append(index + 1)
    if damaged:
        _log.warning("%s: %d damaged lines are skipped, the first is line %d", path, len(damaged), damaged[0])
    return entries


def _entry(data: Any) -> dict[str, Any]:
    require(data, {"time": number}, "a session")
    require(data, {name: form for name, form in _FORM.items() if name in data}, "a session")
    return data


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
