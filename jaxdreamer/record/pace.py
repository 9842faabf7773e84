"""How long the rest of a run will take, estimated from what its frames, updates and evaluations have cost so far."""

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
    """Seconds for one of something, lately; the worst sample is left out: something was compiled in it, or loaded.

    Kept up to date sample by sample: it is asked for at every step of a run, and drawn by another thread.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self._count = 0
        self._worst = (0.0, 1)
        self.seconds = 0.0
        """Of the samples together."""
        self.each: float | None = None
        """None before there are three."""

    def add(self, seconds: float, count: int) -> None:
        """``count`` of them took so long."""
        sample = (seconds, count)
        self._samples.append(sample)
        self.seconds, self._count = self.seconds + seconds, self._count + count
        if _each(sample) >= _each(self._worst):
            self._worst = sample
        if len(self._samples) > 200:
            oldest = self._samples.popleft()
            self.seconds, self._count = self.seconds - oldest[0], self._count - oldest[1]
            if oldest is self._worst:
                self._worst = max(self._samples, key=_each)
        if len(self._samples) >= 3:
            self.each = max(0.0, self.seconds - self._worst[0]) / (self._count - self._worst[1])


def _each(sample: tuple[float, int]) -> float:
    return sample[0] / sample[1]


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
        """Seconds spent on the updates that the costs are estimated from."""
        return self._updates.seconds

    def seconds(self, work: Work) -> float | None:
        """For this much work; None before there is anything to estimate it from."""
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
