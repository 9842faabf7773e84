"""Stepping environments with a policy and storing every entry; and keeping the score of whole episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.agent.policy import Policy, random_action
from jaxdreamer.types import ActionSpec, Array, EnvSpec, PolicyState, PyTree, Timestep


class Environments(Protocol):
    """What the loops want of N environments side by side; `envs/vector.py` is one."""

    spec: EnvSpec
    num_envs: int

    def step(self, actions: np.ndarray) -> Timestep:
        """Advance every lane by one entry; a lane whose last entry ended its episode is reset."""

    def state(self) -> dict[str, Any]:
        """JSON-ready."""

    def restore(self, state: dict[str, Any], actions: Any) -> list[Timestep | None]:
        """Bring the lanes back to where ``state`` was taken by playing their episodes again."""

    def close(self) -> None:
        """Free everything."""


class Acting(NamedTuple):
    """What acting carries from one observation to the next, on the device."""

    policy: PolicyState
    key: Array


def make_act(policy: Policy, mode: str) -> Callable[..., tuple[Array, Acting]]:
    """``act(params, acting, obs, is_first) -> (action [B, A], acting)``, jitted, with the key carried along."""

    @jax.jit
    def act(params: PyTree, acting: Acting, obs: dict[str, Array], is_first: Array) -> tuple[Array, Acting]:
        key, key_act = jax.random.split(acting.key)
        action, state = policy.act(params, acting.policy, obs, is_first, key_act, mode=mode)
        return action, Acting(state, key)

    return act


def make_random_act(policy: Policy, spec: ActionSpec) -> Callable[..., tuple[Array, Acting]]:
    """Like :func:`make_act` with uniform actions: the latent stays as it was, the action is remembered."""

    @jax.jit
    def act(params: PyTree, acting: Acting, obs: dict[str, Array], is_first: Array) -> tuple[Array, Acting]:
        del params, obs
        key, key_act = jax.random.split(acting.key)
        action = random_action(key_act, spec, is_first.shape[0])
        return action, Acting(PolicyState(acting.policy.latent, action), key)

    return act


class Scores:
    """Returns and lengths of episodes, in the environment's own units, as they finish."""

    def __init__(self, lanes: int):
        self.current = np.zeros(lanes, np.float64)
        self.steps = np.zeros(lanes, np.int64)
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.last_return: float | None = None

    def add(self, timestep: Timestep) -> None:
        """Count one entry of every lane."""
        self.current = np.where(timestep.is_first, 0.0, self.current + timestep.reward)
        self.steps = np.where(timestep.is_first, 0, self.steps + 1)
        for lane in np.flatnonzero(timestep.is_last):
            self.last_return = float(self.current[lane])
            self.returns.append(self.last_return)
            self.lengths.append(int(self.steps[lane]))

    def take(self) -> dict[str, float]:
        """Metrics of the episodes that ended since the last call; empty where none did."""
        if not self.returns:
            return {}
        metrics = {
            "train/return": float(np.mean(self.returns)),
            "train/return_max": float(np.max(self.returns)),
            "train/return_min": float(np.min(self.returns)),
            "train/length": float(np.mean(self.lengths)),
            "train/episodes": len(self.returns),
        }
        self.returns, self.lengths = [], []
        return metrics

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "current": self.current.tolist(),
            "steps": self.steps.tolist(),
            "returns": self.returns,
            "lengths": self.lengths,
            "last_return": self.last_return,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned."""
        self.current, self.steps = np.array(state["current"]), np.array(state["steps"])
        self.returns, self.lengths = list(state["returns"]), list(state["lengths"])
        self.last_return = state["last_return"]


class Collector:
    """Steps environments, one entry of every lane a call, and hands each to ``store(timestep, action)``."""

    def __init__(
        self,
        envs: Environments,
        policy: Policy,
        store: Callable[[Timestep, np.ndarray], None],
        key: Array,
    ):
        self.envs, self._store = envs, store
        self._random = make_random_act(policy, envs.spec.action)
        self._explore = make_act(policy, "explore")
        self.acting = Acting(jax.tree.map(jnp.asarray, policy.init(envs.num_envs)), key)
        self.scores = Scores(envs.num_envs)
        self.agent_steps = 0
        self.latest: Timestep | None = None

    def step(self, params: PyTree | None) -> Timestep:
        """Advance every lane by one entry: with the exploring policy, or with uniform actions where params is None."""
        if self.latest is None:
            action = np.zeros((self.envs.num_envs, self.envs.spec.action.size), np.float32)
        else:
            act = self._random if params is None else self._explore
            out, self.acting = act(params, self.acting, self.latest.obs, self.latest.is_first)
            action = np.asarray(out)
        timestep = self.envs.step(action)
        self.agent_steps += int(np.sum(~timestep.is_first))
        self._store(timestep, np.where(timestep.is_first[:, None], np.float32(0), action))
        self.scores.add(timestep)
        self.latest = timestep
        return timestep
