"""Training and evaluating, as functions of a configuration and a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.agent.algorithm import Make
from jaxdreamer.config import NO_ENV, Config, ConfigError, EnvConfig
from jaxdreamer.devices import devices as visible_devices
from jaxdreamer.devices import keep_compiled
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.device.functional import FunctionalEnv
from jaxdreamer.envs.registry import backends, is_functional, located, make_functional
from jaxdreamer.envs.trust import refuse_untrusted
from jaxdreamer.nets.networks import Networks
from jaxdreamer.record import video
from jaxdreamer.record.progress import lasting
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.sinks import Sink
from jaxdreamer.record.stored import read_config
from jaxdreamer.train import run
from jaxdreamer.train.bench import Split, bench
from jaxdreamer.train.crew import ALONE, Crew
from jaxdreamer.train.device.world import DeviceWorld
from jaxdreamer.train.evaluate import Evaluation
from jaxdreamer.train.given import located_data
from jaxdreamer.train.hooks import Hooks
from jaxdreamer.train.host.no_world import NoWorld
from jaxdreamer.train.host.world import HostWorld
from jaxdreamer.train.run import Request, Result
from jaxdreamer.train.sharing import check_crew, placement_of, settle_shards
from jaxdreamer.train.stop import Signals
from jaxdreamer.types import TrainState

_MOST_SEEDS = 1000  # side by side in one program


def train_agent(
    config: Config,
    logdir: str | os.PathLike[str],
    *,
    make: Callable[[], Any] | FunctionalEnv | None = None,
    sinks: Iterable[str | Sink] = (),
    console: Console | None = None,
    start: str | os.PathLike[str] | TrainState | None = None,
    hooks: Hooks = Hooks(),  # noqa: B008 it is frozen
    algorithm: Make | None = None,
    networks: Networks | None = None,
    start_over: bool = False,
    drop_damaged_replay: bool = False,
    devices: int = 1,
    crew: Crew = ALONE,
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
        start: what a new run begins to learn from, instead of fresh parameters. The folder of a run of the same observations
            and actions: its weights, see ``run.start``, which this sets, and ``run.start_parts``. Or a train state, with its
            optimizers and counters, whose policy plays the prefill. A run that is resumed continues from its own.
        hooks: functions to call as the run goes on; see :class:`~jaxdreamer.train.hooks.Hooks`.
        algorithm: makes the algorithm from (config, spec, networks), instead of the one that ``config.algorithm`` names; see
            :class:`~jaxdreamer.agent.algorithm.Algorithm`. A resumed run needs it again.
        networks: for the algorithm, instead of those that ``config.model`` describes.
        start_over: begin anew where there is a run already; its checkpoints, metrics, replay and films are deleted.
        drop_damaged_replay: continue without those parts of the stored replay that are damaged or gone.
        devices: how many of jax's devices share the run out: its batches, and environments on the device. 0: all. Numbers
            in ``config`` are those of the whole run. To rounding it does not matter how many there are, and a run may be
            resumed on another number of them.
        crew: the processes that train it together, each on so many ``devices`` of its own, from
            :func:`~jaxdreamer.train.crew.start_crew`. All call this alike; the first writes, reports, and calls the hooks.

    Ctrl-C, SIGTERM or a closed terminal ends the run after the current step with a checkpoint; a second Ctrl-C leaves at
    once, with the newest checkpoint as it is, and ends a process that cannot leave within seconds. In another thread than
    the main one, signals are left alone.

    Raises:
        ConfigError: settings that cannot be, or that differ from the run's where they must not.
        Diverged: 20 updates in a row were not finite. CrewLost, CrewLate: another process has ended, or did not come.
    """
    keep_compiled()
    if make is not None:
        config = configs.replace(config, {"env.backend": "custom"})  # or env.id would claim to be what is trained on
    config, state = _begun(_settled(config, make), start)
    with crew.together():
        placement, folders, on_device = placement_of(devices, crew), [RunDir(logdir)], _is_on_device(config, make)
        check_crew(crew, config, on_device=on_device)
        config = settle_shards(config, folders, placement, on_device=on_device, start_over=start_over)
        asked = (tuple(sinks), console, hooks, state, start_over, drop_damaged_replay, algorithm, networks, placement)
        return run.train(lambda: _world(config, make, crew), [config], folders, Request(*asked))[0]


def train_seeds(
    config: Config,
    logdir: str | os.PathLike[str],
    seeds: int,
    *,
    make: FunctionalEnv | None = None,
    sinks: Iterable[str] = (),
    console: Console | None = None,
    hooks: Hooks = Hooks(),  # noqa: B008 it is frozen
    algorithm: Make | None = None,
    networks: Networks | None = None,
    start_over: bool = False,
    devices: int = 1,
) -> list[Result]:
    """Train ``seeds`` agents in one compiled program: seeds ``config.seed``, ``config.seed + 1``, ...

    Each writes a run of its own to ``logdir/seed-N``, with the numbers (to rounding) that it would have alone; all are
    resumed together, or each alone from its folder. Needs an environment of pure functions. Several ``devices`` share the
    seeds out. Otherwise as :func:`train_agent`.
    """
    placement = placement_of(devices)
    keep_compiled()
    world, each = _side_by_side(config, seeds, make)
    folders = [RunDir(Path(logdir) / f"seed-{one.seed}") for one in each]
    settled = settle_shards(each[0], folders, placement, on_device=True, start_over=start_over)
    each = [configs.replace(one, {"replay.shards": settled.replay.shards}) for one in each]
    request = Request(
        tuple(sinks), console, hooks, None, start_over, algorithm=algorithm, networks=networks, placement=placement
    )
    return run.train(lambda: world, each, folders, request)


def _side_by_side(config: Config, seeds: int, make: FunctionalEnv | None = None) -> tuple[DeviceWorld, list[Config]]:
    """Where so many seeds are trained in one program, and the configuration of each."""
    if not 1 <= seeds <= _MOST_SEEDS:
        raise ConfigError(f"seeds must be 1 to {_MOST_SEEDS}, found {seeds}")
    if make is not None:
        config = configs.replace(config, {"env.backend": "custom"})
    world = _world(config, make)
    if not isinstance(world, DeviceWorld):
        raise ConfigError(
            f"seeds side by side need an environment of pure functions on the device, but env.backend={config.env.backend} "
            "steps its environments on the host: start a run for each seed instead (--seed N)"
        )
    return world, [configs.replace(config, {"seed": config.seed + index}) for index in range(seeds)]


def bench_agent(config: Config, *, seeds: int = 0, seconds: float = 20.0, console: Console | None = None) -> Split:
    """Time what training as ``config`` says is made of, for about ``seconds`` after warming up; nothing is kept.

    ``seeds``: side by side, as for :func:`train_seeds`; 0: one alone, as for :func:`train_agent`.
    """
    visible_devices()
    keep_compiled()
    config = replace(config, env=located(config.env))
    if not seeds:
        return bench(lambda: _world(config, None), [config], seconds=seconds, console=console)
    world, each = _side_by_side(config, seeds)
    return bench(lambda: world, each, seconds=seconds, console=console)


def evaluate_agent(
    logdir: str | os.PathLike[str],
    *,
    episodes: int | None = None,
    seed: int | None = None,
    make: Callable[[], Any] | FunctionalEnv | None = None,
    film: str | os.PathLike[str] | None = None,
    best: bool = False,
    sample: bool = False,
    trust: bool = False,
    algorithm: Make | None = None,
    networks: Networks | None = None,
) -> Evaluation:
    """Play the newest checkpoint of a run without exploration.

    With the default seed and number of episodes the result is that of the run's own evaluation of these parameters.

    Args:
        logdir: of the run.
        episodes: how many; the run's ``run.eval_episodes`` by default.
        seed: of the environments; the run's own by default.
        make, algorithm, networks: as for :func:`train_agent`.
        film: save a film of the first episode there (.gif, or .mp4 with the extra ``video``).
        best: play the checkpoint that ``run.keep_best`` kept instead.
        sample: act by samples of the policy, as the published scores of V3 do, instead of by its most likely actions.
        trust: let the run's configuration import modules and start programs that are not jaxdreamer's, where it names some.

    Raises:
        Untrusted: it names some and ``trust`` is off; the message says which. Nothing of them was run.
    """
    if film is not None and Path(film).suffix not in (".gif", ".mp4"):
        raise ConfigError(f"a film is .gif or .mp4, found {film}")
    visible_devices()
    keep_compiled()
    rundir = RunDir(logdir)
    if make is None and not trust:
        refuse_untrusted(read_config(rundir).env, rundir.config)
    with Signals(lasting()):
        evaluation = run.evaluate(
            rundir,
            lambda config: _world(config, make),
            episodes=episodes,
            seed=seed,
            film=film is not None,
            best=best,
            mode="sample" if sample else "greedy",
            algorithm=algorithm,
            networks=networks,
        )
    if film is not None:
        if evaluation.frames is None:
            raise EnvError(f"{film} was not written: drawing the environment failed (see above)")
        video.save_video(film, evaluation.frames, evaluation.frame_rate)
    return evaluation


def _begun(config: Config, start: str | os.PathLike[str] | TrainState | None) -> tuple[Config, TrainState | None]:
    """Where a run begins, as a setting or as a train state."""
    if isinstance(start, str | os.PathLike):
        return configs.replace(config, {"run.start": os.fspath(start)}), None
    if start is not None and config.run.start:
        raise ConfigError(f"start: a train state is given, and run.start is {config.run.start!r}: use one of the two")
    return config, start


def _settled(config: Config, make: Any) -> Config:
    """The configuration with absolute paths, and with all of the budget offline where there is no environment."""
    if config.env.id == NO_ENV and make is None:
        config = configs.replace(config, {"run.offline": -(-config.run.frames // config.env.action_repeat)})
    data = located_data(config.replay.data)
    return replace(config, env=located(config.env), replay=replace(config.replay, data=data))


def _is_on_device(config: Config, make: Any) -> bool:
    """Whether :func:`_world` steps environments on the device."""
    if isinstance(make, FunctionalEnv):
        return True
    return make is None and config.env.id != NO_ENV and config.run.loop != "host" and is_functional(config.env)


def _world(config: Config, make: Any, crew: Crew = ALONE) -> HostWorld | DeviceWorld | NoWorld:
    """On the device where the environment is made of pure functions and the host is not asked for."""
    if config.env.id == NO_ENV and make is None:
        return NoWorld(config)
    if isinstance(make, FunctionalEnv):
        _refuse_data(config)
        if config.run.loop == "host":
            raise ConfigError(
                "run.loop=host: give make=... as a function that returns envs.hosted.host(env, config.env)"
            )
        return DeviceWorld(config, make)
    if _is_on_device(config, make):
        _refuse_host_settings(config.env)
        _refuse_data(config)
        return DeviceWorld(config, make_functional(config.env))
    if config.run.loop == "device" and (make is not None or config.env.backend != "custom"):
        raise ConfigError(
            f"run.loop=device needs an environment of pure functions (env.backend={' or '.join(backends('device'))}), found "
            f"env.backend={config.env.backend}"
        )
    return HostWorld(config, make, crew)


def _refuse_data(config: Config) -> None:
    for key, value in {"data": config.replay.data, "on_disk": config.replay.on_disk}.items():
        if value:
            raise ConfigError(
                f"replay.{key}={value} is for the loop on the host, but this environment is trained on the device: set "
                "run.loop=host"
            )


def _refuse_host_settings(env: EnvConfig) -> None:
    for name in ("exclude", "workers"):
        if getattr(env, name) != getattr(EnvConfig, name):
            raise ConfigError(
                f"env.{name}={getattr(env, name)} is for environments stepped on the host, but env.backend={env.backend} "
                "is trained on the device: leave it out, or set run.loop=host"
            )
