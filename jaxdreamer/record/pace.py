"""How long what is left of a run takes, from what frames, updates and evaluations have cost so far."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple


class Work(NamedTuple):
    """What is left of a run."""

    frames: int
    updates: int
    """Those owed, and those that the frames left will bring."""
    evaluations: int


class _Cost:
    """Seconds for one of something, lately; the worst sample is left out: something was compiled in it, or loaded."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=200)

    def add(self, seconds: float, count: int) -> None:
        self._samples.append((seconds, count))

    @property
    def seconds(self) -> float:
        return sum(seconds for seconds, _ in list(self._samples))

    @property
    def each(self) -> float | None:
        samples = list(self._samples)
        if len(samples) < 3:
            return None
        worst = max(samples, key=lambda sample: sample[0] / sample[1])
        seconds, count = (sum(column) for column in zip(*samples))
        return max(0.0, seconds - worst[0]) / (count - worst[1])


class Pace:
    """Costs of the parts of a run. A run is no steady stream of frames: most of its time may be updates not yet due."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._last: tuple[float, int, int] | None = None
        self._frames, self._updates = _Cost(), _Cost()
        self._evaluations: deque[float] = deque(maxlen=3)

    def step(self, frames: int, updates: int) -> None:
        """The run has come so far, since the last call or :meth:`pause`."""
        last, self._last = self._last, (self._clock(), frames, updates)
        if last is None:
            return
        seconds, more_frames, more_updates = (now - then for now, then in zip(self._last, last))
        if more_updates > 0:
            self._updates.add(seconds - max(0, more_frames) * (self._frames.each or 0.0), int(more_updates))
        elif more_frames > 0:
            self._frames.add(seconds, int(more_frames))

    def pause(self) -> None:
        """What is done from here to the next :meth:`step` is neither."""
        self._last = None

    def evaluated(self, seconds: float) -> None:
        """An evaluation took so long."""
        self._evaluations.append(seconds)

    def costs(self) -> tuple[float | None, float | None]:
        """Seconds for a frame and for an update, as far as they are known."""
        return self._frames.each, self._updates.each

    @property
    def learned(self) -> float:
        """Seconds of updates that the costs are told from."""
        return self._updates.seconds

    def seconds(self, work: Work) -> float | None:
        """For this much work; None before there is anything to tell it from."""
        frame, update = self.costs()
        if (work.updates and update is None) or (work.frames and frame is None and update is None):
            return None
        evaluation = sum(self._evaluations) / len(self._evaluations) if self._evaluations else 0.0
        return work.frames * (frame or 0.0) + work.updates * (update or 0.0) + work.evaluations * evaluation


def clock_time(seconds: float) -> str:
    """As 1:02:03, with days before it where there are any."""
    days, rest = divmod(max(0, round(seconds)), 86400)
    clock = f"{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock


def in_words(seconds: float) -> str:
    """As "40 days" or "12 minutes"."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.0f} {unit}s"
    return f"{max(1, round(seconds))} seconds"


def short(seconds: float) -> str:
    """As "3.4 s" or "0.2 ms"."""
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{seconds * 1000:.2g} ms"
