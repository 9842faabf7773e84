"""Datasets of Minari: what a run holds as one, and one that others recorded as episodes.

Written are observations as the agent sees them and actions in the environment's own units; ``infos["agent_action"]`` has
the agent's numbers, so that what is read back is the same to the last bit. Read are the spaces of any dataset, as an
environment's would be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.data.episodes import DataError, Episode, check_episode
from jaxdreamer.data.spaces import action_space, observation_space
from jaxdreamer.envs.base import EnvError, SpaceError
from jaxdreamer.envs.host.actions import ActionMap
from jaxdreamer.envs.host.observations import ObservationMap
from jaxdreamer.errors import import_extra, shown
from jaxdreamer.types import EnvSpec

__all__ = ["Dataset", "open_dataset", "write"]

AGENT_ACTION = "agent_action"
_ID = re.compile(r"[-\w]+-v\d+")


def _minari(purpose: str) -> Any:
    import_extra("h5py", "data", purpose)
    return import_extra("minari", "data", purpose)


def write(
    folder: Path, episodes: Iterable[Episode], spec: EnvSpec, space: Any, action_bound: float, about: dict[str, str]
) -> tuple[int, int]:
    """Write a dataset to ``folder``, whose name is its id; how many episodes and entries it has.

    Args:
        folder: must not be there.
        episodes: in order.
        spec: of the run.
        space: the environment's own actions; None where they are not known: they are the agent's then.
        action_bound: the run's ``env.action_bound``.
        about: texts for the dataset's metadata.
    """
    minari = _minari("writing a Minari dataset")
    from minari.dataset.minari_storage import MinariStorage

    if not _ID.fullmatch(folder.name):
        raise ConfigError(f"{folder}: the folder's name is the dataset's id, as in pendulum-v0, found {folder.name}")
    if odd := [key for key in spec.obs if "/" in key]:
        raise ConfigError(f"observation {odd[0]!r}: Minari allows no / in a name: export as npz")
    acts = ActionMap(action_space(spec.action) if space is None else space, action_bound)
    seen = observation_space(spec.obs)
    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(
        folder / "data",
        observation_space=seen,
        action_space=action_space(spec.action) if space is None else space,
        jpeg_encoding=False,
    )
    storage.update_metadata({"dataset_id": folder.name, "minari_version": minari.__version__, **about})
    entries = 0

    def buffers() -> Iterator[Any]:
        nonlocal entries
        for episode in episodes:
            entries += len(episode["reward"])
            yield _buffer(episode, seen, acts)

    storage.update_episodes(buffers())
    return storage.total_episodes, entries


def _buffer(episode: Episode, seen: Any, acts: ActionMap) -> Any:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    obs = {name.removeprefix("obs/"): value for name, value in episode.items() if name.startswith("obs/")}
    steps: dict[str, Any] = {name: value[1:] for name, value in episode.items()}
    return EpisodeBuffer(
        observations=obs if isinstance(seen, Mapping) else next(iter(obs.values())),
        actions=_stacked([acts.to_env(action) for action in steps["action"]]),
        rewards=steps["reward"],
        terminations=steps["is_terminal"],
        truncations=steps["is_last"] & ~steps["is_terminal"],
        infos={AGENT_ACTION: episode["action"]},
    )


def _stacked(values: list[Any]) -> Any:
    """Elements of a space as arrays of them all, in the same Dicts and Tuples."""
    if isinstance(values[0], Mapping):
        return {key: _stacked([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], tuple):
        return tuple(_stacked(list(items)) for items in zip(*values))
    return np.stack(values)


class Dataset(NamedTuple):
    """A dataset, and how its spaces are read."""

    stored: Any  # Minari's
    name: str
    see: ObservationMap
    acts: ActionMap
    remark: str = ""

    @property
    def spaces(self) -> dict[str, Any]:
        """The dataset's own."""
        return {"observation": self.stored.observation_space, "action": self.stored.action_space}

    @property
    def spec(self) -> EnvSpec:
        """What an agent must know of it."""
        return EnvSpec(self.see.spec, self.acts.spec)

    @property
    def lengths(self) -> list[int]:
        """Entries of each episode."""
        every = self.stored.storage.get_episode_metadata(self.stored.episode_indices)
        return [int(about["total_steps"]) + 1 for about in every]

    def read(self, index: int) -> Episode:
        """An episode. DataError where it cannot be used."""
        where = f"{self.name}, episode {index}"
        episode = self.stored[int(self.stored.episode_indices[index])]
        length = len(episode.rewards) + 1
        try:
            values: dict[str, Any] = {
                f"obs/{key}": value for key, value in self.see.stacked(episode.observations, length).items()
            }
            values["action"] = self._actions(episode, length)
        except EnvError as error:
            raise DataError(f"{where}: {error}") from error
        values["reward"] = np.concatenate([[0.0], np.asarray(episode.rewards, np.float64)])
        values["is_terminal"] = np.concatenate([[False], np.asarray(episode.terminations, bool)])
        return check_episode(values, self.spec, where)

    def _actions(self, episode: Any, length: int) -> np.ndarray:
        agents = (episode.infos or {}).get(AGENT_ACTION)
        if agents is not None and np.shape(agents) == (length, self.acts.spec.size):
            return np.asarray(agents)
        steps = [self.acts.from_env(_item(episode.actions, step)) for step in range(length - 1)]
        return np.stack([np.zeros(self.acts.spec.size, np.float32), *steps])


def _item(values: Any, index: int) -> Any:
    """One of many elements of a space, see :func:`_stacked`."""
    if isinstance(values, Mapping):
        return {key: _item(value, index) for key, value in values.items()}
    if isinstance(values, tuple):
        return tuple(_item(value, index) for value in values)
    return values[index]


def open_dataset(path: str, env: EnvConfig) -> Dataset:
    """A dataset by its folder, or by the id that Minari knows it by on this machine; nothing is fetched.

    ``env`` says how its spaces are read: ``image_size``, ``exclude``, ``action_bound``. ConfigError where there is none.
    """
    minari = _minari(f"{shown(path)} is no folder of arrays, and reading a Minari dataset")
    try:
        folder = Path(path)
        stored = minari.MinariDataset(folder / "data") if folder.is_dir() else minari.load_dataset(path)
    except (OSError, ValueError, AssertionError, KeyError) as error:
        raise DataError(
            f"replay.data={shown(path)} is neither a folder of episodes nor a Minari dataset on this machine ({error}); "
            f"`minari download {path}` would fetch one of Minari's own"
        ) from error
    try:
        see = ObservationMap(stored.observation_space, env.image_size, env.exclude)
        return Dataset(stored, path, see, ActionMap(stored.action_space, env.action_bound))
    except SpaceError as error:
        raise DataError(f"{path}: {error}") from error
