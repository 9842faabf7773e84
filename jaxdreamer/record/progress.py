"""Progress of a run on the screen: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import ProgressColumn, Task
from rich.text import Text

from jaxdreamer.record.pace import Pace, Work, clock_time, compact, in_words, short

__all__ = ["Progress", "lasting", "say"]

_WIDE = 100  # columns, from which on numbers are written in full


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
        """The text of the current :meth:`status`; empty outside of one."""
        self.advice = ""
        """Appended to the estimate of a run that will take more than a day."""
        self._total, self._every, self._clock = total_frames, every, clock
        # Rates are over the last minute or so: the mean since the start would hide a slowdown, and count compiling.
        self._history: deque[tuple[float, int, int]] = deque()
        self._pace, self._estimated = Pace(clock), False
        self._left: Work | None = None
        self._frames = self._updates = 0
        self._note = ""
        self._returns: dict[str, float] = {}
        self._evaluating: tuple[int, int, float] | None = None  # episodes done, of how many, since when
        self._last_line = -math.inf
        self._last_state: tuple[Any, ...] = ()
        self._bar: RichProgress | None = None
        self._task: Any = None
        if self.console.is_terminal:
            self._bar = RichProgress(_Line(self), console=self.console, transient=False, refresh_per_second=4)
            self._task = self._bar.add_task("", total=total_frames)
            self._bar.start()

    def update(
        self,
        frames: int,
        updates: int,
        *,
        left: Work | None = None,
        note: str = "",
        last_return: float | None = None,
        eval_return: float | None = None,
    ) -> None:
        """Report the run's position; cheap enough for every call of the training step.

        Args:
            frames: so far, as the budget counts them.
            updates: gradient updates so far.
            left: remaining work, for the time left; None: unchanged.
            note: the current activity, where it is neither frames nor updates.
            last_return: of the newest training episode; None: unchanged.
            eval_return: mean of the newest evaluation; None: unchanged.
        """
        now = self._clock()
        self._frames, self._updates, self._note, self._evaluating = int(frames), int(updates), note, None
        if last_return is not None:
            self._returns["return"] = float(last_return)
        if eval_return is not None:
            self._returns["eval"] = float(eval_return)
        if not self._history or now - self._history[-1][0] >= 1.0:
            self._history.append((now, self._frames, self._updates))
            while len(self._history) > 2 and now - self._history[0][0] > 60:
                self._history.popleft()
        self._pace.step(self._frames, self._updates)
        if left is not None:
            self._left = left
            self._estimate()
        self._refresh()

    def evaluating(self, done: int, episodes: int) -> None:
        """Report the progress of an evaluation; it ends with :meth:`evaluated`."""
        self._pace.pause()
        began = self._clock() if self._evaluating is None else self._evaluating[2]
        self._evaluating = (done, episodes, began)
        self._refresh()

    def evaluated(self) -> None:
        """The evaluation is over."""
        if self._evaluating is not None:
            self._pace.evaluated(self._clock() - self._evaluating[2])
        self._evaluating = None

    def _refresh(self) -> None:
        now = self._clock()
        if self._bar is not None:
            self._bar.update(self._task, completed=min(self._frames, self._total))
        elif now - self._last_line >= self._every:
            self._last_line = now
            self._print_line()

    def _print_line(self) -> None:
        state = (self._frames, self._updates, self._note, self._evaluating, *self._returns.values())
        if state != self._last_state:  # otherwise only the rates differ
            self._last_state = state
            self.log(self.line())

    def _estimate(self) -> None:
        """Print once, soon after learning began, how long the rest of the run will take on this machine."""
        if self._estimated or self._left is None or self._pace.learned < 3:
            return
        frame, update = self._pace.costs()
        work, seconds = self._left, self._pace.seconds(self._left)
        if seconds is None or update is None:
            return
        self._estimated = True
        frames = "" if frame is None else f", {work.frames:,} frames of {short(frame)}"
        rest = f"at this speed the rest takes about {in_words(seconds)}: {work.updates:,} updates of {short(update)}{frames}"
        self.log(rest + (self.advice if seconds > 86400 else ""))

    def rates(self) -> tuple[float, float]:
        """Environment frames and updates per second, lately; 0 before there are two points in time."""
        try:  # another thread draws the bar, and status() may empty the history at any moment
            then, frames, updates = self._history[0]
        except IndexError:
            return 0.0, 0.0
        seconds = self._clock() - then
        if seconds <= 0:
            return 0.0, 0.0
        return (self._frames - frames) / seconds, (self._updates - updates) / seconds

    def line(self, width: int | None = None) -> str:
        """The state of the run in one line of at most ``width`` characters, the most important parts of it first."""
        frame_rate, update_rate = self.rates()
        share = min(1.0, self._frames / self._total)
        narrow = width is not None and width < _WIDE
        number = compact if narrow else lambda value: f"{value:,}"
        # (importance, 0 first; text), in the order of display. Updates are among them as frames stand still for minutes
        # where many updates of a large model are due at once.
        parts = [(3, f"{number(self._frames)}/{number(self._total)} frames")]
        if width is not None:
            bar = "\u2501" * round(20 * share) + "\u2500" * (20 - round(20 * share))
            parts = [(0, f"{100 * share:.1f}%"), (9, bar), *parts]
        if self._evaluating is not None:
            done, episodes, began = self._evaluating
            since = "" if narrow else f" episodes {clock_time(self._clock() - began)}"
            parts.append((4, f"evaluation {done}/{episodes}{since}"))
        elif self._note:
            parts.append((4, self._note))
        if self._updates:
            parts.append((6, f"{self._updates:,} updates"))
        parts += [
            (importance, f"{rate:.3g} {what}/s")
            for importance, rate, what in ((8, frame_rate, "frames"), (7, update_rate, "updates"))
            if rate > 0
        ]
        seconds = None if self._left is None else self._pace.seconds(self._left)
        if seconds is not None and self._frames < self._total:
            parts.append((2, f"{clock_time(seconds)} left"))
        parts += [({"return": 1}.get(name, 5), f"{name} {value:.4g}") for name, value in self._returns.items()]
        separator = " | "
        shown: list[int] = []
        room = math.inf if width is None else width + len(separator)
        for index in sorted(range(len(parts)), key=lambda index: parts[index][0]):
            needed = len(parts[index][1]) + len(separator)
            if needed <= room:
                shown.append(index)
                room -= needed
        return separator.join(parts[index][1] for index in sorted(shown))

    def log(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        say(self.console, text)

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Around something slow: prints ``text ...`` at once and ``text ... done in 12 s`` (or ``failed``) after."""
        began, self.doing = self._clock(), text
        self.log(f"{text} ...")
        outcome = "failed"
        try:
            yield
            outcome = "done"
        finally:
            self.log(f"{text} ... {outcome} {'in' if outcome == 'done' else 'after'} {self._clock() - began:.3g} s")
            # Not training time: rates are measured from here on.
            self._history.clear()
            self._pace.pause()
            self.doing = ""

    def close(self) -> None:
        """Leave the last state on the screen and stop."""
        self._note, self._evaluating = "", None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._frames:
            self._print_line()
            self._frames = 0

    def __enter__(self) -> Progress:
        """Close at the end of a with statement."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class _Lasting:
    """A stream that ignores failed writes: a run outlives its terminal, or the reader of its pipe."""

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
    """The console, by default on standard error, with failed writes ignored."""
    console = console or Console(stderr=True)
    if not isinstance(console.file, _Lasting):
        console.file = _Lasting(console.file)  # type: ignore[assignment]
    return console


def say(console: Console, text: str) -> None:
    """Print a line from any thread, as it is: ``[red]`` and ``:smile:`` may be part of a folder's name."""
    # soft_wrap: a line stays one line in a log file, whatever width rich assumes.
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


class _Line(ProgressColumn):
    """The bar's whole line, fitted to the terminal; with rich's columns a narrow one would lose the last."""

    max_refresh = None

    def __init__(self, owner: Progress):
        super().__init__()
        self._owner = owner

    def render(self, task: Task) -> Text:
        return Text(self._owner.line(self._owner.console.width), no_wrap=True)
