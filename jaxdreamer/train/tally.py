"""What is known of a run between two lines of its log: counters, sums of its updates' metrics, and its episodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.files import list_of, natural, number
from jaxdreamer.ops.trees import select
from jaxdreamer.train.scores import EpisodeStats, Summary, merge, no_episodes, of_episodes, summed_up
from jaxdreamer.types import Array, Metrics, TrainState


class Learned(NamedTuple):
    """What some updates measured, summed up inside the compiled call that did them."""

    sums: Metrics  # float32 [] each, of the finite values alone
    counts: Metrics  # int32 [] each, how many these are
    worst: Metrics  # of the update that ended the longest run of skipped ones
    updates: Array  # int32 [], of the whole run
    skipped: Array  # int32 [], likewise


def nothing_learned(shapes: Metrics, state: TrainState) -> Learned:
    """Before the first update of a call; ``shapes`` are those of an update's metrics."""
    zeros = {name: jnp.zeros(()) for name in shapes}
    return Learned(zeros, {name: jnp.int32(0) for name in shapes}, zeros, state.updates, state.skipped)


def add_update(learned: Learned, state: TrainState, metrics: Metrics) -> Learned:
    """Count one update in, which led to ``state``."""
    finite = {name: jnp.isfinite(value) for name, value in metrics.items()}
    worse = metrics["skipped_in_a_row"] >= learned.worst["skipped_in_a_row"]
    return Learned(
        {name: learned.sums[name] + jnp.where(finite[name], value, 0.0) for name, value in metrics.items()},
        jax.tree.map(jnp.add, learned.counts, finite),
        select(worse, metrics, learned.worst),
        state.updates,
        state.skipped,
    )


def _stats(value: Any) -> bool:
    """Whether it is an :class:`EpisodeStats` as JSON has it."""
    whole = (0, 5)
    return (
        isinstance(value, list)
        and len(value) == 7
        and all((natural if i in whole else number)(x) for i, x in enumerate(value))
    )


@dataclass
class Tally:
    """What the host knows of one run."""

    agent_steps: int = 0  # decisions taken, over all environments; resets are none
    updates: int = 0
    skipped: int = 0
    broken: int = 0  # entries that were not finite
    # Since the last line of the log:
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    said: dict[str, list[float]] = field(default_factory=dict)  # by environments, of episodes: sum and count
    ended: EpisodeStats = field(default_factory=no_episodes)

    FORM: ClassVar[dict[str, Any]] = {
        **dict.fromkeys(("agent_steps", "updates", "skipped", "broken"), natural),
        "sums": {...: number},
        "counts": {...: natural},
        "said": {...: list_of(number, 2)},
        "ended": _stats,
    }
    """What :meth:`state` returns; see :func:`jaxdreamer.files.require`."""

    def learned(self, found: Learned) -> None:
        """Count a call's updates in; ``found`` is on the host."""
        self.updates, self.skipped = int(found.updates), int(found.skipped)
        for name in found.sums:
            if not name.startswith("skipped"):
                self.sums[name] += float(found.sums[name])
                self.counts[name] += int(found.counts[name])

    def played(self, ended: EpisodeStats, said: Sequence[Mapping[str, float]] = ()) -> None:
        """Count episodes in, and what their environments said of them, by name."""
        self.ended = merge(self.ended, ended)
        for numbers in said:
            for name, value in numbers.items():
                total, count = self.said.get(name, (0.0, 0))
                self.said[name] = [total + value, count + 1]

    @property
    def last_return(self) -> float | None:
        """Of the newest episode; None before any."""
        return None if np.isnan(self.ended.latest) else float(self.ended.latest)

    def take(self, summary: Summary | None = None) -> dict[str, float]:
        """Metrics since the last call, by name, with what ``summary`` makes of the environments' own; starts anew."""
        means = {name: self.sums[name] / count for name, count in self.counts.items() if count}
        scores = self.ended.metrics("train")
        said = {name: total / count for name, (total, count) in self.said.items()}
        scores |= of_episodes(summed_up(said, summary), "train")
        self.sums.clear()
        self.counts.clear()
        self.said.clear()
        self.ended = no_episodes()._replace(latest=self.ended.latest)
        return means | scores | {"skipped": self.skipped, "env/broken_entries": self.broken}

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return vars(self) | {"ended": [np.asarray(value).item() for value in self.ended]}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned."""
        self.__init__()  # type: ignore[misc]
        self.sums.update(state["sums"])
        self.counts.update(state["counts"])
        self.said.update(state["said"])
        self.ended = EpisodeStats(*map(np.asarray, state["ended"]))
        for name in ("agent_steps", "updates", "skipped", "broken"):
            setattr(self, name, state[name])
