"""How long the rest of a run will take, estimated from the time its frames, updates and evaluations took so far."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple


class Work(NamedTuple):
    """The remaining work of a run."""

    frames: int
    updates: int
    """Those due, and those that become due with the remaining frames."""
    evaluations: int


class _Cost:
    """Recent seconds per item, without the slowest sample, which included compiling or loading.

    Updated sample by sample: it is read at every step of a run, and by the thread that draws the bar.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self._count = 0
        self._worst = (0.0, 1)
        self.seconds = 0.0
        """Of all samples."""
        self.each: float | None = None
        """None before there are three."""

    def add(self, seconds: float, count: int) -> None:
        """Record that ``count`` items took ``seconds``."""
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
    """Costs of the parts of a run: most of its time may be updates that are not due yet, so frames alone say little."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._last: tuple[float, int, int] | None = None
        self._frames, self._updates = _Cost(), _Cost()
        self._evaluations: deque[float] = deque(maxlen=3)

    def step(self, frames: int, updates: int) -> None:
        """Report totals; the time since the last call or :meth:`pause` was spent on the difference."""
        last, self._last = self._last, (self._clock(), frames, updates)
        if last is None:
            return
        seconds, more_frames, more_updates = (now - then for now, then in zip(self._last, last))
        if more_updates > 0:
            self._updates.add(seconds - max(0, more_frames) * (self._frames.each or 0.0), int(more_updates))
        elif more_frames > 0:
            self._frames.add(seconds, int(more_frames))

    def pause(self) -> None:
        """The time from here to the next :meth:`step` counts as neither."""
        self._last = None

    def evaluated(self, seconds: float) -> None:
        """Record the duration of an evaluation."""
        self._evaluations.append(seconds)

    def costs(self) -> tuple[float | None, float | None]:
        """Seconds per frame and per update; None where unknown."""
        return self._frames.each, self._updates.each

    @property
    def learned(self) -> float:
        """Seconds spent on the updates that the costs are estimated from."""
        return self._updates.seconds

    def seconds(self, work: Work) -> float | None:
        """Estimated seconds for this work; None before there is anything to estimate it from."""
        frame, update = self.costs()
        if (work.updates and update is None) or (work.frames and frame is None and update is None):
            return None
        evaluation = sum(self._evaluations) / len(self._evaluations) if self._evaluations else 0.0
        return work.frames * (frame or 0.0) + work.updates * (update or 0.0) + work.evaluations * evaluation


def clock_time(seconds: float) -> str:
    """As 1:02:03; in days and hours where it is days."""
    days, rest = divmod(max(0, round(seconds)), 86400)
    clock = f"{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days} d {rest // 3600} h" if days else clock


def in_words(seconds: float) -> str:
    """As "40 days" or "12 minutes"."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.0f} {unit}s"
    return f"{max(1, round(seconds))} seconds"


def short(seconds: float) -> str:
    """As "3.4 s" or "0.2 ms"."""
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{seconds * 1000:.2g} ms"


def compact(value: float) -> str:
    """A number where room is scarce: 1.235M, 50k, 0.03."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"
