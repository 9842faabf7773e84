"""Checkpoints: a folder a step, complete or absent, readable on any device.

``<folder>/<step>/`` holds

- ``arrays.bin``: the bytes of all arrays, see :mod:`jaxdreamer.record.arrays`.
- ``host.json``: everything that is not an array: counters, generators, the replay's manifest.
- ``manifest.json``: every array's path, shape, dtype and place, every file's size and CRC, library versions.

A checkpoint is written beside its place, put on disk, read back, and renamed: a run killed at any moment leaves the
previous one. Any name will do for the folder: only the operating system reads it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.files import (
    FileUnusable,
    check_whole,
    crc32_of,
    natural,
    parse_json,
    read_json,
    read_whole,
    require,
)
from jaxdreamer.record.arrays import CheckpointDamaged, CheckpointMismatch, Leaf, read_arrays, write_arrays
from jaxdreamer.record.parts import Part, check_parts, put_together, remove_parts
from jaxdreamer.saving import StorageError, remove, storing, sync, sync_folder

__all__ = [
    "CheckpointDamaged",
    "CheckpointMismatch",
    "CheckpointMissing",
    "hosts",
    "read_host",
    "restore",
    "save",
    "steps",
]

_log = logging.getLogger("jaxdreamer")
_FORMAT = 2
_DIGITS = 12
_ARRAYS, _HOST, _MANIFEST = "arrays.bin", "host.json", "manifest.json"
_FILE = {"bytes": natural, "crc32": natural}
_FORM = {
    "step": natural,
    "leaves": [{"path": [str], "shape": [natural], "dtype": str, "offset": natural}],
    "files": {_ARRAYS: _FILE, _HOST: _FILE},
}
_MOST_LEAVES = 2**16
_MOST_HOST = 2**30  # indices of batches that were asked for may be many
_REPLACED = ".replaced-"
_RETRIES, _LOOKS = 100, 5


class CheckpointMissing(JaxdreamerError, FileNotFoundError):
    """There is no checkpoint to restore."""


def save(
    folder: str | os.PathLike[str],
    step: int,
    tree: Any,
    host: dict[str, Any],
    keep: int = 2,
    parts: Sequence[Part] = (),
) -> Path:
    """Write one checkpoint and delete old ones; returns its folder once it is safely on disk.

    Args:
        folder: the run's checkpoint folder.
        step: names the checkpoint. The newest is the one with the highest step.
        tree: a pytree of arrays (jax, NumPy, typed PRNG keys; not None).
        host: plain JSON values; NumPy scalars are converted.
        keep: how many checkpoints to keep, this one included.
        parts: what other processes have written of ``tree``'s arrays, see :func:`jaxdreamer.record.parts.write_part`.

    Checkpoints of a higher step are deleted: this run was resumed from before them and has replaced them.
    In a run over several processes only one of them may call this, once the others have written their ``parts``.
    """
    folder = Path(folder).absolute()
    host_text = _host_text(host)
    temporary = folder / f".tmp-{step:0{_DIGITS}d}-{os.getpid()}"
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        try:
            check_parts(folder, parts)
            temporary.mkdir()
            _write(temporary, step, tree, host_text, parts)
            final, replaced = _places(folder, step)
            if os.path.lexists(final):  # a folder cannot be renamed onto another, nor onto a file or a link
                _discard(replaced)
                final.rename(replaced)  # readers find it there until the new one is in place
            temporary.rename(final)
        except BaseException:
            _discard(temporary)
            raise
        sync_folder(folder)
        _prune(folder, step, keep)
        remove_parts(folder)
    return final


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """Steps of the checkpoints in ``folder``, ascending. Whether each is undamaged only :func:`restore` finds out."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    names = {path.name.removeprefix(_REPLACED) for path in folder.iterdir() if path.is_dir()}
    return sorted(int(name) for name in names if _is_step(name))


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdigit() and name == f"{int(name):0{_DIGITS}d}"


def read_host(folder: str | os.PathLike[str], step: int) -> dict[str, Any]:
    """The ``host`` dictionary of one checkpoint, without its arrays. Raises CheckpointDamaged."""
    path = _path(folder, step)
    return _read_host(path, _read_manifest(path, step))


def hosts(folder: str | os.PathLike[str]) -> dict[int, dict[str, Any]]:
    """The ``host`` dictionaries of all checkpoints by step; one that is damaged, or of another format, is left out."""
    found = {}
    for step in steps(folder):
        with contextlib.suppress(CheckpointDamaged, CheckpointMismatch):
            found[step] = read_host(folder, step)
    return found


def restore(
    folder: str | os.PathLike[str],
    like: Any,
    step: int | None = None,
    check: Callable[[dict[str, Any]], str | None] | None = None,
    within: Sequence[tuple[str, ...]] = ((),),
) -> tuple[Any, dict[str, Any], int]:
    """Read the newest undamaged checkpoint, or that of ``step``.

    Args:
        folder: the run's checkpoint folder.
        like: a tree of arrays or ``jax.ShapeDtypeStruct`` (from ``jax.eval_shape``) that gives types and shapes.
        step: this one only. None: the newest; a damaged one is skipped with a logged warning that names the file.
        check: gets ``host`` and returns a problem of the files that it names (missing replay chunks, say), or None.
        within: paths of the subtrees to read; ``like`` has these only. Everything by default.

    Returns:
        (tree, host, step): the tree with the types of ``like`` on the current default device.

    Raises:
        CheckpointMissing: there is none. CheckpointDamaged: none is undamaged.
        CheckpointMismatch: an undamaged one holds other arrays than ``like``.
    """

    def read(path: Path, manifest: _Manifest) -> tuple[Any, dict[str, Any], int]:
        host = _read_host(path, manifest)
        problem = check(host) if check else None
        if problem:
            raise CheckpointDamaged(f"{path}: {problem}")
        tree = read_arrays(path / _ARRAYS, manifest.leaves, manifest.files[_ARRAYS], like, within)
        return tree, host, manifest.step

    return _newest(folder, step, read)


def restore_acting(
    folder: str | os.PathLike[str], algorithm: Any, step: int | None = None
) -> tuple[Any, dict[str, Any], int]:
    """The part of a run's checkpoint that an algorithm's policy acts with, without optimizers and replay.

    ``algorithm`` is an :class:`~jaxdreamer.agent.algorithm.Algorithm`; result and errors are as for :func:`restore`.
    """
    learned, host, step = restore_learned(folder, algorithm, step)
    return algorithm.acting(learned["params"], learned["aux"]), host, step


def restore_learned(
    folder: str | os.PathLike[str], algorithm: Any, step: int | None = None
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """``{"params", "aux"}`` of a run's checkpoint, with host and step, see :func:`restore_acting`."""
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    like = {"train": {"params": state.params, "aux": state.aux}}
    tree, host, step = restore(folder, like, step, within=(("train", "params"), ("train", "aux")))
    return tree["train"], host, step


# ---- folders and files ---------------------------------------------------------------------------------------------


def _places(folder: str | os.PathLike[str], step: int) -> tuple[Path, Path]:
    """Where a checkpoint lies, and where it waits while another of its step takes its place."""
    name = f"{step:0{_DIGITS}d}"
    return Path(folder).absolute() / name, Path(folder).absolute() / f"{_REPLACED}{name}"


def _path(folder: str | os.PathLike[str], step: int) -> Path:
    final, replaced = _places(folder, step)
    return final if final.exists() or not replaced.exists() else replaced


def _newest(folder: str | os.PathLike[str], step: int | None, read: Callable[[Path, _Manifest], Any]) -> Any:
    """What ``read`` returns for the newest undamaged checkpoint, while another process may be writing here."""
    missed = 0  # times in a row
    for _ in range(_RETRIES):
        found = steps(folder)
        missed = 0 if found and step in (None, *found) else missed + 1
        if 0 < missed <= _LOOKS:
            time.sleep(0.01)  # a folder that is renamed while its parent is listed may be seen under neither name
            continue
        with contextlib.suppress(_Replaced):
            return _newest_of(found, folder, step, read)
    raise CheckpointDamaged(f"{folder} changes faster than it can be read: wait until its run has ended")


class _Replaced(Exception):
    """A checkpoint was pruned or written again while it was read."""


def _newest_of(
    found: list[int],
    folder: str | os.PathLike[str],
    step: int | None,
    read: Callable[[Path, _Manifest], Any],
) -> Any:
    if not found or (step is not None and step not in found):
        wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
        there = f"there are steps {found}" if found else f"{Path(folder).parent} has no checkpoint (yet)"
        raise CheckpointMissing(f"no {wanted} in {folder}: {there}")
    reasons = []
    for candidate in [step] if step is not None else reversed(found):
        path = _path(folder, candidate)
        before = _identity(path)
        try:
            found_there = read(path, _read_manifest(path, candidate))
            if _identity(path) != before:
                raise _Replaced  # what was read may be half of one and half of another
            return found_there
        except CheckpointDamaged as error:
            if before is None or _identity(path) != before:
                raise _Replaced from error
            reasons.append(str(error))
            if step is None and candidate != found[0]:
                _log.warning("checkpoint %s is damaged and skipped: %s", path.name, error)
    raise CheckpointDamaged(f"no undamaged checkpoint in {folder}: " + "; ".join(reasons))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _prune(folder: Path, step: int, keep: int) -> None:
    found = steps(folder)
    kept = [candidate for candidate in found if candidate <= step][-max(1, keep) :]
    for candidate in found:
        if candidate not in kept:
            # Renamed first: half a deleted folder must not look like a damaged checkpoint.
            doomed = folder / f".tmp-pruned-{candidate:0{_DIGITS}d}-{os.getpid()}"
            _path(folder, candidate).rename(doomed)
    for path in folder.iterdir():
        if path.name.startswith(_REPLACED) and (folder / path.name.removeprefix(_REPLACED)).exists():
            _discard(path)
    _clear(folder)


def _clear(folder: Path) -> None:
    """Delete what an interrupted save left."""
    for leftover in folder.iterdir():
        if leftover.name.startswith(".tmp-"):
            _discard(leftover)


def _discard(path: Path) -> None:
    """Delete a leftover; one that cannot be deleted stays until the next time."""
    with contextlib.suppress(OSError):
        remove(path)


def _write(path: Path, step: int, tree: Any, host_text: str, parts: Sequence[Part]) -> None:
    """The three files, on disk for certain, and read back."""
    with _new_file(path / _ARRAYS) as file:
        leaves, arrays = write_arrays(file, tree, partial(put_together, path.parent, parts))
    data = host_text.encode()
    with _new_file(path / _HOST) as file:
        file.write(data)
    manifest: dict[str, Any] = {
        "format": _FORMAT,
        "step": step,
        "leaves": leaves,
        "versions": _versions(),
        "files": {_ARRAYS: arrays, _HOST: {"bytes": len(data), "crc32": zlib.crc32(data)}},
    }
    manifest["crc32"] = zlib.crc32(json.dumps(manifest, sort_keys=True).encode())
    with _new_file(path / _MANIFEST) as file:
        file.write(json.dumps(manifest, indent=1).encode())
    sync_folder(path)
    try:
        for name, whole in _read_manifest(path, step).files.items():
            check_whole(path / name, whole, crc32_of(path / name))
    except (CheckpointDamaged, FileUnusable) as error:
        raise StorageError(f"{error}: the disk did not keep what was written to it; choose another one") from error


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Any]:
    with open(path, "xb") as file:
        yield file
        file.flush()
        sync(file)


class _Manifest(NamedTuple):
    step: int
    leaves: dict[tuple[str, ...], Leaf]
    files: dict[str, tuple[int, int]]  # size and CRC-32


def _read_manifest(path: Path, step: int) -> _Manifest:
    """Read ``manifest.json`` of the checkpoint of ``step``.

    Raises CheckpointMismatch for one of another format, and CheckpointDamaged for every other problem.
    """
    file = path / _MANIFEST
    try:
        data = read_json(file)
        require(data, {"crc32": natural, "format": natural}, file)
        checksum = data.pop("crc32")
        if checksum != zlib.crc32(json.dumps(data, sort_keys=True).encode()):
            raise FileUnusable(f"{file} was altered: its checksum is wrong")
        if data["format"] != _FORMAT:
            newer = data["format"] > _FORMAT
            raise CheckpointMismatch(
                f"{path} has format {data['format']}, this version reads {_FORMAT}: "
                f"{'update jaxdreamer' if newer else 'use the version that wrote it, or choose another folder'}"
            )
        if isinstance(data.get("leaves"), list) and len(data["leaves"]) > _MOST_LEAVES:
            raise FileUnusable(f"{file} has at most {_MOST_LEAVES:,} arrays, found {len(data['leaves']):,}")
        require(data, _FORM, file)
        if data["step"] != step:
            raise FileUnusable(f"{file} is of step {data['step']}")
    except FileUnusable as error:
        raise CheckpointDamaged(str(error)) from error
    leaves = {tuple(leaf["path"]): Leaf(tuple(leaf["shape"]), leaf["dtype"], leaf["offset"]) for leaf in data["leaves"]}
    files = {name: (data["files"][name]["bytes"], data["files"][name]["crc32"]) for name in (_ARRAYS, _HOST)}
    return _Manifest(data["step"], leaves, files)


def _read_host(path: Path, manifest: _Manifest) -> dict[str, Any]:
    file, (size, crc) = path / _HOST, manifest.files[_HOST]
    try:
        if size > _MOST_HOST:
            raise FileUnusable(f"{file} has {size:,} bytes, more than such a file may have")
        host = parse_json(file, read_whole(file, size, crc))
        require(host, dict, file)
    except FileUnusable as error:
        raise CheckpointDamaged(str(error)) from error
    return host


def _versions() -> dict[str, str]:
    found = {}
    for name in ("jaxdreamer", "jax", "jaxlib", "flax", "optax", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _host_text(host: dict[str, Any]) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(
            f"host holds a {type(value).__name__}, which is no JSON value: put arrays in tree, or use .tolist()"
        )

    return json.dumps(host, default=plain)
