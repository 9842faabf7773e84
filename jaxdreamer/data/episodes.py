"""Episodes: what a replay holds, cut where episodes begin and end, and the check of what others recorded.

An episode is a dictionary of arrays [n, ...] by the names of :func:`jaxdreamer.types.flatten`, without what algorithms
keep: n - 1 steps and the reset before them. It is whole: ``is_first`` is true for its first entry alone, whose action and
reward are zero, and ``is_last`` for its last one alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.types import EnvSpec

__all__ = ["DataError", "Episode", "check_episode", "split"]

Episode = dict[str, np.ndarray]
IMPLIED = ("is_first", "is_last")
"""What one who records an episode may leave out: it says nothing that the episode's ends do not."""


class DataError(JaxdreamerError, ValueError):
    """Recorded experience that cannot be used; the message says where, what was found and what is expected."""


def split(blocks: Iterable[Mapping[str, np.ndarray]], names: Iterable[str]) -> Iterator[Episode]:
    """Episodes of rows that come block after block, in the order in which they end; of one row, lane by lane.

    An episode whose beginning or end is not there begins with its first entry and ends with its last one, which is not
    terminal then. Those of a single entry are left out: nothing was decided in them.

    Args:
        blocks: arrays [rows, lanes, ...] by name, each block the rows after those of the one before.
        names: of the arrays that an episode has.
    """
    names = list(names)
    parts: dict[int, list[Episode]] = {}
    for block in blocks:
        for stop, lane, start in _pieces(block["is_first"], block["is_last"]):
            if block["is_first"][start, lane]:
                yield from _whole(parts.pop(lane, []))
            parts.setdefault(lane, []).append({name: block[name][start:stop, lane].copy() for name in names})
            if block["is_last"][stop - 1, lane]:
                yield from _whole(parts.pop(lane))
    for lane in sorted(parts):
        yield from _whole(parts[lane])


def _pieces(first: np.ndarray, last: np.ndarray) -> list[tuple[int, int, int]]:
    """Where rows [rows, lanes] are of one episode: (stop, lane, start), by where they end."""
    rows, lanes = first.shape
    found = []
    for lane in range(lanes):
        begins, ends = np.flatnonzero(first[:, lane]), np.flatnonzero(last[:, lane]) + 1
        cuts = np.unique(np.concatenate([[0], begins, ends, [rows]])).tolist()
        found += [(stop, lane, start) for start, stop in itertools.pairwise(cuts)]
    return sorted(found)


def _whole(parts: list[Episode]) -> Iterator[Episode]:
    """The episode that consists of these parts, with its ends in order; nothing for a single entry."""
    if sum(len(part["reward"]) for part in parts) < 2:
        return
    episode = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    _set_ends(episode)
    yield episode


def _set_ends(episode: Episode) -> None:
    length = len(episode["reward"])
    episode["is_first"] = np.arange(length) == 0
    episode["is_last"] = np.arange(length) == length - 1
    episode["action"][0] = episode["reward"][0] = 0


def check_episode(values: Mapping[str, Any], spec: EnvSpec, where: str) -> Episode:
    """The arrays of ``spec`` among ``values``, in its dtypes. ``is_first`` and ``is_last`` may be missing.

    DataError, with ``where`` in front, where they cannot be learned from.
    """
    missing = [name for name in spec.layout if name not in values and name not in IMPLIED]
    if missing:
        raise DataError(f"{where} has no {missing[0]!r}; it has {', '.join(sorted(values)) or 'nothing'}")
    length = len(np.atleast_1d(values["reward"]))
    if length < 2:
        raise DataError(f"{where} has {length} entries, an episode has its reset and at least one step")
    episode = {}
    for name, (shape, dtype) in spec.layout.items():
        if name in values:
            episode[name] = _array(np.asarray(values[name]), (length, *shape), dtype, f"{where}, {name}")
    if problem := _problem(episode, spec):
        raise DataError(f"{where}: {problem}")
    _set_ends(episode)
    return {name: episode[name] for name in spec.layout}


def _array(value: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, where: str) -> np.ndarray:
    if value.shape != shape:
        raise DataError(f"{where}: expected the shape {shape}, found {value.shape}")
    if not np.can_cast(value.dtype, dtype, "same_kind"):
        raise DataError(f"{where}: expected {dtype}, found {value.dtype}")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused below
        value = value.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(value).all():
        raise DataError(f"{where}: entry {int(np.argwhere(~np.isfinite(value))[0, 0])} is not finite")
    return value


def _problem(episode: Episode, spec: EnvSpec) -> str:
    """What is wrong with an episode whose arrays have the right shapes; empty where nothing is."""
    for name, end in (("is_first", 0), ("is_last", -1)):
        if name in episode and np.delete(episode[name], end).any():
            return f"{name} is true amid the episode"
    if episode["is_terminal"][:-1].any():
        return "is_terminal is true before the last entry"
    for key, item in spec.obs.items():
        value = episode[f"obs/{key}"]
        if item.kind == "discrete" and ((value < 0) | (value >= item.classes)).any():
            return f"obs/{key} holds {value.min()} to {value.max()}, expected 0 to {item.classes - 1}"
    steps = episode["action"][1:]
    for part, place in zip(spec.action.parts, spec.action.slices):
        numbers = steps[:, place]
        if part.kind == "continuous" and (np.abs(numbers) > 1).any():
            return f"action holds {numbers.min():g} to {numbers.max():g}, expected -1 to 1"
        if part.kind == "discrete" and not (np.isin(numbers, (0, 1)).all() and (numbers.sum(1) == 1).all()):
            return f"action is no choice of {part.size}: expected a single 1 among zeros"
    return ""
