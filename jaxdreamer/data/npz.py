"""A folder of episodes that NumPy reads: a file for each, and ``spec.json`` as a run has it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdreamer.data.episodes import DataError, Episode, check_episode
from jaxdreamer.files import MEND, open_file
from jaxdreamer.saving import replacing
from jaxdreamer.types import EnvSpec

__all__ = ["SPEC", "files_in", "length_of", "read", "write"]

SPEC = "spec.json"


def write(folder: Path, episodes: Iterable[Episode]) -> tuple[int, int]:
    """Write an ``episode-NNNNNN.npz`` for each; how many episodes and entries there were."""
    count = entries = 0
    for count, episode in enumerate(episodes, 1):
        with replacing(folder / f"episode-{count - 1:06d}.npz") as temporary, open(temporary, "wb") as file:
            arrays: dict[str, Any] = episode
            np.savez_compressed(file, **arrays)
        entries += len(episode["reward"])
    return count, entries


def files_in(folder: Path) -> list[Path]:
    """The episodes' files, by name."""
    return sorted(folder.glob("*.npz"))


def length_of(path: Path) -> int:
    """How many entries an episode has."""
    return int(_arrays(path, ("reward",))["reward"].size)


def read(path: Path, spec: EnvSpec) -> Episode:
    """An episode. DataError where it cannot be used."""
    return check_episode(_arrays(path, spec.layout), spec, str(path))


def _arrays(path: Path, names: Iterable[str]) -> dict[str, Any]:
    with open_file(path) as file:
        try:
            with np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in names if name in stored}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path} is no file of arrays that NumPy reads ({error}): {MEND}") from error
