"""Agent steps: action repeat, time limit and order of calls, once for all backends.

A backend supplies a :class:`Simulator`, which knows nothing of agent steps; :class:`AgentEnv` makes an
:class:`~jaxdreamer.envs.base.Env` of it.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import numpy as np

from jaxdreamer.envs.base import EnvError, NotFinite
from jaxdreamer.envs.host.outcome import LARGEST
from jaxdreamer.types import EnvSpec, Observation, Timestep

logger = logging.getLogger(__name__)


class Simulator(Protocol):
    """What a backend supplies: single simulator steps, and an observation only when it is asked for."""

    spec: EnvSpec
    frame_rate: float
    """Simulator steps per second of the task's own time."""
    spaces: dict[str, Any] | None
    """See :attr:`AgentEnv.spaces`."""

    @property
    def notes(self) -> list[str]:
        """Lines for the log; there is more to say once it has drawn."""

    @property
    def can_render(self) -> bool:
        """Whether :meth:`render` works."""

    def reset(self, seed: int | None) -> None:
        """Begin an episode."""

    def to_env(self, action: np.ndarray) -> Any:
        """The agent's action [A], known to be finite, in the simulator's units; the simulator's to keep and change."""

    def step(self, action: Any) -> tuple[float, bool, bool]:
        """One simulator step with an action in its own units: reward, whether the task ended, whether time ran out."""

    def observe(self) -> Observation:
        """The present moment as the agent sees it, in fresh arrays. Called once an agent step: it draws the pixels."""

    def render(self) -> np.ndarray:
        """The present moment as uint8 [H, W, 3]."""

    def episode_metrics(self) -> dict[str, float]:
        """Numbers that the task says of the episode so far, by name. Asked at its end."""

    def close(self) -> None:
        """Free what is held."""


class AgentEnv:
    """A simulator in agent steps; implements :class:`~jaxdreamer.envs.base.Env`.

    One agent step is ``action_repeat`` simulator steps with the same action, fewer where the episode ends; the rewards
    are added up and one observation is made. ``time_limit`` counts agent steps; reaching it truncates. A step that both
    ends the task and runs out of time is terminal.
    """

    def __init__(self, simulator: Simulator, *, action_repeat: int = 1, time_limit: int = 0) -> None:
        """``time_limit`` 0 leaves the episode's length to the task."""
        self.simulator = simulator
        self.spec = simulator.spec
        self.frame_rate = simulator.frame_rate / action_repeat
        self.can_render = simulator.can_render
        self._repeat, self._limit = action_repeat, time_limit
        self._steps = 0
        self._ended: str = "before the first reset"
        self._told = False
        self.spaces = simulator.spaces
        """``{"observation", "action"}``: the spaces of what the library itself returns and takes; None: it has none.
        The observation's is None where the agent sees rendered frames only."""

    @property
    def notes(self) -> list[str]:
        """Lines for the log; there may be more once it has drawn."""
        return self.simulator.notes

    @property
    def episode_metrics(self) -> dict[str, float]:
        """Numbers that the task says of the episode, by name. EnvError for what are none."""
        return self.simulator.episode_metrics()

    def reset(self, seed: int | None = None) -> Timestep:
        """Begin an episode."""
        self._begin(seed)
        return self._first()

    def step(self, action: np.ndarray) -> Timestep:
        """One agent step with ``action`` [A]; EnvError for a non-finite action or where a reset is due."""
        return self._entry(*self._advance(action))

    def replay(self, seed: int | None, actions: np.ndarray) -> Timestep:
        """The last entry after a reset and the agent's ``actions`` [n, A], without observing on the way.

        Stops where the episode ends: with a task that is not deterministic that can be too early.
        """
        self._begin(seed)
        outcome = None
        for action in actions:
            outcome = self._advance(action)
            if self._ended:
                break
        return self._first() if outcome is None else self._entry(*outcome)

    def render(self) -> np.ndarray:
        """The present moment as uint8 [H, W, 3]."""
        return self.simulator.render()

    def close(self) -> None:
        """Free what the simulator holds, once: calling it again before another reset does nothing."""
        if self._ended == "after close":
            return
        self._ended = "after close"
        self.simulator.close()

    def _begin(self, seed: int | None) -> None:
        self.simulator.reset(seed)
        self._steps, self._ended = 0, ""

    def _advance(self, action: np.ndarray) -> tuple[float, bool, bool]:
        if self._ended:
            raise EnvError(f"step was called {self._ended}; call reset first")
        action = np.array(action, np.float32)
        if action.shape != (self.spec.action.size,):
            raise EnvError(f"expected an action of shape ({self.spec.action.size},), found {action.shape}")
        if not np.isfinite(action).all():
            raise EnvError(f"the agent's action is not finite: {action}; look for nan in the losses or parameters")
        total, terminated, truncated = 0.0, False, False
        for _ in range(self._repeat):
            # A fresh one for every step: what a simulator does to the action it was handed is its own affair.
            reward, terminated, truncated = self.simulator.step(self.simulator.to_env(action))
            total += reward
            if terminated or truncated:
                break
        self._steps += 1
        truncated = truncated or (self._limit > 0 and self._steps >= self._limit)
        if terminated or truncated:
            self._ended = "after the episode's end"
        return total, terminated, truncated

    def _first(self) -> Timestep:
        return self._seen(0.0, True, False, False)

    def _entry(self, reward: float, terminated: bool, truncated: bool) -> Timestep:
        return self._seen(reward, False, terminated or truncated, terminated)

    def _seen(self, reward: float, first: bool, last: bool, terminal: bool) -> Timestep:
        try:
            obs = self.simulator.observe()
        except NotFinite as error:
            if not self._told:
                self._told = True
                logger.warning("%s: such an entry is left out, and its episode ends before it", error)
            # Bytes cannot hold nan: the reward says it for them.
            obs, reward = {key: np.zeros(item.shape, item.dtype) for key, item in self.spec.obs.items()}, np.nan
        return Timestep(obs, _float32(reward), first, last, terminal)


def _float32(number: float) -> np.float32:
    """What lies beyond its range becomes inf, which the collecting loop sees and counts."""
    if abs(number) <= LARGEST:
        return np.float32(number)
    with np.errstate(over="ignore"):  # entering this takes as long as a small environment's step
        return np.float32(number)
