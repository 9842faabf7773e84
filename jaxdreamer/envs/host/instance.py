"""Ready instances: gymnasium's, or old gym's with its 4-tuple step, as the library's environments.

How an episode's end is mapped: gymnasium's ``terminated`` is terminal, ``truncated`` alone is not. An old 4-tuple's
``done`` is terminal unless ``info["TimeLimit.truncated"]`` is true.
"""

from __future__ import annotations

import inspect
import logging
import reprlib
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from jaxdreamer.config import ConfigError, DrawingOptions, EnvConfig
from jaxdreamer.envs.base import Env, EnvError, SpaceError
from jaxdreamer.envs.host.actions import ActionMap
from jaxdreamer.envs.host.agent_env import AgentEnv
from jaxdreamer.envs.host.drawing.render import drawer_of
from jaxdreamer.envs.host.images import resize, to_rgb
from jaxdreamer.envs.host.libraries import missing_extras, warnings_logged
from jaxdreamer.envs.host.observations import ObservationMap, found
from jaxdreamer.envs.host.outcome import episode_metrics_of, flag_of, name_of, reporting, reward_of
from jaxdreamer.envs.host.spaces import understood
from jaxdreamer.envs.interpreter import gym_api
from jaxdreamer.types import ArraySpec, EnvSpec, Observation

logger = logging.getLogger(__name__)

_RENDER_HELP = "make it with render_mode='rgb_array', for example gymnasium.make(id, render_mode='rgb_array')"
_DEFAULT_FRAME_RATE = 30.0


def wrap(env: Any, config: EnvConfig | None = None) -> AgentEnv:
    """A ready environment instance as the library's, seen and stepped as ``config`` says (its id is not used).

    ``env`` is gymnasium's, or anything with its or old gym's ``reset``, ``step`` and spaces; gym itself is never
    imported. The instance belongs to the result from here on: closing the result closes it.
    """
    config = EnvConfig() if config is None else config
    with reporting(f"looking at {name_of(env)}"):  # spaces may be properties
        _check_is_environment(env)
    simulator = GymnasiumSimulator(env, config)
    return AgentEnv(simulator, action_repeat=config.action_repeat, time_limit=config.time_limit)


def as_env(made: Any, config: EnvConfig | None = None) -> Env:
    """The result of a user's function: one of the library's environments unchanged, any other one wrapped.

    ConfigError for anything else.
    """
    if not isinstance(getattr(made, "spec", None), EnvSpec):
        return wrap(made, config)
    if not hasattr(made, "close"):  # as FunctionalEnv, which is none
        raise ConfigError(
            f"expected an environment that is reset and stepped, found {type(made).__name__}: pure functions are given "
            "themselves as make=..., or by a function that returns envs.hosted.host(env, config)"
        )
    return made


def innermost(env: Any) -> Any:
    """The innermost instance of an environment, without the library's and gymnasium's wrappers."""
    simulator = getattr(env, "simulator", None)
    inner = simulator.instance if isinstance(simulator, GymnasiumSimulator) else env
    return getattr(inner, "unwrapped", inner)


def check_apart(envs: Sequence[Env]) -> None:
    """ConfigError where two environments are one instance."""
    seen = {id(innermost(env)) for env in envs}
    if len(seen) < len(envs):
        raise ConfigError(
            f"{name_of(innermost(envs[-1]))} was given twice, but each lane and each evaluation needs its own "
            "instance: make it inside the function, as in make=lambda: MyEnv()"
        )


def _check_is_environment(env: Any) -> None:
    """ConfigError, with what to give instead, for what cannot be wrapped."""
    name = reprlib.repr(env)
    if env is None:
        raise ConfigError("expected an environment, found None; is a `return` missing in the function that makes it?")
    if isinstance(env, type) or inspect.isfunction(env):
        raise ConfigError(f"expected an environment, found {name}, which makes one: call it, as in {env.__name__}()")
    if isinstance(getattr(env, "spec", None), EnvSpec):
        raise ConfigError(f"{name} is already one of jaxdreamer's environments: use it as it is")
    if hasattr(env, "single_observation_space"):
        raise ConfigError(
            f"{name} holds several environments, but each lane needs its own: make a single one, as in "
            "gymnasium.make(id) instead of gymnasium.make_vec(id), and set env.num_envs, or give VectorEnv a list of "
            "functions that each make one"
        )
    if hasattr(env, "possible_agents"):
        raise ConfigError(f"{name} has several agents, but one is expected: wrap it so that only one of them is seen")
    lacking = [part for part in ("observation_space", "action_space", "reset", "step") if not hasattr(env, part)]
    if lacking:
        hint = "; for dm_control's tasks use env.backend=dmc" if hasattr(env, "observation_spec") else ""
        raise ConfigError(
            f"expected a gymnasium environment, found {name}, which has no {' and no '.join(lacking)}{hint}"
        )
    for part in ("observation_space", "action_space"):
        space = getattr(env, part)
        if space is None:
            raise ConfigError(f"{name} has no {part} (None): an environment must have it before its first reset")
        if inspect.isroutine(space):
            raise ConfigError(
                f"{part} of {name} is a function, as where there are several agents: expected a space of one agent's, so "
                "wrap it so that one of them is seen"
            )


class GymnasiumSimulator:
    """One gymnasium or old gym instance, a :class:`~jaxdreamer.envs.host.agent_env.Simulator`."""

    def __init__(self, env: Any, config: EnvConfig) -> None:
        """ConfigError where pixels are asked of an instance that cannot render, SpaceError for its spaces."""
        self._env = self.instance = env
        self._name = name_of(env)
        self._stepping = reporting(f"step of {self._name}")
        self._observation: Any = None
        self._said: Any = None
        self._rendered = self._warned = False
        self._own: ObservationMap | None = None
        if config.obs != "pixels":
            self._own = ObservationMap(env.observation_space, config.image_size, config.exclude)
        self._actions = ActionMap(env.action_space, config.action_bound)
        observation_space, action_space = understood(env.observation_space), understood(env.action_space)
        self._pairs = gym_api.has_pairs(observation_space)
        self._size = config.image_size if config.obs in ("pixels", "both") else None
        obs = {} if self._own is None else dict(self._own.spec)
        if self._size is not None:
            self._check_can_render(config.obs)
            if "image" in obs:
                raise SpaceError(
                    "env.obs=both adds rendered frames under 'image', but the observation has that key already; use "
                    "env.obs=state, or leave the environment's own out with env.exclude=image"
                )
            obs["image"] = ArraySpec((*self._size, 3), "uint8", "image")
        self.spec = EnvSpec(obs, self._actions.spec, _step_seconds(env))
        self.spaces: dict[str, Any] | None = {
            "observation": None if self._own is None else observation_space,
            "action": action_space,
        }
        self.frame_rate = _frame_rate(env, self._name)
        self._seedable = gym_api.takes(env, "reset", "seed")
        # The options of a registered backend may say nothing about drawing.
        options = config.options if isinstance(config.options, DrawingOptions) else DrawingOptions()
        self._drawer = drawer_of(env, options.render_quality, options.camera)
        if options.camera and self._drawer is None:
            raise ConfigError(
                f"env.camera={options.camera}: {self._name} is not drawn by MuJoCo and has no cameras to choose from"
            )

    def reset(self, seed: int | None) -> None:
        """Begin an episode; the seed goes to ``reset``, or to ``seed`` where ``reset`` takes none."""
        self._said = None
        if not (seed is None or self._seedable or self._warned or gym_api.has_seed(self._env)):
            logger.warning("%s cannot be seeded: its reset takes no seed, and it has no seed method", self._name)
            self._warned = True
        with reporting(f"reset of {self._name}"):
            result = gym_api.begin(self._env, seed, self._seedable)
        self._observation, self._where = gym_api.first_observation(result, self._pairs), "reset"

    def to_env(self, action: np.ndarray) -> Any:
        """The element of the action space for the agent's action [A]."""
        return self._actions.to_env(action)

    def step(self, action: Any) -> tuple[float, bool, bool]:
        """One step: reward, terminated, truncated."""
        with self._stepping:
            result = self._env.step(action)
        count = len(result) if isinstance(result, tuple | list) else 0
        if count not in (4, 5):
            raise EnvError(
                "step must return (observation, reward, terminated, truncated, info), or old gym's (observation, reward, "
                f"done, info); {self._name} returned {f'{count} values' if count else found(result)}"
            )
        if isinstance(info := result[-1], Mapping) and "episode_metrics" in info:
            self._said = info["episode_metrics"]
        who = self._name
        self._observation, self._where, reward = result[0], "step", reward_of(result[1], who)
        ended = flag_of(result[2], "terminated" if count == 5 else "done", who)
        if count == 5:
            return reward, ended, flag_of(result[3], "truncated", who)
        limited = isinstance(result[3], Mapping) and result[3].get("TimeLimit.truncated", False)
        truncated = ended and flag_of(limited, "TimeLimit.truncated", who)
        return reward, ended and not truncated, truncated

    def observe(self) -> Observation:
        """The agent's view of the last observation; draws a frame where pixels are part of it."""
        if self._own is not None and self._observation is None:
            raise EnvError(f"{self._where} of {self._name} returned no observation (None); is a `return` missing?")
        obs = {} if self._own is None else self._own(self._observation)
        if self._size is not None:
            obs["image"] = resize(self.render(), self._size) if self._drawer is None else self._drawer.draw(self._size)
        return obs

    def episode_metrics(self) -> dict[str, float]:
        """What the newest step that said anything of the episode said in ``info["episode_metrics"]``."""
        return {} if self._said is None else episode_metrics_of(self._said, self._name)

    def strays(self) -> dict[str, str]:
        """How the last observation is outside of the space it is said to be in, by key."""
        return {} if self._own is None else self._own.strays(self._observation)

    def render(self) -> np.ndarray:
        """The present frame as uint8 [H, W, 3], in the environment's own size."""
        self._check_can_render("render")
        if self._drawer is not None:
            return self._drawer.draw(None)
        if self._rendered:
            return to_rgb(self._draw())
        with warnings_logged():  # the first frame imports the drawing library
            frame = to_rgb(self._draw())
        self._rendered = True
        return frame

    @property
    def notes(self) -> list[str]:
        """Lines for the log."""
        seen = [] if self._own is None else self._own.notes
        drawn = self._drawer and self._drawer.drawing_note
        return [*seen, *self._actions.notes, *([drawn] if drawn else [])]

    def close(self) -> None:
        """Close the instance."""
        with reporting(f"close of {self._name}"):
            getattr(self._env, "close", lambda: None)()

    def _draw(self) -> Any:
        with reporting(f"render of {self._name}"), missing_extras(self._name):
            frame = gym_api.frame_of(self._env)
        if frame is None:
            raise EnvError(f"{self._name} rendered nothing; {_RENDER_HELP}")
        return frame

    @property
    def can_render(self) -> bool:
        """Whether the instance was made to give frames as arrays."""
        return gym_api.draws_arrays(self._env)

    def _check_can_render(self, wanted: str) -> None:
        if self.can_render:
            return
        if hasattr(self._env, "render_mode"):
            found = f"its render_mode is {self._env.render_mode!r}"
        else:
            found = "it has no render(mode='rgb_array')"
        if wanted == "render":
            raise EnvError(f"{self._name} cannot be rendered: {found}; {_RENDER_HELP}")
        raise ConfigError(f"env.obs={wanted} needs rendered frames of {self._name}, but {found}; {_RENDER_HELP}")


def _step_seconds(env: Any) -> float | None:
    """What the environment calls its ``dt``, as MuJoCo's and most of classic control do, or CartPole its ``tau``."""
    inner = getattr(env, "unwrapped", env)
    for name in ("dt", "tau"):
        try:
            seconds = getattr(inner, name, None)
        except Exception:  # a property of someone's, which nothing else here would have asked for
            continue
        if isinstance(seconds, Real) and not isinstance(seconds, bool) and 0 < float(seconds) < np.inf:
            return float(seconds)
    return None


def _frame_rate(env: Any, name: str) -> float:
    """Steps per second of the task's own time, by gymnasium's metadata or old gym's."""
    metadata = getattr(env, "metadata", None)
    given = metadata if isinstance(metadata, Mapping) else {}
    rate = given.get("render_fps") or given.get("video.frames_per_second") or _DEFAULT_FRAME_RATE
    if not isinstance(rate, Real) or not 0 < float(rate) < np.inf:
        raise ConfigError(f"metadata['render_fps'] of {name} must be a number above 0, found {reprlib.repr(rate)}")
    return float(rate)
