"""A whole run, wherever its environments are: open or resume its folder, train, evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.agent.algorithm import Algorithm, Make, Policy
from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.envs.trust import trust_word
from jaxdreamer.files import shell_word
from jaxdreamer.nets.networks import Networks
from jaxdreamer.record import checkpoint
from jaxdreamer.record.card import block
from jaxdreamer.record.progress import Progress, lasting
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.sinks import Sink, check_sinks, make_sinks
from jaxdreamer.record.stored import checkpoints_of, warn_if_edited
from jaxdreamer.saving import write_json
from jaxdreamer.train.evaluate import Acts, Evaluation, Play
from jaxdreamer.train.folder import (
    check_loop,
    check_spec,
    load_run,
    opened,
    settle_config,
    with_its_precision,
    with_its_start,
    write_spec,
)
from jaxdreamer.train.hooks import Hooks, joined, of_settings
from jaxdreamer.train.loop import Job, Loop, Run
from jaxdreamer.train.placement import Placement, one_device
from jaxdreamer.train.precision import settle_precision
from jaxdreamer.train.session import session
from jaxdreamer.train.sharing import shared_algorithm
from jaxdreamer.train.size import make_trainable
from jaxdreamer.train.start import begin_with, begin_with_run
from jaxdreamer.train.status import header
from jaxdreamer.train.stop import Signals
from jaxdreamer.types import EnvSpec, TrainState


@dataclass(frozen=True)
class Result:
    """The outcome of :func:`jaxdreamer.train_agent`."""

    logdir: Path
    finished: bool
    """False where it was stopped before its budget was spent; the same call again resumes it."""
    evaluation: Evaluation | None
    """The final evaluation of a finished run; None where it has no environment."""
    state: TrainState
    """What was learned: parameters, optimizers, counters."""


class World(Protocol):
    """Where a configuration's environments are: the host or the device."""

    name: str
    """As in ``run.loop``."""

    @property
    def spec(self) -> EnvSpec:
        """What an agent must know of the environment."""

    @property
    def spaces(self) -> dict[str, Any] | None:
        """The environment's own spaces, by name, where it has any."""

    @property
    def can_render(self) -> bool:
        """Whether the environment can be drawn."""

    def loop(self, job: Job) -> Loop:
        """The loop that trains here."""

    def player(self, policy: Policy, check: Callable[[EnvSpec, bool], None] = ...) -> Play:
        """Plays evaluations; ``check`` is called with the environments' spec and whether they can be drawn."""

    def close(self) -> None:
        """Close what was opened."""


class Request(NamedTuple):
    """What a call asks of its run; see :func:`jaxdreamer.train_agent`."""

    sinks: Sequence[str | Sink] = ()
    console: Console | None = None
    hooks: Hooks = Hooks()
    start: TrainState | None = None
    start_over: bool = False
    drop_damaged_replay: bool = False
    algorithm: Make | None = None
    networks: Networks | None = None
    placement: Placement = one_device()


def train(
    open_world: Callable[[], World], each: Sequence[Config], folders: Sequence[RunDir], request: Request
) -> list[Result]:
    """Train a configuration with one or several seeds, each in its folder, together.

    ``each`` holds the seeds' configurations.
    """
    place = request.placement
    check_sinks(request.sinks)
    with Signals(console := lasting(request.console)) as signals, ExitStack() as stack:
        automatic = each[0].model.precision == "auto"
        for settle in (with_its_precision, with_its_start):
            each = [settle(folders[0], config, request.start_over) for config in each]
        changes = [settle_config(folder, config, request.start_over) for folder, config in zip(folders, each)]
        stack.callback((world := open_world()).close)
        each, why = settle_precision(each, world.spec)
        config = each[0]
        algorithm = make_trainable(config, world.spec, request.networks, request.algorithm)
        logs = stack.enter_context(opened(folders, place.crew))
        shown = console if place.is_writer else Console(quiet=True)
        progress = stack.enter_context(Progress(config.run.frames, console=shown))
        resuming = _announce(progress, world, config, changes[0], folders, request)
        if automatic:
            progress.log(f"model.precision=auto: {config.model.precision}, {why}")
        loop = world.loop(
            Job(
                algorithm,
                [Run(*one) for one in zip(each, folders, logs)],
                progress,
                joined([*of_settings(config.run, len(each)), request.hooks]) if place.is_writer else Hooks(),
                place,
                _shared(each, world.spec, request),
            )
        )
        stack.callback(loop.close)
        _begin(loop, resuming, request)
        if place.is_writer:
            for one, folder in zip(each, folders):
                write_json(folder.config, configs.to_dict(one))
                write_spec(folder, world.spec, world.spaces)
        place.crew.kept = loop.kept
        progress.log("\n".join(block("training", header(loop, [folder.path for folder in folders]))))
        with session(loop), signals.saving(loop):
            evaluations = loop.run()
        place.crew.collect("the end of the run")
        if evaluations is None:
            progress.log(_how_to_resume(loop))
        found: list[Any] = [*evaluations] if evaluations else [None] * len(folders)
        return [
            Result(folder.path, evaluations is not None, evaluation, loop.state_of(index))
            for index, (folder, evaluation) in enumerate(zip(folders, found))
        ]


def _shared(each: Sequence[Config], spec: EnvSpec, request: Request) -> Algorithm | None:
    """The algorithm as each of several devices computes it on its part of a batch; None where one has all of it."""
    if request.placement.devices == 1 or len(each) > 1:  # seeds are shared out whole
        return None
    return shared_algorithm(each[0], spec, request.placement, request.networks, request.algorithm)


def _announce(
    progress: Progress,
    world: World,
    config: Config,
    changes: dict[str, tuple[Any, Any]],
    folders: Sequence[RunDir],
    request: Request,
) -> bool:
    """Say what is about to be trained; whether the folders hold a run to resume."""
    for key, (old, new) in changes.items():
        progress.log(f"changed since the run began: {key} {old} -> {new}")
    there = [] if request.start_over else [folder for folder in folders if checkpoint.steps(folder.checkpoints)]
    for folder in there:
        if note := check_spec(folder, world.spec):
            progress.log(note)
        check_loop(folder, world.name)
    if config.run.video and not world.can_render and config.env.id != configs.NO_ENV:
        hint = " (in gymnasium, set render_mode='rgb_array')" if config.env.backend in ("gym", "custom") else ""
        progress.log(f"no films are made: this environment cannot be drawn{hint}")
    if there and len(there) < len(folders):
        paths = ", ".join(str(folder.path) for folder in there)
        raise ConfigError(f"only some of the seeds have a run to resume: {paths}; choose another --logdir")
    return bool(there)


def _begin(loop: Loop, resuming: bool, request: Request) -> None:
    """Restore the run, or clear its folder for a new one; after this nothing is left that could refuse to start."""
    if resuming:
        try:
            loop.restore(request.drop_damaged_replay)
        except checkpoint.CheckpointDamaged as error:
            raise checkpoint.CheckpointDamaged(f"{error}. To delete the run and start over: --start-over") from error
    elif request.start is not None:
        begin_with(loop, request.start)
    elif loop.config.run.start:
        begin_with_run(loop, request.algorithm, request.networks)
    loop.crew.collect("the beginning of the run", seconds=3600)  # all have read what may be deleted below
    if not loop.placement.is_writer:
        return
    for run in loop.runs:
        run.metrics.add_sinks(make_sinks(request.sinks, run.rundir.path, loop.env_frames if resuming else None))
        run.metrics.settings(configs.fields(run.config))
    if not resuming:
        # Last, because a start that is refused must not have deleted anything. What is there is of a start that ended
        # before its first checkpoint, or is to be discarded.
        for run in loop.runs:
            run.rundir.clear()
            run.metrics.truncate(0)


def _how_to_resume(loop: Loop) -> str:
    if not loop.crew.alone:
        return f"stopped and saved at {loop.counted:,} frames; resume with the same command in every process"
    first, many = loop.runs[0].rundir.path, len(loop.runs)
    words = f"{shell_word(first.parent)} --seeds {many}" if many > 1 else shell_word(first)
    words += f" --devices {loop.placement.devices}" if loop.placement.devices > 1 else ""
    words += trust_word(loop.config.env)
    return f"stopped and saved at {loop.counted:,} frames; resume with: jaxdreamer train --logdir {words}"


def evaluate(
    rundir: RunDir,
    open_world: Callable[[Config], World],
    *,
    episodes: int | None,
    seed: int | None,
    film: bool,
    best: bool,
    mode: Acts,
    algorithm: Make | None,
    networks: Networks | None,
) -> Evaluation:
    """Play a checkpoint of a run; see :func:`jaxdreamer.evaluate_agent`."""
    config, spec = load_run(rundir.path)
    asked = {"seed": seed, "run.eval_episodes": episodes}
    asked_for = configs.replace(config, {key: value for key, value in asked.items() if value is not None})
    made = make_algorithm(config, spec, networks, make=algorithm)
    params, host, _ = checkpoint.restore_acting(checkpoints_of(rundir, best), made)
    warn_if_edited(rundir, config, host)

    def check(found: EnvSpec, can_render: bool) -> None:
        check_spec(rundir, found)
        if film and not can_render:
            raise ConfigError(
                "no film can be made: this environment cannot be drawn (in gymnasium, set "
                "render_mode='rgb_array'); evaluate it without one"
            )

    play = open_world(config).player(made.policy, check)
    return play(params, asked_for.run.eval_episodes, seed=asked_for.seed, film=film, mode=mode)
