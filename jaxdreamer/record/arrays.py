"""A tree of arrays as one file of bytes, each array in C order behind the one before, and the place of each.

The file does not depend on devices, nor on the Python types of optax and jaxdreamer: reading takes them from a tree of the
same structure. PRNG keys are stored as their key data.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.files import MEND, FileUnusable, check_whole, open_file
from jaxdreamer.memory import refuse_beyond_memory

__all__ = ["CheckpointDamaged", "CheckpointMismatch", "Leaf", "read_arrays", "write_arrays"]


class CheckpointDamaged(JaxdreamerError, RuntimeError):
    """Files of a checkpoint are missing, truncated or altered, and there is no older undamaged checkpoint."""


class CheckpointMismatch(JaxdreamerError, ValueError):
    """The checkpoint holds other arrays than those to be restored; the message names the ones that differ."""


class Leaf(NamedTuple):
    """What an array is, and the byte it begins at."""

    shape: tuple[int, ...]
    dtype: str
    offset: int = 0

    def __str__(self) -> str:
        """Dtype and shape."""
        return f"{self.dtype}{list(self.shape)}"


def _name(entry: Any) -> str:
    """One step of a jax key path: a dictionary's key, a NamedTuple's field, a sequence's index."""
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    raise TypeError(f"cannot store a tree with a {type(entry).__name__} in it")


def named_leaves(tree: Any) -> dict[tuple[str, ...], Any]:
    """The tree's arrays by their paths."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {
        tuple(_name(entry) for entry in path): leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        for path, leaf in flat
    }
    if len(named) != len(flat):
        raise ValueError("two arrays of the tree have the same path when written as text, like the keys 1 and '1'")
    return named


def plain(leaf: Any) -> Any:
    """The array of numbers that is stored of an array."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> Any:
    """The generator of keys; only a traced function can read it from a ShapeDtypeStruct."""
    found: list[Any] = []
    jax.eval_shape(lambda keys: found.append(jax.random.key_impl(keys)), leaf)
    return found[0]


def _describe(leaf: Any) -> Leaf:
    if _is_key(leaf):
        # The implementation, threefry2x32 say, is part of a key's dtype: "key<fry>".
        return Leaf(jax.eval_shape(jax.random.key_data, leaf).shape, str(leaf.dtype))
    return Leaf(tuple(leaf.shape), str(np.dtype(leaf.dtype)))


def write_arrays(
    file: Any, tree: Any, whole: Callable[[Any, tuple[str, ...]], Any] = lambda leaf, path: jax.device_get(leaf)
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Write the tree's arrays one after another; returns the manifest's entries of each, and of the whole file.

    ``whole(leaf, path)`` brings one to the host; see :mod:`jaxdreamer.record.parts`.
    """
    leaves, offset, crc = [], 0, 0
    for path, leaf in named_leaves(tree).items():
        entry = _describe(leaf)
        # One at a time: a copy of all of them, a large ring among them, may not fit into memory.
        data = as_bytes(np.asarray(whole(plain(leaf), path)))
        file.write(data)
        leaves.append({"path": list(path), "shape": list(entry.shape), "dtype": entry.dtype, "offset": offset})
        offset, crc = offset + data.nbytes, zlib.crc32(data, crc)
    return leaves, {"bytes": offset, "crc32": crc}


def as_bytes(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class _Checksummed:
    """Reads a file from its beginning to its end, and keeps the size and checksum of the part read so far."""

    def __init__(self, file: BinaryIO):
        self._file, self.size, self.crc = file, 0, 0

    def into(self, memory: memoryview) -> bool:
        """Fill the memory with the next bytes; False where the file ends before."""
        read = self._file.readinto(memory)  # type: ignore[attr-defined]
        self.size, self.crc = self.size + read, zlib.crc32(memory[:read], self.crc)
        return read == memory.nbytes

    def skip_to(self, offset: int) -> None:
        """Read up to a byte, or to the end."""
        while block := self._file.read(min(2**22, max(0, offset - self.size))):
            self.size, self.crc = self.size + len(block), zlib.crc32(block, self.crc)


def read_arrays(
    path: Path,
    places: Mapping[tuple[str, ...], Leaf],
    whole: tuple[int, int],
    like: Any,
    within: Sequence[tuple[str, ...]] = ((),),
) -> Any:
    """The subtrees below the paths ``within`` from a file of arrays, with the types of ``like``, on the default device.

    Raises CheckpointMismatch where ``places`` are those of other arrays, and CheckpointDamaged where the file does not hold
    them or has another size or CRC-32 than ``whole``; the file is read once.
    """
    saved = {name: leaf for name, leaf in places.items() if any(name[: len(start)] == start for start in within)}
    leaves = named_leaves(like)
    _compare(path.parent, saved, {name: _describe(leaf) for name, leaf in leaves.items()})
    # The types are those of `like`; a manifest only says where the bytes lie.
    dtypes = {name: np.dtype(np.uint32 if _is_key(leaf) else leaf.dtype) for name, leaf in leaves.items()}
    nbytes = sum(math.prod(saved[name].shape) * dtype.itemsize for name, dtype in dtypes.items())
    refuse_beyond_memory(f"{path.parent}: its arrays", nbytes, MEND)
    restored = {}
    try:
        with open_file(path) as file:
            check_whole(path, whole, (os.fstat(file.fileno()).st_size, whole[1]))  # before reading all of it
            reader = _Checksummed(file)
            for name in sorted(leaves, key=lambda name: saved[name].offset):
                array = np.empty(saved[name].shape, dtypes[name])
                reader.skip_to(saved[name].offset)
                if saved[name].offset != reader.size or not reader.into(as_bytes(array)):
                    raise CheckpointDamaged(f"{path} has no room for {'/'.join(name)} at byte {saved[name].offset}")
                value = jnp.array(array, copy=True)  # on the CPU jax could otherwise keep using this memory
                is_key = _is_key(leaves[name])
                restored[name] = jax.random.wrap_key_data(value, impl=_key_impl(leaves[name])) if is_key else value
            reader.skip_to(whole[0])
        check_whole(path, whole, (reader.size, reader.crc))
    except (FileUnusable, OSError) as error:
        raise CheckpointDamaged(str(error) if isinstance(error, FileUnusable) else f"{path}: {error}") from error
    return jax.tree.unflatten(jax.tree.structure(like), [restored[name] for name in leaves])


def _compare(path: Path, saved: dict[tuple[str, ...], Leaf], wanted: dict[tuple[str, ...], Leaf]) -> None:
    lines = []
    for name in [*wanted, *(name for name in saved if name not in wanted)]:
        has = f"the checkpoint has {saved[name]}" if name in saved else "not in the checkpoint"
        needs = f"this run needs {wanted[name]}" if name in wanted else "this run has no such array"
        if name not in saved or name not in wanted or saved[name][:2] != wanted[name][:2]:
            lines.append(f"{'/'.join(name)}: {has}, {needs}")
    if lines:
        more = f"\n  ... and {len(lines) - 20} more" if len(lines) > 20 else ""
        raise CheckpointMismatch(
            f"{path} is of other networks than this run's; use the configuration it was trained with, or another "
            "folder:\n  " + "\n  ".join(lines[:20]) + more
        )
