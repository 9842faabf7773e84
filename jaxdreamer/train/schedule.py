"""When things happen: every so many steps, counted in whole numbers so that a resumed run keeps the beat."""

from __future__ import annotations


class Every:
    """Due once per ``interval`` steps; an interval of 0 is never due.

    What was missed is not made up for later when :meth:`start` is called: a run that begins to train at step 5,000 does
    not owe the updates of the first 5,000 steps.
    """

    def __init__(self, interval: int):
        self.interval = interval
        self.last = 0

    def start(self, step: int) -> None:
        """Count from here."""
        self.last = step

    def count(self, step: int) -> int:
        """How many intervals have passed since the last call that returned any."""
        if not self.interval:
            return 0
        passed = (step - self.last) // self.interval
        self.last += passed * self.interval
        return passed

    def due(self, step: int) -> bool:
        """Whether at least one interval has passed since the last time it had."""
        return self.count(step) > 0

    def will_be_due(self, step: int) -> bool:
        """What :meth:`due` would say; nothing is counted."""
        return bool(self.interval) and step - self.last >= self.interval


def updates_in_a_call(updates: int, most: int) -> int:
    """The largest divisor of ``updates`` up to ``most``: another number in some call would be another compilation."""
    return max(size for size in range(1, min(updates, most) + 1) if updates % size == 0)
