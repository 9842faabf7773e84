"""What an evaluation is: whole episodes without exploration, on the host and on the device alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import numpy as np

from jaxdreamer.envs.base import EnvError
from jaxdreamer.train.crew import Crew
from jaxdreamer.train.scores import of_episodes, stats_of
from jaxdreamer.train.stop import StopRequested
from jaxdreamer.types import PyTree

EVAL_SEED_OFFSET = 1_000_003  # evaluation episodes are never training episodes: their seeds start elsewhere
MAX_BROKEN_IN_A_ROW = 20  # entries of one environment that are not finite, with resets in between


class Evaluation(NamedTuple):
    """The episodes of an evaluation, in the environment's own units."""

    returns: list[float]
    lengths: list[int]
    frames: np.ndarray | None  # uint8 [T, H, W, 3], the first episode, where it was asked for and could be drawn
    frame_rate: float  # of these frames, per second of the task's own time
    broken: int = 0  # entries that were not finite
    # means of what environments said of the episodes by name, and what their backend makes of these
    said: dict[str, float] = {}  # noqa: RUF012  (nobody writes into it)

    @property
    def mean_return(self) -> float:
        """Over the episodes."""
        return float(np.mean(self.returns))

    def metrics(self, name: str = "eval") -> dict[str, float]:
        """By name, for the log."""
        returns, lengths = np.array(self.returns), np.array(self.lengths)
        scores = stats_of(returns, lengths, np.ones(len(returns), bool)).metrics(name)
        return scores | of_episodes(self.said, name) | {f"{name}/broken_entries": self.broken}


Watch = Callable[[int], None]
Acts = Literal["greedy", "sample"]


def unwatched(done: int) -> None:
    """Nobody waits for an evaluation's progress."""


class Play(Protocol):
    """Plays an evaluation; compiled once for repeated ones."""

    def __call__(
        self,
        params: PyTree,
        episodes: int,
        *,
        seed: int,
        film: bool = False,
        watch: Watch = unwatched,
        mode: Acts = "greedy",
    ) -> Evaluation:
        """Play ``episodes`` episodes.

        Args:
            params: what the policy acts with.
            episodes: how many.
            seed: of the environments. Equal seeds and parameters give equal episodes where the task allows it.
            film: draw every entry of the first episode.
            watch: called again and again with the number of episodes that are over; what it raises ends the evaluation.

            mode: how the policy acts: its most likely actions, or samples of it; never with exploration noise.

        An episode that gives numbers which are not finite ends at its last good entry, with a warning. One without a single
        good step does not count: another is played instead.

        Raises:
            EnvError: an environment gave ``MAX_BROKEN_IN_A_ROW`` entries in a row that are not finite.
        """


def never_finite(where: str = "") -> EnvError:
    """The error for an environment on the device that gives nothing else."""
    return EnvError(
        f"{where}an environment gave states, rewards or observations that are not finite {MAX_BROKEN_IN_A_ROW} times in a "
        "row, with resets in between: check the simulator's time step, the actions' scale and the states that a reset gives"
    )


_LONGEST = 24 * 3600.0  # seconds of an evaluation that other processes wait for


def played_by_one(
    crew: Crew, play: Callable[[], tuple[list[Evaluation], list[Evaluation]]], stops: Callable[[], bool]
) -> tuple[list[Evaluation], list[Evaluation]]:
    """What ``play`` returns, in the process that leads; the others wait for it, and get all but the frames.

    StopRequested in all of them where ``play`` raises it, or where another one ``stops`` in the meantime.
    """
    if crew.alone:
        return play()
    what = "the end of an evaluation"
    if not crew.leads:

        def hear() -> None:
            if stops():
                crew.ask_to_stop()

        found = json.loads(crew.from_lead(what, seconds=_LONGEST, meanwhile=hear))
        if found is None:
            raise StopRequested
        each = [[Evaluation(**fields) for fields in part] for part in found]
        return each[0], each[1]
    try:
        played = play()
    except StopRequested:
        crew.from_lead(what, json.dumps(None))
        raise
    crew.from_lead(what, json.dumps([[one._replace(frames=None)._asdict() for one in part] for part in played]))
    return played
