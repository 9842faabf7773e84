"""Recorded experience by its path: a folder of arrays, or a dataset of Minari's or LeRobot's."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdreamer.config import EnvConfig
from jaxdreamer.data import lerobot, minari_io, npz
from jaxdreamer.data.episodes import DataError, Episode
from jaxdreamer.envs.host.spaces import read_spec
from jaxdreamer.types import EnvSpec

__all__ = ["Source", "open_source"]


@dataclass(frozen=True)
class Source:
    """Episodes that are read one by one."""

    path: str
    kind: str
    spec: EnvSpec
    lengths: list[int]
    """Entries of each."""
    read: Callable[[int], Episode]
    spaces: dict[str, Any] | None = None
    """Those of the environment it was recorded in, ``observation`` and ``action``, where they are known."""
    remark: str = ""
    """What one who learns from it must know, after a semicolon."""

    def __iter__(self) -> Iterator[Episode]:
        """All of them, in order."""
        return map(self.read, range(len(self.lengths)))


def open_source(path: str, env: EnvConfig, action: Any = None) -> Source:
    """What lies at a path, or is a Minari dataset of that id.

    Args:
        env: see :func:`~jaxdreamer.data.minari_io.open_dataset`.
        action: the environment's own space of actions, for data that does not say in which bounds its actions lie.

    DataError where there is nothing, or what cannot be used.
    """
    folder = Path(path)
    if folder.is_dir() and (files := npz.files_in(folder)):
        spec = read_spec(folder / npz.SPEC)
        lengths = [npz.length_of(file) for file in files]
        return Source(path, "npz", spec, lengths, lambda index: npz.read(files[index], spec))
    if (folder / lerobot.INFO).is_file():
        return _some("LeRobot", path, lerobot.open_dataset(path, env, action))
    if folder.is_dir() and not (folder / "data").is_dir():
        raise DataError(
            f"replay.data={path} holds no episodes: expected {npz.SPEC} and .npz files, Minari's folder data, or "
            f"LeRobot's {lerobot.INFO}"
        )
    return _some("Minari", path, minari_io.open_dataset(path, env))


def _some(kind: str, path: str, dataset: minari_io.Dataset | lerobot.Dataset) -> Source:
    lengths = dataset.lengths
    if not lengths:
        raise DataError(f"{path} holds no episode")
    return Source(path, kind, dataset.spec, lengths, dataset.read, dataset.spaces, dataset.remark)


def checksum(episode: Episode, crc: int = 0) -> int:
    """CRC-32 of an episode's arrays by name, going on from ``crc``."""
    for name in sorted(episode):
        crc = zlib.crc32(episode[name].tobytes(), zlib.crc32(name.encode(), crc))
    return crc
