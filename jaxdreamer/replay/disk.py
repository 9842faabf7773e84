"""Replay on disk: immutable chunk files and a manifest that says which of them make up the replay.

A run that saves every few minutes writes each row once: :func:`save` stores only the rows that the previous manifest
does not cover. The manifest belongs into the checkpoint, so checkpoint and replay are from the same moment whatever
happens in between: chunks that a killed run wrote later are in no manifest, and :func:`load` does not see them.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.files import FileUnusable, read_bytes
from jaxdreamer.replay.host import HostReplay

__all__ = ["CHUNK_BYTES", "ReplayDamaged", "load", "problems", "prune", "save"]

CHUNK_BYTES = 64 * 2**20
_VERSION = 1


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
        replay: what to save.
        folder: where the chunk files lie; made if need be.
        previous: the manifest of the last save, or the one the run was resumed from. None: everything is written.
        chunk_bytes: no chunk is larger, unless a single row is.

    Files of chunks that are no longer needed stay until :func:`prune`: an older checkpoint may still name them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for chunk in previous["chunks"] if previous else []:
        if chunk["stop"] > replay.oldest and _size(folder / chunk["file"]) == chunk["bytes"]:
            kept.append(chunk)
    row_bytes = max(1, replay.nbytes // replay.rows_max)
    limit = max(1, chunk_bytes // row_bytes)
    chunks, row = [], replay.oldest
    for chunk in [*sorted(kept, key=lambda c: c["start"]), None]:
        gap_end = replay.total if chunk is None else chunk["start"]
        while row < gap_end:
            stop = min(row + limit, gap_end)
            chunks.append(_write_chunk(replay, folder, row, stop))
            row = stop
        if chunk is not None:
            chunks.append(chunk)
            row = max(row, chunk["stop"])
    _sync_folder(folder)
    return {
        "version": _VERSION,
        "lanes": replay.lanes,
        "spec": replay.spec.to_dict(),
        "oldest": replay.oldest,
        # Rows are immutable but for one thing: a resumed run may have closed an episode in a row saved before.
        # state() lists all such rows that are still here, so a chunk never has to be written again.
        "state": replay.state(),
        "chunks": chunks,
    }


def load(replay: HostReplay, folder: str | os.PathLike[str], manifest: dict[str, Any]) -> None:
    """Make ``replay`` hold what the manifest says, and nothing else.

    A ring of another capacity is fine: a shorter one takes the newest rows.

    Raises:
        ReplayDamaged: a chunk is missing, truncated or altered (named), or the replay's environment is another one.
    """
    folder = Path(folder)
    if manifest["lanes"] != replay.lanes:
        raise ReplayDamaged(
            f"{folder} was written with {manifest['lanes']} environments side by side, this run has {replay.lanes}: "
            f"set env.num_envs={manifest['lanes']}"
        )
    if manifest["spec"] != replay.spec.to_dict():
        raise ReplayDamaged(
            f"{folder} was written for another environment: it holds {manifest['spec']}, this run needs "
            f"{replay.spec.to_dict()}"
        )
    state = dict(manifest["state"])
    first = max(manifest["oldest"], state["total"] - replay.rows_max)
    for chunk in manifest["chunks"]:
        start, stop = max(chunk["start"], first), min(chunk["stop"], state["total"])
        if start >= stop:
            continue
        with np.load(io.BytesIO(_read_checked(folder, chunk))) as data:
            values = {key: data[key][start - chunk["start"] : stop - chunk["start"]] for key in data.files}
        replay.write_rows(start, values)
    if first > state["total"] - replay.rows_max:
        state["first"] = first  # this ring is the longer one: it has room for older rows, which are gone
    replay.load_state(state)


def problems(folder: str | os.PathLike[str], manifest: dict[str, Any]) -> list[str]:
    """What is wrong with the manifest's chunk files, by reading them all; empty where :func:`load` will succeed."""
    found = []
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
    for path in sorted(Path(folder).glob("chunk-*")):
        if path.name not in wanted:
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


def _write_chunk(replay: HostReplay, folder: Path, start: int, stop: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    np.savez(buffer, **replay.read_rows(start, stop))  # type: ignore[arg-type]
    data = buffer.getbuffer()
    name = f"chunk-{start:012d}-{stop - 1:012d}.npz"
    temporary = folder / f"{name}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / name)
    return {"file": name, "start": start, "stop": stop, "bytes": len(data), "crc32": zlib.crc32(data)}


def _read_checked(folder: Path, chunk: dict[str, Any]) -> bytes:
    path = folder / chunk["file"]
    try:
        data = read_bytes(path, chunk["bytes"])
    except FileUnusable as error:
        raise ReplayDamaged(str(error)) from error
    if len(data) != chunk["bytes"]:
        raise ReplayDamaged(f"{path} has {len(data)} bytes, its manifest says {chunk['bytes']}")
    if zlib.crc32(data) != chunk["crc32"]:
        raise ReplayDamaged(f"{path} was altered: its checksum is not the manifest's")
    return data


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _sync_folder(folder: Path) -> None:
    # A rename survives a power cut only once its folder is on disk as well.
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
