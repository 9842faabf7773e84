"""When things happen: every so many steps, counted in whole numbers so that a resumed run keeps the beat."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from jaxdreamer.config import RunConfig
from jaxdreamer.files import natural, number


class Every:
    """Due once per ``interval`` steps; an interval of 0 is never due.

    What was missed is not made up for later when :meth:`start` is called.
    """

    def __init__(self, interval: int):
        self.interval = interval
        self.last = 0

    def start(self, step: int) -> None:
        """Count from here."""
        self.last = step

    def due(self, step: int) -> bool:
        """Whether at least one interval has passed since the last time it had."""
        if not self.will_be_due(step):
            return False
        self.last = step - (step - self.last) % self.interval
        return True

    def will_be_due(self, step: int) -> bool:
        """What :meth:`due` would say; nothing is counted."""
        return bool(self.interval) and step - self.last >= self.interval


def updates_in_a_call(updates: int, most: int) -> int:
    """The largest divisor of ``updates`` up to ``most``: another number in some call would be another compilation."""
    return max(size for size in range(1, min(updates, most) + 1) if updates % size == 0)


MOST_ROWS = 64


class Segment(NamedTuple):
    """Rows to step all lanes, then updates."""

    random: bool
    rows: int
    updates: int


class Segments:
    """The order of stepping and learning of a run, in whole numbers: a pure function of what was done before.

    It counts every lane's entries, the resets too: on the device nothing else is known before a call, and the host counts
    alike. Random actions for ``prefill`` entries, then ``pretrain`` updates, then ``updates`` for every ``train_every``
    entries, exactly so in the long run whatever the number of lanes, ``most`` updates at a time. Before all that,
    ``offline`` entries are counted that nobody collects, with the updates that would come with them.
    """

    def __init__(self, run: RunConfig, lanes: int, length: int = 1, random: bool = True, call: int | None = None):
        """Before the first entry.

        Args:
            run: prefill and train ratio.
            lanes: environments, of which a row has an entry each.
            length: rows that must be there before anything can be learned.
            random: whether the prefill is played by chance.
            call: updates of each compiled call, where all do the same number of them and rows are stepped one at a time,
                as on the host.
        """
        self.run, self.lanes, self.random, self.call = run, lanes, random, call
        self.least = length * lanes
        self.prefill = max(run.prefill, self.least)
        self.most = call or max(1, run.updates_per_call)
        # Few enough that a stop, a cadence or the budget's end is not far: learning waits for train_every all the same.
        self.rows = 1 if call else max(1, min(run.train_every // lanes, MOST_ROWS))
        self.entries = 0
        self.given = 0  # of them, those that were counted without being collected
        self.started = -1  # entries when learning began, or went on with another train ratio; -1 before
        self.planned = 0  # updates planned since, pretraining aside
        self.owed = 0

    def next(self) -> Segment:
        """The next piece of the run."""
        if self.started < 0 and self.entries == self.given and (self.owed or self.given < self.run.offline):
            if not self.owed:
                self.entries = self.given = self.given + self.run.train_every
                self.owed = self.run.updates
                self.random = False  # what was learned plays the prefill
            return self._learn(0)
        missing = (self.prefill if self.started < 0 else self.least) - self.collected
        if missing > 0:  # once learning began, only where a resumed run wants longer sequences
            rows = min(self.rows, -(-missing // self.lanes))
            self.entries += rows * self.lanes
            return Segment(self.random and self.started < 0, rows, 0)
        if self.started < 0:
            self.started, self.owed, self.planned = self.entries, self.run.pretrain, 0
        if self.owed:
            return self._learn(0)
        self.entries += self.rows * self.lanes
        # Whole trainings where one row is less than train_every; where it is more, exact to the update.
        done = self.entries - self.started
        if self.lanes <= self.run.train_every:
            target = done // self.run.train_every * self.run.updates
        else:
            target = done * self.run.updates // self.run.train_every
            target -= target % (self.call or 1)
        self.owed, self.planned = target - self.planned, target
        return self._learn(self.rows)

    def _learn(self, rows: int) -> Segment:
        updates = min(self.owed, self.most)
        self.owed -= updates
        return Segment(False, rows, updates)

    @property
    def collected(self) -> int:
        """Entries that environments gave."""
        return self.entries - self.given

    _COUNTERS: ClassVar = ("entries", "given", "started", "planned", "owed", "random")
    FORM: ClassVar[dict[str, Any]] = {
        **dict.fromkeys(("entries", "given", "planned", "owed", "train_every", "updates"), natural),
        "started": number,
        "random": bool,
    }
    """What :meth:`state` returns; see :func:`jaxdreamer.files.require`."""

    @property
    def random_next(self) -> bool:
        """Whether the next row's actions are drawn by chance."""
        return self.random and self.started < 0 and self.collected < self.prefill

    def wait(self) -> None:
        """Begin to learn only after the next row, as if for the first time: there is too little experience."""
        self.started, self.owed, self.random = -1, 0, False
        self.prefill = self.collected + self.lanes

    def state(self) -> dict[str, int]:
        """JSON-ready."""
        counters = {name: getattr(self, name) for name in self._COUNTERS}
        return counters | {"train_every": self.run.train_every, "updates": self.run.updates}

    def load(self, state: dict[str, int]) -> None:
        """Take over what :meth:`state` returned. Another train ratio counts from here: nothing is made up for."""
        for name in self._COUNTERS:
            setattr(self, name, state[name])
        same = (state["train_every"], state["updates"]) == (self.run.train_every, self.run.updates)
        if self.started >= 0 and not same:
            self.started, self.planned = self.entries, 0
