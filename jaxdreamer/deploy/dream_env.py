"""Dreams as Gymnasium environments, one or many in one compiled step.

Importing this module registers ``jaxdreamer/Dream-v0``, so that other programs can make it by its name:
``gymnasium.make("jaxdreamer.deploy.dream_env:jaxdreamer/Dream-v0", run="runs/pendulum")``.
"""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from jaxdreamer.deploy.agent import Agent
from jaxdreamer.deploy.dream import Dream, DreamState, encode, open_dream
from jaxdreamer.envs.device.functional import make_lanes
from jaxdreamer.envs.host.actions import ActionMap
from jaxdreamer.errors import ConfigError
from jaxdreamer.types import ActionSpec, Latent

DREAM_ID = "jaxdreamer/Dream-v0"


class DreamEnv(gymnasium.Env):
    """A run's world model as an environment: what it predicts is seen, earned and ended by.

    Observations are the decoder's means in the task's own space, within its bounds, as :meth:`Agent.act` takes them; actions
    are the task's own. ``reset(options={"start": x})`` begins one dream elsewhere, x being a :class:`Latent` or an
    observation. See :func:`jaxdreamer.deploy.dream.open_dream` for the arguments. ``info["goes_on"]`` is the predicted
    probability that the task goes on.

    ::

        env = jaxdreamer.DreamEnv("runs/pendulum", horizon=50)
        obs, info = env.reset(seed=0)
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
    """

    def __init__(
        self, run: str | os.PathLike[str] | Agent, *, horizon: int = 200, render_mode: str | None = None, **options: Any
    ) -> None:
        """``render_mode="rgb_array"`` draws the pictures of a run that saw some; ConfigError for other runs."""
        self.dream = open_dream(run, horizon=horizon, **options)
        self.metadata = _metadata(self.dream)
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(
                f"render_mode must be one of {self.metadata['render_modes']} or None, found {render_mode!r}: a dream is "
                "drawn as rgb_array, where the run saw pictures"
            )
        self.render_mode = render_mode
        self._writer = self.dream.agent.observation_writer()
        self._actions = _action_map(self.dream.agent)
        self.observation_space, self.action_space = self._writer.space, self._actions[1]
        self.horizon = horizon
        self.state: DreamState | None = None
        """Where the dream is; it may be read, and set, between steps."""
        env, agent, world = self.dream.env, self.dream.agent, self.dream.world

        def step(state: DreamState, action: jax.Array) -> Any:
            state, reward, terminal = env.step(state, action)
            return state, reward, terminal, world.goes_on(agent.params, state.latent), env.observe(state)

        self._reset, self._step, self._observe = jax.jit(env.reset), jax.jit(step), jax.jit(env.observe)
        self._render = jax.jit(env.render) if env.render else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a dream; a seed decides where, and all that is drawn in it."""
        super().reset(seed=seed)
        key = jax.random.key(int(self.np_random.integers(2**31)))
        start = (options or {}).get("start")
        if start is None:
            self.state = self._reset(key)
        else:
            latent = start
            if not isinstance(start, Latent):
                found = encode(self.dream.agent, self.dream.world, start, jax.random.fold_in(key, 1))
                latent = jax.tree.map(lambda x: x[0], found)
            self.state = self.dream.begin(jax.tree.map(lambda x: np.asarray(x, np.float32), latent), key)
        return self._seen(self._observe(self.state)), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of the dream with an action of the task's."""
        if self.state is None:
            raise ConfigError("step was called before the first reset; call reset first")
        self.state, reward, terminal, goes_on, obs = self._step(self.state, self._actions[0].from_env(action))
        truncated = 0 < self.horizon <= int(self.state.steps)
        return self._seen(obs), float(reward), bool(terminal), truncated, {"goes_on": float(goes_on)}

    def render(self) -> Any:
        """The present picture, uint8 [H, W, 3]; None without a render mode."""
        if self.render_mode is None or self.state is None or self._render is None:
            return None
        return np.asarray(self._render(self.state))

    def _seen(self, obs: Any) -> Any:
        return self._writer(jax.device_get(obs))


class DreamVectorEnv(gymnasium.vector.VectorEnv):
    """Many dreams, each step of all of them one call of one compiled program.

    A dream that is over begins anew in the next step, whose action it ignores (``AutoresetMode.NEXT_STEP``). The arguments
    are those of :class:`DreamEnv`.
    """

    def __init__(
        self, run: str | os.PathLike[str] | Agent, num_envs: int = 1, *, horizon: int = 200, **options: Any
    ) -> None:
        """``num_envs`` dreams side by side."""
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, found {num_envs}")
        self.dream = open_dream(run, horizon=horizon, **options)
        mode = gymnasium.vector.AutoresetMode.NEXT_STEP
        self.metadata = _metadata(self.dream) | {"autoreset_mode": mode}
        self.num_envs = num_envs
        self._writer = self.dream.agent.observation_writer()
        self._map, self.single_action_space = _action_map(self.dream.agent)
        self.single_observation_space = self._writer.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        lanes = make_lanes(self.dream.env, num_envs)
        self._init, self._advance = jax.jit(lanes.init), jax.jit(lanes.step)
        self.state: Any = None
        """Where the dreams are, see :class:`jaxdreamer.envs.device.functional.LaneState`."""

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin all dreams anew; one seed decides all of them."""
        if isinstance(seed, list):
            raise ConfigError("a DreamVectorEnv takes one seed for all of its dreams, found a list")
        super().reset(seed=seed)
        self.state = self._init(jax.random.key(int(self.np_random.integers(2**31))))
        obs, *_ = self._moved(np.zeros((self.num_envs, self.dream.agent.spec.action.size), np.float32))
        return obs, {}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every dream."""
        if self.state is None:
            raise ConfigError("step was called before the first reset; call reset first")
        vectors = np.stack([self._map.from_env(action) for action in iterate(self.action_space, actions)])
        return self._moved(vectors)

    def _moved(self, vectors: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self.state, entry, _ = self._advance(self.state, vectors)
        entry = jax.device_get(entry)
        each = [self._writer({key: x[lane] for key, x in entry.obs.items()}) for lane in range(self.num_envs)]
        empty = create_empty_array(self.single_observation_space, self.num_envs)
        obs = concatenate(self.single_observation_space, each, empty)
        truncated = entry.is_last & ~entry.is_terminal
        return obs, entry.reward.astype(np.float64), entry.is_terminal, truncated, {}


def _metadata(dream: Dream) -> dict[str, Any]:
    modes = ["rgb_array"] if dream.env.render else []
    return {"render_modes": modes, "render_fps": max(1, round(dream.env.frame_rate))}


def _action_map(agent: Agent) -> tuple[ActionMap, Any]:
    """The map of a run's actions, and their space; of a task without spaces one that is made of the spec."""
    if agent.actions is not None:
        return agent.actions, agent.action_space
    space = _space_of(agent.spec.action)
    return ActionMap(space), space


def _space_of(spec: ActionSpec) -> Any:
    from gymnasium import spaces

    parts = [
        spaces.Discrete(part.size) if part.kind == "discrete" else spaces.Box(-1.0, 1.0, (part.size,), np.float32)
        for part in spec.parts
    ]
    return parts[0] if len(parts) == 1 else spaces.Tuple(parts)


def register_dream() -> None:
    """Let ``gymnasium.make("jaxdreamer/Dream-v0", run=...)`` and ``make_vec`` find these; once is enough."""
    if DREAM_ID not in gymnasium.registry:
        gymnasium.register(
            DREAM_ID, entry_point=f"{__name__}:DreamEnv", vector_entry_point=f"{__name__}:DreamVectorEnv"
        )


register_dream()
