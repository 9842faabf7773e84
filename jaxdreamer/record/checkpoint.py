"""Checkpoints: a folder a step, complete or absent, readable on any device. The only module that imports orbax.

``<folder>/<step>/`` holds

- ``state/``: the array tree as orbax writes it: nested dictionaries of host arrays, so neither the device it was saved
  on nor the Python types of optax and jaxdreamer are part of the file. PRNG keys are stored as their key data.
- ``host.json``: everything that is not an array: counters, generators, the replay's manifest.
- ``manifest.json``: every array's path, shape and dtype, every file's size and CRC, library versions.

A checkpoint is written beside its place, put on disk, and renamed: a run killed at any moment leaves the previous one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.files import FileUnusable, open_file, read_json
from jaxdreamer.record.rundir import sync_folder

__all__ = [
    "CheckpointDamaged",
    "CheckpointMismatch",
    "CheckpointMissing",
    "hosts",
    "read_host",
    "restore",
    "restore_params",
    "save",
    "steps",
]

_log = logging.getLogger("jaxdreamer")
_FORMAT = 1
_DIGITS = 12


class CheckpointMissing(JaxdreamerError, FileNotFoundError):
    """There is no checkpoint to restore."""


class CheckpointDamaged(JaxdreamerError, RuntimeError):
    """Files of a checkpoint are missing, truncated or altered, and no older checkpoint can stand in."""


class CheckpointMismatch(JaxdreamerError, ValueError):
    """The checkpoint is of other networks than those to be restored; the message names the arrays that differ."""


def save(folder: str | os.PathLike[str], step: int, tree: Any, host: dict[str, Any], keep: int = 2) -> Path:
    """Write one checkpoint and delete old ones; returns its folder once it is safely on disk.

    Args:
        folder: the run's checkpoint folder.
        step: names the checkpoint. The newest is the one with the highest step.
        tree: a pytree of arrays (jax, NumPy, typed PRNG keys; not None).
        host: plain JSON values; NumPy scalars are converted.
        keep: how many checkpoints to keep, this one included.

    Checkpoints of a higher step are deleted: they belong to a future that this run, resumed from before it, replaced.
    In a run over several processes only one of them may call this.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    host_text = _host_text(host)
    arrays, leaves = _flatten(tree)
    temporary = folder / f".tmp-{step:0{_DIGITS}d}-{os.getpid()}"
    temporary.mkdir()
    with _quiet_orbax() as ocp, _checkpointer(ocp) as checkpointer:
        checkpointer.save(temporary / "state", args=ocp.args.PyTreeSave(_nest(arrays)))
    (temporary / "host.json").write_text(host_text)
    files = {}
    for path in sorted(temporary.rglob("*")):
        if path.is_file():
            with open_file(path) as file:
                files[path.relative_to(temporary).as_posix()] = {"bytes": path.stat().st_size, "crc32": _crc(file)}
            _sync(path)
    manifest = {
        "format": _FORMAT,
        "step": step,
        "leaves": leaves,
        "tree_hash": hashlib.sha256(json.dumps(leaves).encode()).hexdigest(),
        "versions": _versions(),
        "files": files,
    }
    manifest["crc32"] = zlib.crc32(json.dumps(manifest, sort_keys=True).encode())
    (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
    _sync(temporary / "manifest.json")
    for path in temporary.rglob("*"):
        if path.is_dir():
            sync_folder(path)
    sync_folder(temporary)
    final = folder / f"{step:0{_DIGITS}d}"
    if final.exists():  # a folder cannot be renamed onto another
        final.rename(folder / f".tmp-replaced-{step:0{_DIGITS}d}-{os.getpid()}")
    temporary.rename(final)
    sync_folder(folder)
    _prune(folder, step, keep)
    return final


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """Steps of the checkpoints in ``folder``, ascending. Whether each is undamaged only :func:`restore` finds out."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdigit())


def read_host(folder: str | os.PathLike[str], step: int) -> dict[str, Any]:
    """The ``host`` dictionary of one checkpoint, without its arrays. Raises CheckpointDamaged."""
    path = _path(folder, step)
    manifest = _manifest(path)
    return _host(path, manifest)


def hosts(folder: str | os.PathLike[str]) -> dict[int, dict[str, Any]]:
    """The ``host`` dictionaries of all checkpoints by step; one that is damaged is left out, silently."""
    found = {}
    for step in steps(folder):
        with contextlib.suppress(CheckpointDamaged):
            found[step] = read_host(folder, step)
    return found


def restore(
    folder: str | os.PathLike[str],
    like: Any,
    step: int | None = None,
    check: Callable[[dict[str, Any]], str | None] | None = None,
) -> tuple[Any, dict[str, Any], int]:
    """Read the newest undamaged checkpoint, or that of ``step``.

    Args:
        folder: the run's checkpoint folder.
        like: a tree of arrays or ``jax.ShapeDtypeStruct`` (from ``jax.eval_shape``) that gives types and shapes.
        step: this one only. None: the newest; a damaged one is skipped with a logged warning that names the file.
        check: gets ``host`` and returns what is wrong with what it refers to (missing replay chunks, say), or None.

    Returns:
        (tree, host, step): the tree with the types of ``like`` on the current default device.

    Raises:
        CheckpointMissing: there is none. CheckpointDamaged: none is undamaged.
        CheckpointMismatch: an undamaged one holds other arrays than ``like``.
    """

    def read(path: Path, manifest: dict[str, Any]) -> tuple[Any, dict[str, Any], int]:
        host = _host(path, manifest)
        problem = check(host) if check else None
        if problem:
            raise CheckpointDamaged(f"{path}: {problem}")
        return _read_tree(path, manifest, like, prefix=()), host, manifest["step"]

    return _newest(folder, step, read)


def restore_params(
    folder: str | os.PathLike[str], like: Any, step: int | None = None, prefix: tuple[str, ...] = ("params",)
) -> tuple[Any, dict[str, Any], int]:
    """Read only the subtree at ``prefix``, the parameters: for acting, without optimizers and replay.

    ``like``, the result and the errors are as for :func:`restore`, for that subtree.
    """

    def read(path: Path, manifest: dict[str, Any]) -> tuple[Any, dict[str, Any], int]:
        host = _host(path, manifest)
        return _read_tree(path, manifest, like, prefix), host, manifest["step"]

    return _newest(folder, step, read)


# ---- folders and files ---------------------------------------------------------------------------------------------


def _path(folder: str | os.PathLike[str], step: int) -> Path:
    return Path(folder).absolute() / f"{step:0{_DIGITS}d}"


def _newest(folder: str | os.PathLike[str], step: int | None, read: Callable[[Path, dict[str, Any]], Any]) -> Any:
    found = steps(folder)
    if not found or (step is not None and step not in found):
        wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
        there = f"there are steps {found}" if found else "the folder has none"
        raise CheckpointMissing(f"no {wanted} in {folder}: {there}")
    reasons = []
    for candidate in [step] if step is not None else reversed(found):
        path = _path(folder, candidate)
        try:
            manifest = _manifest(path)
            for name, entry in manifest["files"].items():
                _check_file(path, name, entry)
            return read(path, manifest)
        except CheckpointDamaged as error:
            reasons.append(str(error))
            if step is None and candidate != found[0]:
                _log.warning("checkpoint %s is damaged and skipped: %s", path.name, error)
    raise CheckpointDamaged(f"no undamaged checkpoint in {folder}: " + "; ".join(reasons))


def _prune(folder: Path, step: int, keep: int) -> None:
    found = steps(folder)
    kept = [candidate for candidate in found if candidate <= step][-max(1, keep) :]
    for candidate in found:
        if candidate not in kept:
            # Renamed first: half a deleted folder must not look like a damaged checkpoint.
            doomed = folder / f".tmp-pruned-{candidate:0{_DIGITS}d}-{os.getpid()}"
            _path(folder, candidate).rename(doomed)
    for leftover in folder.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path / "manifest.json")
        checksum = manifest.pop("crc32")
        whole = checksum == zlib.crc32(json.dumps(manifest, sort_keys=True).encode())
    except FileUnusable as error:
        raise CheckpointDamaged(str(error)) from error
    except (KeyError, AttributeError) as error:
        raise CheckpointDamaged(f"{path / 'manifest.json'} is no manifest ({error})") from error
    if not whole:
        raise CheckpointDamaged(f"{path / 'manifest.json'} was altered: its checksum is wrong")
    if manifest["format"] > _FORMAT:
        raise CheckpointMismatch(
            f"{path} has format {manifest['format']}, this version reads up to {_FORMAT}: update jaxdreamer"
        )
    return manifest


def _check_file(path: Path, name: str, entry: dict[str, int]) -> None:
    try:
        with open_file(path / name) as file:
            size = os.fstat(file.fileno()).st_size
            crc = _crc(file) if size == entry["bytes"] else 0
    except (FileUnusable, OSError) as error:
        raise CheckpointDamaged(f"{path / name} cannot be read ({error})") from error
    if size != entry["bytes"]:
        raise CheckpointDamaged(f"{path / name} has {size} bytes instead of {entry['bytes']}")
    if crc != entry["crc32"]:
        raise CheckpointDamaged(f"{path / name} was altered: its checksum is wrong")


def _host(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    _check_file(path, "host.json", manifest["files"]["host.json"])
    try:
        return read_json(path / "host.json")
    except FileUnusable as error:
        raise CheckpointDamaged(str(error)) from error


def _crc(file: BinaryIO) -> int:
    crc = 0
    while block := file.read(1 << 22):
        crc = zlib.crc32(block, crc)
    return crc


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _versions() -> dict[str, str]:
    found = {}
    for name in ("jaxdreamer", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _host_text(host: dict[str, Any]) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"host holds a {type(value).__name__}: arrays belong into tree, or use .tolist()")

    return json.dumps(host, default=plain)


# ---- trees ---------------------------------------------------------------------------------------------------------


def _name(entry: Any) -> str:
    """One step of a jax key path: a dictionary's key, a NamedTuple's field, a sequence's index."""
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    raise TypeError(f"cannot store a tree with a {type(entry).__name__} in it")


def _named_leaves(tree: Any) -> dict[tuple[str, ...], Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {tuple(_name(entry) for entry in path): leaf for path, leaf in flat}
    if len(named) != len(flat):
        raise ValueError("two arrays of the tree have the same path when written as text, like the keys 1 and '1'")
    return named


def _describe(leaf: Any) -> dict[str, Any]:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        key_shape = jax.eval_shape(jax.random.key_data, leaf).shape
        # The implementation, threefry2x32 say, is part of a key's dtype: "key<fry>".
        return {"shape": list(key_shape), "dtype": str(leaf.dtype)}
    return {"shape": list(leaf.shape), "dtype": str(np.dtype(leaf.dtype))}


def _flatten(tree: Any) -> tuple[dict[tuple[str, ...], np.ndarray], list[Any]]:
    arrays, leaves = {}, []
    for path, leaf in _named_leaves(tree).items():
        leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        leaves.append([list(path), _describe(leaf)])
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        if is_key:
            leaves[-1].append(str(jax.random.key_impl(leaf)))
        arrays[path] = np.asarray(jax.device_get(jax.random.key_data(leaf) if is_key else leaf))
    return arrays, leaves


def _nest(flat: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, leaf in flat.items():
        if 0 in leaf.shape:
            continue  # orbax refuses arrays without elements; their shape is in the manifest
        node = nested
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1] if path else "value"] = leaf
    return nested


def _read_tree(path: Path, manifest: dict[str, Any], like: Any, prefix: tuple[str, ...]) -> Any:
    saved = {tuple(name): entry for name, entry, *_ in manifest["leaves"]}
    key_impl = {tuple(name): impl[0] for name, _, *impl in manifest["leaves"] if impl}
    saved = {name[len(prefix) :]: entry for name, entry in saved.items() if name[: len(prefix)] == prefix}
    leaves = {name: leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for name, leaf in _named_leaves(like).items()}
    _compare(path, saved, {name: _describe(leaf) for name, leaf in leaves.items()})
    placeholders = {}
    for name, entry in saved.items():
        dtype = np.uint32 if entry["dtype"].startswith("key<") else _dtype(entry["dtype"])
        placeholders[prefix + name] = jax.ShapeDtypeStruct(tuple(entry["shape"]), dtype)
    item = _nest(placeholders)
    with _quiet_orbax() as ocp, _checkpointer(ocp) as checkpointer:
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=bool(prefix))
        nested = checkpointer.restore(path / "state", args=args)
    restored = []
    for name in leaves:
        if 0 in saved[name]["shape"]:
            restored.append(jnp.zeros(saved[name]["shape"], _dtype(saved[name]["dtype"])))
            continue
        node = nested
        for part in prefix + name or ("value",):
            node = node[part]
        # A copy: on the CPU jax could otherwise keep using memory that orbax made.
        value = jnp.array(node, copy=True)
        if prefix + name in key_impl:
            value = jax.random.wrap_key_data(value, impl=key_impl[prefix + name])
        restored.append(value)
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def _dtype(name: str) -> np.dtype:
    return np.dtype(jnp.dtype(name))  # knows bfloat16 too


def _compare(path: Path, saved: dict[tuple[str, ...], Any], wanted: dict[tuple[str, ...], Any]) -> None:
    def text(entry: dict[str, Any]) -> str:
        return f"{entry['dtype']}{entry['shape']}"

    lines = [
        f"{'/'.join(name)}: the checkpoint has {text(saved[name])}, this run needs {text(wanted[name])}"
        for name in wanted
        if name in saved and saved[name] != wanted[name]
    ]
    lines += [
        f"{'/'.join(name)}: not in the checkpoint, this run needs {text(wanted[name])}"
        for name in wanted
        if name not in saved
    ]
    lines += [
        f"{'/'.join(name)}: the checkpoint has {text(saved[name])}, this run has no such array"
        for name in saved
        if name not in wanted
    ]
    if lines:
        more = f"\n  ... and {len(lines) - 20} more" if len(lines) > 20 else ""
        raise CheckpointMismatch(
            f"{path} is of other networks than this run's; use the configuration it was trained with, or another "
            "folder:\n  " + "\n  ".join(lines[:20]) + more
        )


# ---- orbax ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[Any]:
    """Orbax, without its progress reports and deprecation warnings, which a user of jaxdreamer can do nothing about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import orbax.checkpoint as ocp

        absl = logging.getLogger("absl")
        level = absl.level
        absl.setLevel(logging.ERROR)
        try:
            yield ocp
        finally:
            absl.setLevel(level)


@contextlib.contextmanager
def _checkpointer(ocp: Any) -> Iterator[Any]:
    # This process alone takes part, even where jax runs over several: the others must not be waited for.
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me} if jax.process_count() > 1 else None
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    checkpointer = ocp.Checkpointer(handler, multiprocessing_options=options)
    try:
        yield checkpointer
    finally:
        checkpointer.close()
