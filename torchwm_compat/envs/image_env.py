"""torchwm's environments over jaxdreamer's: ``reset() -> obs``, ``step(action) -> (obs, reward, done, info)``.

``obs["image"]`` is uint8 [3, H, W]: what the task shows, or else rendered frames (torchwm paints state vectors as grey
bands). State vectors are there too, each under its own key and all of them together under ``"state"``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from jaxdreamer import ActionSpec, ConfigError, EnvConfig, EnvError, EnvSpec, VectorEnv, make_vector, preset, wrap
from torchwm_compat.envs.wrappers import Wrapper

_log = logging.getLogger("torchwm_compat")

MAX_BROKEN_IN_A_ROW = 20  # as in jaxdreamer's own loops
HUGE = 1e6  # jaxdreamer takes bounds from here on for none


class ImageEnv:
    """One environment of jaxdreamer in torchwm's shape; opened at its first use, and again after :meth:`close`."""

    def __init__(self, config: EnvConfig, seed: int = 0, make: Callable[[EnvConfig], Any] | None = None) -> None:
        """``make`` makes an environment of a configuration; by default its backend does."""
        self.config, self._make = config, make
        self.initial_seed = self._seed = int(seed)
        self._lanes: VectorEnv | None = None
        self._own_image = False
        self._space: gymnasium.spaces.Box | None = None
        self._done = True

    # ---- spaces and description ------------------------------------------------------------------------------------

    @property
    def spec(self) -> EnvSpec:
        """Everything that can be seen and done, as jaxdreamer describes it."""
        return self._open().spec

    @property
    def shows_images(self) -> bool:
        """Whether the image is the task's own observation instead of a rendered frame."""
        self._open()
        return self._own_image

    @property
    def observation_space(self) -> gymnasium.spaces.Dict:
        """``image`` and the state vectors."""
        found: dict[str, gymnasium.spaces.Space] = {}
        for key, item in self.spec.obs.items():
            found[key] = image_space(item.shape) if item.kind == "image" else _numbers(item.shape)
        width = sum(int(np.prod(self.spec.obs[key].shape)) for key in self._vectors())
        if width and "state" not in found:
            found["state"] = _numbers((width,))
        return gymnasium.spaces.Dict(found)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """The task's own bounds; for choices, as many numbers in [-1, 1] as there are, of which the largest counts."""
        if self._space is None:
            low, high = self._bounds()
            self._space = gymnasium.spaces.Box(low, high, dtype=np.float32)
            self._space.seed(self._seed)
        return self._space

    @property
    def max_episode_steps(self) -> int:
        """What the configuration limits episodes to; 1000 where it says nothing."""
        return self.config.time_limit or 1000

    # ---- playing ---------------------------------------------------------------------------------------------------

    def seed(self, seed: int) -> None:
        """Begin anew with another seed."""
        self.close()
        self._seed, self._space = int(seed), None

    def reset(self) -> dict[str, np.ndarray]:
        """Begin an episode. EnvError where a picture is not finite again and again."""
        self._done = False
        for _ in range(MAX_BROKEN_IN_A_ROW):
            entry = self._open().reset_lane(0)
            if np.isfinite(entry.reward):  # a reward of NaN marks a picture that was not finite
                return self._observe(entry.obs)
        raise EnvError(f"pictures were not finite after {MAX_BROKEN_IN_A_ROW} resets in a row")

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, dict[str, Any]]:
        """One step in the task's own units. RuntimeError where a reset is due."""
        if self._done:
            raise RuntimeError("Must call reset() before step().")
        lanes = self._open()
        actions = np.zeros((lanes.num_envs, lanes.spec.action.size), np.float32)
        actions[0], executed = self._to_agent(np.asarray(action, np.float32).reshape(-1))
        entry = lanes.step(actions)
        if entry.is_first[0]:  # the simulator was lost, and has begun anew
            raise RuntimeError("the environment broke off; call reset()")
        self._done = bool(entry.is_last[0])
        info = outcome({"action": executed}, self._done, bool(entry.is_terminal[0]))
        return self._observe({k: v[0] for k, v in entry.obs.items()}), float(entry.reward[0]), self._done, info

    def render(self, mode: str = "rgb_array") -> np.ndarray:
        """The present moment, uint8 [H, W, 3]. ValueError for another mode."""
        if mode != "rgb_array":
            raise ValueError("Only render mode 'rgb_array' is supported.")
        return self._open().render(0)

    def close(self) -> None:
        """Free what is held; the next use opens it again."""
        if self._lanes is not None:
            self._lanes.close()
        self._lanes, self._done = None, True

    def _open(self) -> VectorEnv:
        if self._lanes is None:
            try:
                self._lanes = self._made(replace(self.config, obs="both"))
            except ConfigError:  # it shows images of its own, or cannot be drawn
                self._lanes = self._made(replace(self.config, obs="auto"))
                self._own_image = any(item.kind == "image" for item in self._lanes.spec.obs.values())
        return self._lanes

    def _made(self, config: EnvConfig) -> VectorEnv:
        make = self._make
        return make_vector(config, 1, self._seed, make=None if make is None else lambda: make(config))

    def _vectors(self) -> list[str]:
        return [key for key, item in self.spec.obs.items() if item.kind == "vector"]

    def _observe(self, obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        images = self.spec.keys(image=True)
        out = {key: np.moveaxis(value, -1, 0).copy() if key in images else value for key, value in obs.items()}
        vectors = [np.ravel(out[key]) for key in self._vectors()]
        if vectors and "state" not in out:
            out["state"] = np.concatenate(vectors)
        return out

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        action = self.spec.action
        space = (self._open().spaces or {}).get("action")
        low, high = -np.ones(action.size, np.float32), np.ones(action.size, np.float32)
        if isinstance(space, gymnasium.spaces.Box):
            bounded = np.maximum(np.abs(space.low), np.abs(space.high)) < HUGE
            low, high = (np.where(bounded, x, y).ravel() for x, y in ((space.low, -1.0), (space.high, 1.0)))
        return low.astype(np.float32), high.astype(np.float32)

    def _to_agent(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the action in the agent's units, the one executed in torchwm's)."""
        space = self.action_space
        if action.shape != space.shape:
            raise ValueError(f"expected an action of shape {space.shape}, found {action.shape}")
        executed = np.clip(action, space.low, space.high)
        agent = 2 * (executed - space.low) / np.maximum(space.high - space.low, 1e-12) - 1
        chosen = one_hot_choices(action, self.spec.action)
        for part, where in zip(self.spec.action.parts, self.spec.action.slices):
            if part.kind == "discrete":
                agent[where], executed[where] = chosen[where], 2 * chosen[where] - 1
        return np.clip(agent, -1, 1).astype(np.float32), executed.astype(np.float32)


class GymImageEnv(ImageEnv):
    """A Gymnasium id, or a ready environment, gymnasium's or old gym's."""

    def __init__(
        self, env: Any, seed: int = 0, size: tuple[int, int] = (64, 64), render_mode: str = "rgb_array"
    ) -> None:
        """Frames are always arrays; another ``render_mode`` is noted and not used."""
        if render_mode != "rgb_array":
            _log.warning("render_mode %r: frames are drawn as arrays, no window is opened", render_mode)
        if isinstance(env, str):
            super().__init__(env_config(id=env, backend="gym", image_size=size), seed)
        else:
            config = env_config(backend="custom", image_size=size)
            super().__init__(config, seed, make=lambda config: wrap(Kept(env), config))
            self._env = env


class DeepMindControlEnv(ImageEnv):
    """A task of the DeepMind Control Suite, ``domain-task``."""

    def __init__(self, name: str, seed: int = 0, size: tuple[int, int] = (64, 64), camera: int | None = None) -> None:
        settings = {} if camera is None else {"camera": str(camera)}
        super().__init__(env_config(id=name, backend="dmc", image_size=size, **settings), seed)


class BraxImageEnv(ImageEnv):
    """A Brax environment stepped from the host, for looking at it; training steps Brax inside its own program."""

    def __init__(
        self,
        env: str,
        seed: int = 0,
        size: tuple[int, int] = (64, 64),
        backend: str | None = None,
        episode_length: int | None = None,
        auto_reset: bool = False,
        jit: bool = True,
        suppress_warp_warnings: bool = True,
    ) -> None:
        """``auto_reset``, ``jit`` and ``suppress_warp_warnings`` are accepted and change nothing."""
        if not isinstance(env, str):
            raise TypeError(f"env: expected a Brax environment's name, found {type(env).__name__}")
        settings = {} if backend is None else {"brax_backend": backend}
        limit = int(episode_length or 0)
        super().__init__(env_config(id=env, backend="brax", image_size=size, time_limit=limit, **settings), seed)


class UnityMLAgentsEnv(ImageEnv):
    """A Unity ML-Agents player; the first of its agents acts, all others rest."""

    def __init__(
        self,
        file_name: str | None = None,
        behavior_name: str | None = None,
        seed: int = 0,
        size: tuple[int, int] = (64, 64),
        worker_id: int = 0,
        base_port: int = 5005,
        no_graphics: bool = True,
        time_scale: float = 20.0,
        quality_level: int = 1,
        max_episode_steps: int = 1000,
        python: str = "",
    ) -> None:
        """``python`` is the interpreter that has mlagents-envs; empty: this one."""
        settings = {
            "unity_file_name": str(file_name or ""),
            "unity_behavior_name": behavior_name or "",
            "unity_worker_id": worker_id,
            "unity_base_port": base_port,
            "unity_no_graphics": no_graphics,
            "unity_time_scale": float(time_scale),
            "unity_quality_level": quality_level,
            "unity_python": python,
            "time_limit": max_episode_steps,
        }
        super().__init__(
            env_config(id=str(file_name or ""), backend="unity_mlagents", image_size=size, **settings), seed
        )


def outcome(info: dict[str, Any], done: bool, terminal: bool) -> dict[str, Any]:
    """``info`` of a step with torchwm's ``discount``, 0 where the task itself ended, and ``TimeLimit.truncated``."""
    truncated = {"TimeLimit.truncated": True} if done and not terminal else {}
    return {**info, "discount": np.array(0.0 if terminal else 1.0, np.float32), **truncated}


def image_space(shape: tuple[int, ...]) -> gymnasium.spaces.Box:
    """torchwm's images [C, H, W] of jaxdreamer's shape [H, W, C]."""
    return gymnasium.spaces.Box(0, 255, (shape[2], *shape[:2]), np.uint8)


def _numbers(shape: tuple[int, ...]) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)


make_gym_env, make_brax_env, make_unity_mlagents_env = GymImageEnv, BraxImageEnv, UnityMLAgentsEnv


class Kept(Wrapper):
    """An environment of the caller's: used, and never closed."""

    def close(self) -> None:
        """Do nothing: the caller closes it."""


def one_hot_choices(action: np.ndarray, spec: ActionSpec) -> np.ndarray:
    """A copy of an action [A] in which the largest number of each discrete part is 1, and the others are 0."""
    out = np.array(action, np.float32)
    for part, where in zip(spec.parts, spec.slices):
        if part.kind == "discrete":
            out[where] = np.eye(part.size, dtype=np.float32)[int(np.argmax(out[where]))]
    return out


def env_config(*, image_size: Any, **settings: Any) -> EnvConfig:
    """Settings of one environment without action repeat, checked. ConfigError for invalid ones.

    Actions without bounds get [-1, 1], which is what torchwm's agents give.
    """
    height, width = image_size
    values = {"image_size": (int(height), int(width)), "action_repeat": 1, "action_bound": 1.0, **settings}
    return preset("dreamer_v1", **{f"env.{name}": value for name, value in values.items()}).env
