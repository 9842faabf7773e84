"""A whole run: open or resume its folder, train, evaluate, say what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.config import Config, ConfigError, EnvConfig
from jaxdreamer.devices import devices, keep_compiled
from jaxdreamer.envs.base import EnvError, VectorEnv
from jaxdreamer.envs.device.functional import FunctionalEnv
from jaxdreamer.envs.registry import backends, is_functional, located, make_functional, make_vector
from jaxdreamer.envs.trust import refuse_untrusted, trust_word
from jaxdreamer.files import shell_word
from jaxdreamer.record import checkpoint, video
from jaxdreamer.record.metrics import MetricsLog, Sink, make_sinks
from jaxdreamer.record.progress import Progress, lasting
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.stored import warn_if_edited
from jaxdreamer.saving import write_json
from jaxdreamer.train.device.trainer import DeviceTrainer, Run
from jaxdreamer.train.evaluate import Evaluation, make_device_evaluate, make_evaluate
from jaxdreamer.train.folder import check_loop, check_spec, describe, load_run, settle_config, write_spec
from jaxdreamer.train.host.trainer import HostTrainer, check_trainable
from jaxdreamer.train.stop import Signals
from jaxdreamer.types import EnvSpec, TrainState

_MOST_SEEDS = 1000  # side by side in one program


@dataclass(frozen=True)
class Result:
    """What a call of :func:`train_agent` came to."""

    logdir: Path
    finished: bool
    """False where it was stopped before its budget was spent; the same call again goes on."""
    evaluation: Evaluation | None
    """The final evaluation of a finished run."""
    state: TrainState
    """What was learned: parameters, target critic, optimizers, counters."""


def train_agent(
    config: Config,
    logdir: str | os.PathLike[str],
    *,
    make: Callable[[], Any] | FunctionalEnv | None = None,
    sinks: Iterable[str | Sink] = (),
    console: Console | None = None,
    start: TrainState | None = None,
    on_save: Callable[[TrainState, int], None] | None = None,
    start_over: bool = False,
    drop_damaged_replay: bool = False,
) -> Result:
    """Train as ``config`` says, writing to ``logdir``; a folder that holds a run already is resumed.

    Args:
        config: see :func:`jaxdreamer.config.preset`.
        logdir: made if need be. Where it holds a run, settings that differ are shown by name, and applied or refused.
        make: makes one environment, instead of ``config.env.id``: another one at each call, gymnasium's (wrapped as
            ``config.env`` says) or the library's. Or pure functions,
            :class:`~jaxdreamer.envs.device.functional.FunctionalEnv`, which are trained on the device.
        sinks: further places for metrics: ``"tensorboard"``, ``"wandb"``, or objects with a sink's methods
            (:class:`jaxdreamer.record.metrics.Sink`).
        console: where to report; standard error by default.
        start: what a new run begins to learn from, instead of fresh parameters; its prefill is then played by this policy.
            A run that is resumed goes on with its own.
        on_save: called with the train state and the env frames so far after each checkpoint, the last one included. The
            state's arrays are the caller's to read until it returns.
        start_over: begin anew where there is a run already; its checkpoints, metrics, replay and films are deleted.
        drop_damaged_replay: go on without those parts of the stored replay that are damaged or gone.

    Ctrl-C, SIGTERM or a closed terminal ends the run after the current step with a checkpoint; a second Ctrl-C leaves at
    once, with the newest checkpoint as it is, and ends a process that cannot leave within seconds. In another thread than
    the main one, signals are left alone.

    Raises:
        ConfigError: settings that cannot be, or that differ from the run's where they must not.
        Diverged: 20 updates in a row were not finite.
    """
    devices()
    keep_compiled()
    if make is not None:
        config = configs.replace(config, {"env.backend": "custom"})  # or env.id would claim to be what is trained on
    entry = _Entry(start, on_save, start_over, drop_damaged_replay)
    config = dataclasses.replace(config, env=located(config.env))
    with Signals(console := lasting(console)) as signals:
        pure = _pure(config, make)
        if pure is not None:
            return _on_device([config], [RunDir(logdir)], pure, sinks, console, signals, entry)[0]
        assert not isinstance(make, FunctionalEnv)
        return _on_host(config, RunDir(logdir), make, sinks, console, signals, entry)


def train_seeds(
    config: Config,
    logdir: str | os.PathLike[str],
    seeds: int,
    *,
    make: FunctionalEnv | None = None,
    sinks: Iterable[str] = (),
    console: Console | None = None,
    start_over: bool = False,
) -> list[Result]:
    """Train ``seeds`` agents in one compiled program: seeds ``config.seed``, ``config.seed + 1``, ...

    Each writes a run of its own to ``logdir/seed-N``, with the numbers (to rounding) that it would have alone; all are
    resumed together, or each alone from its folder. Needs an environment of pure functions. Otherwise as
    :func:`train_agent`.
    """
    devices()
    keep_compiled()
    if not 1 <= seeds <= _MOST_SEEDS:
        raise ConfigError(f"seeds must be 1 to {_MOST_SEEDS}, found {seeds}")
    if make is not None:
        config = configs.replace(config, {"env.backend": "custom"})
    pure = _pure(config, make)
    if pure is None:
        raise ConfigError(
            f"seeds side by side need an environment of pure functions on the device, but env.backend={config.env.backend} "
            "steps its environments on the host: start a run for each seed instead (--seed N)"
        )
    each = [configs.replace(config, {"seed": config.seed + index}) for index in range(seeds)]
    folders = [RunDir(Path(logdir) / f"seed-{one.seed}") for one in each]
    with Signals(console := lasting(console)) as signals:
        return _on_device(each, folders, pure, sinks, console, signals, _Entry(start_over=start_over))


def _pure(config: Config, make: Any) -> FunctionalEnv | None:
    """The environment as pure functions, where it has them and the device is not ruled out."""
    if isinstance(make, FunctionalEnv):
        if config.run.loop == "host":
            raise ConfigError(
                "run.loop=host: give make=... as a function that returns envs.hosted.host(env, config.env)"
            )
        return make
    if make is None and config.run.loop != "host" and is_functional(config.env):
        _refuse_host_settings(config.env)
        return make_functional(config.env)
    if config.run.loop == "device" and (make is not None or config.env.backend != "custom"):
        raise ConfigError(
            f"run.loop=device needs an environment of pure functions (env.backend={' or '.join(backends('device'))}), found "
            f"env.backend={config.env.backend}"
        )
    return None


def _refuse_host_settings(env: EnvConfig) -> None:
    for name in ("exclude", "workers"):
        if getattr(env, name) != getattr(EnvConfig, name):
            raise ConfigError(
                f"env.{name}={getattr(env, name)} is for environments stepped on the host, but env.backend={env.backend} "
                "is trained on the device: leave it out, or set run.loop=host"
            )


def _on_host(
    config: Config,
    rundir: RunDir,
    make: Callable[[], Any] | None,
    sinks: Iterable[str | Sink],
    console: Console,
    signals: Signals,
    entry: _Entry,
) -> Result:
    config, changes = settle_config(rundir, config, entry.start_over)

    def make_envs(count: int, seed: int) -> VectorEnv:
        return make_vector(config.env, count, seed, make=make)

    envs = make_vector(config.env, config.env.num_envs, config.seed, make=make, apart=True)
    trainer = None
    try:
        check_trainable(config, envs.spec)
        with rundir, Progress(config.run.frames, console=console) as progress:
            resuming = _announce(progress, changes, rundir, envs.spec, "host", entry)
            _say_what_is_not_done(progress, config, can_render=envs.can_render)
            with MetricsLog(rundir.metrics) as metrics:
                trainer = HostTrainer(config, envs, make_envs, rundir, metrics, progress)
                _begin(trainer, resuming, entry, [rundir], [metrics], sinks)
                write_json(rundir.config, configs.to_dict(config))
                write_spec(rundir, envs.spec, envs.spaces)
                for line in trainer.header(trainer.state.params, str(rundir.path)):
                    progress.log(line)
                with signals.saving(trainer):
                    evaluation = trainer.run()
                if evaluation is None:
                    _say_stopped(progress, trainer, shell_word(rundir.path))
                return Result(rundir.path, evaluation is not None, evaluation, trainer.state)
    finally:
        (trainer or envs).close()


def _on_device(
    each: list[Config],
    folders: list[RunDir],
    env: FunctionalEnv,
    sinks: Iterable[str | Sink],
    console: Console,
    signals: Signals,
    entry: _Entry,
) -> list[Result]:
    """Each seed's run in its folder, together."""
    sinks = list(sinks)
    settled = [settle_config(rundir, config, entry.start_over) for rundir, config in zip(folders, each)]
    each = [config for config, _ in settled]
    config = each[0]
    check_trainable(config, env.spec)
    with contextlib.ExitStack() as stack:
        for rundir in folders:
            stack.enter_context(rundir)
        progress = stack.enter_context(Progress(config.run.frames, console=console))
        resuming = [
            _announce(progress, settled[i][1], folders[i], env.spec, "device", entry, aloud=i == 0)
            for i in range(len(folders))
        ]
        _say_what_is_not_done(progress, config, can_render=env.render is not None, bounded=True)
        if len(set(resuming)) > 1:
            there = ", ".join(str(rundir.path) for rundir, holds in zip(folders, resuming) if holds)
            raise ConfigError(f"only some of the seeds have a run to resume: {there}; choose another --logdir")
        logs = [stack.enter_context(MetricsLog(rundir.metrics)) for rundir in folders]
        runs = [Run(one.seed, rundir, log) for one, rundir, log in zip(each, folders, logs)]
        trainer = DeviceTrainer(config, env, runs, progress)
        _begin(trainer, resuming[0], entry, folders, logs, sinks)
        for one, rundir in zip(each, folders):
            write_json(rundir.config, configs.to_dict(one))
            write_spec(rundir, env.spec, None)
        for line in trainer.header(trainer.state.params, ", ".join(str(rundir.path) for rundir in folders)):
            progress.log(line)
        with signals.saving(trainer):
            evaluations = trainer.run()
        if evaluations is None:
            first, many = folders[0].path, len(folders)
            quoted = shell_word(first.parent if many > 1 else first)
            _say_stopped(progress, trainer, f"{quoted} --seeds {many}" if many > 1 else quoted)
        states = [trainer.state_of(index) for index in range(len(folders))]
        found: list[Any] = list(evaluations) if evaluations else [None] * len(folders)
        return [
            Result(rundir.path, evaluation is not None, evaluation, state)
            for rundir, evaluation, state in zip(folders, found, states)
        ]


class _Entry(NamedTuple):
    """How a call comes to its run; see :func:`train_agent`."""

    start: TrainState | None = None
    on_save: Callable[[TrainState, int], None] | None = None
    start_over: bool = False
    drop_damaged_replay: bool = False


def _announce(
    progress: Progress,
    changes: dict[str, tuple[Any, Any]],
    rundir: RunDir,
    spec: EnvSpec,
    loop: str,
    entry: _Entry,
    aloud: bool = True,
) -> bool:
    """Say what is about to be trained; whether the folder holds a run to go on with."""
    if aloud:
        for key, (old, new) in changes.items():
            progress.log(f"changed since the run began: {key} {old} -> {new}")
    resuming = bool(checkpoint.steps(rundir.checkpoints)) and not entry.start_over
    if resuming:
        if told := check_spec(rundir, spec):
            progress.log(told)
        check_loop(rundir, loop)
    if aloud:
        for line in describe(spec):
            progress.log(line)
    return resuming


def _say_what_is_not_done(progress: Progress, config: Config, *, can_render: bool, bounded: bool = False) -> None:
    """Settings that this environment leaves without effect; ``bounded``: all of its actions have bounds."""
    if config.run.video and not can_render:
        progress.log("no films are made: this environment cannot be drawn (in gymnasium, set render_mode='rgb_array')")
    if config.env.action_bound and bounded:
        progress.log(f"env.action_bound={config.env.action_bound:g} is not used: every action has bounds of its own")


def _begin(
    trainer: HostTrainer | DeviceTrainer,
    resuming: bool,
    entry: _Entry,
    folders: Sequence[RunDir],
    logs: Sequence[MetricsLog],
    sinks: Iterable[str | Sink],
) -> None:
    """Restore the run, or clear its folder for a new one; after this nothing is left that could refuse to start."""
    trainer.on_save = entry.on_save
    if resuming:
        try:
            trainer.restore(entry.drop_damaged_replay)
        except checkpoint.CheckpointDamaged as error:
            raise checkpoint.CheckpointDamaged(f"{error}. To delete the run and start over: --start-over") from error
    elif entry.start is not None:
        trainer.begin_with(entry.start)
    for rundir, metrics in zip(folders, logs):
        metrics.add_sinks(make_sinks(sinks, rundir.path, trainer.env_frames if resuming else None))
    if not resuming:
        # Last, because a start that is refused must not have deleted anything. What is there comes from a start that
        # never came to a checkpoint, or is to be discarded.
        for rundir, metrics in zip(folders, logs):
            rundir.clear()
            metrics.truncate(0)


def _say_stopped(progress: Progress, trainer: HostTrainer | DeviceTrainer, words: str) -> None:
    words += trust_word(trainer.config.env)
    progress.log(f"stopped and saved at {trainer.counted:,} frames; resume with: jaxdreamer train --logdir {words}")


def evaluate_agent(
    logdir: str | os.PathLike[str],
    *,
    episodes: int | None = None,
    seed: int | None = None,
    make: Callable[[], Any] | FunctionalEnv | None = None,
    film: str | os.PathLike[str] | None = None,
    trust: bool = False,
) -> Evaluation:
    """Play the newest checkpoint of a run without exploration.

    With the default seed and number of episodes the result is that of the run's own evaluation of these parameters.

    Args:
        logdir: of the run.
        episodes: how many; the run's ``run.eval_episodes`` by default.
        seed: of the environments; the run's own by default.
        make: as for :func:`train_agent`.
        film: save a film of the first episode there (.gif, or .mp4 with the extra ``video``).
        trust: let the run's configuration import modules and start programs that are not jaxdreamer's, where it names some.

    Raises:
        Untrusted: it names some and ``trust`` is off; the message says which. Nothing of them was run.
    """
    if film is not None and Path(film).suffix not in (".gif", ".mp4"):
        raise ConfigError(f"a film is .gif or .mp4, found {film}")
    devices()
    keep_compiled()
    config, spec = load_run(logdir)
    if make is None and not trust:
        refuse_untrusted(config.env, RunDir(logdir).config)
    with Signals(lasting()):
        evaluation = _evaluate(RunDir(logdir), config, spec, episodes, seed, make, film is not None)
    if film is not None:
        if evaluation.frames is None:
            raise EnvError(f"{film} was not written: drawing the environment failed (see above)")
        video.save_video(film, evaluation.frames, evaluation.frame_rate)
    return evaluation


def _evaluate(
    rundir: RunDir, config: Config, spec: EnvSpec, episodes: int | None, seed: int | None, make: Any, film: bool
) -> Evaluation:
    algorithm = make_algorithm(config, spec)
    asked = {"seed": seed, "run.eval_episodes": episodes}
    asked_for = configs.replace(config, {key: value for key, value in asked.items() if value is not None})
    seed, episodes = asked_for.seed, asked_for.run.eval_episodes
    params, host, _ = checkpoint.restore_acting(rundir.checkpoints, algorithm)
    warn_if_edited(rundir, config, host)

    policy = algorithm.policy
    pure = _pure(config, make)
    if pure is not None:
        check_spec(rundir, pure.spec)
        _check_film(film, pure.render is not None)
        return make_device_evaluate(config, pure, policy)(params, episodes, seed=seed, film=film)

    def make_envs(count: int, env_seed: int) -> VectorEnv:
        envs = make_vector(config.env, count, env_seed, make=make)
        try:
            check_spec(rundir, envs.spec)
            _check_film(film, envs.can_render)
        except BaseException:
            envs.close()
            raise
        return envs

    key = jax.random.split(jax.random.key(config.seed), 3)[2]
    return make_evaluate(policy)(params, make_envs, episodes, seed=seed, key=key, film=film)


def _check_film(wanted: bool, can_render: bool) -> None:
    if wanted and not can_render:
        raise ConfigError(
            "no film can be made: this environment cannot be drawn (in gymnasium, set "
            "render_mode='rgb_array'); evaluate it without one"
        )
