"""A tree of arrays as one file of bytes, each array in C order behind the one before, and where in it each lies.

Neither the device it was on nor the Python types of optax and jaxdreamer are part of the file; they come back from a tree
that is like it. PRNG keys are stored as their key data.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.files import FileUnusable, open_file
from jaxdreamer.memory import refuse_beyond_memory

__all__ = ["CheckpointDamaged", "CheckpointMismatch", "Leaf", "read_arrays", "write_arrays"]


class CheckpointDamaged(JaxdreamerError, RuntimeError):
    """Files of a checkpoint are missing, truncated or altered, and no older checkpoint can stand in."""


class CheckpointMismatch(JaxdreamerError, ValueError):
    """The checkpoint is of other networks than those to be restored; the message names the arrays that differ."""


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


def _named_leaves(tree: Any) -> dict[tuple[str, ...], Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {
        tuple(_name(entry) for entry in path): leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        for path, leaf in flat
    }
    if len(named) != len(flat):
        raise ValueError("two arrays of the tree have the same path when written as text, like the keys 1 and '1'")
    return named


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> Any:
    """The generator that keys are for; a ShapeDtypeStruct of keys tells it to a traced function only."""
    found: list[Any] = []
    jax.eval_shape(lambda keys: found.append(jax.random.key_impl(keys)), leaf)
    return found[0]


def _describe(leaf: Any) -> Leaf:
    if _is_key(leaf):
        # The implementation, threefry2x32 say, is part of a key's dtype: "key<fry>".
        return Leaf(jax.eval_shape(jax.random.key_data, leaf).shape, str(leaf.dtype))
    return Leaf(tuple(leaf.shape), str(np.dtype(leaf.dtype)))


def write_arrays(file: Any, tree: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Write the tree's arrays one after another; what the manifest says of each, and of the whole."""
    leaves, offset, crc = [], 0, 0
    for path, leaf in _named_leaves(tree).items():
        entry = _describe(leaf)
        # One at a time: a copy of all of them, a large ring among them, may not fit into memory.
        data = _as_bytes(np.asarray(jax.device_get(jax.random.key_data(leaf) if _is_key(leaf) else leaf)))
        file.write(data)
        leaves.append({"path": list(path), "shape": list(entry.shape), "dtype": entry.dtype, "offset": offset})
        offset, crc = offset + data.nbytes, zlib.crc32(data, crc)
    return leaves, {"bytes": offset, "crc32": crc}


def _as_bytes(array: np.ndarray) -> memoryview:
    """The array's memory, where it is one piece."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read_arrays(path: Path, places: Mapping[tuple[str, ...], Leaf], like: Any, prefix: tuple[str, ...] = ()) -> Any:
    """The subtree at ``prefix`` from a file of arrays, with the types of ``like``, on the default device.

    Raises CheckpointMismatch where ``places`` tell of other arrays, CheckpointDamaged where the file does not hold them.
    """
    saved = {name[len(prefix) :]: leaf for name, leaf in places.items() if name[: len(prefix)] == prefix}
    leaves = _named_leaves(like)
    _compare(path.parent, saved, {name: _describe(leaf) for name, leaf in leaves.items()})
    # The types are those of `like`; a manifest only says where the bytes lie.
    dtypes = {name: np.dtype(np.uint32 if _is_key(leaf) else leaf.dtype) for name, leaf in leaves.items()}
    sizes = {name: math.prod(saved[name].shape) * dtype.itemsize for name, dtype in dtypes.items()}
    refuse_beyond_memory(f"{path.parent}: its arrays", sum(sizes.values()), "restore it, or choose another folder")
    restored = []
    try:
        with open_file(path) as file:
            for name, leaf in leaves.items():
                array = np.empty(saved[name].shape, dtypes[name])
                file.seek(saved[name].offset)
                if file.readinto(_as_bytes(array)) != sizes[name]:  # type: ignore[attr-defined]
                    raise CheckpointDamaged(f"{path} ends before {'/'.join(name)}")
                value = jnp.array(array, copy=True)  # on the CPU jax could otherwise keep using this memory
                restored.append(jax.random.wrap_key_data(value, impl=_key_impl(leaf)) if _is_key(leaf) else value)
    except (FileUnusable, OSError) as error:  # the file was looked at before: it is being deleted, or the disk fails
        raise CheckpointDamaged(f"{path} cannot be read ({error})") from error
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def _compare(path: Path, saved: dict[tuple[str, ...], Leaf], wanted: dict[tuple[str, ...], Leaf]) -> None:
    lines = [
        f"{'/'.join(name)}: the checkpoint has {saved[name]}, this run needs {wanted[name]}"
        for name in wanted
        if name in saved and saved[name][:2] != wanted[name][:2]
    ]
    lines += [
        f"{'/'.join(name)}: not in the checkpoint, this run needs {wanted[name]}"
        for name in wanted
        if name not in saved
    ]
    lines += [
        f"{'/'.join(name)}: the checkpoint has {saved[name]}, this run has no such array"
        for name in saved
        if name not in wanted
    ]
    if lines:
        more = f"\n  ... and {len(lines) - 20} more" if len(lines) > 20 else ""
        raise CheckpointMismatch(
            f"{path} is of other networks than this run's; use the configuration it was trained with, or another "
            "folder:\n  " + "\n  ".join(lines[:20]) + more
        )
