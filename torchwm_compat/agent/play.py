"""Playing torchwm's environments, of the old four-value step, with an agent: to collect, and to evaluate."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from jaxdreamer import EnvError
from torchwm_compat.arrays import to_float, to_numpy
from torchwm_compat.envs.image_env import MAX_BROKEN_IN_A_ROW, one_hot_choices
from torchwm_compat.networks.views import features

_log = logging.getLogger("torchwm_compat")


class Player:
    """Steps environments for a :class:`~torchwm_compat.agent.core.Dreamer`."""

    def __init__(self, dreamer: Any) -> None:
        self._dreamer = dreamer
        self._env: Any = None  # where an episode is under way, and:
        self._obs: Any = None
        self._state: Any = None
        self._action: Any = None
        self._bad_in_a_row = 0  # entries that were not finite, since the last good step

    def collect(self, env: Any, steps: int, explore: bool) -> np.ndarray:
        """Play on for ``steps`` steps into the agent's replay; the returns of the episodes touched."""
        dreamer = self._dreamer
        rewards: list[float] = [0.0]
        for index in range(int(steps)):
            if self._env is not env:
                self._begin(env)
            if explore:
                self._state, chosen = dreamer.act_with_world_model(self._obs, self._state, self._action, explore=True)
                action = to_float(chosen)[0]
            else:
                action = np.asarray(env.action_space.sample(), np.float32)
            obs, reward, done, info = env.step(action)
            broken = self._broken(obs, reward)
            if not broken:
                self._action = self._from_env(info.get("action", action) if isinstance(info, dict) else action)
                dreamer.data_buffer.step(obs, self._action[0], reward, bool(done), is_terminal(done, info))
                self._obs = obs
                rewards[-1] += float(reward)
            if done or broken:  # a broken episode ends at its last good entry: the start of the next one closes it
                self._env = None
                if index != steps - 1:
                    rewards.append(0.0)
        return np.array(rewards)

    def evaluate(self, env: Any, episodes: int, render: bool) -> tuple[np.ndarray, np.ndarray, Any]:
        """Whole episodes without exploration: returns, videos [E, T, H, W, C] and latents [N, 1, stoch + deter]."""
        dreamer = self._dreamer
        if self._env is env:  # the episode that was being collected ends where it is
            self._env = None
        returns, videos, latents = np.zeros(episodes), [], []
        for episode in range(episodes):
            steps = 0
            while not steps:  # an episode without a single good step does not count
                steps, returns[episode], frames, seen = self._episode(env, render)
            latents += seen
            videos.append(np.array(frames, np.uint8))
        videos = videos[: dreamer.args.max_videos_to_save if render else 0]
        return returns, _ragged(videos), np.array(latents) if render else None

    def _episode(self, env: Any, render: bool) -> tuple[int, float, list[np.ndarray], list[np.ndarray]]:
        """An episode up to its end or its last good entry: its steps, return, frames and latents."""
        dreamer = self._dreamer
        obs, done, steps, total = self._reset(env), False, 0, 0.0
        frames: list[np.ndarray] = []
        latents: list[np.ndarray] = []
        state, action = dreamer.rssm.init_state(1), np.zeros((1, dreamer.action_size), np.float32)
        while not done:
            state, chosen = dreamer.act_with_world_model(obs, state, action)
            native = to_float(chosen)[0]
            if render:
                if "image" in obs:
                    frames.append(np.moveaxis(to_numpy(obs["image"]), 0, -1).copy())
                latents.append(to_float(features(state)))
            obs, reward, done, info = env.step(native)
            if self._broken(obs, reward):
                break
            action = self._from_env(info.get("action", native) if isinstance(info, dict) else native)
            total += float(reward)
            steps += 1
        return steps, total, frames, latents

    def _begin(self, env: Any) -> None:
        dreamer = self._dreamer
        self._env, self._obs = env, self._reset(env)
        self._state = dreamer.rssm.init_state(1)
        self._action = np.zeros((1, dreamer.action_size), np.float32)
        dreamer.data_buffer.begin(self._obs)

    def _reset(self, env: Any) -> Any:
        """The first observation of the environment's next episode that does not begin broken."""
        while self._broken(obs := env.reset(), None):
            pass
        return obs

    def _broken(self, obs: Any, reward: Any) -> bool:
        """Whether an entry is not finite; a reset's ``reward`` is None. EnvError for the twentieth in a row."""
        spec = self._dreamer.spec.obs
        entry = {"reward": 0.0 if reward is None else reward} | {key: obs[key] for key in spec if key in obs}
        bad = [name for name, value in entry.items() if not np.isfinite(to_float(value)).all()]
        if not bad:
            self._bad_in_a_row *= reward is None  # a reset is no good step
            return False
        self._bad_in_a_row += 1
        if self._bad_in_a_row >= MAX_BROKEN_IN_A_ROW:
            raise EnvError(
                f"the environment gave what is not finite {MAX_BROKEN_IN_A_ROW} times in a row, with resets in between: "
                f"{', '.join(bad)}"
            )
        _log.warning(
            "the environment gave what is not finite (%s): its episode ends at the last good entry", ", ".join(bad)
        )
        return True

    def _from_env(self, action: Any) -> np.ndarray:
        """An action of the environment as the agent's: float32 [1, A], choices one-hot."""
        return one_hot_choices(np.array(action, np.float32).reshape(-1), self._dreamer.spec.action)[None]


def is_terminal(done: Any, info: Any) -> bool:
    """Whether the task itself ended, by a four-value step; at a time limit it did not."""
    info = info if isinstance(info, dict) else {}
    return bool(done) and not info.get("TimeLimit.truncated") and float(info.get("discount", 0.0)) == 0.0


def _ragged(videos: list[np.ndarray]) -> np.ndarray:
    """One array where all videos are equally long, else an array of arrays."""
    if len({video.shape for video in videos}) <= 1:
        return np.array(videos)
    out = np.empty(len(videos), object)
    out[:] = videos
    return out
