"""torchwm's three wrappers around environments of the old four-value step."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class Wrapper:
    """Everything that a subclass does not define is the wrapped environment's."""

    def __init__(self, env: Any) -> None:
        self._env = env

    def __getattr__(self, name: str) -> Any:
        if name == "_env":  # not there yet: copying and unpickling ask before __init__
            raise AttributeError(name)
        return getattr(self._env, name)


class TimeLimit(Wrapper):
    """Ends episodes after ``duration`` steps with ``info["TimeLimit.truncated"]`` and discount 1."""

    def __init__(self, env: Any, duration: int) -> None:
        super().__init__(env)
        self._duration = int(duration)
        self._steps: int | None = None

    def reset(self) -> Any:
        """Begin an episode."""
        self._steps = 0
        return self._env.reset()

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        """One step; RuntimeError before a reset."""
        if self._steps is None:
            raise RuntimeError("Must reset environment.")
        obs, reward, done, info = self._env.step(action)
        self._steps += 1
        if self._steps >= self._duration:
            if not done:
                info = {"discount": np.array(1.0, np.float32), **info, "TimeLimit.truncated": True}
            done = True
        if done:
            self._steps = None
        return obs, reward, done, info


class ActionRepeat(Wrapper):
    """Takes each action ``amount`` times, fewer where the episode ends; rewards are added up."""

    def __init__(self, env: Any, amount: int) -> None:
        super().__init__(env)
        self._amount = max(1, int(amount))

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        """One step of the agent."""
        total = 0.0
        for _ in range(self._amount):
            obs, reward, done, info = self._env.step(action)
            total += reward
            if done:
                break
        return obs, total, done, info


class NormalizeActions(Wrapper):
    """Actions in [-1, 1] for every dimension of finite bounds; ``info["action"]`` is the agent's, in these units.

    torchwm leaves the environment's units in ``info["action"]`` and stores them, so that its model learns from other
    actions than its actor takes; and it makes a new space at every look, so that seeding it has no effect.
    """

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        space = env.action_space
        self._finite = np.isfinite(space.low) & np.isfinite(space.high)
        self._low = np.where(self._finite, space.low, -1.0)
        self._high = np.where(self._finite, space.high, 1.0)
        low, high = np.where(self._finite, -1.0, -np.inf), np.where(self._finite, 1.0, np.inf)
        self.action_space = gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        seed = getattr(env, "initial_seed", None)
        if isinstance(seed, int):
            self.action_space.seed(seed)

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        """One step with an action in [-1, 1]."""
        action = np.asarray(action, np.float32)
        scaled = (action + 1) / 2 * (self._high - self._low) + self._low
        obs, reward, done, info = self._env.step(np.where(self._finite, scaled, action))
        if "action" in info:
            executed = np.asarray(info["action"], np.float32)
            width = np.maximum(self._high - self._low, 1e-12)
            info = {**info, "action": np.where(self._finite, 2 * (executed - self._low) / width - 1, executed)}
            info["action"] = info["action"].astype(np.float32)
        return obs, reward, done, info
