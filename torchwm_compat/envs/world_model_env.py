"""torchwm's ``envs.world_model_env``: an agent's world model as a Gymnasium environment, by :class:`jaxdreamer.DreamEnv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from jaxdreamer import ConfigError, DreamEnv
from torchwm_compat.arrays import to_numpy
from torchwm_compat.files.export import acting_agent

_CALLABLES = ("initial_state", "reset_fn", "transition_fn", "reward_fn", "terminal_fn", "render_fn", "action_transform_fn",
              "device", "torch_actions")  # fmt: skip


class WorldModelEnv(gymnasium.Env):
    """What the world model of a DreamerAgent, or Dreamer, predicts, as observations, rewards and ends.

    Observations are those of ``agent.train_env``, ``{"image": uint8 [3, H, W]}`` and what else the agent sees; actions are
    in [-1, 1]. It dreams with the parameters that the agent had when this was made.
    """

    def __init__(
        self,
        world_model: Any,
        observation_space: Any = None,
        action_space: Any = None,
        *,
        initial_observation: Mapping[str, Any] | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        seed: int | None = None,
        **more: Any,
    ) -> None:
        """Open a dream.

        Args:
            world_model: a DreamerAgent, or its ``dreamer``.
            observation_space, action_space: checked where they are given; torchwm needs them.
            initial_observation: where every dream begins. None: where the agent's ``test_env`` does, reset for each.
            max_episode_steps: dreams are truncated after as many; None: never.
            render_mode: ``"rgb_array"`` draws what an agent dreams that sees images.
            seed: of the first reset that is given none.

        Raises:
            ConfigError: another world model, other spaces, a bare Dreamer without an ``initial_observation``, or an argument
                by which torchwm takes a model apart that is no Dreamer.
        """
        if more:
            known = [name for name in more if name in _CALLABLES]
            if not known:
                raise TypeError(f"WorldModelEnv() got an unexpected keyword argument {next(iter(more))!r}")
            raise ConfigError(
                f"WorldModelEnv: {', '.join(known)} are for models of other kinds; here it dreams in a DreamerAgent, which "
                "needs none of them. Models of your own: install torchwm itself"
            )
        dreamer = getattr(world_model, "dreamer", world_model)
        if not hasattr(dreamer, "state_dicts"):
            raise ConfigError(
                f"WorldModelEnv: expected a DreamerAgent or its dreamer, found {type(world_model).__name__}"
            )
        self.world_model = world_model
        self._real: Any = getattr(world_model, "test_env", None)
        if initial_observation is None and self._real is None:
            raise ConfigError(
                "WorldModelEnv: a Dreamer without its agent has no environment: give initial_observation=..."
            )
        agent = acting_agent(dreamer)
        self._images = agent.spec.keys(image=True)
        self._bare = len(agent.spec.obs) == 1
        self.initial_observation = initial_observation
        # Replaced at every reset; zeros are an observation of every space.
        start = self._begun({key: np.zeros(item.shape, item.dtype) for key, item in agent.spec.obs.items()})
        self._dream = DreamEnv(agent, horizon=max_episode_steps or 0, start=start, render_mode=render_mode)
        self.metadata, self.render_mode = self._dream.metadata, render_mode
        self.observation_space = self._spaces(self._dream.observation_space, next(iter(agent.spec.obs)))
        self.action_space = self._dream.action_space
        self._check(observation_space, action_space)
        self._seed = seed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a dream."""
        if options:
            raise ConfigError(f"WorldModelEnv.reset takes no options, found {', '.join(map(str, options))}")
        seed, self._seed = self._seed if seed is None else seed, None
        super().reset(seed=seed)
        obs: Any = self.initial_observation
        if obs is None:
            obs = self._real.reset()
        found, info = self._dream.reset(seed=seed, options={"start": self._begun(self._turned(obs))})
        return self._seen(found), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of the dream."""
        found, *rest = self._dream.step(np.asarray(to_numpy(action), np.float32))
        return self._seen(found), *rest  # type: ignore[return-value]

    def render(self) -> Any:
        """The present picture, uint8 [H, W, 3]."""
        return self._dream.render()

    @property
    def state(self) -> Any:
        """Where the dream is."""
        return self._dream.state

    def _begun(self, obs: dict[str, np.ndarray]) -> Any:
        return next(iter(obs.values())) if self._bare else obs

    def _turned(self, obs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """torchwm's observation, images [3, H, W], as the agent's arrays, images [H, W, 3]."""
        found = {key: np.asarray(to_numpy(obs[key])) for key in self._keys}
        return {key: np.moveaxis(item, 0, -1) if key in self._images else item for key, item in found.items()}

    def _seen(self, found: Any) -> dict[str, np.ndarray]:
        items = {self._keys[0]: found} if self._bare else found
        return {key: np.moveaxis(item, -1, 0) if key in self._images else item for key, item in items.items()}

    def _spaces(self, space: Any, key: str) -> gymnasium.spaces.Dict:
        inside = {key: space} if self._bare else dict(space.spaces)
        self._keys = list(inside)
        for name in self._images:
            box = inside[name]
            low, high = (np.moveaxis(bound, -1, 0) for bound in (box.low, box.high))
            inside[name] = gymnasium.spaces.Box(low, high, dtype=box.dtype)
        self._boxes = inside
        return gymnasium.spaces.Dict(inside)

    def _check(self, observation_space: Any, action_space: Any) -> None:
        given = {"action_space": (action_space, self.action_space)}
        for name, box in self._boxes.items():
            there = None if observation_space is None else observation_space[name]
            given[f"observation_space[{name!r}]"] = (there, box)
        for name, (asked, own) in given.items():
            if asked is not None and asked.shape != own.shape:
                raise ConfigError(f"WorldModelEnv: {name} has shape {asked.shape}, the agent's is {own.shape}")


def make_world_model_env(world_model: Any, *args: Any, **kwargs: Any) -> WorldModelEnv:
    """A :class:`WorldModelEnv`."""
    return WorldModelEnv(world_model, *args, **kwargs)
