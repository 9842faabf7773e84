"""Environments that fail on purpose, in a module of their own: worker processes import it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from jaxdreamer.config import EnvConfig
from jaxdreamer.envs.host.instance import wrap
from tests.envs.toy import CountingEnv


class Troubled(CountingEnv):
    """Counts like its parent until step ``at`` of an episode, where it does what ``trouble`` says.

    ``once`` is a file that is made at the first trouble and keeps any other from coming. The trouble ``stillborn`` comes at
    the first ``at`` resets of all.
    """

    def __init__(self, trouble: str = "", at: int = 50, once: str = "", **options):
        super().__init__(**options)
        self.trouble, self.at, self.once = trouble, at, once

    def reset(self, **options):
        obs, info = super().reset(**options)
        return (obs * np.nan if self.trouble == "stillborn" and self.resets <= self.at else obs), info

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if self.time == self.at and self._claim():
            if self.trouble == "raise":
                raise ZeroDivisionError("the physics of this task divided by zero")
            if self.trouble == "hang":
                time.sleep(600)
            if self.trouble == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.trouble == "exit":
                os._exit(7)
            if self.trouble == "nan":
                reward = np.nan
        return obs, reward, terminated, truncated, info

    def _claim(self):
        """Whether it is this environment's turn to be in trouble."""
        if not self.once:
            return True
        try:
            Path(self.once).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Slow(CountingEnv):
    """Takes 20 ms a step."""

    def step(self, action):
        time.sleep(0.02)
        return super().step(action)


class Spying(CountingEnv):
    """Tells in its observation how many modules of jax its process has imported, and its process."""

    def _observe(self):
        heavy = sum(name.split(".")[0] in ("jax", "jaxlib", "flax", "optax") for name in sys.modules)
        return np.array([heavy, os.getpid(), 0], np.float32)


def troubled(**options):
    """A function that makes one, for a lane."""
    return lambda: wrap(Troubled(**options), EnvConfig())


def refused():
    """An environment that its settings rule out."""
    return wrap(CountingEnv(action="unbounded"), EnvConfig())
