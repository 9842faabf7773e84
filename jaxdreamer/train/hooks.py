"""What others may do while a run goes on: functions that the loop calls, alike on host and device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxdreamer import config as configs
from jaxdreamer.config import Config, RunConfig
from jaxdreamer.record import checkpoint
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.train.evaluate import Evaluation
from jaxdreamer.train.scores import EpisodeStats
from jaxdreamer.types import TrainState


@dataclass(frozen=True)
class Moment:
    """Where one run is while a hook is called."""

    index: int  # of the seeds trained side by side, from 0
    config: Config  # this seed's
    rundir: RunDir
    entries: int  # stored so far over all environments, resets included: what cadences and checkpoints' names count
    agent_steps: int  # decisions taken so far, over all environments
    env_frames: int  # simulator steps so far: agent_steps x env.action_repeat
    updates: int
    state: Callable[[], TrainState]  # what was learned; its arrays may be read until the hook returns


def _nothing(*_: Any) -> None:
    """The hook where there is none."""


@dataclass(frozen=True)
class Hooks:
    """Functions to call, each optional. What one raises ends the run as any other error does.

    With several seeds each is called for every seed, ``should_stop`` once for all; of several processes the first calls.
    """

    on_episode: Callable[[Moment, EpisodeStats], None] = _nothing
    """Training episodes have ended: after a step of all environments on the host, after a compiled call on the device. The
    statistics are of these episodes, in the environment's own units."""
    on_log: Callable[[Moment, dict[str, Any]], None] = _nothing
    """A line of metrics was written: this one, by the names that ``jaxdreamer metrics`` explains."""
    on_evaluation: Callable[[Moment, Evaluation], None] = _nothing
    """An evaluation was played."""
    on_save: Callable[[Moment], None] = _nothing
    """A checkpoint was written, named by ``entries``."""
    should_stop: Callable[[], bool] = field(default=lambda: False)
    """Asked between steps. True ends the run as if its budget were spent: it is evaluated, saved, and finished; resumed
    with the same ``run.frames`` and ``run.stop_at_return`` it stays so."""


def joined(hooks: Sequence[Hooks]) -> Hooks:
    """All of them as one, called in this order."""

    def each(name: str) -> Callable[..., None]:
        functions = [getattr(one, name) for one in hooks]

        def call(*arguments: Any) -> None:
            for function in functions:
                function(*arguments)

        return call

    names = ("on_episode", "on_log", "on_evaluation", "on_save")
    return Hooks(**{name: each(name) for name in names}, should_stop=lambda: any(one.should_stop() for one in hooks))


def of_settings(run: RunConfig, seeds: int) -> list[Hooks]:
    """The hooks that settings ask for, for so many seeds side by side."""
    hooks = [keep_best()] if run.keep_best else []
    return hooks if run.stop_at_return is None else [*hooks, stop_at_return(run.stop_at_return, seeds)]


def stop_at_return(wanted: float, seeds: int = 1) -> Hooks:
    """End the run once the mean return of every seed's newest evaluation is at least ``wanted``."""
    reached: dict[int, bool] = {}

    def on_evaluation(moment: Moment, evaluation: Evaluation) -> None:
        reached[moment.index] = evaluation.mean_return >= wanted

    return Hooks(on_evaluation=on_evaluation, should_stop=lambda: len(reached) == seeds and all(reached.values()))


def keep_best() -> Hooks:
    """Keep the train state with the highest mean return of an evaluation in ``best/``, of equal ones the first."""
    best: dict[int, float] = {}

    def on_evaluation(moment: Moment, evaluation: Evaluation) -> None:
        folder = moment.rundir.best
        if moment.index not in best:  # a resumed run goes on from what is there; what is later is of another future
            kept = [host["return"] for step, host in checkpoint.hosts(folder).items() if step <= moment.entries]
            best[moment.index] = max(kept, default=-np.inf)
        if evaluation.mean_return > best[moment.index]:
            best[moment.index] = evaluation.mean_return
            host = {"config": configs.to_dict(moment.config), "return": evaluation.mean_return}
            checkpoint.save(folder, moment.entries, {"train": moment.state()}, host, keep=1)

    return Hooks(on_evaluation=on_evaluation)
