"""Arrays that several processes hold together: each writes its own part beside the checkpoint, and one puts them in order.

The checkpoint itself is the file that one process alone would write, so any number of processes can go on from it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdreamer.files import check_whole, crc32_of, open_file
from jaxdreamer.record.arrays import as_bytes, named_leaves, plain
from jaxdreamer.saving import storing, sync


class Block(NamedTuple):
    """A rectangle of one array."""

    path: list[str]  # of the array in the tree
    where: list[list[int]]  # first and last + 1 along each axis
    offset: int  # byte of the file


class Part(NamedTuple):
    """What one process has written."""

    name: str  # of the file in the folder
    bytes: int
    crc32: int
    blocks: list[Block]


def write_part(folder: str | os.PathLike[str], process: int, tree: Any) -> Part:
    """Write what this process holds of arrays that lie in several; on disk for certain. Raises StorageError."""
    path, blocks, offset, crc = Path(folder) / f".part-{process}", [], 0, 0
    with storing(path):
        path.unlink(missing_ok=True)  # of another host perhaps: not written through
        with open(path, "xb") as file:
            for name, leaf in named_leaves(tree).items():
                for where, held in _held(plain(leaf)):
                    data = as_bytes(held)
                    file.write(data)
                    blocks.append(Block(list(name), where, offset))
                    offset, crc = offset + data.nbytes, zlib.crc32(data, crc)
            file.flush()
            sync(file)
    return Part(path.name, offset, crc, blocks)


def check_parts(folder: str | os.PathLike[str], parts: Sequence[Part]) -> None:
    """FileUnusable where the files are not what the other processes wrote, as in a folder that they do not share."""
    for part in parts:
        path = Path(folder) / part.name
        check_whole(path, (part.bytes, part.crc32), crc32_of(path))


def put_together(folder: Path, parts: Sequence[Part], leaf: Any, path: tuple[str, ...]) -> np.ndarray:
    """An array on the host, of which others have written the blocks that are not here."""
    if not _is_shared_out(leaf):
        return np.asarray(jax.device_get(leaf))
    whole = np.empty(leaf.shape, leaf.dtype)
    for where, held in _held(leaf):
        whole[_slices(where)] = held
    for part in parts:
        with open_file(folder / part.name) as file:
            for block in part.blocks:
                if tuple(block.path) == path:
                    place = whole[_slices(block.where)]
                    file.seek(block.offset)
                    place[...] = np.frombuffer(file.read(place.nbytes), leaf.dtype).reshape(place.shape)
    return whole


def remove_parts(folder: str | os.PathLike[str]) -> None:
    """Delete the files of :func:`write_part`."""
    for path in Path(folder).glob(".part-*"):
        with storing(path):
            path.unlink(missing_ok=True)


def _is_shared_out(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated


def _held(leaf: Any) -> list[tuple[list[list[int]], np.ndarray]]:
    if not _is_shared_out(leaf):
        return []
    return [
        ([[*part.indices(size)[:2]] for part, size in zip(shard.index, leaf.shape)], np.asarray(shard.data))
        for shard in leaf.addressable_shards
        if shard.replica_id == 0
    ]


def _slices(where: Sequence[Sequence[int]]) -> tuple[slice, ...]:
    return tuple(slice(first, end) for first, end in where)
