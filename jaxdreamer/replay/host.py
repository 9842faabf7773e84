"""Experience in host memory: a preallocated NumPy ring, time x lanes, in the dtypes the environment uses.

A *row* is one moment of all lanes (the environments of a vector environment). Rows are numbered from 0 for as long as
the run lasts; row ``r`` lies at ring position ``r % rows_max``, and *start* always means such an absolute number, so an
index stays meaningful (and can be written into a checkpoint) however often the ring wraps around.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdreamer.config import ConfigError
from jaxdreamer.memory import available_memory
from jaxdreamer.replay.layout import (
    ReplayTooLarge,
    by_name,
    bytes_by_field,
    check_row,
    describe_ring,
    entry_layout,
    refuse_if_too_large,
    rows_for,
)
from jaxdreamer.types import Batch, EnvSpec, Timestep

__all__ = ["HostReplay", "Indices", "ReplayTooLarge"]


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


class HostReplay:
    """Ring buffer of the newest ``capacity // lanes`` rows.

    Args:
        spec: what the environment hands over.
        capacity: entries over all lanes; rounded down to a multiple of ``lanes``.
        lanes: environments stepped side by side.
        length: T, entries of every sampled window.
        cross_episodes: whether any window may run over an episode's end into the next episode, or only one that
            begins with an episode shorter than itself.
        guard: rows that may be added between :meth:`sample_indices` and :meth:`gather`. Windows touching rows which
            the next ``guard`` additions overwrite are not sampled.
        memory_fraction: share of the available memory that the ring may take.

    Raises:
        ReplayTooLarge: more memory asked for than ``memory_fraction`` of what is available.
        ConfigError: the ring is too short to hold one window beside the guard.
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        capacity: int,
        lanes: int,
        length: int,
        cross_episodes: bool,
        guard: int = 0,
        memory_fraction: float = 0.8,
    ):
        self.spec, self.lanes, self.length = spec, int(lanes), int(length)
        self.cross_episodes, self.guard = cross_episodes, int(guard)
        self.rows_max = rows_for(
            capacity=capacity, lanes=self.lanes, length=self.length, cross_episodes=cross_episodes, guard=self.guard
        )
        layout = entry_layout(spec) | {"episode": ((), np.dtype(np.int64)), "valid": ((), np.dtype(bool))}
        self._bytes = bytes_by_field(layout, self.capacity)
        refuse_if_too_large(
            self.describe(),
            nbytes=self.nbytes,
            rows=self.rows_max,
            lanes=self.lanes,
            available=available_memory(),
            owner="this machine",
            fraction=memory_fraction,
        )
        try:
            # Zeros come as untouched virtual memory: the resident size grows with the rows written, then stays.
            arrays = {k: np.zeros((self.rows_max, self.lanes, *s), d) for k, (s, d) in layout.items()}
        except MemoryError as error:
            raise ReplayTooLarge(f"{self.describe()}: {error}; lower replay.capacity") from error
        # valid[s] says that no episode cuts the window starting at row s. For the newest length - 1 rows, whose
        # windows are not complete, it says nothing yet (the ring may hold an overwritten row's flag there).
        self._valid = arrays.pop("valid")
        self._arrays = arrays
        self._total = 0
        self._writing = 0  # rows added or being added; ahead of _total while add() overwrites the oldest row
        self._first = 0  # rows before this one were never here (a ring restored from a shorter one)
        self._episode_start = np.zeros(self.lanes, np.int64)
        self._closed: list[tuple[int, int]] = []
        self._valid_count = 0
        self._steps = np.arange(self.length, dtype=np.int64)

    # ---- size ----------------------------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes of the full ring."""
        return sum(self._bytes.values())

    @property
    def capacity(self) -> int:
        """Entries the ring holds, over all lanes."""
        return self.rows_max * self.lanes

    def describe(self) -> str:
        """One line for the start of a run: entries, bytes, and bytes by key."""
        return describe_ring(self._bytes, rows=self.rows_max, lanes=self.lanes, where="host")

    # ---- state ---------------------------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """Rows ever added; the next row's number."""
        return self._total

    @property
    def oldest(self) -> int:
        """Number of the oldest row still here."""
        return max(self._first, self._total - self.rows_max)

    @property
    def rows(self) -> int:
        """Rows in the ring."""
        return self._total - self.oldest

    @property
    def can_sample(self) -> bool:
        """Whether at least one window can be sampled now."""
        return self.valid_starts > 0

    @property
    def valid_starts(self) -> int:
        """How many different windows can be sampled now."""
        if self.cross_episodes:
            return max(0, self._total - self.length - self._lower(self._total) + 1) * self.lanes
        return self._valid_count

    def _lower(self, total: int) -> int:
        """The oldest row that a window may contain when ``total`` rows have been added."""
        return max(self._first, total + self.guard - self.rows_max)

    def ranges(self, rows: int = 1000) -> dict[str, tuple[float, float]]:
        """The least and the greatest number of each observation, in the first ``rows`` of the ring."""
        seen = {key: self._arrays[f"obs/{key}"][: min(self.rows, rows)] for key in self.spec.obs}
        return {key: (float(value.min()), float(value.max())) for key, value in seen.items() if value.size}

    # ---- writing -------------------------------------------------------------------------------------------------

    def add(self, timestep: Timestep, action: Any) -> None:
        """Append one row.

        Args:
            timestep: arrays with a leading lane axis.
            action: float32 [lanes, A], what led to ``timestep``. On reset entries it is stored as zero, and so is the
                reward.

        Raises:
            ValueError: a shape, dtype or value that is not the spec's, or an entry that follows an episode's end
                without being a reset.
        """
        values = self._checked(timestep, action)
        row, position = self._total, self._total % self.rows_max
        first = values["is_first"]
        if row > self.oldest:
            before = (row - 1) % self.rows_max
            lost = np.flatnonzero(self._arrays["is_last"][before] & ~first)
            if lost.size:
                raise ValueError(
                    f"environment {lost[0]} ended its episode in the previous entry, so this one must be a reset "
                    "(is_first), found is_first=False"
                )
            episode = self._arrays["episode"][before] + first
        else:
            episode = np.zeros(self.lanes, np.int64)
            first = np.ones(self.lanes, bool) if row == 0 else first
        self._writing = row + 1
        low, next_low = self._lower(row), self._lower(row + 1)
        if next_low > low:
            self._valid_count -= int(self._valid[low % self.rows_max].sum())
        for key, value in values.items():
            self._arrays[key][position] = value
        self._arrays["action"][position, values["is_first"]] = 0
        self._arrays["reward"][position, values["is_first"]] = 0
        self._arrays["episode"][position] = episode
        self._episode_start[first] = row
        start = row - self.length + 1
        if start >= self._first:
            allowed = self._allowed(start % self.rows_max, position)
            self._valid[start % self.rows_max] = allowed
            self._valid_count += int(allowed.sum())
        self._total = row + 1

    def _allowed(self, start: Any, end: Any) -> np.ndarray:
        """Whether windows from position ``start`` to ``end`` are one episode's, or begin where one does.

        An episode shorter than a window would else never be learned from.
        """
        episode, first = self._arrays["episode"], self._arrays["is_first"]
        return first[start] | (episode[start] == episode[end])

    def _checked(self, timestep: Timestep, action: Any) -> dict[str, np.ndarray]:
        row = Batch(action=action, **timestep._asdict())
        values = {key: np.asarray(value) for key, value in by_name(row).items()}
        check_row(values, self._arrays)
        for key, value in values.items():
            wanted = self._arrays[key]
            with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused below
                values[key] = value = value.astype(wanted.dtype, copy=False)
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                lane = int(np.argwhere(~np.isfinite(value))[0, 0])
                raise ValueError(f"{key}: environment {lane} gave a value that is not finite; replay would keep it")
        if (values["is_terminal"] & ~values["is_last"]).any():
            raise ValueError("is_terminal without is_last: an episode that the task ended has ended")
        return values

    def close_episode(self, lane: int) -> None:
        """End the lane's current episode at its last row, without being terminal.

        For a resumed run whose environment could not be brought back to where it was. Nothing happens where the last
        row ends an episode already.
        """
        if not self.rows:
            return
        row = self._total - 1
        if not self._arrays["is_last"][row % self.rows_max, lane]:
            self._arrays["is_last"][row % self.rows_max, lane] = True
            self._closed.append((row, int(lane)))

    def last_row(self) -> tuple[Timestep, np.ndarray]:
        """Copies of the newest row: the timestep and the action [lanes, A] that led to it."""
        if not self.rows:
            raise ReplayEmpty("the replay holds no row yet")
        values = {key: array[(self._total - 1) % self.rows_max].copy() for key, array in self._arrays.items()}
        obs = {key: values[f"obs/{key}"] for key in self.spec.obs}
        flags = (values["reward"], values["is_first"], values["is_last"], values["is_terminal"])
        return Timestep(obs, *flags), values["action"]

    def lane_episode(self, lane: int) -> np.ndarray | None:
        """Actions [n, A] taken since the reset of the lane's unfinished episode; the reset's zero action is left out.

        None where nothing can or need be replayed: the episode's beginning is overwritten, the last row ends the
        episode, or the ring is empty. :meth:`close_episode` is then the right thing to call in every case.
        """
        start = int(self._episode_start[lane])
        if not self.rows or start < self.oldest or self._arrays["is_last"][(self._total - 1) % self.rows_max, lane]:
            return None
        if not self._arrays["is_first"][start % self.rows_max, lane]:
            return None
        return self._arrays["action"][np.arange(start + 1, self._total) % self.rows_max, lane]

    # ---- reading -------------------------------------------------------------------------------------------------

    def sample_indices(self, rng: np.random.Generator, count: int) -> Indices:
        """Draw ``count`` windows, each valid one equally likely, independently and with replacement.

        The result depends on the generator and on what the replay holds, on nothing else.

        Raises:
            ReplayEmpty: there is no valid window; the message says why.
        """
        if not self.can_sample:
            raise ReplayEmpty(self.why_empty())
        low = self._lower(self._total)
        span = self._total - self.length - low + 1
        if self.cross_episodes:
            return Indices(low + rng.integers(span, size=count), rng.integers(self.lanes, size=count))
        chance = self._valid_count / (span * self.lanes)
        starts, lanes, found = [], [], 0
        # Rejection costs count / chance draws, a scan of all flags costs span * lanes: below this the scan is cheaper.
        for _ in range(4 if count / chance < 0.25 * span * self.lanes else 0):
            draws = int(1.2 * (count - found) / chance) + 8
            start, lane = low + rng.integers(span, size=draws), rng.integers(self.lanes, size=draws)
            good = self._valid[start % self.rows_max, lane]
            starts.append(start[good][: count - found])
            lanes.append(lane[good][: count - found])
            found += len(starts[-1])
            if found == count:
                break
        if found < count:
            flags = self._valid[np.arange(low, low + span) % self.rows_max]
            start, lane = np.divmod(rng.choice(np.flatnonzero(flags), count - found), self.lanes)
            starts.append(low + start)
            lanes.append(lane)
        return Indices(np.concatenate(starts), np.concatenate(lanes))

    def why_empty(self) -> str:
        """Why :meth:`sample_indices` cannot draw anything now, and what to do."""
        if self.rows < self.length:
            return f"the replay holds {self.rows} entries of each environment, a sequence takes {self.length}: add more"
        if self.cross_episodes:
            return f"no sequence of {self.length} entries outside the {self.guard} entries kept for the writer"
        return f"no sequence of {self.length} entries begins with an episode or lies in one: add more entries"

    def gather(self, indices: Indices, groups: int | None = None, out: Batch | None = None) -> Batch:
        """Copy windows out of the ring.

        Args:
            indices: from :meth:`sample_indices`; with ``groups`` = K they are K batches one after another.
            groups: None for [T, B, ...], K for [K, T, B, ...].
            out: write here instead of into new arrays; from :meth:`buffers` of the same sizes. Never an array that
                jax may hold: on the CPU ``jax.device_put`` can keep using the NumPy memory
                (:class:`~jaxdreamer.replay.prefetch.Gatherer` knows when a buffer is free).

        Raises:
            LookupError: rows asked for are no longer (or not yet) in the ring.
        """
        start, lane = (np.asarray(part, np.int64).reshape(groups or 1, 1, -1) for part in indices)
        if start.size:
            self._check_present(int(start.min()), int(start.max()))
        rows = (start + self._steps[None, :, None]) % self.rows_max
        flat = rows * self.lanes + lane
        flat = flat if groups else flat[0]
        out = self._empty(flat.shape) if out is None else out
        for key, array in self._arrays.items():
            if key == "episode":
                continue
            target = out.obs[key[4:]] if key.startswith("obs/") else getattr(out, key)
            # take() with a mode other than "raise" writes into out directly, row by row; fancy indexing cannot.
            np.take(array.reshape(-1, *array.shape[2:]), flat, axis=0, out=target, mode="clip")
        if start.size:  # again: another thread may have added rows meanwhile
            self._check_present(int(start.min()), int(start.max()))
        return out

    def _check_present(self, lowest: int, highest: int) -> None:
        kept = max(self._first, self._writing - self.rows_max)
        if lowest < kept or highest + self.length > self._total:
            raise LookupError(
                f"sequences of {self.length} starting at rows {lowest} to {highest} were asked for, the replay holds "
                f"rows {kept} to {self._total - 1}; if they were overwritten while waiting, raise guard={self.guard}"
            )

    def buffers(self, count: int, groups: int | None = None) -> Batch:
        """Uninitialised arrays for :meth:`gather`'s ``out``; ``count`` as many windows as the indices hold."""
        shape = (groups, self.length, count // groups) if groups else (self.length, count)
        return self._empty(shape)

    def _empty(self, shape: tuple[int, ...]) -> Batch:
        made = {key: np.empty((*shape, *array.shape[2:]), array.dtype) for key, array in self._arrays.items()}
        obs = {key: made[f"obs/{key}"] for key in self.spec.obs}
        return Batch(obs, **{key: made[key] for key in Batch._fields if key != "obs"})

    # ---- persistence ---------------------------------------------------------------------------------------------

    def read_rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Copies of rows ``start`` to ``stop - 1`` by field name (``obs/<key>``, ``action``, ... ``episode``)."""
        if start < self.oldest or stop > self._total:
            raise LookupError(f"rows {start} to {stop} asked for, rows {self.oldest} to {self._total} are here")
        rows = np.arange(start, stop) % self.rows_max
        return {key: array[rows] for key, array in self._arrays.items()}

    def write_rows(self, start: int, values: dict[str, np.ndarray]) -> None:
        """Put rows back where :meth:`read_rows` took them from; :meth:`load_state` must follow."""
        for key, array in self._arrays.items():
            rows = np.arange(start, start + len(values[key])) % self.rows_max
            array[rows] = values[key]

    def state(self) -> dict[str, Any]:
        """The small part of the state, ready for JSON; the rows themselves are `disk.py`'s."""
        self._closed = [(row, lane) for row, lane in self._closed if row >= self.oldest]
        return {"total": self._total, "first": self._first, "closed": [list(item) for item in self._closed]}

    def row_layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape [lanes, ...] and dtype of each of a row's fields, as :meth:`read_rows` names them."""
        return {key: (array.shape[1:], array.dtype) for key, array in self._arrays.items()}

    def load_state(self, state: dict[str, Any], seams: Sequence[int] = ()) -> None:
        """Take over counters from :meth:`state`, for rows that :meth:`write_rows` has put in place.

        ``seams`` are numbers of rows before which others are gone: an episode ends there, and the next one begins.
        """
        self._total = self._writing = int(state["total"])
        self._first = int(state["first"])
        self._closed = [(int(row), int(lane)) for row, lane in state["closed"]]
        for row, lane in self._closed:
            if self.oldest <= row < self._total and lane < self.lanes:
                self._arrays["is_last"][row % self.rows_max, lane] = True
        for seam in seams:
            self._part(seam)
        self._refresh()
        for lane in range(self.lanes):
            if self._episode_start[lane] in seams:  # its beginning is gone: it cannot be played again
                self.close_episode(lane)

    def _part(self, seam: int) -> None:
        older = np.arange(self.oldest, seam) % self.rows_max
        self._arrays["is_last"][older[-1:]] = True
        self._arrays["episode"][older] -= 1  # or an episode that lay on both sides would still be one
        if seam < self._total:
            self._arrays["is_first"][seam % self.rows_max] = True
            for key in ("action", "reward"):
                self._arrays[key][seam % self.rows_max] = 0

    def _refresh(self) -> None:
        """Compute again what add() keeps up to date."""
        self._valid[:] = False
        episode, low = self._arrays["episode"], self.oldest
        starts = np.arange(low, max(low, self._total - self.length + 1))
        ends = (starts + self.length - 1) % self.rows_max
        self._valid[starts % self.rows_max] = self._allowed(starts % self.rows_max, ends)
        usable = starts[starts >= self._lower(self._total)]
        self._valid_count = int(self._valid[usable % self.rows_max].sum())
        self._episode_start[:] = 0
        if self.rows:
            rows = np.arange(low, self._total)
            for lane in range(self.lanes):
                current = episode[(self._total - 1) % self.rows_max, lane]
                # Episode numbers never fall along a lane, so the current episode is a suffix.
                begin = low + int(np.searchsorted(episode[rows % self.rows_max, lane], current))
                # Where the oldest row is already inside the episode, its reset may be gone; lane_episode checks.
                self._episode_start[lane] = begin

    def content_hash(self) -> str:
        """SHA-256 of all rows in order, with their numbers: equal for equal content, wherever the ring is cut."""
        digest = hashlib.sha256(f"{self.oldest} {self._total}".encode())
        for start in range(self.oldest, self._total, 1024):
            for key, value in self.read_rows(start, min(start + 1024, self._total)).items():
                digest.update(key.encode())
                digest.update(value.tobytes())
        return digest.hexdigest()
