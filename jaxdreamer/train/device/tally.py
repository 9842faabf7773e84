"""What the host knows of a run on the device: counters, means and scores, put together from the program's reports."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from jaxdreamer.envs.base import EnvError
from jaxdreamer.files import list_of, natural, number, optional
from jaxdreamer.train.device.program import Report
from jaxdreamer.train.host.collect import MAX_BROKEN_IN_A_ROW
from jaxdreamer.train.journal import Means, check_updates


class Tally:
    """What the host knows of one seed from the reports read so far."""

    def __init__(self) -> None:
        self.agent_steps = self.updates = self.broken = self.skipped = 0
        self.latest: float | None = None
        self.means = Means()
        self._clear()

    def _clear(self) -> None:
        self.episodes, self.mean, self.squares, self.steps = 0, 0.0, 0.0, 0
        self.lowest, self.highest = np.inf, -np.inf

    def read(self, report: Report) -> None:
        """Count one call in. Raises Diverged, and EnvError where most entries were not finite."""
        self.agent_steps += int(report.agent_steps)
        self.broken += int(report.broken)
        self.updates = int(report.updates)
        if report.broken_in_a_row >= MAX_BROKEN_IN_A_ROW:
            raise EnvError(
                f"an environment gave states, rewards or observations that are not finite {MAX_BROKEN_IN_A_ROW} times in a "
                "row, with resets in between: look at the simulator's time step and at the actions' scale"
            )
        self.skipped = int(report.skipped)
        check_updates(report.told, updates=self.updates, agent_steps=self.agent_steps)
        self.means.add(report.means)
        scores = report.scores
        if scores.episodes:
            # Merged about their means, in double precision: returns of thousands may differ by little.
            count, old = int(scores.episodes), self.episodes
            mean = float(scores.shift) + float(scores.total) / count
            squares = float(scores.squares) - count * (mean - float(scores.shift)) ** 2
            delta, self.episodes = mean - self.mean, old + count
            self.squares += max(squares, 0.0) + delta**2 * old * count / self.episodes
            self.mean += delta * count / self.episodes
            self.latest = float(scores.latest)
            self.steps += int(scores.steps)
            self.lowest = min(self.lowest, float(scores.lowest))
            self.highest = max(self.highest, float(scores.highest))

    def take(self) -> dict[str, float]:
        """Metrics since the last call; starts anew."""
        scalars = self.means.take()
        if self.episodes:
            scalars |= {
                "train/return": self.mean,
                "train/return_max": self.highest,
                "train/return_min": self.lowest,
                "train/return_std": float(np.sqrt(self.squares / self.episodes)),
                "train/length": self.steps / self.episodes,
                "train/episodes": self.episodes,
            }
        self._clear()
        return scalars | {"skipped": self.skipped, "env/broken_entries": self.broken}

    FORM: ClassVar = {
        **dict.fromkeys(("agent_steps", "updates", "broken", "skipped", "episodes", "steps"), natural),
        **dict.fromkeys(("mean", "squares"), number),
        "latest": optional(number),
        "bounds": optional(list_of(number, 2)),
        "means": Means.FORM,
    }
    """What :meth:`state` returns; see :func:`jaxdreamer.files.require`."""
    _NUMBERS = ("agent_steps", "updates", "broken", "skipped", "latest", "episodes", "mean", "squares", "steps")

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        bounds = [self.lowest, self.highest] if self.episodes else None
        return {name: getattr(self, name) for name in self._NUMBERS} | {"bounds": bounds, "means": self.means.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned."""
        self._clear()
        for name in self._NUMBERS:
            setattr(self, name, state[name])
        if state["bounds"]:
            self.lowest, self.highest = state["bounds"]
        self.means.load(state["means"])
