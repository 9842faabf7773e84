"""The one loop of a run: budget, cadence, log, evaluations, checkpoints. Host and device give it steps and arrays."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxdreamer import config as configs
from jaxdreamer.agent.algorithm import Algorithm, OpenLoop
from jaxdreamer.config import Config
from jaxdreamer.record import checkpoint
from jaxdreamer.record.metrics import MetricsLog
from jaxdreamer.record.progress import Progress
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.train.evaluate import Evaluation, Play, played_by_one
from jaxdreamer.train.hooks import Hooks, Moment
from jaxdreamer.train.pictures import draw
from jaxdreamer.train.placement import Placement, Votes, one_device
from jaxdreamer.train.saved import CADENCES, Saved, parts_of_others, read_newest
from jaxdreamer.train.schedule import Every, Segments
from jaxdreamer.train.scores import summary_of
from jaxdreamer.train.status import show
from jaxdreamer.train.stop import StopRequested
from jaxdreamer.train.tally import Tally
from jaxdreamer.train.telemetry import Clock
from jaxdreamer.types import EnvSpec, PyTree, TrainState


@dataclass
class Run:
    """One seed's run: its settings, where it is written, and what is known of it."""

    config: Config
    rundir: RunDir
    metrics: MetricsLog
    tally: Tally = field(default_factory=Tally)


class Job(NamedTuple):
    """What a loop is to do."""

    algorithm: Algorithm
    runs: list[Run]  # one of each seed; their configurations differ in the seed alone
    progress: Progress
    hooks: Hooks = Hooks()
    placement: Placement = one_device()
    shared: Algorithm | None = None  # the algorithm as each of several devices computes it on its part, where they do


class Loop(abc.ABC):
    """Steps until the budget is spent, and in between logs, evaluates and saves as often as asked.

    A checkpoint holds everything that a run depends on, so that a resumed run continues as if nothing had happened.
    """

    name: ClassVar[str]
    """As in ``run.loop``; the loops' checkpoints are not each other's."""
    memory: str
    """What the replay takes, in words."""
    data: str = ""
    """What the run was given to learn from, in words; empty where it was given nothing."""

    def __init__(
        self, job: Job, spec: EnvSpec, play: Play | None, *, can_render: bool, lanes: int, call: int | None = None
    ):
        """Before the first step.

        Args:
            job: what to do.
            spec: of the environments.
            play: plays evaluations; None where there is no environment.
            can_render: whether it can draw films.
            lanes, call: as for :class:`~jaxdreamer.train.schedule.Segments`.
        """
        self.algorithm, self.runs, self.progress, self.hooks, self.placement, shared = job
        self.shared, self.crew = shared or self.algorithm, self.placement.crew
        self.votes = None if self.crew.alone else Votes(self.placement)
        self.spec, self.can_render = spec, can_render
        self.play: Any = play
        self.config = config = self.runs[0].config
        self.every = {name: Every(getattr(config.run, f"{name}_every")) for name in CADENCES}
        self.segments = Segments(
            config.run, lanes, config.replay.batch_length, random=config.run.prefill_policy == "random", call=call
        )
        self.clock = Clock()
        self.finished_at: int | None = None
        self.ended = False  # before the budget was spent
        self.stop_requested = self._stopping = False  # of this process; of all of them
        self.saved_at: int | None = None  # frames at the newest checkpoint
        if not {"classic", "tiny", "small"} & set(config.preset.split(",")):
            self.progress.advice = "; it can be stopped and resumed at any time, and --preset classic is much smaller"
        # Entries of a sequence that the model is shown in the pictures of open-loop prediction, before it predicts.
        self.context = max(1, config.replay.batch_length // 4)
        self.sees_images = any(item.kind == "image" for item in spec.obs.values())

    # ---- what each loop does its own way -------------------------------------------------------------------------

    @abc.abstractmethod
    def step(self) -> None:
        """Advance a little, then call :meth:`report`."""

    @abc.abstractmethod
    def read(self) -> None:
        """Count in what the device has done since the last call."""

    @abc.abstractmethod
    def state_of(self, index: int) -> TrainState:
        """What one seed has learned; of several devices on the first."""

    @abc.abstractmethod
    def set_states(self, states: Sequence[TrainState]) -> None:
        """Learn on from these, one of each seed, which are copied."""

    @abc.abstractmethod
    def open_loop(self, index: int) -> OpenLoop:
        """What the model predicts of four sequences from replay, on the host."""

    @abc.abstractmethod
    def measured(self) -> dict[str, float]:
        """Metrics of every seed's line that are neither means, scores nor rates."""

    @abc.abstractmethod
    def parts(self, index: int, common: dict[str, Any]) -> tuple[PyTree, Saved]:
        """Arrays and the rest of one seed's checkpoint; ``common`` are the fields of :class:`Saved`."""

    @abc.abstractmethod
    def read_parts(self, run: Run, step: int, drop_damaged: bool) -> tuple[PyTree, Saved]:
        """What :meth:`parts` gave, of the checkpoint of ``step``. CheckpointDamaged where it cannot be used."""

    @abc.abstractmethod
    def load_parts(self, found: list[tuple[PyTree, Any]], drop_damaged: bool) -> None:
        """Take over what :meth:`read_parts` gave for each seed, after counters, cadences and logs were."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop what the loop started."""

    # ---- where it is ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> TrainState:
        """What the first seed has learned."""
        return self.state_of(0)

    @property
    def position(self) -> int:
        """Where the run is, in what its cadences count: entries of all environments, resets included."""
        return self.segments.entries

    @property
    def in_debt(self) -> bool:
        """Whether updates are due that were not done yet; until they are, :meth:`report` does nothing."""
        return self.segments.owed > 0

    @property
    def env_frames(self) -> int:
        """Simulator steps so far; of several seeds the most."""
        return max(run.tally.agent_steps for run in self.runs) * self.config.env.action_repeat

    @property
    def updates(self) -> int:
        """Updates so far; of several seeds the most."""
        return max(run.tally.updates for run in self.runs)

    @property
    def counted(self) -> int:
        """Frames so far as the budget counts them: ``position`` times action repeat."""
        return self.position * self.config.env.action_repeat

    @property
    def spent(self) -> bool:
        """Whether the run is over: its budget is spent or a hook ended it, and no update is owed."""
        return (self.ended or self.counted >= self.config.run.frames) and not self.in_debt

    def moment(self, index: int) -> Moment:
        """Where one seed's run is."""
        run = self.runs[index]
        frames = run.tally.agent_steps * self.config.env.action_repeat
        return Moment(
            index, run.config, run.rundir, self.position, run.tally.agent_steps, frames, run.tally.updates,
            lambda: self.state_of(index),
        )  # fmt: skip

    def under_way(self) -> str:
        """What has to end before the run can be saved, in words."""
        return self.progress.doing or self.clock.doing

    def kept(self) -> str:
        """What of the run is on disk, in words."""
        saved = self.saved_at
        return "with nothing of this run saved yet" if saved is None else f"with the checkpoint at {saved:,} frames"

    # ---- the run -------------------------------------------------------------------------------------------------

    def run(self) -> list[Evaluation] | None:
        """Train until the run is over, evaluate and save: an evaluation of each seed.

        None, and just saved, where a stop was requested.
        """
        self.clock.start(self.env_frames, self.updates)
        self.report()  # what a stop left undone
        while not self.spent and not self.stopping:
            self.step()
            self._look_whether_to_end()
        finished = self.finished_at == self.position  # resumed with nothing left to do: its lines are written already
        try:
            if self.play and self.spent and not self.stop_requested:
                self.progress.log(
                    f"final evaluation of {self.config.run.eval_episodes} episodes without exploration ..."
                )
            evaluations = self.evaluate(final=True, write=not finished) if self.spent else None
        except StopRequested:
            evaluations = None
        if not finished:
            self.finished_at = None if evaluations is None else self.position
            self.save()
        return evaluations

    @property
    def stopping(self) -> bool:
        """Whether all processes stop here."""
        return self._stopping or (self.votes is None and self.stop_requested)

    def _look_whether_to_end(self) -> None:
        """A hook may have ended the run, or a process was asked to stop, of which all hear at one step."""
        ended = self.ended or (not self.in_debt and self.hooks.should_stop())
        if self.votes is not None:
            self._stopping, ended = self.votes.cast(self.stop_requested, ended)
        self.ended = self.ended or ended

    def report(self) -> None:
        """Evaluate, log and save where that is due; where a stop cuts the evaluation short, all of it stays due."""
        if self.in_debt:
            return
        before = {name: every.last for name, every in self.every.items()}
        due = {name: every.due(self.position) for name, every in self.every.items()}
        if self.spent:
            return  # run() logs, evaluates and saves at the end
        if due["eval"]:
            try:
                self.evaluate()
            except StopRequested:
                self._stopping = True
                for name, last in before.items():
                    self.every[name].start(last)
                return
        if due["log"]:
            self.log()
        if due["checkpoint"]:
            self.save()

    def played(self, index: int, ended: Any, said: Sequence[dict[str, float]] = ()) -> None:
        """Count episodes of one seed that ended; ``ended`` are their statistics, ``said`` is what environments said."""
        if ended.episodes:
            self.runs[index].tally.played(ended, said)
            self.hooks.on_episode(self.moment(index), ended)

    # ---- reporting -----------------------------------------------------------------------------------------------

    def write(self, index: int, scalars: dict[str, float]) -> dict[str, Any]:
        """Append one record to a seed's log."""
        at = self.moment(index)
        counters = {"agent_steps": at.agent_steps, "env_frames": at.env_frames, "updates": at.updates}
        return self.runs[index].metrics.write(scalars, **counters) if self.placement.is_writer else scalars | counters

    def log(self) -> None:
        """Write one line of metrics for each seed."""
        self.read()
        with self.clock.timed("log"):  # counted in the next line, as it ends after this one
            common = self.clock.take(self.env_frames, self.updates) | self.measured()
            common["train_ratio"] = self.config.train_ratio
            for index, run in enumerate(self.runs):
                record = self.write(index, run.tally.take(summary_of(self.config.env)) | common)
                self.hooks.on_log(self.moment(index), record)

    def evaluate(self, final: bool = False, write: bool = True) -> list[Evaluation]:
        """Play without exploration, on environments and seeds of their own; log it, and save pictures.

        The ``final`` one's line comes after a last one of :meth:`log`. StopRequested, with nothing written, where the run
        is to stop: it changes nothing of the run, and can be played again.
        """
        self.read()
        film = self.config.run.video and self.can_render and (final or self.sees_images)
        with self.evaluating():
            evaluations, sampled = played_by_one(self.crew, lambda: self._played(film), lambda: self.stop_requested)
        if final and write:
            self.log()
        with self.clock.timed("evaluate"):
            for index, evaluation in enumerate(evaluations):
                draw(self, index, evaluation, predictions=write)
                if write:
                    beside = sampled[index].metrics("eval_sampled") if sampled else {}
                    self.write(index, evaluation.metrics() | beside)
                    self.hooks.on_evaluation(self.moment(index), evaluation)
        mean = float(np.mean([evaluation.mean_return for evaluation in evaluations]))
        show(self, eval_return=mean)
        return evaluations

    def _played(self, film: bool) -> tuple[list[Evaluation], list[Evaluation]]:
        self.watch(0)
        settings, sampled = self.config.run, []
        each: list[Any] = [(self.acting(index), run.config.seed) for index, run in enumerate(self.runs)]
        count, watch = settings.eval_episodes, self.watch
        evaluations = [self.play(params, count, seed=seed, film=film, watch=watch) for params, seed in each]
        if count := settings.eval_sampled:
            sampled = [self.play(params, count, seed=seed, watch=watch, mode="sample") for params, seed in each]
        return evaluations, sampled

    def acting(self, index: int) -> PyTree:
        """The parameters that one seed's policy acts with."""
        state = self.state_of(index)
        return self.algorithm.acting(state.params, state.aux)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Around the playing of an evaluation."""
        with self.clock.timed("evaluate"):
            yield
        self.progress.evaluated()

    def watch(self, done: int) -> None:
        """During an evaluation: how many episodes are over. StopRequested where it should not go on."""
        if self.stop_requested or self.crew.asked_to_stop():
            raise StopRequested
        self.progress.evaluating(done, self.config.run.eval_episodes)

    # ---- saving and resuming -------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of everything for each seed, atomically."""
        self.read()
        with self.clock.timed("save"):
            for index, run in enumerate(self.runs):
                common = {
                    "loop": self.name,
                    "config": configs.to_dict(run.config),
                    "every": {name: [every.interval, every.last] for name, every in self.every.items()},
                    "finished_at": self.finished_at,
                    "ended": self.ended,
                    "segments": self.segments.state(),
                    "tally": run.tally.state(),
                    "metrics_offset": run.metrics.offset,
                }
                tree, saved = self.parts(index, common)
                # Killed between two seeds' saves, a set must still have a checkpoint in common.
                keep = max(self.config.run.keep_checkpoints, 2 if len(self.runs) > 1 else 1)
                parts = parts_of_others(self.crew, run.rundir.checkpoints, tree)
                if self.placement.is_writer:
                    checkpoint.save(run.rundir.checkpoints, self.position, tree, saved.to_json(), keep, parts)
                    run.rundir.mark_saved()
            self.crew.collect("the end of a checkpoint")
        self.saved_at = self.counted
        for index in range(len(self.runs)):
            self.hooks.on_save(self.moment(index))

    def restore(self, drop_damaged: bool = False) -> None:
        """Resume from the newest checkpoint that every seed has, undamaged.

        ``drop_damaged``: without what is damaged of a replay that lies beside it.
        """
        folders = [run.rundir.checkpoints for run in self.runs]
        found = read_newest(
            folders, lambda index, step: self.read_parts(self.runs[index], step, drop_damaged), self.progress
        )
        saved = found[0][1]
        self.crew.check_same(
            "the checkpoint to go on from", f"{saved.segments['entries']}", "let all see the same files"
        )
        for run, (_, one) in zip(self.runs, found):
            run.tally.load(one.tally)
            frames = run.tally.agent_steps * self.config.env.action_repeat
            if note := run.metrics.truncate(one.metrics_offset, frames):
                self.progress.log(note)
        self.finished_at = saved.finished_at
        before = saved.config["run"]
        same = [before.get(name) == getattr(self.config.run, name) for name in ("frames", "stop_at_return")]
        self.ended = saved.ended and all(same)
        self.segments.load(saved.segments)
        self.load_parts(found, drop_damaged)
        for name, every in self.every.items():
            interval, last = saved.every[name]
            # A cadence that was changed counts from here: it must not make up for steps done under the old one.
            every.start(last if interval == every.interval else self.position)
        self.saved_at = self.counted
        self.progress.log(f"resumed at {self.position:,} entries, update {self.updates:,}")
