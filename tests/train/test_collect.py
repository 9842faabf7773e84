"""Collecting: what is not finite ends its episode, wherever it stands, and is never stored."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from gymnasium import spaces

from jaxdreamer import config as configs
from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.host.gymnasium_env import wrap
from jaxdreamer.envs.host.vector import LocalVectorEnv
from jaxdreamer.replay.host import HostReplay
from jaxdreamer.train.host.collect import Collector
from tests.envs.toy import CountingEnv

CONFIG = configs.preset("dreamer_v1,tiny", "action_repeat=1", "image_size=8,8")


class Spoilt(CountingEnv):
    """One of several keys is not finite at every reset of an even number and at time 4."""

    where = "image"

    def __init__(self):
        super().__init__("dict", truncate_at=6)
        self.observation_space["image"] = spaces.Box(0.0, 1.0, (8, 8, 3), np.float32)

    def _observe(self):
        obs = {**super()._observe(), "image": np.full((8, 8, 3), 0.2, np.float32)}
        if self.spoilt:
            value = obs["nested"]["imu"] if self.where == "nested.imu" else obs.get(self.where)
            if self.where == "mode":
                obs["mode"] = np.nan
            elif value is not None:
                value[..., 1] = np.inf
        return obs

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, -np.inf if self.spoilt and self.where == "reward" else reward, *rest

    @property
    def spoilt(self):
        return self.time == 4 or (self.time == 0 and self.resets % 2 == 0)


@pytest.mark.parametrize("where", ["image", "pos", "nested.imu", "mode", "reward"])
def test_what_is_not_finite_ends_its_episode_and_is_not_stored(where):
    env = type("Case", (Spoilt,), {"where": where})
    envs = LocalVectorEnv([wrap(env(), CONFIG.env) for _ in range(2)])
    replay = HostReplay(envs.spec, capacity=200, lanes=2, length=4, cross_episodes=True)
    collector = Collector(envs, make_algorithm(CONFIG, envs.spec), replay, jax.random.key(0))
    for _ in range(20):
        collector.step(None, "random")
    rows = replay.read_rows(0, replay.total)
    times = rows["obs/nested.imu"][..., 0]
    np.testing.assert_array_equal(times, np.broadcast_to(np.arange(20) % 4, (2, 20)).T)
    np.testing.assert_array_equal(rows["reward"], times)
    assert (rows["obs/image"] == 51).all() and not rows["is_terminal"].any()
    np.testing.assert_array_equal(rows["is_last"][:-1], times[:-1] == 3)
    # At time 4 of the five episodes but the one under way, and at every other reset before them; a reward has no reset.
    assert collector.broken.count == 2 * (4 if where == "reward" else 8)


def test_a_picture_that_is_never_finite_stops_collecting(caplog):
    env = type("Case", (Spoilt,), {"spoilt": True})
    envs = LocalVectorEnv([wrap(env(), CONFIG.env)])
    replay = HostReplay(envs.spec, capacity=200, lanes=1, length=4, cross_episodes=True)
    with pytest.raises(EnvError, match=r"environment 0 gave .* not finite 20 times in a row.*: reward nan$"):
        Collector(envs, make_algorithm(CONFIG, envs.spec), replay, jax.random.key(0)).step(None, "random")
    assert "observation 'image' holds numbers that are not finite" in caplog.text
