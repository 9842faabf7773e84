"""The order of stepping and learning of a run, in whole numbers."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from jaxdreamer.config import RunConfig
from jaxdreamer.files import natural, number

MOST_ROWS = 64


class Segment(NamedTuple):
    """Rows to step all lanes, then updates."""

    random: bool
    rows: int
    updates: int


class Segments:
    """The order of stepping and learning of a device run, in whole numbers: a pure function of what was done before.

    Here every lane's entry counts, the resets too: all lanes move in lockstep, and how many of them are being reset is
    known on the device only. Random actions for ``prefill`` entries, then ``pretrain`` updates, then ``updates`` for
    every ``train_every`` entries, exactly so in the long run whatever the number of lanes, ``most`` updates at a time.
    """

    def __init__(self, run: RunConfig, lanes: int, length: int = 1, random: bool = True):
        """``length``: rows that must be there before anything can be learned. ``random``: how to act in the prefill."""
        self.run, self.lanes, self.random = run, lanes, random
        self.least = length * lanes
        self.prefill = max(run.prefill, self.least)
        self.most = max(1, run.updates_per_call)
        # Few enough that a stop, a cadence or the budget's end is not far: learning waits for train_every all the same.
        self.rows = max(1, min(run.train_every // lanes, MOST_ROWS))
        self.entries = 0
        self.started = -1  # entries when learning began, or went on with another train ratio; -1 before
        self.planned = 0  # updates planned since, pretraining aside
        self.owed = 0

    def next(self) -> Segment:
        """The next piece of the run."""
        missing = (self.prefill if self.started < 0 else self.least) - self.entries
        if missing > 0:  # once learning began, only where a resumed run wants longer sequences
            rows = min(self.rows, -(-missing // self.lanes))
            self.entries += rows * self.lanes
            return Segment(self.random and self.started < 0, rows, 0)
        if self.started < 0:
            self.started, self.owed = self.entries, self.run.pretrain
        if self.owed:
            updates = min(self.owed, self.most)
            self.owed -= updates
            return Segment(False, 0, updates)
        self.entries += self.rows * self.lanes
        # Whole trainings where one row is less than train_every; where it is more, exact to the update.
        done = self.entries - self.started
        if self.lanes <= self.run.train_every:
            target = done // self.run.train_every * self.run.updates
        else:
            target = done * self.run.updates // self.run.train_every
        self.owed, self.planned = target - self.planned, target
        updates = min(self.owed, self.most)
        self.owed -= updates
        return Segment(False, self.rows, updates)

    FORM: ClassVar[dict[str, Any]] = {
        **dict.fromkeys(("entries", "planned", "owed", "train_every", "updates"), natural),
        "started": number,
    }
    """What :meth:`state` returns; see :func:`jaxdreamer.files.require`."""

    def state(self) -> dict[str, int]:
        """JSON-ready."""
        counters = {name: getattr(self, name) for name in ("entries", "started", "planned", "owed")}
        return counters | {"train_every": self.run.train_every, "updates": self.run.updates}

    def load(self, state: dict[str, int]) -> None:
        """Take over what :meth:`state` returned. Another train ratio counts from here: nothing is made up for."""
        for name in ("entries", "started", "planned", "owed"):
            setattr(self, name, int(state[name]))
        same = (state["train_every"], state["updates"]) == (self.run.train_every, self.run.updates)
        if self.started >= 0 and not same:
            self.started, self.planned = self.entries, 0
