"""Returns and lengths of episodes, counted entry by entry, in NumPy on the host and in JAX inside compiled programs.

``xp`` is the array library: numpy, whose numbers are float64 here, or jax.numpy, with float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdreamer import families
from jaxdreamer.config import EnvConfig
from jaxdreamer.types import AnyArray, Timestep

Summary = Callable[[Mapping[str, float]], dict[str, float]]


class EpisodeStats(NamedTuple):
    """Statistics of whole episodes, in the environment's own units; :func:`merge` puts those of two groups together."""

    episodes: AnyArray  # int []
    mean: AnyArray  # float [], of the returns
    squares: AnyArray  # float [], sum of (return - mean)^2
    lowest: AnyArray  # float [], inf without episodes
    highest: AnyArray  # float [], -inf without episodes
    steps: AnyArray  # int [], agent steps of all of them
    latest: AnyArray  # float [], the return of the episode that ended last; nan before any

    def metrics(self, prefix: str) -> dict[str, float]:
        """By name, for the log; nothing without episodes."""
        if not self.episodes:
            return {}
        return {
            f"{prefix}/return": float(self.mean),
            f"{prefix}/return_std": float(np.sqrt(self.squares / self.episodes)),
            f"{prefix}/return_min": float(self.lowest),
            f"{prefix}/return_max": float(self.highest),
            f"{prefix}/length": float(self.steps / self.episodes),
            f"{prefix}/episodes": int(self.episodes),
        }


def summary_of(config: EnvConfig) -> Summary | None:
    """What makes more numbers of an environment's own, see :attr:`jaxdreamer.families.Backend.summary`."""
    record = families.find(config.backend)
    return None if record is None else record.summary


def means_of(said: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each number that environments said of episodes, by name, over the episodes of which it was said."""
    names = dict.fromkeys(name for numbers in said for name in numbers)
    return {name: float(np.mean([numbers[name] for numbers in said if name in numbers])) for name in names}


def summed_up(means: dict[str, float], summary: Summary | None) -> dict[str, float]:
    """Such means, and what ``summary`` makes of them."""
    return means | summary(means) if summary and means else means


def of_episodes(numbers: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Such numbers by their names in the log."""
    return {f"{prefix}/episode/{name}": value for name, value in numbers.items()}


def stats_of(returns: AnyArray, lengths: AnyArray, ended: AnyArray, xp: Any = np) -> EpisodeStats:
    """Statistics of the lanes [B] where ``ended``."""
    count = xp.sum(ended, dtype=int)
    mean = xp.sum(xp.where(ended, returns, 0.0)) / xp.maximum(count, 1)
    return EpisodeStats(
        count,
        mean,
        xp.sum(xp.where(ended, xp.square(returns - mean), 0.0)),
        xp.min(xp.where(ended, returns, xp.inf)),
        xp.max(xp.where(ended, returns, -xp.inf)),
        xp.sum(xp.where(ended, lengths, 0), dtype=int),
        xp.where(count > 0, returns[xp.argmax(ended)], xp.nan),
    )


def no_episodes(xp: Any = np) -> EpisodeStats:
    """Before the first episode."""
    return stats_of(xp.zeros((1,)), xp.zeros((1,), int), xp.zeros((1,), bool), xp)


def merge(a: EpisodeStats, b: EpisodeStats, xp: Any = np) -> EpisodeStats:
    """Statistics of both groups, of which ``b`` is the later one.

    With ``d = mean_b - mean_a``: ``mean = mean_a + d n_b / n`` and ``squares = squares_a + squares_b + d^2 n_a n_b / n``
    (Chan, Golub and LeVeque 1979). Sums of squared returns would lose the digits of returns that are large and alike.
    """
    count = a.episodes + b.episodes
    share, delta = b.episodes / xp.maximum(count, 1), b.mean - a.mean
    return EpisodeStats(
        count,
        a.mean + delta * share,
        a.squares + b.squares + xp.square(delta) * a.episodes * share,
        xp.minimum(a.lowest, b.lowest),
        xp.maximum(a.highest, b.highest),
        a.steps + b.steps,
        xp.where(b.episodes > 0, b.latest, a.latest),
    )


class Running(NamedTuple):
    """The episodes under way, one in each lane."""

    returns: AnyArray  # float [B], so far
    lengths: AnyArray  # int [B], agent steps so far

    @classmethod
    def none(cls, lanes: int, xp: Any = np) -> Running:
        """Before the first entry."""
        return cls(xp.zeros((lanes,)), xp.zeros((lanes,), int))


def count_entry(running: Running, timestep: Timestep, xp: Any = np) -> tuple[Running, EpisodeStats]:
    """Count one entry of every lane; also returns the statistics of the episodes that ended with it."""
    running = Running(
        xp.where(timestep.is_first, 0.0, running.returns + timestep.reward),
        xp.where(timestep.is_first, 0, running.lengths + 1),
    )
    return running, stats_of(*running, timestep.is_last, xp)
