"""The package ``gym`` as far as environments of 2021 need it: no seeds for reset, four values of step, render(mode)."""

import sys
from types import SimpleNamespace

import numpy as np

__version__ = "0.21.0"


class Box:
    def __init__(self, low, high, shape, dtype):
        self.low, self.high = np.full(shape, low, dtype), np.full(shape, high, dtype)
        self.shape, self.dtype = shape, np.dtype(dtype)


class Discrete:
    shape, dtype = (), np.dtype(np.int64)

    def __init__(self, n):
        self.n = n


class Cart:
    """Observation: the seed, the time. Falls after seven steps if action 1 was never taken."""

    metadata = {"render.modes": ["rgb_array"], "video.frames_per_second": 25}  # noqa: RUF012
    observation_space, action_space = Box(-np.inf, np.inf, (2,), np.float64), Discrete(2)

    def __init__(self):
        self.number = self.time = self.saved = 0

    def seed(self, seed=None):
        self.number = seed % 1000
        return [seed]

    def reset(self):
        self.time = self.saved = 0
        return np.array([self.number, 0.0])

    def step(self, action):
        print("a line that is no message", flush=True)
        sys.stdout.buffer.write(b"\0" * 9)
        self.time, self.saved = self.time + 1, self.saved or action
        done = self.time == 7 and not self.saved
        return np.array([self.number, self.time]), 1.0, done, {"numpy": np.__version__, "junk": object()}

    def render(self, mode="human"):
        return np.full((20, 30, 3), self.time, np.uint8)


class TimeLimit:
    def __init__(self, env, steps):
        self.env, self.steps = env, steps
        self.observation_space, self.action_space, self.metadata = env.observation_space, env.action_space, env.metadata

    def seed(self, seed=None):
        return self.env.seed(seed)

    def reset(self, **kwargs):
        return self.env.reset(**kwargs)

    def step(self, action):
        obs, reward, done, info = self.env.step(action)
        if self.env.time >= self.steps:
            info["TimeLimit.truncated"], done = not done, True
        return obs, reward, done, info

    def render(self, mode="human", **kwargs):
        return self.env.render(mode, **kwargs)


class EnvRegistry:
    def __init__(self):
        self.env_specs = {"OldCart-v0": SimpleNamespace(entry_point=f"{__name__}:Cart", max_episode_steps=10)}


registry = EnvRegistry()
envs = SimpleNamespace(registration=SimpleNamespace(registry=registry))


def spec(name):
    return registry.env_specs[name]


def make(name, **kwargs):
    return TimeLimit(Cart(**kwargs), spec(name).max_episode_steps)
