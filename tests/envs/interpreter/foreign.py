"""What another interpreter makes for tests: imported there, by its name in env.id."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from gymnasium import spaces

# Before installed libraries: some bring a package `tests` of their own.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from tests.envs.toy import CountingEnv, Saying

counting = CountingEnv
saying = Saying
dict_dict = partial(CountingEnv, "dict", "dict", truncate_at=6)
image_offset = partial(CountingEnv, "image", "offset", terminate_at=6)
vector_tuple = partial(CountingEnv, "vector", "tuple", truncate_at=6)


class Pair(CountingEnv):
    """Its observation has two members, as what reset returns has; and a text that no agent reads."""

    def __init__(self):
        super().__init__(truncate_at=6)
        inner = self.observation_space
        self.observation_space = spaces.Tuple([inner, spaces.Dict({"n": spaces.Discrete(9), "say": spaces.Text(9)})])

    def _observe(self):
        return super()._observe(), {"n": self.time, "say": "go"}


class Troubled(CountingEnv):
    """At step 3 it does what its name says."""

    def step(self, action):
        result = super().step(action)
        if self.time == 3:
            self.trouble()
        return result

    def trouble(self):
        raise ZeroDivisionError("the physics of this task divided by zero")


class Exits(Troubled):
    def trouble(self):
        os._exit(7)


class Leaves(Troubled):
    def trouble(self):
        sys.exit("no licence")


class Hangs(Troubled):
    def trouble(self):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # a helper that must not stay
        time.sleep(600)


class Undrawn(CountingEnv):
    """It draws by a library that is not there."""

    def render(self):
        import no_such_library  # noqa: F401


class Silent:
    """No environment at all."""
