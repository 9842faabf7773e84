"""Where the wall time of a configuration goes: its own loop, warmed up, for some seconds."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import jax
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.config import Config
from jaxdreamer.config.settings import COUNT
from jaxdreamer.record.metrics import MetricsLog
from jaxdreamer.record.progress import Progress, lasting, say
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.train.device.loop import DeviceLoop
from jaxdreamer.train.device.parts import Parts
from jaxdreamer.train.loop import Job, Loop, Run
from jaxdreamer.train.precision import choose, settle_precision
from jaxdreamer.train.run import World
from jaxdreamer.train.schedule import updates_in_a_call
from jaxdreamer.train.size import make_trainable
from jaxdreamer.train.stop import Signals

__all__ = ["Split", "bench"]


@dataclass(frozen=True)
class Split:
    """What some seconds of a loop went into."""

    config: Config
    """As it was measured: its precision is settled."""
    loop: str
    """``host`` or ``device``, where the environments are."""
    device: str
    """What computes."""
    auto: str
    """What ``model.precision=auto`` is here."""
    lanes: int
    """Environments side by side."""
    draws: bool
    """Whether they are seen as pictures."""
    wall: float
    """Seconds that were measured."""
    entries: int
    """Stored in these seconds, by each seed."""
    updates: int
    """Made in these seconds, by each seed."""
    seconds: dict[str, float]
    """By part."""

    @property
    def covered(self) -> float:
        """What the parts add up to, as a share of the wall time."""
        return sum(self.seconds.values()) / self.wall

    @property
    def updates_held(self) -> float:
        """Updates made, as a share of those that the entries lead to: long trainings are not waited for."""
        return self.updates / (self.entries * self.config.train_ratio)

    @property
    def whole(self) -> dict[str, float]:
        """Seconds of these entries and of all the updates that they lead to."""
        parts = {name: s / self.updates_held if self.per_update(name) else s for name, s in self.seconds.items()}
        return parts | {"other": self.wall - sum(self.seconds.values())}

    @property
    def shares(self) -> dict[str, float]:
        """Of a run's time once its prefill is done, by part; ``other`` is what no part accounts for."""
        return {name: spent / sum(self.whole.values()) for name, spent in self.whole.items()}

    @property
    def largest(self) -> str:
        """The part with the largest share."""
        return max(self.shares, key=self.shares.__getitem__)

    @property
    def rates(self) -> tuple[float, float]:
        """Env frames and updates a second of each seed at these shares."""
        each = self.entries / sum(self.whole.values())
        return each * self.config.env.action_repeat, each * self.config.train_ratio

    def per_update(self, name: str) -> bool:
        """Whether a part comes with updates; else it comes with entries."""
        return name in ("sample", "update") or (name == "transfer" and self.loop == "host")

    def each(self, name: str) -> float:
        """Seconds that a part takes for one update, or for one step of all environments."""
        count = self.entries * self.config.train_ratio if self.per_update(name) else self.entries / self.lanes
        return self.whole[name] / count


def bench(
    open_world: Callable[[], World], each: Sequence[Config], *, seconds: float, console: Console | None = None
) -> Split:
    """Train as the seeds' configurations say, in a folder that is deleted afterwards, and time it for some ``seconds``.

    Before that come as short a prefill as can be learned from, compiling, and a few updates. Evaluations and checkpoints
    are left out.
    """
    with Signals(console := lasting(console)), ExitStack() as stack:
        stack.callback((world := open_world()).close)
        auto = choose(each[0], world.spec).precision
        each, _ = settle_precision(each, world.spec)
        loop = stack.enter_context(_loop(world, [_endless(config) for config in each]))
        began = perf_counter()
        say(console, "warming up: a short prefill, compiling, a few updates ...")
        while loop.updates < loop.config.run.pretrain:
            loop.step()
        for _ in range(3):  # the policy is compiled when it first decides
            loop.step()
        loop.read()
        unit = seconds / 40
        parts = Parts(loop, unit) if isinstance(loop, DeviceLoop) else None
        say(console, f"warm after {perf_counter() - began:.3g} s; measuring for {seconds:g} s ...")
        loop.segments.owed = 0  # begin with entries: the updates of one training may take longer than all of this
        window = _Window(loop)
        if parts is None:
            window.measure(seconds)
        else:
            _in_turn(window, parts, unit, 2 * seconds)
        while not window.updates:  # they are due after very many entries
            loop.segments.owed = loop.segments.most
            window.measure()
        return Split(
            config=each[0],
            loop=loop.name,
            device=f"{jax.devices()[0].device_kind} ({jax.devices()[0].platform})",
            auto=auto,
            lanes=loop.segments.lanes,
            draws=loop.sees_images,
            wall=window.wall,
            entries=window.entries,
            updates=window.updates,
            seconds=window.split(parts),
        )


def _in_turn(window: _Window, parts: Parts, unit: float, seconds: float) -> None:
    """Measure a loop and its parts in short turns of equal work: a machine that is busy now and then slows both alike."""
    began = perf_counter()
    window.measure(unit)
    steps = window.steps
    while perf_counter() - began < seconds:
        parts.measure()
        window.measure(steps=steps)


def _endless(config: Config) -> Config:
    """The same without what comes before, after and in between what is measured."""
    pretrain = 2 * updates_in_a_call(config.run.updates, config.run.updates_per_call)
    changes = {"frames": COUNT, "prefill": 0, "pretrain": pretrain, "eval_every": 0, "checkpoint_every": COUNT}
    return configs.replace(config, {f"run.{name}": value for name, value in changes.items()})


@contextmanager
def _loop(world: World, each: Sequence[Config]) -> Iterator[Loop]:
    """The loop that would train this, in a folder of its own that is deleted with it. Its progress is written to nobody."""
    algorithm = make_trainable(each[0], world.spec)
    with TemporaryDirectory(prefix="jaxdreamer-bench-") as folder, ExitStack() as stack:
        runs = []
        for config in each:
            rundir = stack.enter_context(RunDir(Path(folder) / f"seed-{config.seed}"))
            runs.append(Run(config, rundir, stack.enter_context(MetricsLog(rundir.metrics))))
        progress = stack.enter_context(Progress(COUNT, console=Console(file=io.StringIO())))
        loop = world.loop(Job(algorithm, runs, progress))
        stack.callback(loop.close)
        yield loop


@dataclass
class _Window:
    """Some time of a loop, with pauses in between."""

    loop: Loop
    wall: float = 0.0
    entries: int = 0
    updates: int = 0
    steps: int = 0
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def measure(self, seconds: float = 0.0, steps: int = 1) -> None:
        """Let the loop go on for so long, and for so many steps at least."""
        loop, before, entries, updates = self.loop, dict(self.loop.clock.seconds), self.loop.position, self._updates()
        began, done = perf_counter(), 0
        while done < steps or perf_counter() - began < seconds:
            loop.step()
            done += 1
        loop.read()  # waits for what is under way
        self.wall += perf_counter() - began
        self.steps += done
        self.entries += loop.position - entries
        self.updates += self._updates() - updates
        for name, spent in loop.clock.seconds.items():
            self.spent[name] += spent - before.get(name, 0.0)

    def _updates(self) -> int:
        return int(jax.device_get(self.loop.state.updates))

    def split(self, parts: Parts | None) -> dict[str, float]:
        """Seconds by part: as the clock has them, or where all is one program, as its parts take for as much."""
        names = ("environment", "policy", "store", "sample", "transfer", "update")
        if parts is None:
            found = {name: self.spent[name] for name in names}
        else:
            each, rows = parts.each(), self.entries / self.loop.segments.lanes
            counts = {"transfer": self.steps, "sample": self.updates, "update": self.updates}
            found = {name: each[name] * counts.get(name, rows) for name in names}
        return found | {"log": self.spent["log"]}
