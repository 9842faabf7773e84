"""A ring in files that are mapped into memory: for more experience than memory holds. Imports no jax.

The files are the replay, so a checkpoint copies nothing: it writes down which rows they hold. A run that is killed and goes
on from its newest checkpoint has overwritten rows since; so the files have ``slack`` rows more than the replay uses, and
every place says which row it holds.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from jaxdreamer.files import FileUnusable, open_file, unique_name
from jaxdreamer.replay.layout import Layout, RingSize, bytes_by_field
from jaxdreamer.saving import remove, storing

__all__ = ["MappedRing"]

_NUMBER = "number"
_MOST_ON_DISK = 0.95


class MappedRing:
    """Files ``ring-NAME.bin`` in a folder, one for each array of an entry, of ``slots`` rows and ``lanes`` entries a row.

    Constructing it touches nothing; :meth:`create` or :meth:`open` do. A ``reader`` changes nothing in files that are
    there: what it writes it keeps to itself.
    """

    def __init__(self, folder: Path, slack: int = 0, *, reader: bool = False):
        self.folder, self.slack, self._mode = folder, slack, "c" if reader else "r+"
        self.numbers = np.zeros(0, np.int64)  # of the row in every place; -1 where it is being written
        self._maps: list[np.memmap] = []

    def size(self, layout: Layout, rows: int, lanes: int) -> RingSize:
        """What a ring of so many rows takes, slack included. ReplayTooLarge where the disk has no such room."""
        sizes = bytes_by_field(layout, (rows + self.slack) * lanes)
        size = RingSize(sizes, rows, lanes, "disk", place=str(self.folder))
        there = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        own = sum(path.stat().st_size for path in self.folder.glob("ring-*.bin"))
        size.refuse_if_too_large(shutil.disk_usage(there).free + own, _MOST_ON_DISK)
        return size

    def create(self, layout: Layout, slots: int, lanes: int) -> dict[str, np.ndarray]:
        """Make the files, of room that is there for certain: later a full disk would end the process without a word."""
        for path in self.folder.glob("ring-*.bin"):
            remove(path)
        for name, shape, dtype in self._files(layout, slots, lanes):
            path = self.path(name)
            with storing(path), open(path, "xb") as file:
                size = math.prod(shape) * dtype.itemsize
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
        arrays = self._map(layout, slots, lanes, "r+")
        self.numbers[:] = -1
        return arrays

    def open(self, layout: Layout, slots: int, lanes: int) -> dict[str, np.ndarray]:
        """The arrays in the files. FileUnusable where one is missing, a link, or of another size."""
        for name, shape, dtype in self._files(layout, slots, lanes):
            path, size = self.path(name), math.prod(shape) * dtype.itemsize
            if path.is_symlink():
                raise FileUnusable(f"{path} is a link, but a run writes only to its own files")
            with open_file(path) as file:
                found = os.fstat(file.fileno()).st_size
            if found != size:
                raise FileUnusable(f"{path} has {found} bytes instead of {size}")
        return self._map(layout, slots, lanes, self._mode)

    def path(self, name: str) -> Path:
        """Of the file of an array."""
        return self.folder / f"ring-{unique_name(name.replace('/', '-'))}.bin"

    def flush(self) -> None:
        """Put what was written on disk."""
        for array in self._maps:
            array.flush()

    def intact(self, start: int, stop: int) -> int:
        """The first of these rows from which on none is overwritten."""
        rows = np.arange(start, stop)
        gone = np.flatnonzero(self.numbers[rows % len(self.numbers)] != rows)
        return start if not gone.size else start + int(gone[-1]) + 1

    def _files(self, layout: Layout, slots: int, lanes: int) -> list[tuple[str, tuple[int, ...], np.dtype]]:
        files = [(name, (slots, lanes, *shape), dtype) for name, (shape, dtype) in layout.items()]
        return [*files, (_NUMBER, (slots,), np.dtype(np.int64))]

    def _map(self, layout: Layout, slots: int, lanes: int, mode: Any) -> dict[str, np.ndarray]:
        arrays = {}
        for name, shape, dtype in self._files(layout, slots, lanes):
            self._maps.append(np.memmap(self.path(name), dtype, mode, shape=shape))
            arrays[name] = self._maps[-1].view(np.ndarray)
        self.numbers = arrays.pop(_NUMBER)
        return arrays
