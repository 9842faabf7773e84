"""What the loop on the host and the loop on the device have in common: budget, cadence, and how a run begins and ends."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar

import jax

from jaxdreamer import config as configs
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.files import list_of, natural, number, optional
from jaxdreamer.record.pace import Work
from jaxdreamer.record.progress import Progress
from jaxdreamer.train.journal import Clock
from jaxdreamer.train.schedule import Every
from jaxdreamer.train.stop import StopRequested
from jaxdreamer.types import PyTree, TrainState

Evaluated = TypeVar("Evaluated")

_IN_WORDS = {
    "collect": "the environments' step",
    "sample": "the next batch",
    "train": "the current call of updates",
    "device": "the current call of the compiled loop",
    "evaluate": "the current step of the evaluation",
    "save": "writing a checkpoint",
}
"""By the clock's names."""


class Loop(abc.ABC, Generic[Evaluated]):
    """Steps until the budget is spent, and in between logs, evaluates and saves as often as asked.

    Args:
        config: what to do.
        progress: where to report.
    """

    name: ClassVar[str]
    """As in ``run.loop``; the loops' checkpoints are not each other's."""

    def __init__(self, config: Config, progress: Progress):
        self.config, self.progress = config, progress
        run = config.run
        self.every = {
            "log": Every(run.log_every),
            "eval": Every(run.eval_every),
            "checkpoint": Every(run.checkpoint_every),
        }
        self.clock = Clock()
        self.finished_at: int | None = None
        self.stop_requested = False
        if not {"classic", "tiny", "small"} & set(config.preset.split(",")):
            progress.advice = "; it can be stopped and resumed at any time, and --preset classic is a much smaller one"
        self.saved_at: int | None = None  # env frames at the newest checkpoint
        self.on_save: Callable[[TrainState, int], None] | None = None  # see train_agent

    # ---- what a loop has to say ----------------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def position(self) -> int:
        """Where the run is, in what its cadences count."""

    @property
    @abc.abstractmethod
    def env_frames(self) -> int:
        """Simulator steps so far; of several seeds the most."""

    @property
    @abc.abstractmethod
    def updates(self) -> int:
        """Updates so far; of several seeds the most."""

    @property
    @abc.abstractmethod
    def spent(self) -> bool:
        """Whether the budget is."""

    @property
    @abc.abstractmethod
    def in_debt(self) -> bool:
        """Whether updates are due that were not done yet; until they are, :meth:`report` does nothing."""

    @property
    @abc.abstractmethod
    def work(self) -> Work:
        """What is left of the run."""

    @abc.abstractmethod
    def step(self) -> None:
        """Go on a little, then call :meth:`report`."""

    @abc.abstractmethod
    def log(self) -> None:
        """Write one line of metrics."""

    @abc.abstractmethod
    def evaluate(self, final: bool = False, write: bool = True) -> Evaluated:
        """Play without exploration, on environments and seeds of their own; log it, and save pictures.

        The ``final`` one's line comes after a last one of :meth:`log`. StopRequested, with nothing written, where the run
        is to stop: it changes nothing of the run, and can be played again.
        """

    @abc.abstractmethod
    def save(self) -> None:
        """Write a checkpoint of everything, atomically."""

    @abc.abstractmethod
    def restore(self, drop_damaged: bool = False) -> None:
        """Go on from the newest undamaged checkpoint.

        ``drop_damaged``: go on without what is damaged of a replay that lies beside it.
        """

    @abc.abstractmethod
    def begin_with(self, start: TrainState) -> None:
        """Learn on from another run's state; it is copied. ConfigError where it is of other networks."""

    # ---- what they do alike --------------------------------------------------------------------------------------

    def run(self) -> Evaluated | None:
        """Train until the budget is spent, evaluate and save; None, and just saved, where a stop was requested."""
        self.clock.start(self.env_frames, self.updates)
        self.report()  # what a stop left undone
        while not self.spent and not self.stop_requested:
            self.step()
        finished = self.finished_at == self.position  # resumed with nothing left to do: its lines are written already
        try:
            if self.spent and not self.stop_requested:
                self.progress.log(
                    f"final evaluation of {self.config.run.eval_episodes} episodes without exploration ..."
                )
            evaluation = self.evaluate(final=True, write=not finished) if self.spent else None
        except StopRequested:
            evaluation = None
        if not finished:
            self.finished_at = None if evaluation is None else self.position
            self.save()
        return evaluation

    def report(self) -> None:
        """Evaluate, log and save where that is due; where a stop cuts the evaluation short, all of it stays due."""
        if self.in_debt:
            return
        before = {name: every.last for name, every in self.every.items()}
        due = {name: self.every[name].due(self.position) for name in ("eval", "log", "checkpoint")}
        if self.spent:
            return  # run() logs, evaluates and saves at the end
        if due["eval"]:
            try:
                self.evaluate()
            except StopRequested:
                for name, last in before.items():
                    self.every[name].start(last)
                return
        if due["log"]:
            self.log()
        if due["checkpoint"]:
            self.save()

    @property
    def counted(self) -> int:
        """Frames so far as the budget counts them: in what ``position`` counts, times action repeat."""
        return self.position * self.config.env.action_repeat

    def _left(self, owed: int, begun: bool, prefill: int) -> Work:
        """For :attr:`work`.

        Args:
            owed: updates that are due now. begun: whether learning has begun.
            prefill: where it begins, in what ``position`` counts.
        """
        run, position = self.config.run, self.position
        end = -(-run.frames // self.config.env.action_repeat)
        trainings = max(0, end - max(position, prefill)) // run.train_every
        evaluations = 1 + (max(0, end - position - 1) // run.eval_every if run.eval_every else 0)
        updates = owed + (0 if begun else run.pretrain) + trainings * run.updates
        return Work(max(0, run.frames - self.counted), updates, evaluations)

    def _due(self, owed: int) -> str:
        """What the progress notes of updates that are due."""
        return f"{'pretraining, ' if self.updates < self.config.run.pretrain else ''}{owed:,} updates due"

    def header(self, params: PyTree, where: str) -> list[str]:
        """What is trained, on what, and for how long; ``where`` it is written."""
        config, device = self.config, jax.devices()[0]
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        done = f"; {self.counted:,} frames are already done" if self.position else ""
        return [
            f"training {config.env.task} (env.backend={config.env.backend}) with {config.preset}, seed {config.seed}, on "
            f"{device.device_kind} ({device.platform}), written to {where}",
            f"{size:,} parameters; budget {config.run.frames:,} frames = {self.work.updates:,} updates{done}",
        ]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Around the playing of an evaluation."""
        with self.clock.timed("evaluate"):
            self.watch(0)
            yield
        self.progress.evaluated()

    def watch(self, done: int) -> None:
        """During an evaluation: how many episodes are over. StopRequested where it should not go on."""
        if self.stop_requested:
            raise StopRequested
        self.progress.evaluating(done, self.config.run.eval_episodes)

    def under_way(self) -> str:
        """What has to end before the run can be saved, in words."""
        return self.progress.doing or _IN_WORDS.get(self.clock.now, "the current step")

    def kept(self) -> str:
        """What of the run is on disk, in words."""
        if self.saved_at is None:
            return "with nothing of this run saved yet"
        return f"with the checkpoint at {self.saved_at:,} frames"

    @property
    def context(self) -> int:
        """Entries of a sequence that the model is shown before it predicts, in the pictures of open-loop prediction."""
        return max(1, self.config.replay.batch_length // 4)

    @property
    def predicts(self) -> bool:
        """Whether such pictures are drawn: videos are wanted, and a sequence is longer than :attr:`context`."""
        return self.config.run.video and self.config.replay.batch_length > self.context

    def _check_start(self, mine: TrainState, start: TrainState) -> None:
        expected, found = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (mine, start))
        if expected != found:
            raise ConfigError(
                "start: the train state given is of other networks or optimizers than this configuration's: "
                f"expected {expected}, found {found}"
            )

    def _form(self) -> dict[str, Any]:
        """What :meth:`_cadence` returns; see :func:`jaxdreamer.files.require`."""
        every = {name: list_of(number, 2) for name in self.every}
        return {"loop": str, "finished_at": optional(natural), "every": every, "config": dict}

    def _cadence(self, seed: int) -> dict[str, Any]:
        """For a checkpoint, JSON-ready; :meth:`_load_cadence` reads it. ``seed``: of the run it is for."""
        every = {name: [every.interval, every.last] for name, every in self.every.items()}
        config = configs.to_dict(configs.replace(self.config, {"seed": seed}))
        return {"loop": self.name, "finished_at": self.finished_at, "every": every, "config": config}

    def _load_cadence(self, host: dict[str, Any]) -> None:
        self.finished_at = host["finished_at"]
        for name, every in self.every.items():
            interval, last = host["every"][name]
            # A cadence that was changed counts from here: it must not make up for steps done under the old one.
            every.start(last if interval == every.interval else self.position)
