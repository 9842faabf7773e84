"""What one entry of a ring holds, what that takes in memory, and whether it fits. Shared by all rings; no jax."""

from __future__ import annotations

import math

import numpy as np

from jaxdreamer.config import ConfigError
from jaxdreamer.memory import human
from jaxdreamer.types import Array, Batch, EnvSpec

Layout = dict[str, tuple[tuple[int, ...], np.dtype]]


class ReplayTooLarge(ConfigError, MemoryError):
    """The replay asked for does not fit into the memory it would live in."""


def entry_layout(spec: EnvSpec) -> Layout:
    """Shape and dtype of every field of one entry: ``obs/<key>`` first, then the other fields of a Batch."""
    layout: Layout = {f"obs/{key}": (tuple(item.shape), np.dtype(item.dtype)) for key, item in spec.obs.items()}
    layout |= {"action": ((spec.action.size,), np.dtype(np.float32)), "reward": ((), np.dtype(np.float32))}
    return layout | {key: ((), np.dtype(bool)) for key in ("is_first", "is_last", "is_terminal")}


def by_name(batch: Batch) -> dict[str, Array]:
    """The fields of a Batch, or of anything shaped like one, under the names of :func:`entry_layout`."""
    values = {f"obs/{key}": value for key, value in batch.obs.items()}
    return values | {key: getattr(batch, key) for key in Batch._fields if key != "obs"}


def check_row(values: dict[str, Array], ring: dict[str, Array]) -> None:
    """ValueError where one row's arrays [lanes, ...] are not what the ring's arrays [rows, lanes, ...] hold."""
    names = [{key[4:] for key in keys if key.startswith("obs/")} for keys in (ring, values)]
    if names[0] != names[1]:
        raise ValueError(f"expected observation keys {sorted(names[0])}, found {sorted(names[1])}")
    for key, value in values.items():
        shape, dtype = ring[key].shape[1:], ring[key].dtype
        if value.shape != shape:
            raise ValueError(f"{key}: expected shape {shape} (environments first), found {value.shape}")
        if not np.can_cast(value.dtype, dtype, "same_kind"):
            raise ValueError(f"{key}: expected dtype {dtype}, found {value.dtype}")


def bytes_by_field(layout: Layout, entries: int) -> dict[str, int]:
    """Bytes that each field of ``entries`` entries takes."""
    return {key: entries * math.prod(shape) * dtype.itemsize for key, (shape, dtype) in layout.items()}


def rows_for(*, capacity: int, lanes: int, length: int, cross_episodes: bool, guard: int = 0) -> int:
    """Rows of ``lanes`` entries that ``capacity`` entries make.

    ConfigError for too few of them: however the episodes lie there must be an allowed window of ``length``, which without
    ``cross_episodes`` may have to begin where an episode does.
    """
    rows = int(capacity) // lanes
    need = length + guard + (0 if cross_episodes else length - 1)
    if rows < need:
        room = f" with {guard} entries of room for the writer" if guard else ""
        raise ConfigError(
            f"replay.capacity {capacity} leaves {rows} entries for each of {lanes} environments, but sequences of "
            f"{length}{room} need {need}: set replay.capacity to at least {need * lanes}"
            + (", or lower run.train_every" if guard else "")
        )
    return rows


def describe_ring(sizes: dict[str, int], *, rows: int, lanes: int, where: str, copies: int = 1) -> str:
    """One line for the start of a run: entries, bytes, and bytes by field; ``sizes`` are those of one copy."""
    total = sum(sizes.values())
    parts = ", ".join(f"{key} {human(copies * size)}" for key, size in sizes.items() if size >= 0.01 * total)
    times = f" for each of {copies} seeds" if copies > 1 else ""
    return (
        f"replay: {rows * lanes:,} entries ({rows:,} x {lanes} environments){times} "
        f"take {human(copies * total)} of {where} memory ({parts})"
    )


def refuse_if_too_large(
    description: str, *, nbytes: int, rows: int, lanes: int, available: int, owner: str, fraction: float
) -> None:
    """ReplayTooLarge, naming the capacity that fits, where ``nbytes`` are over ``fraction`` of what ``owner`` has."""
    if nbytes <= fraction * available:
        return
    fits = int(fraction * available / (nbytes / rows)) * lanes
    raise ReplayTooLarge(
        f"{description}, but {owner} has {human(available)} available, of which the replay may take "
        f"{fraction:.0%}: set replay.capacity to {fits} or less, or make env.image_size smaller"
    )
