"""Replay on disk: immutable chunk files and a manifest that says which of them make up the replay.

A run that saves every few minutes writes each row once: :func:`save` stores only the rows that the previous manifest
does not cover. The manifest is part of the checkpoint, so checkpoint and replay are always of the same moment:
chunks that a killed run wrote later are in no manifest, and :func:`load` does not see them.

A chunk holds the bytes of each field of its rows, one field after another by name, each in C order. Its name contains
its rows and checksum, so that a file that an older checkpoint names is never replaced by other content.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.files import FileUnusable, list_of, natural, read_whole, require
from jaxdreamer.replay.host import HostReplay
from jaxdreamer.replay.layout import EPISODE, Layout, bytes_by_field
from jaxdreamer.replay.mapped import MappedRing
from jaxdreamer.saving import remove, replacing, storing
from jaxdreamer.types import EnvSpec

__all__ = ["CHUNK_BYTES", "FORM", "ReplayDamaged", "blocks", "load", "problems", "prune", "save"]

CHUNK_BYTES = 64 * 2**20
_VERSION = 3
_ROWS = 1024  # of a mapped ring, read at a time
_NAME = re.compile(r"chunk-[0-9]{12,}-[0-9]{12,}-[0-9a-f]{8}\.bin")
FORM = {
    "version": lambda value: value == _VERSION,
    "lanes": natural,
    "spec": dict,
    "oldest": natural,
    "files": lambda value: value is None or (isinstance(value, dict) and natural(value.get("slots"))),
    "state": {**dict.fromkeys(("total", "first", "online", "length"), natural), "closed": [list_of(natural, 2)]},
    "chunks": [
        {
            "file": lambda value: isinstance(value, str) and _NAME.fullmatch(value) is not None,
            "start": natural,
            "stop": natural,
            "bytes": natural,
            "crc32": natural,
        }
    ],
}
"""What :func:`save` returns; see :func:`jaxdreamer.files.require`."""


class ReplayDamaged(JaxdreamerError, RuntimeError):
    """A chunk file that is missing, truncated or altered, or that belongs to another environment."""


def save(
    replay: HostReplay,
    folder: str | os.PathLike[str],
    previous: dict[str, Any] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> dict[str, Any]:
    """Write the rows that ``previous`` does not cover, and return the manifest (plain JSON values) of the whole.

    Args:
        replay: to save.
        folder: where the chunk files lie; made if need be.
        previous: the manifest of the last save, or the one the run was resumed from. None: everything is written.
        chunk_bytes: no chunk is larger, unless a single row is.

    Of a ring that lies in files itself nothing is copied. Chunks that are no longer needed stay until :func:`prune`: an
    older checkpoint may still name them.
    """
    folder = Path(folder)
    kept = []
    for chunk in previous["chunks"] if previous else []:
        if chunk["stop"] > replay.oldest and _size(folder / chunk["file"]) == chunk["bytes"]:
            kept.append(chunk)
    files = replay.files
    row_bytes = max(1, replay.size.nbytes // replay.rows_max)
    limit = max(1, chunk_bytes // row_bytes)
    chunks, row = [], replay.total if files else replay.oldest
    for chunk in [*sorted(kept, key=lambda c: c["start"]), None]:
        gap_end = replay.total if chunk is None else chunk["start"]
        while row < gap_end:
            stop = min(row + limit, gap_end)
            chunks.append(_write_chunk(replay, folder, row, stop))
            row = stop
        if chunk is not None:
            chunks.append(chunk)
            row = max(row, chunk["stop"])
    return {
        "version": _VERSION,
        "lanes": replay.lanes,
        "spec": replay.spec.to_dict(),
        "oldest": replay.oldest,
        "files": files,
        # Rows are immutable but for one thing: a resumed run may have closed an episode in a row saved before.
        # state() lists all such rows that are still here, so a chunk never has to be written again.
        "state": replay.state(),
        "chunks": chunks,
    }


def load(
    replay: HostReplay, folder: str | os.PathLike[str], manifest: dict[str, Any], drop_damaged: bool = False
) -> list[str]:
    """Make ``replay`` hold the rows of the manifest, and no others.

    A ring of another capacity is fine: a shorter one takes the newest rows.

    Args:
        replay: to fill.
        folder: where the chunk files lie.
        manifest: from :func:`save`.
        drop_damaged: skip the rows of damaged chunks. The rows on either side are joined, with an episode's end between
            them, so that no window spans the gap.

    Returns:
        What was wrong with the chunks that were dropped, a sentence each. Where there are any, the rows have other
        numbers than before: the next :func:`save` must be given no previous manifest.

    Raises:
        ReplayDamaged: a chunk is missing, truncated or altered (named), or the replay's environment is another one.
    """
    folder = Path(folder)
    _check_fits(replay, folder, manifest)
    state = dict(manifest["state"])
    if replay.mapped:
        return _take_over(replay, replay.mapped, manifest, drop_damaged)
    total = state["total"]
    first = max(manifest["oldest"], total - replay.rows_max)
    dropped: list[str] = []
    seams: list[int] = []
    closed: list[list[int]] = []
    row, shift = total, 0  # the rows from here on are in place; how far older ones move up
    for chunk in sorted(manifest["chunks"], key=lambda chunk: chunk["start"], reverse=True):
        start, stop = max(chunk["start"], first), min(chunk["stop"], total)
        if start >= stop:
            continue
        if stop + shift != row:
            raise ReplayDamaged(f"{folder}: the manifest's chunks leave rows {stop} to {row - shift} out, or overlap")
        try:
            values = _rows(replay.layout, replay.lanes, _read_checked(folder, chunk), chunk)
        except ReplayDamaged as error:
            if not drop_damaged:
                raise
            dropped.append(str(error))
            shift += stop - start
            seams.append(row)
            continue
        row -= stop - start
        closed += [[ended + shift, lane] for ended, lane in state["closed"] if start <= ended < stop]
        replay.write_rows(
            row, {key: value[start - chunk["start"] : stop - chunk["start"]] for key, value in values.items()}
        )
    if row - shift != first:
        raise ReplayDamaged(f"{folder}: the manifest's chunks leave rows {first} to {row - shift} out")
    if dropped or first > total - replay.rows_max:
        state["first"] = row  # this ring is the longer one: it has room for older rows, which are gone
    replay.load_state(state | {"closed": closed}, seams=[seam for seam in seams if seam > row])
    return dropped


def _take_over(replay: HostReplay, mapped: MappedRing, manifest: dict[str, Any], drop_damaged: bool) -> list[str]:
    """:func:`load` of a ring whose files are still there."""
    files, state = manifest["files"], dict(manifest["state"])
    lost = _lost(mapped, replay.layout, manifest)
    if lost and not drop_damaged:
        raise ReplayDamaged(lost)
    try:
        replay.take_over(files["slots"])
    except FileUnusable:
        return [lost]  # and the replay is empty
    if (first := mapped.intact(manifest["oldest"], state["total"])) > manifest["oldest"]:
        state["first"] = first
    replay.load_state(state)
    if replay.rows:  # only the newest row may have been changed since
        replay.set_ended(files["ended"])
    return [lost] if lost else []


def _lost(mapped: MappedRing, layout: Layout, manifest: dict[str, Any]) -> str:
    """What is wrong with a ring's files; empty where nothing is."""
    oldest, total = manifest["oldest"], manifest["state"]["total"]
    try:
        mapped.open(layout, manifest["files"]["slots"], manifest["lanes"])
    except FileUnusable as error:
        return str(error)
    first = mapped.intact(oldest, total)
    return (
        f"{mapped.folder}: rows {oldest} to {first - 1} of the replay were overwritten since" if first > oldest else ""
    )


def _check_fits(replay: HostReplay, folder: Path, manifest: dict[str, Any]) -> None:
    if manifest["lanes"] != replay.lanes:
        raise ReplayDamaged(
            f"{folder} was written with {manifest['lanes']} environments side by side, this run has {replay.lanes}: "
            f"set env.num_envs={manifest['lanes']}"
        )
    _check_spec(folder, manifest, replay.spec)


def _check_spec(folder: Path, manifest: dict[str, Any], spec: EnvSpec) -> None:
    if manifest["spec"] != spec.to_dict():
        raise ReplayDamaged(
            f"{folder} was written for another environment: it holds {manifest['spec']}, this run needs {spec.to_dict()}"
        )


def blocks(folder: str | os.PathLike[str], manifest: Any, spec: EnvSpec) -> Iterator[dict[str, np.ndarray]]:
    """The rows of a manifest, oldest first, chunk by chunk: arrays [rows, lanes, ...] by the names of a flat Batch.

    What algorithms keep is among them as bytes only, ``kept/``. Raises FileUnusable, ReplayDamaged.
    """
    require(manifest, FORM, "the replay's manifest")
    _check_spec(Path(folder), manifest, spec)
    lanes, layout = manifest["lanes"], spec.layout | EPISODE
    if manifest["files"]:
        yield from _mapped_blocks(Path(folder), manifest, spec)
        return
    first, closed = manifest["oldest"], np.array(manifest["state"]["closed"], int).reshape(-1, 2)
    for chunk in sorted(manifest["chunks"], key=lambda chunk: chunk["start"]):
        data, entries = _read_checked(Path(folder), chunk), (chunk["stop"] - chunk["start"]) * lanes
        known = sum(bytes_by_field(layout, 1).values())
        kept: Layout = {"kept/": ((max(0, len(data) // max(1, entries) - known),), np.dtype(np.uint8))}
        rows = _rows(layout | kept, lanes, data, chunk)
        rows["is_last"] = rows["is_last"].copy()
        for row, lane in closed[(closed[:, 0] >= chunk["start"]) & (closed[:, 0] < chunk["stop"])]:
            rows["is_last"][row - chunk["start"], lane] = True
        skip = max(0, first - chunk["start"])
        yield {name: value[skip:] for name, value in rows.items()}


def _mapped_blocks(folder: Path, manifest: dict[str, Any], spec: EnvSpec) -> Iterator[dict[str, np.ndarray]]:
    mapped, slots, total = MappedRing(folder, reader=True), manifest["files"]["slots"], manifest["state"]["total"]
    if lost := _lost(mapped, spec.layout, manifest):
        raise ReplayDamaged(lost)
    arrays = mapped.open(spec.layout, slots, manifest["lanes"])
    for start in range(manifest["oldest"], total, _ROWS):
        places = np.arange(start, min(start + _ROWS, total)) % slots
        yield {name: array[places] for name, array in arrays.items()}


def problems(folder: str | os.PathLike[str], manifest: Any) -> list[str]:
    """What is wrong with the manifest's chunk files, by reading them all; empty where :func:`load` will succeed."""
    found = []
    if manifest["files"] and (lost := _lost(MappedRing(Path(folder), reader=True), {}, manifest)):
        found.append(lost)
    for chunk in manifest["chunks"]:
        try:
            _read_checked(Path(folder), chunk)
        except ReplayDamaged as error:
            found.append(str(error))
    return found


def prune(folder: str | os.PathLike[str], manifests_to_keep: Iterable[dict[str, Any]]) -> list[str]:
    """Delete chunk files (and leftovers of interrupted writes) that no manifest names; returns their names."""
    wanted = {chunk["file"] for manifest in manifests_to_keep for chunk in manifest["chunks"]}
    removed = []
    for path in sorted([*Path(folder).glob("chunk-*"), *Path(folder).glob(".*.tmp*")]):
        if path.name not in wanted:
            with storing(path):
                remove(path)
            removed.append(path.name)
    return removed


def _write_chunk(replay: HostReplay, folder: Path, start: int, stop: int) -> dict[str, Any]:
    values = replay.read_rows(start, stop)
    blocks = [values[key].reshape(-1).view(np.uint8).data for key in sorted(values)]
    size, crc = sum(block.nbytes for block in blocks), 0
    for block in blocks:
        crc = zlib.crc32(block, crc)
    path = folder / f"chunk-{start:012d}-{stop - 1:012d}-{crc:08x}.bin"
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for block in blocks:
            file.write(block)
    chunk = {"file": path.name, "start": start, "stop": stop, "bytes": size, "crc32": crc}
    _read_checked(folder, chunk)  # the disk may not have kept what was written
    return chunk


def _read_checked(folder: Path, chunk: dict[str, Any]) -> bytes:
    try:
        return read_whole(folder / chunk["file"], chunk["bytes"], chunk["crc32"])
    except FileUnusable as error:
        raise ReplayDamaged(str(error)) from error


def _rows(layout: Layout, lanes: int, data: bytes, chunk: dict[str, Any]) -> dict[str, np.ndarray]:
    """A chunk's rows by field, [rows, lanes, ...]."""
    values, offset, count = {}, 0, chunk["stop"] - chunk["start"]
    size = sum(bytes_by_field(layout, count * lanes).values())
    if size != len(data):
        raise ReplayDamaged(f"{chunk['file']} has {len(data)} bytes, {count} rows of this environment take {size}")
    for key, (shape, dtype) in sorted(layout.items()):
        shape = (count, lanes, *shape)
        values[key] = array = np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape)
        offset += array.nbytes
    return values


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
