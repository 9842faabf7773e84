"""What a run is given to learn from, ``replay.data``: read, checked and held, with the episodes that are kept apart."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdreamer.agent.algorithm import Algorithm, OpenLoop, kept_layout
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.data.episodes import DataError
from jaxdreamer.data.source import Source, checksum, open_source
from jaxdreamer.files import natural
from jaxdreamer.replay.host import HostReplay
from jaxdreamer.types import Batch, EnvSpec, unflatten

__all__ = ["Given", "check_same", "located_data", "open_given", "predicted"]

_ABOUT = ("crc32", "episodes", "entries")
MOST_WINDOWS = 64  # of the episodes kept apart


@dataclass(frozen=True)
class Given:
    """Episodes in a ring of one lane, and windows [T, N, ...] of those that are kept apart."""

    replay: HostReplay
    held_out: Batch | None
    about: dict[str, int]
    """What a checkpoint keeps, to see that it is the same when the run goes on."""
    text: str


def is_about(value: Any) -> bool:
    """The form of what a checkpoint keeps of it."""
    return value is None or (
        isinstance(value, dict) and set(value) == set(_ABOUT) and all(map(natural, value.values()))
    )


def located_data(path: str) -> str:
    """The path of a folder made absolute, so that it is found from anywhere; the id of a dataset as it is."""
    folder = Path(path).expanduser() if path else Path()
    return os.path.abspath(folder) if path and folder.exists() else path


def open_given(config: Config, algorithm: Algorithm, spec: EnvSpec, action: Any = None) -> Given | None:
    """What ``replay.data`` names, for an agent of this spec; None where it names nothing.

    ``action`` is the environment's own space of actions, where it is known.

    Raises:
        DataError: what is there cannot be used, or is of other spaces.
        ReplayTooLarge: it does not fit into memory.
    """
    settings = config.replay
    if not settings.data:
        return None
    if settings.held_out and settings.batch_length < 2:
        raise ConfigError("replay.held_out: sequences of replay.batch_length=1 leave nothing to predict")
    source = open_source(settings.data, config.env, action)
    _check_spec(source, spec)
    apart = _apart(len(source.lengths), settings.held_out, settings.data)
    kept = {f"kept/{key}": np.asarray(value) for key, value in algorithm.keep(algorithm.policy.init(1)).items()}
    entries = sum(length for index, length in enumerate(source.lengths) if index not in apart)
    length = settings.batch_length
    if entries < 2 * length:
        raise DataError(
            f"{source.path} has {entries} entries to learn from, sequences of replay.batch_length={length} need at least "
            f"{2 * length}: lower replay.batch_length, or give more"
        )
    replay = HostReplay(
        spec,
        capacity=entries,
        lanes=1,
        length=length,
        cross_episodes=settings.cross_episodes,
        kept=kept_layout(algorithm),
    )
    windows: list[dict[str, np.ndarray]] = []
    row = crc = 0
    for index, episode in enumerate(source):
        crc = checksum(episode, crc)
        size = len(episode["reward"])
        # What the algorithm would have remembered is not known: it is as before the first observation.
        values = episode | {key: np.broadcast_to(value[0], (size, *value.shape[1:])) for key, value in kept.items()}
        if index in apart:
            starts = range(0, size - length + 1, length)
            windows += [{key: value[start : start + length] for key, value in values.items()} for start in starts]
        else:
            number = np.full(size, index, np.int64)
            replay.write_rows(row, {key: value[:, None] for key, value in (values | {"episode": number}).items()})
            row += size
    replay.load_state({"total": row, "first": 0, "online": 0, "length": length, "closed": []})
    about = dict(zip(_ABOUT, (crc, len(source.lengths), sum(source.lengths))))
    return Given(replay, _stacked(windows, source, length) if apart else None, about, _text(source, about, len(apart)))


def _check_spec(source: Source, spec: EnvSpec) -> None:
    """DataError that lists what of the spaces differs, as found and as expected."""
    found, wanted = source.spec.to_dict(), spec.to_dict()
    lines = [
        f"observation {key}: found {found['obs'].get(key, 'none')}, expected {wanted['obs'].get(key, 'none')}"
        for key in sorted({*found["obs"], *wanted["obs"]})
        if found["obs"].get(key) != wanted["obs"].get(key)
    ]
    if found["action"] != wanted["action"]:
        lines.append(f"action: found {found['action']}, expected {wanted['action']}")
    if lines:
        raise DataError(
            f"{source.path} is of other spaces than this run's environment:\n  " + "\n  ".join(lines) + "\nenv.obs, "
            "env.image_size, env.exclude and env.action_bound say how an environment, or a dataset, is seen"
        )


def _apart(episodes: int, count: int, path: str) -> set[int]:
    """Numbers of the episodes that are kept apart: ``count`` of them, evenly spread."""
    if count >= episodes:
        raise DataError(f"replay.held_out={count} leaves nothing of the {episodes} episodes in {path} to learn from")
    return {int((index + 0.5) * episodes / count) for index in range(count)}


def _stacked(windows: list[dict[str, np.ndarray]], source: Source, length: int) -> Batch:
    if not windows:
        raise DataError(
            f"{source.path}: none of the episodes kept apart by replay.held_out has the {length} entries of a sequence: "
            "keep more of them apart, or lower replay.batch_length"
        )
    chosen = np.linspace(0, len(windows) - 1, min(len(windows), MOST_WINDOWS)).round().astype(int)
    return unflatten(Batch, {key: np.stack([windows[i][key] for i in chosen], axis=1) for key in windows[0]})


def _text(source: Source, about: dict[str, int], apart: int) -> str:
    held = f", {apart} of them not learned from" if apart else ""
    what = f"{about['episodes']:,} episodes of {about['entries']:,} entries{held}"
    return f"{what}, {source.kind} at {source.path}{source.remark}"


def check_same(saved: Any, given: Given | None, path: str) -> None:
    """ConfigError where a run was given something else before than it is now."""
    if saved and given and saved != given.about:
        raise ConfigError(
            f"replay.data={path} is not what the run was given: it had {saved['episodes']} episodes of {saved['entries']} "
            f"entries with the checksum {saved['crc32']}, there are {given.about['episodes']} of "
            f"{given.about['entries']} with {given.about['crc32']}: restore them, name the folder that has them, or begin "
            "another run"
        )


def predicted(open_loop: OpenLoop, context: int) -> dict[str, float]:
    """Metrics of what the model predicts of episodes that it has not learned from."""
    found = {}
    for key, error in open_loop.error.items():
        found[f"held_out/{key}_seen"] = float(np.mean(error[:context]))
        found[f"held_out/{key}"] = float(np.mean(error[context:]))
    return found
