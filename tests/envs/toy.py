"""Tiny tasks in numpy for tests, seen as gymnasium environments.

Backend ``toy`` makes them by name: ``chain``, ``counting``, ``counting_image``, ``counting_dict``, ``saying``.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from jaxdreamer.config import ConfigError, EnvConfig, nearest
from jaxdreamer.envs.host.agent_env import AgentEnv
from jaxdreamer.envs.host.instance import wrap
from jaxdreamer.families import Backend


def action_spaces() -> dict[str, spaces.Space]:
    """One action space of each kind, by name."""
    return {
        "discrete": spaces.Discrete(5),
        "offset": spaces.Discrete(3, start=-1),
        "multi_discrete": spaces.MultiDiscrete([3, 2]),
        "multi_binary": spaces.MultiBinary(4),
        "box": spaces.Box(np.array([-1, 0], np.float32), np.array([1, 3], np.float32)),
        "unbounded": spaces.Box(-np.inf, np.inf, (2,)),
        "dict": spaces.Dict({"choice": spaces.Discrete(3), "move": spaces.Box(-2.0, 1.0, (2, 2), np.float64)}),
        "tuple": spaces.Tuple((spaces.Box(0.0, 1.0, (1,)), spaces.MultiBinary(2))),
    }


class CountingEnv(gymnasium.Env):
    """Counts its steps: observations tell the seed, the time and the action; the reward of step t (from 1) is t.

    Ends by termination at step ``terminate_at`` and by truncation at step ``truncate_at`` (0: never), by both where
    they are equal. ``raw_steps`` and ``resets`` count over the environment's life. An action outside the space raises
    ValueError. ``obs`` is vector (float32 [3]: seed's number, time, action's sum), image (uint8, ``image_shape``) or
    dict.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 gymnasium's own declaration

    def __init__(
        self,
        obs: str = "vector",
        action: str | spaces.Space = "discrete",
        terminate_at: int = 0,
        truncate_at: int = 20,
        image_shape: tuple[int, int, int] = (64, 64, 3),
        render_mode: str | None = "rgb_array",
    ) -> None:
        """``action`` is a space, or a name in :func:`action_spaces`."""
        self.render_mode = render_mode
        self.terminate_at, self.truncate_at = terminate_at, truncate_at
        self.action_space = action_spaces()[action] if isinstance(action, str) else action
        image: spaces.Space = spaces.Box(0, 255, image_shape, np.uint8)
        vector: spaces.Space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        nested: dict[str, spaces.Space] = {
            "image": image,
            "pos": vector,
            "mode": spaces.Discrete(4, start=1),
            "nested": spaces.Dict({"imu": spaces.Box(-np.inf, np.inf, (6,), np.float64)}),
        }
        self._kind = obs
        choices: dict[str, spaces.Space] = {"vector": vector, "image": image, "dict": spaces.Dict(nested)}
        self.observation_space = choices[obs]
        self._image_shape = image_shape
        self.raw_steps = self.resets = self.renders = 0
        self.time, self._origin, self._acted = 0, 0.0, 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin at time 0 with a number drawn from the seed."""
        super().reset(seed=seed)
        self.resets += 1
        self.time, self._origin, self._acted = 0, float(self.np_random.integers(0, 200)), 0.0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of time."""
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        self.raw_steps += 1
        self.time += 1
        self._acted = float(np.sum(np.asarray(spaces.flatten(self.action_space, action))))
        terminated, truncated = self.time == self.terminate_at, self.time == self.truncate_at
        return self._observe(), float(self.time), terminated, truncated, {}

    def render(self) -> np.ndarray:
        """The image observation, in three channels."""
        self.renders += 1
        return self._picture((*self._image_shape[:2], 3))

    def _picture(self, shape: tuple[int, int, int]) -> np.ndarray:
        pixels = np.arange(np.prod(shape)).reshape(shape)
        return ((pixels + 7 * self.time + self._origin) % 256).astype(np.uint8)

    def _observe(self) -> Any:
        vector = np.array([self._origin, self.time, self._acted], np.float32)
        if self._kind == "vector":
            return vector
        image = self._picture(self._image_shape)
        if self._kind == "image":
            return image
        imu = np.full(6, self.time, np.float64)
        return {"image": image, "pos": vector, "mode": np.int64(1 + self.time % 4), "nested": {"imu": imu}}


class Saying(CountingEnv):
    """Says numbers of its episode at the end: the one drawn from the seed, and whether it is even. Lasts 3 or 4 steps."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of time."""
        self.truncate_at = 3 + int(self._origin) % 2
        obs, reward, terminated, truncated, info = super().step(action)
        if truncated:
            info["episode_metrics"] = {"number": self._origin, "even": np.float32(100 * (self._origin % 2 == 0))}
        return obs, reward, terminated, truncated, info


class Chain(gymnasium.Env):
    """Cells in a row: 0 goes left, 1 right; the last cell gives reward 1 and terminates.

    Four times the length in steps truncates. The observation is the cell one-hot, float32 [length]. The seed chooses
    the start in the left half.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 gymnasium's own declaration

    def __init__(self, length: int = 8, render_mode: str | None = "rgb_array") -> None:
        """``length`` is at least 2."""
        self.length, self.render_mode = length, render_mode
        self.observation_space = spaces.Box(0.0, 1.0, (length,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.cell = self.time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin in the left half."""
        super().reset(seed=seed)
        self.cell, self.time = int(self.np_random.integers(0, self.length // 2)), 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One cell left or right."""
        self.time += 1
        self.cell = min(max(self.cell + (1 if action == 1 else -1), 0), self.length - 1)
        done = self.cell == self.length - 1
        return self._observe(), float(done), done, self.time >= 4 * self.length, {}

    def render(self) -> np.ndarray:
        """The row as 8 x 8 squares, the present cell white."""
        row = (self._observe() * 255).astype(np.uint8)
        return np.repeat(np.repeat(np.tile(row[None, :, None], (1, 1, 3)), 8, axis=0), 8, axis=1)

    def _observe(self) -> np.ndarray:
        return np.eye(self.length, dtype=np.float32)[self.cell]


def make(config: EnvConfig) -> AgentEnv:
    """The toy named by ``config.id``."""
    if config.id not in _TOYS:
        raise ConfigError(f"env.id: no toy {config.id!r}{nearest(config.id, _TOYS)}; there are: {', '.join(_TOYS)}")
    return wrap(_TOYS[config.id](), config)


def tasks() -> list[str]:
    """What ``env.id`` can be."""
    return list(_TOYS)


_TOYS: dict[str, Any] = {
    "chain": Chain,
    "counting": CountingEnv,
    "counting_image": lambda: CountingEnv("image"),
    "saying": Saying,
    "counting_dict": lambda: CountingEnv("dict"),
}

BACKEND = Backend("toy", make, tasks=tasks)
