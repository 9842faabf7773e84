"""What the two rings share: checks of a row, and of how much memory a ring takes. Imports no jax."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jaxdreamer.config import ConfigError
from jaxdreamer.memory import human
from jaxdreamer.types import AnyArray

Layout = dict[str, tuple[tuple[int, ...], np.dtype]]
EPISODE: Layout = {"episode": ((), np.dtype(np.int64))}
"""What the host's ring has of an entry beside a flat Batch: how many episodes began in its lane before."""


class ReplayTooLarge(ConfigError, MemoryError):
    """The replay does not fit into the memory it would be allocated in."""


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


class RingSize(NamedTuple):
    """How much memory a ring takes, and where."""

    fields: dict[str, int]  # bytes of each field, of one ring
    rows: int
    lanes: int
    where: str  # whose memory: "host", or the kind of device
    copies: int = 1  # rings side by side, one for each seed
    devices: int = 1  # that share all of them out

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
        shared = f", shared out over {self.devices} devices" if self.devices > 1 else ""
        return (
            f"{self.rows * self.lanes:,} entries ({self.rows:,} x {self.lanes} environments){times} "
            f"take {human(self.copies * self.nbytes)} of {self.where} memory{shared}"
        )

    def refuse_if_too_large(self, available: int, fraction: float) -> None:
        """ReplayTooLarge, naming the capacity that fits, for more than ``fraction`` of the ``available`` bytes."""
        nbytes = self.copies * self.nbytes
        if nbytes > fraction * available:
            owner = "this machine" if self.where == "host" else "the device" if self.devices == 1 else "all of them"
            raise ReplayTooLarge(
                f"replay: {self.describe()}, but {owner} has {human(available)} available, of which the replay may take "
                f"{fraction:.0%}: set replay.capacity to {int(fraction * available / (nbytes / self.rows)) * self.lanes} "
                "or less, or make env.image_size smaller"
            )
