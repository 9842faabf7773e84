"""Gymnasium environments by id."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jaxdreamer.config import ConfigError, DrawingOptions, EnvConfig, MissingExtra, nearest
from jaxdreamer.config.settings import setting
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.host import atari, plugins
from jaxdreamer.envs.host.agent_env import AgentEnv
from jaxdreamer.envs.host.instance import wrap
from jaxdreamer.envs.host.libraries import missing_extras, registered_versions, warnings_logged
from jaxdreamer.envs.host.outcome import reporting
from jaxdreamer.envs.interpreter.environment import InterpreterEnv
from jaxdreamer.envs.named import imported_module
from jaxdreamer.families import Backend

logger = logging.getLogger(__name__)


MODEL_SUFFIXES = (".xml", ".mjcf", ".urdf", ".mjb")
"""What the file of a MuJoCo model ends in, in any case."""


@dataclass(frozen=True)
class PhysicsOptions(DrawingOptions):
    """How Gymnasium's MuJoCo tasks, and those of Gymnasium-Robotics, are made."""

    frame_skip: int = setting(0, 0, 1_000_000)
    """MuJoCo physics steps per simulator step. 0: the task's own; 1 for a model of your own."""
    reset_noise: float = 0.0
    """Scale of the noise on a MuJoCo task's first state. 0: the task's own; none for a model of your own."""


@dataclass(frozen=True)
class GymOptions(PhysicsOptions, atari.AtariOptions):
    """Environments by the ids of gymnasium or old gym."""

    python: str = setting("", free=True, path="command", runs="start the program")
    """The interpreter that each environment runs in, in a process of its own, for packages that do not fit beside this
    one's. It needs numpy, and gymnasium or gym. Empty: this one."""


def make_by_id(config: EnvConfig) -> AgentEnv:
    """The environment that :func:`make` makes of ``config``, here or in the interpreter ``env.python``.

    There an id may be ``module:function``, too, a function that returns an environment.
    """
    if not config.options.python:
        return make(config)
    if config.id.startswith("ALE/"):
        raise ConfigError(
            f"env.python: {config.id} is one of Atari's games, which this interpreter plays: leave it out"
        )
    atari.refuse_options(config)
    env = InterpreterEnv(
        config.options.python,
        config.id,
        options=_asked(config.options),
        time_limit=config.time_limit * config.action_repeat,
        seconds=config.worker_timeout,
    )
    return _wrapped(env, config)


def make(config: EnvConfig) -> AgentEnv:
    """The environment registered with gymnasium as ``config.id``; ``module:Name-v0`` imports the module first.

    Atari's games are played as :mod:`jaxdreamer.envs.host.atari` says. ``config.time_limit`` > 0 replaces the limit the
    id is registered with. Raises ConfigError for an unknown id, with the nearest known ones, MissingExtra where a library
    is missing, SpaceError for spaces that cannot be used.
    """
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    if is_model(config.id):
        raise ConfigError(f"env.id: {config.id[:100]!r} is a MuJoCo model: set env.backend=mujoco")
    with missing_extras(config.id), warnings_logged():
        try:
            spec = _find(config.id)
            creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
            options: dict[str, Any] = {"disable_env_checker": True}
            if "rgb_array" in ((getattr(creator, "metadata", None) or {}).get("render_modes") or ()):
                options["render_mode"] = "rgb_array"  # costs nothing until a frame is asked for
            game = atari.is_game(spec)
            options |= _game_arguments(spec, config) if game else _arguments(config)
            env = _make(spec, options, config)
        except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
            space = config.id.partition("/")[0] + "/" if "/" in config.id else ""
            hint = nearest(config.id, [key for key in gymnasium.registry if key.startswith(space)])
            raise ConfigError(f"env.id: gymnasium knows no environment {config.id!r}{hint}: {error}") from error
        except gymnasium.error.DependencyNotInstalled:
            raise
        except gymnasium.error.Error as error:
            raise ConfigError(f"env.id: gymnasium cannot make {config.id!r}: {error}") from error
    return _wrapped(env, config, game)


def _asked(own: PhysicsOptions) -> dict[str, Any]:
    """The keywords that settings add to what a task is made with."""
    given = {"frame_skip": own.frame_skip, "reset_noise_scale": own.reset_noise}
    return {name: value for name, value in given.items() if value > 0}


def _wrapped(env: Any, config: EnvConfig, game: bool = False) -> AgentEnv:
    try:
        return atari.preprocessed(env, config) if game else wrap(env, config)
    except BaseException:
        env.close()
        raise


def _arguments(config: EnvConfig) -> dict[str, Any]:
    """What gymnasium makes a task with that is no game."""
    atari.refuse_options(config)
    limit = {"max_episode_steps": config.time_limit * config.action_repeat} if config.time_limit > 0 else {}
    return limit | _asked(config.options)


def _game_arguments(spec: Any, config: EnvConfig) -> dict[str, Any]:
    """What gymnasium makes a game with."""
    if not isinstance(config.options, atari.AtariOptions):
        raise ConfigError(f"env.id: {config.id} is one of Atari's games: set env.backend=gym")
    skipped = spec.kwargs.get("frameskip", 1)
    if config.action_repeat == 1 != skipped:
        _warn_once(
            f"{config.id} would hold an action for {skipped} frames by itself, here it is env.action_repeat=1; agents are "
            "compared at env.action_repeat=4"
        )
    return atari.arguments(config)


def is_model(text: str) -> bool:
    """Whether an ``env.id`` is a MuJoCo model, its XML or the path of its file, instead of a task's id."""
    return text.lstrip().startswith("<") or text.lower().endswith(MODEL_SUFFIXES)


def runs(name: str) -> str:
    """What making the task of an id does that needs trust."""
    module = name.rpartition(":")[0]
    return f"import the module {module!r}" if module else ""


def tasks() -> list[str]:
    """Every id that gymnasium knows, and Atari's games where they are installed."""
    import gymnasium

    with suppress(MissingExtra):
        plugins.provide("ALE/")
    return sorted(gymnasium.registry)


def _find(name: str) -> Any:
    """gymnasium's spec of an id; without a version, of the newest. MuJoCo's dead v2 and v3 become v4."""
    import gymnasium

    module, _, name = name.rpartition(":")
    if module:
        imported_module("env.id", module)
    registered = gymnasium.registry
    if name not in registered and not any(key.startswith(f"{name}-v") for key in registered):
        plugins.provide(name)
    if versions := registered_versions(name):
        name = f"{name}-v{max(versions)}"
    newer = successor(name)
    if newer:
        _warn_once(f"{name} needs mujoco-py, which is no longer maintained; making {newer}, the same task")
        name = newer
    return gymnasium.spec(name)


def successor(name: str) -> str:
    """The id that is the same task as a MuJoCo ``-v2`` or ``-v3`` id, which needs dead bindings; else nothing.

    v4 is v3 on today's bindings, with the same reward; v2 differs from v3 in options of its constructor only.
    """
    import gymnasium

    registered = gymnasium.registry
    match = re.fullmatch(r"(.+)-v[23]", name)
    newer = f"{match.group(1)}-v4" if match else ""
    if name not in registered or newer not in registered:
        return ""
    entry = registered[name].entry_point
    return newer if "mujoco" in (entry if isinstance(entry, str) else getattr(entry, "__name__", "")) else ""


def _make(spec: Any, options: dict[str, Any], config: EnvConfig) -> Any:
    import gymnasium

    try:
        with reporting(f"making {config.id}", gymnasium.error.Error, ImportError, TypeError):
            return gymnasium.make(spec, **options)
    except TypeError as error:
        asked = {"frame_skip": "env.frame_skip", "reset_noise_scale": "env.reset_noise"}
        refused = [name for key, name in asked.items() if key in options and key in str(error)]
        if not refused:
            raise EnvError(f"making {config.id} raised TypeError: {error}") from error
        raise ConfigError(
            f"{refused[0]}: {config.id} does not let it be chosen ({error}); leave it out, or use the newest version of "
            "the task; env.action_repeat holds an action for several steps of any task"
        ) from error


_told: set[str] = set()


def _warn_once(message: str) -> None:
    """Several lanes of one task have one thing to say."""
    if message not in _told:
        _told.add(message)
        logger.warning(message)


BACKEND = Backend(
    "gym",
    make_by_id,
    tasks=tasks,
    aliases=("gymnasium",),
    options=GymOptions,
    extra="classic",
    libraries=("gymnasium", "ale-py"),
    sample="Pendulum-v1",
    more_samples=("ALE/Pong-v5",),
    runs=runs,
)
