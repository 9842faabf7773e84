"""Gymnasium environments by id, and ready instances: gymnasium's, or old gym's with its 4-tuple step.

How an episode's end is mapped: gymnasium's ``terminated`` is terminal, ``truncated`` alone is not. An old 4-tuple's
``done`` is terminal unless ``info["TimeLimit.truncated"]`` is true.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from jaxdreamer.config import ConfigError, EnvConfig, MissingExtra, is_model, nearest
from jaxdreamer.envs.actions import ActionMap
from jaxdreamer.envs.base import EnvError, SpaceError
from jaxdreamer.envs.images import resize, to_rgb
from jaxdreamer.envs.observations import ObservationMap
from jaxdreamer.envs.render import sized_drawing
from jaxdreamer.envs.spaces import children, kind_of
from jaxdreamer.envs.wrappers import AgentEnv
from jaxdreamer.types import ArraySpec, EnvSpec, Observation

logger = logging.getLogger(__name__)

_RENDER_HELP = "make it with render_mode='rgb_array', for example gymnasium.make(id, render_mode='rgb_array')"
_DEFAULT_FRAME_RATE = 30.0


def make(config: EnvConfig) -> AgentEnv:
    """The environment registered with gymnasium as ``config.id``; ``module:Name-v0`` imports the module first.

    ``config.time_limit`` > 0 replaces the limit the id is registered with. Raises ConfigError for an unknown id, with
    the nearest known ones, MissingExtra where a library is missing, SpaceError for spaces that cannot be used.
    """
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    if is_model(config.id):
        raise ConfigError(f"env.id: {config.id[:100]!r} is a MuJoCo model: set env.backend=mujoco")
    with _missing_extras(config.id), warnings_logged():
        try:
            spec = _find(config.id)
            creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
            options: dict[str, Any] = {"disable_env_checker": True}
            if "rgb_array" in ((getattr(creator, "metadata", None) or {}).get("render_modes") or ()):
                options["render_mode"] = "rgb_array"  # costs nothing until a frame is asked for
            if config.time_limit > 0:
                options["max_episode_steps"] = config.time_limit * config.action_repeat
            if config.frame_skip > 0:
                options["frame_skip"] = config.frame_skip
            if config.reset_noise > 0:
                options["reset_noise_scale"] = config.reset_noise
            env = _make(spec, options, config)
        except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
            hint = nearest(config.id, gymnasium.registry)
            raise ConfigError(f"env.id: gymnasium knows no environment {config.id!r}{hint}: {error}") from error
        except gymnasium.error.DependencyNotInstalled:
            raise
        except gymnasium.error.Error as error:
            raise ConfigError(f"env.id: gymnasium cannot make {config.id!r}: {error}") from error
    try:
        return wrap(env, config)
    except BaseException:
        env.close()
        raise


def wrap(env: Any, config: EnvConfig | None = None) -> AgentEnv:
    """A ready environment instance as the library's, seen and stepped as ``config`` says (its id is not used).

    ``env`` is gymnasium's, or anything with its or old gym's ``reset``, ``step`` and spaces; gym itself is never
    imported. The instance belongs to the result from here on: closing the result closes it.
    """
    config = EnvConfig() if config is None else config
    if hasattr(env, "single_observation_space"):
        raise ConfigError(
            f"{env} holds several environments, and each lane needs one of its own: make a single one, as in "
            "gymnasium.make(id) instead of gymnasium.make_vec(id), and set env.num_envs, or give VectorEnv a list of "
            "functions that each make one"
        )
    simulator = GymnasiumSimulator(env, config)
    return AgentEnv(simulator, action_repeat=config.action_repeat, time_limit=config.time_limit)


def tasks() -> list[str]:
    """Every id that gymnasium knows."""
    import gymnasium

    return sorted(gymnasium.registry)


class GymnasiumSimulator:
    """One gymnasium or old gym instance, a :class:`~jaxdreamer.envs.wrappers.Simulator`."""

    def __init__(self, env: Any, config: EnvConfig) -> None:
        """ConfigError where pixels are asked of an instance that cannot render, SpaceError for its spaces."""
        self._env = env
        self._observation: Any = None
        self._rendered = self._warned = False
        self._own: ObservationMap | None = None
        if config.obs != "pixels":
            self._own = ObservationMap(env.observation_space, config.image_size, config.exclude)
        self._actions = ActionMap(env.action_space, config.action_bound)
        self._tuple_space = kind_of(env.observation_space) == "Tuple" and len(children(env.observation_space)) == 2
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
        self.spec = EnvSpec(obs, self._actions.spec)
        self.spaces = {
            "observation": None if self._own is None else env.observation_space,
            "action": env.action_space,
        }
        metadata = getattr(env, "metadata", None) or {}
        rate = metadata.get("render_fps") or metadata.get("video.frames_per_second")
        self.frame_rate = float(rate or _DEFAULT_FRAME_RATE)
        self._seedable = _takes(env, "reset", "seed")
        self._draw_at, self._note = sized_drawing(env, config.render_quality, config.camera)
        if config.camera and self._draw_at is None:
            raise ConfigError(f"env.camera={config.camera}: {env} is not drawn by MuJoCo, and has no cameras to choose")

    def reset(self, seed: int | None) -> None:
        """Begin an episode; the seed goes to ``reset``, or to ``seed`` where ``reset`` takes none."""
        if self._seedable:
            result = self._env.reset(seed=seed)
        else:
            if seed is not None and callable(getattr(self._env, "seed", None)):
                self._env.seed(seed)
            elif seed is not None and not self._warned:
                logger.warning("%s cannot be seeded: its reset takes no seed, and it has no seed method", self._env)
                self._warned = True
            result = self._env.reset()
        has_info = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)
        if has_info and self._tuple_space and not isinstance(result[0], tuple | list):
            has_info = False  # the pair is the observation itself
        self._observation = result[0] if has_info else result

    def to_env(self, action: np.ndarray) -> Any:
        """The element of the action space for the agent's action [A]."""
        return self._actions.to_env(action)

    def step(self, action: Any) -> tuple[float, bool, bool]:
        """One step: reward, terminated, truncated."""
        result = self._env.step(action)
        if len(result) == 5:
            self._observation, reward, terminated, truncated, _ = result
        elif len(result) == 4:
            self._observation, reward, done, info = result
            truncated = bool(done) and bool(info.get("TimeLimit.truncated", False))
            terminated = bool(done) and not truncated
        else:
            raise EnvError(f"step must return 4 values (old gym) or 5 (gymnasium), {self._env} returned {len(result)}")
        if np.size(reward) != 1:
            raise EnvError(f"the reward must be one number, {self._env} returned {reward!r}")
        return float(np.asarray(reward, np.float64).reshape(())), bool(terminated), bool(truncated)

    def observe(self) -> Observation:
        """The agent's view of the last observation; draws a frame where pixels are part of it."""
        obs = {} if self._own is None else self._own(self._observation)
        if self._size is not None:
            obs["image"] = self._frame() if self._draw_at is None else self._draw_at(self._size)
        return obs

    def strays(self) -> dict[str, str]:
        """How the last observation is outside of the space it is said to be in, by key."""
        return {} if self._own is None else self._own.strays(self._observation)

    def render(self) -> np.ndarray:
        """The present frame as uint8 [H, W, 3], in the environment's own size."""
        self._check_can_render("render")
        if self._draw_at is not None:
            return self._draw_at(None)
        if self._rendered:
            return to_rgb(self._draw())
        # Frames are arrays here, never windows: without this SDL looks for a display, and complains where there is none.
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        with _missing_extras(str(self._env)), warnings_logged():  # the first frame imports the drawing library
            frame = to_rgb(self._draw())
        self._rendered = True
        return frame

    @property
    def notes(self) -> list[str]:
        """What the log should say of this environment, once it has drawn."""
        seen = [] if self._own is None else self._own.notes
        return [*seen, *self._actions.notes, *(line for line in [self._note()] if line)]

    def close(self) -> None:
        """Close the instance."""
        self._env.close()

    def _frame(self) -> np.ndarray:
        assert self._size is not None
        return resize(self.render(), self._size)

    def _draw(self) -> Any:
        old_style = not hasattr(self._env, "render_mode")
        frame = self._env.render(mode="rgb_array") if old_style else self._env.render()
        if isinstance(frame, list) and frame:  # rgb_array_list: the frames since the last call
            frame = frame[-1]
        if frame is None:
            raise EnvError(f"{self._env} rendered nothing; {_RENDER_HELP}")
        return frame

    @property
    def can_render(self) -> bool:
        """Whether the instance was made to give frames as arrays."""
        if hasattr(self._env, "render_mode"):
            return self._env.render_mode in ("rgb_array", "rgb_array_list")
        return _takes(self._env, "render", "mode")

    def _check_can_render(self, wanted: str) -> None:
        if self.can_render:
            return
        if hasattr(self._env, "render_mode"):
            found = f"its render_mode is {self._env.render_mode!r}"
        else:
            found = "it has no render(mode='rgb_array')"
        if wanted == "render":
            raise EnvError(f"{self._env} cannot be rendered: {found}; {_RENDER_HELP}")
        raise ConfigError(f"env.obs={wanted} needs rendered frames of {self._env}, but {found}; {_RENDER_HELP}")


def _find(name: str) -> Any:
    """gymnasium's spec of an id; without a version, of the newest. MuJoCo's dead v2 and v3 become v4."""
    import gymnasium

    module, _, name = name.rpartition(":")
    if module:
        from jaxdreamer.envs.registry import imported_module

        imported_module("env.id", module)
    registered = gymnasium.registry
    versions = [int(key[len(name) + 2 :]) for key in registered if re.fullmatch(re.escape(name) + r"-v\d+", key)]
    if versions:
        name = f"{name}-v{max(versions)}"
    newer = successor(name)
    if newer:
        _warn_once(f"{name} needs mujoco-py, which is no longer maintained; making {newer}, the same task")
        name = newer
    return gymnasium.spec(name)


def _newest(name: str) -> str:
    """The newest registered version of a task."""
    import gymnasium

    base = name.rpartition("-v")[0]
    found = (re.fullmatch(re.escape(base) + r"-v(\d+)", key) for key in gymnasium.registry)
    return f"{base}-v{max(int(match.group(1)) for match in found if match)}"


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
        return gymnasium.make(spec, **options)
    except TypeError as error:
        asked = {"frame_skip": "env.frame_skip", "reset_noise_scale": "env.reset_noise"}
        refused = [name for key, name in asked.items() if key in options and key in str(error)]
        if not refused:
            raise
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


def _takes(env: Any, method: str, parameter: str) -> bool:
    """Whether ``env.method`` accepts ``parameter``; a wrapper's ``**kwargs`` is followed to what it wraps."""
    function = getattr(env, method, None)
    if function is None:
        return False
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    if parameter in parameters:
        return True
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return False
    inner = env.__dict__.get("env") if hasattr(env, "__dict__") else None
    return True if inner is None else _takes(inner, method, parameter)


@contextmanager
def warnings_logged() -> Iterator[None]:
    """Warnings that libraries raise while an environment is made become log records."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for item in caught:
        logger.info("%s", item.message)


@contextmanager
def _missing_extras(name: str) -> Iterator[None]:
    """A missing dependency becomes MissingExtra with the pip line that helps."""
    try:
        yield
    except MissingExtra:
        raise
    except Exception as error:
        missing = type(error).__name__ == "DependencyNotInstalled" or isinstance(error, ImportError)
        if not missing:
            raise
        text = str(error)
        if "only supported on" in text:  # another version of a library is missing, not the library
            raise ConfigError(f"env.id: {name} cannot be had: {text}; use {_newest(name)}") from error
        if "mujoco" in text.lower():
            requirement = "jaxdreamer[mujoco]"
        elif "pygame" in text.lower():
            requirement = "jaxdreamer[classic]"
        else:
            named = re.search(r"pip install ['\"]?(gymnasium\[[\w-]+\]|[\w-]+)['\"]?[`.]*$", text)
            if not named:
                raise EnvError(f"{name} needs something that cannot be imported: {text}") from error
            requirement = named.group(1)
        raise MissingExtra(requirement, f"{name} needs a library that is not installed: {text}") from error
