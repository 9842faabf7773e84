"""Metrics: one JSON object a line, and further sinks.

The JSONL file is part of the run's state: a checkpoint stores :attr:`MetricsLog.offset`, and a resumed run cuts the
file there, so a killed and resumed run leaves the same lines as one that was never killed - but for the wall clock,
whose values are all named ``time/...``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdreamer.files import FileUnusable, open_file
from jaxdreamer.record.sinks import FullSink, Sink
from jaxdreamer.saving import append_to, storing

__all__ = ["COUNTERS", "MetricsLog", "curve", "read", "without_time"]

_log = logging.getLogger("jaxdreamer")

_BLOCK = 2**16
_LONGEST = 2**20  # bytes of a line; one has a few hundred
_LARGEST = 1e100  # larger than any metric, and small enough for plots to compute with
COUNTERS = ("agent_steps", "env_frames", "updates")


class MetricsLog:
    """Appends records to ``path``.

    Args:
        path: the JSONL file; an incomplete last line, left by a killed run, is removed.
        sinks: further places. One that fails is dropped with one logged warning, and training continues.
        clock: seconds since the epoch, for ``time/unix``.
    """

    def __init__(
        self, path: str | os.PathLike[str], sinks: Iterable[Sink] = (), clock: Callable[[], float] = time.time
    ):
        self._path = Path(path)
        self._sinks = list(sinks)
        self._clock = clock
        with storing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = append_to(self._path)
            self._drop_incomplete_line()

    def add_sinks(self, sinks: Iterable[Sink]) -> None:
        """Send every further record to these places too."""
        self._sinks += sinks

    def write(self, scalars: Mapping[str, Any], *, agent_steps: int, env_frames: int, updates: int) -> dict[str, Any]:
        """Append one record, and return it.

        Args:
            scalars: by name, like ``loss/model``; Python, NumPy or jax scalars. One that is not finite is written as
                null. Names under ``time/`` are for values that depend on the wall clock.
            agent_steps: decisions taken so far, over all environments.
            env_frames: simulator steps so far, the x axis of every curve.
            updates: gradient updates so far.
        """
        record: dict[str, Any] = {"agent_steps": agent_steps, "env_frames": env_frames, "updates": updates}
        record = {key: int(value) for key, value in record.items()}
        clash = set(record) & set(scalars)
        if clash:
            raise ValueError(f"{', '.join(sorted(clash))}: a metric cannot have the name of a step counter")
        times = {"time/unix": round(self._clock(), 3)} | {k: v for k, v in scalars.items() if k.startswith("time/")}
        for key in sorted(key for key in scalars if not key.startswith("time/")):
            record[key] = _number(key, scalars[key])
        for key in sorted(times):
            record[key] = _number(key, times[key])
        self._append(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._to_sinks(lambda sink: sink.write(record, record["env_frames"]))
        return record

    def image(self, name: str, image: np.ndarray, *, env_frames: int) -> None:
        """Hand a picture, uint8 [H, W, 3], to the sinks; the JSONL file takes none."""
        self._to_sinks(lambda sink: sink.image(name, image, env_frames))

    def film(self, name: str, path: Path, *, env_frames: int) -> None:
        """Hand a film, a GIF, to the sinks."""
        self._to_sinks(lambda sink: sink.film(name, path, env_frames) if isinstance(sink, FullSink) else None)

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Hand the run's settings, by dotted name, to the sinks."""
        self._to_sinks(lambda sink: sink.settings(settings) if isinstance(sink, FullSink) else None)

    @property
    def offset(self) -> int:
        """Bytes written so far, on disk for certain: a checkpoint may promise them."""
        with storing(self._path):
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size

    def truncate(self, offset: int, env_frames: int = 0) -> str | None:
        """Drop every record written after :attr:`offset` had this value.

        Where the file has been changed since (it is shorter, or no line ends there), the records up to
        ``env_frames`` that can be read are kept, and a sentence is returned that says so.
        """
        with storing(self._path):
            data = self._path.read_bytes()
            if offset <= len(data) and (not offset or data[offset - 1 : offset] == b"\n"):
                self._file.truncate(offset)
                return None
            kept = [line for line in data.splitlines(keepends=True) if _until(line, env_frames)]
            self._file.truncate(0)
            for line in kept:
                self._append(line)
        return (
            f"{self._path} is not what it was at the checkpoint: it has {len(data):,} bytes instead of {offset:,}. The "
            f"missing part of the curve is lost; the run continues after the {len(kept)} remaining records"
        )

    def close(self) -> None:
        """Close the file and the sinks."""
        self._to_sinks(lambda sink: sink.close())
        self._sinks = []
        self._file.close()

    def __enter__(self) -> MetricsLog:
        """Close at the end of a with statement."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _to_sinks(self, action: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                action(sink)
            except Exception as error:
                # A failing logging service must not end hours of training.
                _log.warning("%s logging failed and is switched off for the rest of the run: %r", sink.name, error)
                self._sinks.remove(sink)

    def _append(self, line: bytes) -> None:
        with storing(self._path):
            if not _is_at(self._file, self._path):
                _log.warning("%s was removed during the run: its metrics continue in a new file", self._path)
                self._file.close()
                self._file = append_to(self._path)
            before, rest = os.fstat(self._file.fileno()).st_size, memoryview(line)
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                os.ftruncate(self._file.fileno(), before)  # no half a line
                raise

    def _drop_incomplete_line(self) -> None:
        size = end = os.fstat(self._file.fileno()).st_size
        while end:
            start = max(0, end - _BLOCK)
            self._file.seek(start)
            found = self._file.read(end - start).rfind(b"\n")
            end = start + found + 1 if found >= 0 else start
            if found >= 0:
                break
        if end < size:
            self._file.truncate(end)


def _is_at(file: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _until(line: bytes, env_frames: int) -> bool:
    """Whether the line is a complete record of at most ``env_frames``."""
    record = _record(line)
    frames = record and record.get("env_frames")
    return line.endswith(b"\n") and isinstance(frames, int) and frames <= env_frames


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All records of a metrics file; an incomplete last line is left out.

    Lines that are no records are left out, too, with one warning that counts them. Raises FileUnusable for a file that
    cannot be read, or that has no record where it has lines.
    """
    records, damaged, number, first = [], 0, 0, 0
    with open_file(path) as file:
        while line := file.readline(_LONGEST):
            number += 1
            if not line.endswith(b"\n"):
                if len(line) < _LONGEST:
                    break  # being written at this moment, or cut off by a kill
                while (rest := file.readline(_LONGEST)) and not rest.endswith(b"\n"):
                    pass
            record = _record(line)
            if record is None:
                damaged, first = damaged + 1, first or number
            else:
                records.append(record)
    if damaged and not records:
        raise FileUnusable(f"{path}: none of its {damaged} lines is a record of metrics: restore it from a copy")
    if damaged:
        _log.warning("%s: %d damaged lines are skipped, the first is line %d", path, damaged, first)
    return records


def _record(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None for a line that :meth:`MetricsLog.write` could not have written."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    for value in record.values():
        if value is not None and (type(value) not in (int, float) or not abs(value) <= _LARGEST):
            return None
    return record


def without_time(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without its wall-clock values; two equal runs have equal ones."""
    return {key: value for key, value in record.items() if not key.startswith("time/")}


def curve(records: Iterable[Mapping[str, Any]], y: str, x: str = "env_frames") -> list[tuple[float, float]]:
    """The points (x, y) of the records that have both."""
    return [(record[x], record[y]) for record in records if record.get(x) is not None and record.get(y) is not None]


def _number(key: str, value: Any) -> int | float | None:
    if value is None:
        return None
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"{key}: a metric is one number, found shape {array.shape}")
    number = array.item()
    if isinstance(number, int):
        return int(number)  # True is 1
    return float(number) if math.isfinite(number) else None
