"""A functional environment stepped from the host, one simulator step a call: for host loops and films."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from jaxdreamer.config import EnvConfig
from jaxdreamer.envs.base import Env, EnvError
from jaxdreamer.envs.device.functional import FunctionalEnv, in_full_precision, strong_reset
from jaxdreamer.envs.host.agent_env import AgentEnv
from jaxdreamer.types import Observation


@functools.lru_cache(maxsize=8)
def _compiled(env: FunctionalEnv) -> tuple[Any, ...]:
    """Reset, step, observe, finite and render, compiled once for all copies of an environment.

    The one place of this room that compiles: each step from the host is a separate program.
    """
    env = in_full_precision(env)
    step = lambda state, action: env.step(jax.tree.map(lambda x: x, state), action)  # noqa: E731 see make_lanes
    render = jax.jit(env.render) if env.render is not None else None
    return jax.jit(strong_reset(env)), jax.jit(step), jax.jit(env.observe), jax.jit(env.finite), render


class Hosted:
    """A :class:`~jaxdreamer.envs.host.agent_env.Simulator` over pure functions, compiled each on its own."""

    spaces: dict[str, Any] | None = None
    can_render: bool

    def __init__(self, env: FunctionalEnv) -> None:
        self.spec, self.frame_rate, self.can_render = env.spec, env.frame_rate, env.render is not None
        self._limit = env.time_limit
        self._reset, self._step, self._observe, self._finite, self._render = _compiled(env)
        self.notes: list[str] = []
        self._state: Any = None
        self._steps = 0
        self._fresh = 0  # episodes begun without a seed

    def reset(self, seed: int | None) -> None:
        """Begin an episode; without a seed, another one each time."""
        if seed is None:
            seed, self._fresh = self._fresh, self._fresh + 1
        self._state, self._steps = self._reset(jax.random.key(seed)), 0

    def to_env(self, action: np.ndarray) -> np.ndarray:
        """The agent's action: the environment takes it as it is, and cannot change it."""
        return action

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """Reward, whether the task ended, whether time ran out."""
        self._state, reward, terminal = self._step(self._state, action)
        self._steps += 1
        # The reward shows that a state is broken: the collecting loop cuts the episode where one is not finite.
        reward = float(reward) if self._finite(self._state) else float("nan")
        return reward, bool(terminal), self._limit > 0 and self._steps >= self._limit

    def observe(self) -> Observation:
        """The present moment, in fresh arrays."""
        return {key: np.array(value) for key, value in self._observe(self._state).items()}

    def episode_metrics(self) -> dict[str, float]:
        """It says none."""
        return {}

    def render(self) -> np.ndarray:
        """The present moment as uint8 [H, W, 3]."""
        if self._render is None:
            raise EnvError("this environment cannot be drawn: its FunctionalEnv has no render")
        return np.asarray(self._render(self._state))

    def close(self) -> None:
        """Nothing is held."""


def host(env: FunctionalEnv, config: EnvConfig) -> Env:
    """A functional environment as a host environment in agent steps."""
    return AgentEnv(Hosted(env), action_repeat=config.action_repeat, time_limit=config.time_limit)
