"""What the two rings share: checks of a row, and of how much memory a ring takes. Imports no jax."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jaxdreamer.config import ConfigError
from jaxdreamer.memory import available_memory, human
from jaxdreamer.types import AnyArray, Batch, flatten

Layout = dict[str, tuple[tuple[int, ...], np.dtype]]
EPISODE: Layout = {"episode": ((), np.dtype(np.int64))}
"""What the host's ring has of an entry beside a flat Batch: how many episodes began in its lane before."""


class ReplayTooLarge(ConfigError, MemoryError):
    """The replay does not fit into the memory it would be allocated in."""


class ReplayEmpty(ConfigError, LookupError):
    """No sequence of the wanted length can be sampled (yet)."""


class Indices(NamedTuple):
    """Which windows a batch is made of."""

    start: np.ndarray  # int64 [count], absolute row of the window's first entry
    lane: np.ndarray  # int64 [count]

    def to_json(self) -> dict[str, list[int]]:
        """Plain lists, for a checkpoint."""
        return {"start": self.start.tolist(), "lane": self.lane.tolist()}

    @staticmethod
    def from_json(data: dict[str, list[int]]) -> Indices:
        """Read what :meth:`to_json` wrote."""
        return Indices(np.asarray(data["start"], np.int64), np.asarray(data["lane"], np.int64))


def check_row(values: dict[str, AnyArray], ring: dict[str, AnyArray]) -> None:
    """ValueError where one row's arrays [lanes, ...] are not what the ring's arrays [rows, lanes, ...] hold."""
    if values.keys() != ring.keys():
        raise ValueError(f"expected the observation keys of {sorted(ring)}, found those of {sorted(values)}")
    for key, value in values.items():
        shape, dtype = ring[key].shape[1:], ring[key].dtype
        if value.shape != shape:
            raise ValueError(f"{key}: expected shape {shape} (environments first), found {value.shape}")
        if not np.can_cast(value.dtype, dtype, "same_kind"):
            raise ValueError(f"{key}: expected dtype {dtype}, found {value.dtype}")


def checked_row(row: Batch, ring: dict[str, AnyArray]) -> dict[str, np.ndarray]:
    """One row's arrays by name, in the dtypes of the ring's arrays. ValueError for what a replay must not keep."""
    values = {key: np.asarray(value) for key, value in flatten(row).items()}
    check_row(values, {key: array for key, array in ring.items() if key not in EPISODE})
    for key, value in values.items():
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused below
            values[key] = value = value.astype(ring[key].dtype, copy=False)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            lane = int(np.argwhere(~np.isfinite(value))[0, 0])
            raise ValueError(f"{key}: environment {lane} gave a value that is not finite; replay would keep it")
    if (values["is_terminal"] & ~values["is_last"]).any():
        raise ValueError("is_terminal without is_last: a terminal entry is the last one of its episode")
    return values


def bytes_by_field(layout: Layout, entries: int) -> dict[str, int]:
    """Bytes that each field of ``entries`` entries takes."""
    return {key: entries * math.prod(shape) * dtype.itemsize for key, (shape, dtype) in layout.items()}


def rows_for(*, capacity: int, lanes: int, length: int, cross_episodes: bool, guard: int = 0) -> int:
    """How many rows of ``lanes`` entries ``capacity`` entries are.

    ConfigError for too few: wherever episodes begin, the ring must hold an allowed window of ``length`` entries, which
    without ``cross_episodes`` may have to begin where an episode does.
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


def in_memory(layout: Layout, rows: int, lanes: int, fraction: float) -> RingSize:
    """What a ring takes of the host's memory. ReplayTooLarge where that is more than ``fraction`` of what is available."""
    size = RingSize(bytes_by_field(layout, rows * lanes), rows, lanes, "host")
    size.refuse_if_too_large(available_memory(), fraction)
    return size


def zeros(layout: Layout, rows: int, lanes: int, size: RingSize) -> dict[str, np.ndarray]:
    """Arrays [rows, lanes, ...] by name, as untouched virtual memory: the resident size grows with the rows written."""
    try:
        return {key: np.zeros((rows, lanes, *shape), dtype) for key, (shape, dtype) in layout.items()}
    except MemoryError as error:
        raise ReplayTooLarge(f"{size.describe()}: {error}; lower replay.capacity") from error


class RingSize(NamedTuple):
    """How much memory a ring takes, and where."""

    fields: dict[str, int]  # bytes of each field, of one ring
    rows: int
    lanes: int
    where: str  # whose memory: "host", or the kind of device; or "disk"
    copies: int = 1  # rings side by side, one for each seed
    devices: int = 1  # that share all of them out
    place: str = ""  # the folder, on disk

    @property
    def nbytes(self) -> int:
        """Bytes of one ring."""
        return sum(self.fields.values())

    def describe(self) -> str:
        """Entries, bytes, and bytes by field, in a line."""
        sizes = {key: size for key, size in self.fields.items() if size >= 0.01 * self.nbytes}
        parts = ", ".join(f"{key} {human(self.copies * size)}" for key, size in sizes.items())
        return f"{self.brief()} ({parts})"

    def brief(self) -> str:
        """Entries and bytes, for the start of a run."""
        times = f" for each of {self.copies} seeds" if self.copies > 1 else ""
        where = f"on disk, in {self.place}" if self.place else f"of {self.where} memory"
        shared = f", shared out over {self.devices} devices" if self.devices > 1 else ""
        return (
            f"{self.rows * self.lanes:,} entries ({self.rows:,} x {self.lanes} environments){times} "
            f"take {human(self.copies * self.nbytes)} {where}{shared}"
        )

    def refuse_if_too_large(self, available: int, fraction: float) -> None:
        """ReplayTooLarge, naming the capacity that fits, for more than ``fraction`` of the ``available`` bytes."""
        nbytes = self.copies * self.nbytes
        if nbytes > fraction * available:
            owner = (
                "the disk"
                if self.place
                else "this machine"
                if self.where == "host"
                else "the device"
                if self.devices == 1
                else "all of them"
            )
            raise ReplayTooLarge(
                f"replay: {self.describe()}, but {owner} has {human(available)} available, of which the replay may take "
                f"{fraction:.0%}: set replay.capacity to {int(fraction * available / (nbytes / self.rows)) * self.lanes} "
                "or less, or make env.image_size smaller"
            )
