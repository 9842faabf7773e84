"""Experience in host memory: a preallocated NumPy ring, time x lanes, in the dtypes the environment uses.

A *row* is one moment of all lanes (the environments of a vector environment). Rows are numbered from 0 for as long as
the run lasts; row ``r`` lies at ring position ``r % rows_max``, and *start* always means such an absolute number, so an
index stays meaningful (and can be written into a checkpoint) however often the ring wraps around.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdreamer.replay.layout import EPISODE, Indices, Layout, ReplayEmpty, checked_row, in_memory, rows_for, zeros
from jaxdreamer.replay.mapped import MappedRing
from jaxdreamer.types import Batch, EnvSpec, Timestep, unflatten

__all__ = ["HostReplay", "Indices"]


class HostReplay:
    """Ring buffer of the newest ``capacity // lanes`` rows.

    Args:
        spec: of the environment.
        capacity: entries over all lanes; rounded down to a multiple of ``lanes``.
        lanes: environments stepped side by side.
        length: T, entries of every sampled window.
        cross_episodes: whether any window may run over an episode's end into the next episode, or only one that
            begins with an episode shorter than itself.
        guard: rows that may be added between :meth:`sample_indices` and :meth:`gather`. Windows touching rows which
            the next ``guard`` additions overwrite are not sampled.
        memory_fraction: share of the available memory that the ring may take.
        kept: shape and dtype of what :attr:`Batch.kept` holds of one entry, by name.
        mapped: the files that hold the rows, instead of memory.

    Raises:
        ReplayTooLarge: more memory asked for than ``memory_fraction`` of what is available, or more room on disk.
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
        kept: Layout | None = None,
        mapped: MappedRing | None = None,
    ):
        self.spec, self.lanes, self.length = spec, int(lanes), int(length)
        self.cross_episodes, self.guard = cross_episodes, int(guard)
        self.rows_max = rows_for(
            capacity=capacity, lanes=self.lanes, length=self.length, cross_episodes=cross_episodes, guard=self.guard
        )
        self._entry = spec.layout | {f"kept/{key}": item for key, item in (kept or {}).items()}
        self.layout = self._entry | EPISODE  # of one entry, as read_rows names them
        self.mapped, self._slots = mapped, self.rows_max + (mapped.slack if mapped else 0)
        whole, by = self.layout | {"valid": ((), np.dtype(bool))}, (self.rows_max, self.lanes)
        self.size = mapped.size(whole, *by) if mapped else in_memory(whole, *by, memory_fraction)
        self._held = {} if mapped else zeros(self.layout, self._slots, self.lanes, self.size)
        # valid[s] says that no episode cuts the window starting at row s. For the newest length - 1 rows, whose windows
        # are not complete, it says nothing yet (the ring may hold an overwritten row's flag there).
        self._valid = np.zeros((self._slots, self.lanes), bool)
        self._total = self._valid_count = 0
        self._writing = 0  # rows added or being added; ahead of _total while add() overwrites the oldest row
        self._first = 0  # rows before this one were never here (a ring restored from a shorter one)
        self._episode_start = np.zeros(self.lanes, np.int64)
        self._online = 0  # windows that next_indices has given out
        self._closed: list[tuple[int, int]] = []

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

    @property
    def _arrays(self) -> dict[str, np.ndarray]:
        """By name, [slots, lanes, ...]; files are made when they are first needed, as a start may still be refused."""
        if self.mapped and not self._held:
            self._held = self.mapped.create(self.layout, self._slots, self.lanes)
        return self._held

    def _at(self, rows: Any) -> Any:
        """Ring positions of absolute rows."""
        return rows % self._slots

    def _newest(self, name: str) -> np.ndarray:
        """The newest row [lanes, ...] of one array, to read or write."""
        return self._arrays[name][self._at(self._total - 1)]

    def ranges(self, rows: int = 1000) -> dict[str, tuple[float, float]]:
        """Minimum and maximum of each observation, over the first ``rows`` of the ring."""
        seen = unflatten(Timestep, {key: array[: min(self.rows, rows)] for key, array in self._arrays.items()}).obs
        return {key: (float(value.min()), float(value.max())) for key, value in seen.items() if value.size}

    # ---- writing -------------------------------------------------------------------------------------------------

    def add(self, timestep: Timestep, action: Any, kept: dict[str, Any] | None = None) -> None:
        """Append one row.

        Args:
            timestep: arrays with a leading lane axis.
            action: float32 [lanes, A], what led to ``timestep``. On reset entries it is stored as zero, and so is the
                reward.
            kept: per name [lanes, ...], for :attr:`Batch.kept`.

        Raises:
            ValueError: a shape, dtype or value that is not the spec's, or an entry that follows an episode's end
                without being a reset.
        """
        values = checked_row(Batch(action=action, kept=kept or {}, **timestep._asdict()), self._arrays)
        row, first = self._total, values["is_first"]
        if row > self.oldest:
            lost = np.flatnonzero(self._newest("is_last") & ~first)
            if lost.size:
                raise ValueError(
                    f"environment {lost[0]} ended its episode in the previous entry, so this one must be a reset "
                    "(is_first), found is_first=False"
                )
            episode, begins = self._newest("episode") + first, first
        else:
            episode, begins = np.zeros(self.lanes, np.int64), first | (row == 0)
        self._writing = row + 1
        low = self._lower(row)
        if self._lower(row + 1) > low:
            self._valid_count -= int(self._valid[self._at(low)].sum())
        position = self._at(row)
        if self.mapped:
            self.mapped.numbers[position] = -1
        for key, value in (values | {"episode": episode}).items():
            self._arrays[key][position] = value
        self._clear_resets(position)
        self._episode_start[begins] = row
        start = row - self.length + 1
        if start >= self._first:
            allowed = self._valid[self._at(start)] = self._allowed(self._at(start), position)
            self._valid_count += int(allowed.sum())
        if self.mapped:
            self.mapped.numbers[position] = row
        self._total = row + 1

    def _clear_resets(self, position: int) -> None:
        """What led to an episode's first observation is no action of it and brings no reward."""
        for key in ("action", "reward"):
            self._arrays[key][position, self._arrays["is_first"][position]] = 0

    def _allowed(self, start: Any, end: Any) -> np.ndarray:
        """Whether windows from position ``start`` to ``end`` lie in one episode, or begin where one does.

        Without the latter, episodes shorter than a window would never be sampled.
        """
        episode, first = self._arrays["episode"], self._arrays["is_first"]
        return first[start] | (episode[start] == episode[end])

    def close_episode(self, lane: int) -> None:
        """End the lane's current episode at its last row, without being terminal.

        For a resumed run whose environment could not be brought back to where it was. Nothing happens where the last
        row ends an episode already.
        """
        if self.rows and not self._newest("is_last")[lane]:
            self._newest("is_last")[lane] = True
            self._closed.append((self._total - 1, int(lane)))

    def set_ended(self, ended: Sequence[bool]) -> None:
        """Whether each lane's episode ends with the newest row, as it was when the row was saved."""
        self._newest("is_last")[:] = ended

    def last_row(self) -> tuple[Timestep, np.ndarray]:
        """Copies of the newest row: the timestep and the action [lanes, A] that led to it."""
        if not self.rows:
            raise ReplayEmpty("the replay holds no row yet")
        values = {key: self._newest(key).copy() for key in self._arrays}
        return unflatten(Timestep, values), values["action"]

    def lane_episode(self, lane: int) -> np.ndarray | None:
        """Actions [n, A] taken since the reset of the lane's unfinished episode; the reset's zero action is left out.

        None where nothing can or need be replayed: the episode's beginning is overwritten, the last row ends the
        episode, or the ring is empty. :meth:`close_episode` is then the right thing to call in every case.
        """
        start = int(self._episode_start[lane])
        if not self.rows or start < self.oldest or self._newest("is_last")[lane]:
            return None
        if not self._arrays["is_first"][self._at(start), lane]:
            return None
        return self._arrays["action"][self._at(np.arange(start + 1, self._total)), lane]

    # ---- reading -------------------------------------------------------------------------------------------------

    def sample_indices(self, rng: np.random.Generator, count: int) -> Indices:
        """``count`` windows, each valid one equally likely, independently, with replacement: by generator and content alone.

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
            good = self._valid[self._at(start), lane]
            starts.append(start[good][: count - found])
            lanes.append(lane[good][: count - found])
            found += len(starts[-1])
            if found == count:
                break
        if found < count:
            flags = self._valid[self._at(np.arange(low, low + span))]
            start, lane = np.divmod(rng.choice(np.flatnonzero(flags), count - found), self.lanes)
            starts.append(low + start)
            lanes.append(lane)
        return Indices(np.concatenate(starts), np.concatenate(lanes))

    def next_indices(self, rng: np.random.Generator, count: int) -> Indices:
        """The oldest windows of the online queue, then :meth:`sample_indices` for the rest of ``count``.

        Window n of the queue begins at row ``n // lanes * length`` of lane ``n % lanes``. Each is given out once, or lost.
        """
        self._online = max(self._online, -(-self._lower(self._total) // self.length) * self.lanes)
        ready = self._total // self.length * self.lanes - self._online
        window = self._online + np.arange(max(0, min(ready, count)))
        self._online += len(window)
        rest = self.sample_indices(rng, count - len(window))
        start = np.concatenate([window // self.lanes * self.length, rest.start])
        return Indices(start, np.concatenate([window % self.lanes, rest.lane]))

    def why_empty(self) -> str:
        """Why :meth:`sample_indices` cannot draw anything now, and what to do."""
        if self.rows < self.length:
            return f"the replay holds {self.rows} entries of each environment, a sequence takes {self.length}: add more"
        if self.cross_episodes:
            return f"no sequence of {self.length} entries outside the {self.guard} entries kept for the writer"
        return f"no sequence of {self.length} entries begins with an episode or lies in one: add more entries"

    def gather(self, indices: Indices, groups: int | None = None, out: dict[str, np.ndarray] | None = None) -> Batch:
        """Copy windows out of the ring.

        Args:
            indices: from :meth:`sample_indices`; with ``groups`` = K they are K batches one after another.
            groups: None for [T, B, ...], K for [K, T, B, ...].
            out: arrays by name to write into, instead of new ones; from :meth:`buffers` of the same sizes. Never an array
                that jax may hold: on the CPU ``jax.device_put`` can keep using the NumPy memory
                (:class:`~jaxdreamer.replay.prefetch.Gatherer` knows when a buffer is free).

        Raises:
            LookupError: rows asked for are no longer (or not yet) in the ring.
        """
        start, lane = (np.asarray(part, np.int64).reshape(groups or 1, 1, -1) for part in indices)
        out = self.buffers(len(indices.start), groups) if out is None else out
        self._check_present(start)
        flat = self._at(start + np.arange(self.length)[None, :, None]) * self.lanes + lane
        for key, target in out.items():
            array = self._arrays[key]
            # take() with a mode other than "raise" writes into out directly, row by row; fancy indexing cannot.
            rows = flat if groups else flat[0]
            np.take(array.reshape(-1, *array.shape[2:]), rows, axis=0, out=target, mode="clip")
        self._check_present(start)  # again: another thread may have added rows meanwhile
        return unflatten(Batch, out)

    def _check_present(self, start: np.ndarray) -> None:
        kept = max(self._first, self._writing - self.rows_max)
        if start.size and (start.min() < kept or start.max() + self.length > self._total):
            raise LookupError(
                f"sequences of {self.length} starting at rows {start.min()} to {start.max()} were asked for, the replay "
                f"holds rows {kept} to {self._total - 1}; if they were overwritten while waiting, raise guard={self.guard}"
            )

    def buffers(self, count: int, groups: int | None = None) -> dict[str, np.ndarray]:
        """Uninitialised arrays for :meth:`gather`'s ``out``; ``count`` as many windows as the indices hold."""
        shape = (groups, self.length, count // groups) if groups else (self.length, count)
        return {key: np.empty((*shape, *inner), dtype) for key, (inner, dtype) in self._entry.items()}

    # ---- persistence: `disk.py` writes and reads the rows --------------------------------------------------------

    def read_rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Copies of rows ``start`` to ``stop - 1`` by name: those of a flat Batch, and ``episode``, int64."""
        if start < self.oldest or stop > self._total:
            raise LookupError(f"rows {start} to {stop} asked for, rows {self.oldest} to {self._total} are here")
        rows = self._at(np.arange(start, stop))
        return {key: array[rows] for key, array in self._arrays.items()}

    def write_rows(self, start: int, values: dict[str, np.ndarray]) -> None:
        """Put rows back where :meth:`read_rows` took them from; then call :meth:`load_state`."""
        for key, array in self._arrays.items():
            array[self._at(np.arange(start, start + len(values[key])))] = values[key]

    def take_over(self, slots: int) -> None:
        """Use the files that are there, of so many rows; then call :meth:`load_state`. FileUnusable where they are not."""
        assert self.mapped is not None
        self._held = self.mapped.open(self.layout, slots, self.lanes)
        self._slots, self._valid = slots, np.zeros((slots, self.lanes), bool)

    @property
    def files(self) -> dict[str, Any] | None:
        """What a manifest says of files that hold the rows, which this puts on disk; None where memory holds them."""
        if self.mapped is None:
            return None
        self.mapped.flush()
        return {"slots": self._slots, "ended": self._newest("is_last").tolist() if self.rows else []}

    def state(self) -> dict[str, Any]:
        """Everything but the rows themselves, ready for JSON."""
        self._closed = [(row, lane) for row, lane in self._closed if row >= self.oldest]
        counters = {"total": self._total, "first": self._first, "online": self._online, "length": self.length}
        return counters | {"closed": [list(item) for item in self._closed]}

    def load_state(self, state: dict[str, Any], seams: Sequence[int] = ()) -> None:
        """Take over counters from :meth:`state`, for rows that :meth:`write_rows` has put in place.

        ``seams`` are numbers of rows before which others are gone: an episode ends there, and the next one begins.
        """
        self._total = self._writing = int(state["total"])
        self._first = int(state["first"])
        # Of windows of another length, or of rows with other numbers, nobody knows which were given out: none waits.
        same = state["length"] == self.length and not seams
        self._online = int(state["online"]) if same else self._total // self.length * self.lanes
        self._closed = [(int(row), int(lane)) for row, lane in state["closed"]]
        for row, lane in self._closed:
            if self.oldest <= row < self._total and lane < self.lanes:
                self._arrays["is_last"][self._at(row), lane] = True
        for seam in seams:
            self._part(seam)
        self._refresh()
        for lane in np.flatnonzero(np.isin(self._episode_start, seams)).tolist():
            self.close_episode(lane)  # its beginning is gone: it cannot be played again

    def _part(self, seam: int) -> None:
        older = self._at(np.arange(self.oldest, seam))
        self._arrays["is_last"][older[-1:]] = True
        self._arrays["episode"][older] -= 1  # or an episode that lay on both sides would still be one
        if seam < self._total:
            self._arrays["is_first"][self._at(seam)] = True
            self._clear_resets(self._at(seam))

    def _refresh(self) -> None:
        """Recompute what :meth:`add` keeps up to date."""
        low, episode = self.oldest, self._arrays["episode"]
        starts = np.arange(low, max(low, self._total - self.length + 1))
        self._valid[:] = False
        self._valid[self._at(starts)] = self._allowed(self._at(starts), self._at(starts + self.length - 1))
        self._valid_count = int(self._valid[self._at(starts[starts >= self._lower(self._total)])].sum())
        self._episode_start[:] = 0
        rows = self._at(np.arange(low, self._total))
        for lane in range(self.lanes if len(rows) else 0):
            # Episode numbers never fall along a lane, so the current episode is a suffix. Where the oldest row is
            # already inside the episode, its reset may be gone; lane_episode checks.
            self._episode_start[lane] = low + np.searchsorted(episode[rows, lane], episode[rows[-1], lane]).item()
