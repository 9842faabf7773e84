"""Datasets of LeRobot in its format v3.0: Parquet tables, films, and JSON that describes them. Read, not written.

Its frame t holds what was seen, what was then done, and what that brought. So n frames are n + 1 entries: the action of
frame t leads to entry t + 1. What the last action led to was not recorded; the last frame is seen once more there.

``observation.NAME`` is read as an environment's member NAME would be. Rewards are ``next.reward``, zero where there are
none. An episode ended by itself (``is_terminal``) where ``next.terminated`` or ``next.success`` says so of its last frame;
``next.done`` tells no more than that the recording ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from jaxdreamer.config import EnvConfig
from jaxdreamer.data.episodes import DataError, Episode, check_episode
from jaxdreamer.envs.base import EnvError, SpaceError
from jaxdreamer.envs.host.actions import ActionMap
from jaxdreamer.envs.host.observations import ObservationMap
from jaxdreamer.errors import import_extra
from jaxdreamer.files import MEND, natural, read_json, require
from jaxdreamer.types import EnvSpec

__all__ = ["INFO", "Dataset", "open_dataset"]

INFO = "meta/info.json"
_SEEN, _REWARD, _ENDS = "observation.", "next.reward", ("next.terminated", "next.success")
_EPISODE = ("episode_index", "length", "data/chunk_index", "data/file_index")
_LARGEST = 2**28  # of meta/stats.json, which has a line for each number of every feature
_FORM = {
    "codebase_version": str,
    "fps": lambda value: isinstance(value, int | float) and value > 0,
    "data_path": str,
    "video_path": lambda value: isinstance(value, str | None),
    "features": {...: {"dtype": str, "shape": [natural]}},
}


def _pyarrow(module: str) -> Any:
    return import_extra(f"pyarrow.{module}", "data", "reading a LeRobot dataset")


def open_dataset(path: str, env: EnvConfig, action: Any = None) -> Dataset:
    """The dataset in a folder.

    Args:
        path: of the folder that holds ``meta``, ``data`` and ``videos``.
        env: says how observations are seen: ``image_size``, ``exclude``, ``action_bound``.
        action: the space of the actions, where an environment says it. Without one their bounds are plus and minus
            ``action_bound`` if that is given, else the lowest and highest that were recorded.

    Raises:
        DataError: it is of another version, has no actions, or holds what cannot be used.
    """
    from gymnasium import spaces

    folder = Path(path)
    info = read_json(folder / INFO)
    require(info, _FORM, folder / INFO)
    if not info["codebase_version"].startswith("v3."):
        raise DataError(
            f"{path} is a LeRobot dataset of the format {info['codebase_version']}, expected v3.0: LeRobot's own converter "
            "makes one of it"
        )
    if "action" not in info["features"]:
        raise DataError(f"{path} holds no actions: {INFO} lists {', '.join(sorted(info['features'])) or 'nothing'}")
    names = [name for name in info["features"] if name.startswith(_SEEN)]
    try:
        seen = spaces.Dict({name.removeprefix(_SEEN): _space(info["features"][name]) for name in names})
        done = _action_space(folder, info["features"]["action"], env) if action is None else action
        see, acts = ObservationMap(seen, env.image_size, env.exclude), ActionMap(done, env.action_bound)
    except (SpaceError, ValueError) as error:  # of NumPy's, where the statistics are of another shape
        raise DataError(f"{path}: {error}") from error
    return Dataset(folder, info, {"observation": seen, "action": done}, see, acts)


def _space(feature: Mapping[str, Any]) -> Any:
    """The space of an observation; Text for what is neither picture nor number."""
    from gymnasium import spaces

    if feature["dtype"] in ("video", "image"):
        return spaces.Box(0, 255, _picture_shape(feature), np.uint8)
    if feature["dtype"] == "string":
        return spaces.Text(1)
    return spaces.Box(-np.inf, np.inf, tuple(feature["shape"]), np.float32)


def _picture_shape(feature: Mapping[str, Any]) -> tuple[int, ...]:
    """Height, width, channels. A feature may list the channels first, and its names need not say so."""
    shape = tuple(feature["shape"])
    if len(shape) != 3:
        raise SpaceError(f"pictures of the shape {shape}: expected height, width and channels")
    return shape if shape[-1] in (1, 3, 4) else (shape[1], shape[2], shape[0])


def _action_space(folder: Path, feature: Mapping[str, Any], env: EnvConfig) -> Any:
    from gymnasium import spaces

    if env.action_bound > 0:
        return spaces.Box(-env.action_bound, env.action_bound, tuple(feature["shape"]), np.float32)
    stats = read_json(folder / "meta/stats.json", _LARGEST)
    require(stats, {"action": {"min": list, "max": list}}, folder / "meta/stats.json")
    low, high = (np.asarray(stats["action"][end], np.float32).reshape(feature["shape"]) for end in ("min", "max"))
    return spaces.Box(low, high, dtype=np.float32)


@dataclass(frozen=True)
class Dataset:
    """A dataset, and how it is read."""

    folder: Path
    info: dict[str, Any]
    spaces: dict[str, Any]
    see: ObservationMap
    acts: ActionMap

    @property
    def spec(self) -> EnvSpec:
        """What an agent must know of it."""
        return EnvSpec(self.see.spec, self.acts.spec)

    @property
    def lengths(self) -> list[int]:
        """Entries of each episode."""
        return [int(episode["length"]) + 1 for episode in self.episodes]

    @property
    def remark(self) -> str:
        """What one who learns from it must know; empty where there is nothing."""
        return "" if _REWARD in self.info["features"] else f"; it has no {_REWARD}: every reward is 0"

    @cached_property
    def episodes(self) -> list[dict[str, Any]]:
        """Where each episode lies, in order."""
        rows: list[dict[str, Any]] = []
        for file in sorted((self.folder / "meta/episodes").glob("*/*.parquet")):
            films = [name for name in _opened(file).schema_arrow.names if name.startswith("videos/")]
            rows += _table(file, (*_EPISODE, *films)).to_pylist()
        return sorted(rows, key=lambda row: row["episode_index"])

    def read(self, index: int) -> Episode:
        """An episode. DataError where it cannot be used."""
        where = f"{self.folder}, episode {index}"
        about = self.episodes[index]
        rows = self._rows(about)
        length = len(rows)
        if length != about["length"] or not length:
            raise DataError(f"{where}: expected {about['length']} frames, its table has {length}")
        members = sorted({leaf.path[0] for leaf in self.see.leaves})
        try:
            seen = [self._frames(_SEEN + name, about, rows) for name in members]
            found = [self.see(dict(zip(members, frame))) for frame in zip(*seen, strict=True)]
            steps = [self.acts.from_env(action) for action in self._numbers("action", rows)]
        except (EnvError, ValueError) as error:
            raise DataError(f"{where}: {error}") from error
        values: dict[str, Any] = {
            f"obs/{key}": np.stack([frame[key] for frame in [*found, found[-1]]]) for key in self.see.spec
        }
        values["action"] = np.stack([np.zeros(self.acts.spec.size, np.float32), *steps])
        values["reward"] = np.zeros(length + 1)
        if _REWARD in self.info["features"]:
            values["reward"][1:] = self._numbers(_REWARD, rows).ravel()
        values["is_terminal"] = np.zeros(length + 1, bool)
        values["is_terminal"][-1] = any(
            self._numbers(name, rows).ravel()[-1] for name in _ENDS if name in self.info["features"]
        )
        return check_episode(values, self.spec, where)

    def _file(self, pattern: str, about: Mapping[str, Any], kind: str, **names: str) -> Path:
        """The file that holds an episode's ``kind``: its tables, or one of its films."""
        place = {name: self._said(f"{kind}/{name}", about) for name in ("chunk_index", "file_index")}
        try:
            return self.folder / self.info[pattern].format(**place, **names)
        except (AttributeError, KeyError, IndexError, ValueError) as error:
            raise DataError(f"{self.folder / INFO}: {pattern} cannot be {self.info[pattern]!r} ({error})") from error

    def _said(self, name: str, about: Mapping[str, Any]) -> Any:
        if name not in about:
            raise DataError(f"{self.folder / 'meta/episodes'} has no column {name!r}; it has {', '.join(about)}")
        return about[name]

    def _rows(self, about: Mapping[str, Any]) -> Any:
        """The frames of an episode, as a table."""
        wanted = ["action", _REWARD, *_ENDS, *(_SEEN + leaf.path[0] for leaf in self.see.leaves)]
        features = self.info["features"]
        names = tuple(name for name in dict.fromkeys(wanted) if name in features and features[name]["dtype"] != "video")
        table = _table(self._file("data_path", about, "data"), ("episode_index", *names))
        return table.filter(_pyarrow("compute").equal(table["episode_index"], about["episode_index"]))

    def _numbers(self, name: str, rows: Any) -> np.ndarray:
        """A column of numbers, [n, ...] in the feature's shape. ValueError where it does not have it."""
        column = rows[name].combine_chunks()
        while hasattr(column, "flatten") and hasattr(column.type, "value_type"):
            column = column.flatten()
        return column.to_numpy(zero_copy_only=False).reshape(len(rows), *self.info["features"][name]["shape"])

    def _frames(self, name: str, about: Mapping[str, Any], rows: Any) -> Iterator[np.ndarray]:
        """An observation of each frame, one after the other: an episode's pictures in full size may not fit into memory."""
        kind = self.info["features"][name]["dtype"]
        if kind == "video":
            file = self._file("video_path", about, f"videos/{name}", video_key=name)
            start = self._said(f"videos/{name}/from_timestamp", about)
            return _film(file, start, len(rows), self.info["fps"])
        if kind == "image":
            return (_picture(item.as_py()["bytes"]) for item in rows[name])
        return iter(self._numbers(name, rows))


def _picture(data: bytes) -> np.ndarray:
    from PIL import Image

    picture = np.asarray(Image.open(BytesIO(data)))
    return picture[..., None] if picture.ndim == 2 else picture


def _film(path: Path, start: float, count: int, fps: float) -> Iterator[np.ndarray]:
    """``count`` pictures of a film from ``start`` seconds on, uint8 [height, width, 3]."""
    av = import_extra("av", "data", "reading a LeRobot dataset's films")
    try:
        with av.open(str(path)) as film:
            stream = film.streams.video[0]
            stream.thread_type = "AUTO"
            # To the picture at or before it that needs no other.
            film.seek(int(start / stream.time_base), stream=stream)
            due = (frame for frame in film.decode(stream) if frame.time > start - 0.5 / fps)
            for number in range(count):
                frame = next(due, None)
                if frame is None:
                    raise DataError(f"{path} ends {number} pictures after {start:g} s, expected {count}: {MEND}")
                yield frame.to_ndarray(format="rgb24")
    except (OSError, IndexError, av.FFmpegError) as error:
        raise DataError(f"{path} is no film that can be read ({error}): {MEND}") from error


@lru_cache(maxsize=2)  # a file holds many episodes, which are read one after the other
def _table(path: Path, columns: tuple[str, ...]) -> Any:
    """Columns of a Parquet file. DataError where it cannot be read, or lacks one."""
    file = _opened(path)
    if missing := [name for name in columns if name not in file.schema_arrow.names]:
        raise DataError(f"{path} has no column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)}")
    try:
        return file.read(columns=[*columns])
    except (OSError, ValueError) as error:
        raise _no_table(path, error) from error


def _opened(path: Path) -> Any:
    parquet = _pyarrow("parquet")
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise _no_table(path, error) from error


def _no_table(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is no table that can be read ({error}): {MEND}")
