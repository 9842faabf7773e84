"""Crafter by its own package: survival in a small world that is seen from above, with 22 achievements to unlock.

Death is terminal; the 10,000th step truncates. Every episode says which achievements it unlocked, and the log has their
success rates and :func:`score`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdreamer.config import ConfigError, EnvConfig, Options, nearest
from jaxdreamer.envs.host.agent_env import AgentEnv
from jaxdreamer.envs.host.instance import wrap
from jaxdreamer.envs.host.libraries import warnings_logged
from jaxdreamer.errors import import_extra, shown
from jaxdreamer.families import Backend

TASKS = {"CrafterReward-v1": True, "CrafterNoReward-v1": False}
"""By the package's names: whether there are rewards."""
LENGTH = 10_000
"""Steps of the longest episode."""
SMALLEST = 18
"""Pixels, either way, in which Crafter can draw the 9 by 9 places that are seen; what is smaller is shrunk."""
FILM = (288, 288)
_PREFIX = "achievement_"


def make(config: EnvConfig) -> AgentEnv:
    """Crafter: ``image`` uint8 [H, W, 3], drawn at ``config.image_size``; 17 actions.

    ``config.time_limit`` > 0 replaces the 10,000 steps. ConfigError for another task, MissingExtra without the package.
    """
    if config.id not in TASKS:
        raise ConfigError(
            f"env.id: Crafter has no task {shown(config.id)}{nearest(config.id, TASKS)}; there are: {', '.join(TASKS)}"
        )
    height, width = (max(side, SMALLEST) for side in config.image_size)
    with warnings_logged():
        game = CrafterGame(TASKS[config.id], (height, width), 0 if config.time_limit else LENGTH)
    seen = "auto" if config.obs == "pixels" else config.obs  # the picture is its observation
    return wrap(game, dataclasses.replace(config, obs=seen))


def score(rates: Mapping[str, float]) -> dict[str, float]:
    """Crafter's score of the success rates s_i of its achievements, in percent: ``exp(mean_i log(1 + s_i)) - 1``.

    From 0 to 100, by the name ``score`` (Hafner 2021, "Benchmarking the Spectrum of Agent Capabilities"); nothing where
    no rates are given.
    """
    found = [rate for name, rate in rates.items() if name.startswith(_PREFIX)]
    return {"score": float(np.expm1(np.mean(np.log1p(found))))} if found else {}


class CrafterGame:
    """The package's environment as one of gymnasium's: seeded resets, five values of a step, frames for films."""

    render_mode = "rgb_array"
    metadata = {"render_fps": 10}  # noqa: RUF012  (the game knows no time; so fast it can be followed)

    def __init__(self, reward: bool, size: tuple[int, int], length: int) -> None:
        """``size`` is height and width of the observation; ``length`` 0 is no limit."""
        from gymnasium import spaces

        crafter = import_extra("crafter", "crafter", "env.backend=crafter")
        self.game = game = crafter.Env(size=size[::-1], reward=reward, length=length or None, seed=0)
        balance = game._balance_chunk
        # Crafter draws from a set of creatures in the order of their addresses: one seed would give different episodes.
        game._balance_chunk = lambda chunk, some: balance(chunk, [one for one in game._world.objects if one in some])
        self.observation_space = spaces.Box(0, 255, (*size, 3), np.uint8)
        self.action_space: spaces.Discrete = spaces.Discrete(len(game.action_names))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Another world: that of the seed, or the next one."""
        if seed is not None:
            self.game._seed, self.game._episode = seed, 0
        return self.game.reset(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; what was unlocked so far is 100, all else 0."""
        obs, reward, done, info = self.game.step(action)
        dead = info["discount"] == 0
        info["episode_metrics"] = {
            f"{_PREFIX}{name}": 100.0 * (count > 0) for name, count in info["achievements"].items()
        }
        return obs, reward, dead, bool(done) and not dead, info

    def render(self) -> np.ndarray:
        """The present moment as uint8 [288, 288, 3]."""
        random = self.game._world.random  # nights are drawn with the world's own random numbers: they are put back
        state = random.get_state()
        frame = self.game.render(FILM)
        random.set_state(state)
        return frame


def tasks() -> list[str]:
    """What ``env.id`` can be; MissingExtra without the package."""
    import_extra("crafter", "crafter", "env.backend=crafter")
    return list(TASKS)


BACKEND = Backend(
    "crafter",
    make,
    tasks=tasks,
    options=Options,
    extra="crafter",
    libraries=("crafter",),
    sample="CrafterReward-v1",
    summary=score,
)
