"""What a person sees while a run goes on: a progress bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Task, TextColumn
from rich.progress import Progress as RichProgress

__all__ = ["Progress", "lasting", "say"]


class Progress:
    """Progress through a budget of environment frames.

    Args:
        total_frames: the budget.
        console: where to write; standard error by default. A terminal gets a bar, anything else a line every
            ``every`` seconds.
        every: seconds between plain lines.
        clock: seconds, for the rates.
    """

    def __init__(
        self,
        total_frames: int,
        console: Console | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.console = lasting(console)
        self.doing = ""
        """What :meth:`status` was told is going on; empty outside of it."""
        self._total, self._every, self._clock = total_frames, every, clock
        # Rates are over the last minute or so: the mean since the start would hide a slowdown, and count compiling.
        self._history: deque[tuple[float, int, int]] = deque()
        self._frames = self._updates = 0
        self._returns: dict[str, float] = {}
        self._last_line = -math.inf
        self._bar: RichProgress | None = None
        self._task: Any = None
        if self.console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.percentage:>5.1f}%"),
                BarColumn(bar_width=24),
                _Text(self),
                console=self.console,
                transient=False,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task("", total=total_frames)
            self._bar.start()

    def update(
        self,
        env_frames: int,
        updates: int,
        *,
        last_return: float | None = None,
        eval_return: float | None = None,
    ) -> None:
        """Tell where the run is; cheap enough for every call of the training step.

        Args:
            env_frames: frames so far.
            updates: gradient updates so far.
            last_return: of the newest training episode; None: no news.
            eval_return: mean of the newest evaluation; None: no news.
        """
        now = self._clock()
        self._frames, self._updates = int(env_frames), int(updates)
        if last_return is not None:
            self._returns["return"] = float(last_return)
        if eval_return is not None:
            self._returns["eval"] = float(eval_return)
        if not self._history or now - self._history[-1][0] >= 1.0:
            self._history.append((now, self._frames, self._updates))
            while len(self._history) > 2 and now - self._history[0][0] > 60:
                self._history.popleft()
        if self._bar is not None:
            self._bar.update(self._task, completed=min(self._frames, self._total))
        elif now - self._last_line >= self._every:
            self._last_line = now
            self._plain(self.line())

    def rates(self) -> tuple[float, float]:
        """Environment frames and updates per second, lately; 0 before there are two points in time."""
        try:  # the bar is drawn by a thread of its own, status() may empty the history at any moment
            then, frames, updates = self._history[0]
        except IndexError:
            return 0.0, 0.0
        seconds = self._clock() - then
        if seconds <= 0:
            return 0.0, 0.0
        return (self._frames - frames) / seconds, (self._updates - updates) / seconds

    def line(self) -> str:
        """The state of the run in one line."""
        frame_rate, update_rate = self.rates()
        parts = [f"{self._frames:,}/{self._total:,} frames"]
        if self._updates:
            parts += [f"{self._updates:,} updates"]
        # Frames stand still for minutes where many updates of a large model are due at once; these go on being told.
        parts += [
            f"{rate:.3g} {what}/s" for rate, what in ((frame_rate, "frames"), (update_rate, "updates")) if rate > 0
        ]
        if frame_rate > 0:
            parts += [f"{_duration((self._total - self._frames) / frame_rate)} left"]
        parts += [f"{name} {value:.4g}" for name, value in self._returns.items()]
        return " | ".join(parts)

    def log(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        self._plain(text)

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Around something slow: prints ``text ...`` at once and ``text ... done in 12 s`` (or ``failed``) after."""
        began, self.doing = self._clock(), text
        self._plain(f"{text} ...")
        outcome = "failed"
        try:
            yield
            outcome = "done"
        finally:
            self._plain(f"{text} ... {outcome} {'in' if outcome == 'done' else 'after'} {self._clock() - began:.3g} s")
            # Time spent here is no training time: rates start anew.
            self._history.clear()
            self.doing = ""

    def close(self) -> None:
        """Leave the last state on the screen and stop."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._frames:
            self._plain(self.line())
            self._frames = 0

    def __enter__(self) -> Progress:
        """Close at the end of a with statement."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _plain(self, text: str) -> None:
        say(self.console, text)


class _Lasting:
    """A stream whose reader may go away, a closed terminal or the end of a pipe: a run outlives it, and is not read."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lasting(console: Console | None = None) -> Console:
    """The console, standard error's by default, made to outlive whoever reads it."""
    console = console or Console(stderr=True)
    if not isinstance(console.file, _Lasting):
        console.file = _Lasting(console.file)  # type: ignore[assignment]
    return console


def say(console: Console, text: str) -> None:
    """Print a line from any thread; whatever a folder is called, ``[red]`` and ``:smile:`` in it stay as they are."""
    # soft_wrap: a line in a log file stays one line, however narrow rich believes the file to be.
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


class _Text(TextColumn):
    def __init__(self, owner: Progress):
        super().__init__("")
        self._owner = owner

    def render(self, task: Task) -> Any:
        from rich.text import Text

        return Text(self._owner.line())


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock
