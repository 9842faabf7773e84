"""Small agents and environments that the tests of the facade share, and the numbers that torchwm itself gave."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from torchwm_compat.agent.core import Dreamer
from torchwm_compat.config.settings import DreamerConfig

HERE = Path(__file__).resolve().parent
# The whole set, with torchwm's own checkpoint and its default sizes, is too large for the repository.
WHOLE = next(
    (f for f in (HERE.parents[1] / "shared", HERE.parents[2] / "shared") if (f / "fixtures" / "torchwm").is_dir()), None
)
IMAGE, ACTION_SIZE = (3, 16, 16), 2

TINY = {
    "buffer_size": 64,
    "batch_size": 2,
    "train_seq_len": 4,
    "imagine_horizon": 3,
    "obs_embed_size": 16,
    "num_units": 16,
    "deter_size": 16,
    "stoch_size": 4,
    "free_nats": 0.0,
    "image_size": (16, 16),
    "seed_steps": 40,
    "collect_steps": 20,
    "update_steps": 1,
    "action_repeat": 1,
    "test_episodes": 2,
    "test_interval": 50,
    "checkpoint_interval": 50,
    "total_steps": 100,
    "enable_console_metrics": False,
    "env_backend": "gym",
    "env": "Pendulum-v1",
    "time_limit": 20,
}


def config(**changes) -> DreamerConfig:
    return DreamerConfig(**{**TINY, **changes})


def dreamer(**changes) -> Dreamer:
    return Dreamer(config(**changes), IMAGE, ACTION_SIZE, "cpu")


@functools.cache
def numbers(name: str) -> dict[str, np.ndarray]:
    with np.load(HERE / "fixtures" / f"{name}.npz") as data:
        return {key: data[key] for key in data.files}


def whole(name: str) -> Path:
    """A file of the whole set; the test is skipped where it is not at hand."""
    if WHOLE is None:
        pytest.skip("the whole set of torchwm's numbers is not beside this checkout")
    return WHOLE / "fixtures" / "torchwm" / name


def part(data: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key[len(prefix) :]: value for key, value in data.items() if key.startswith(prefix)}


def observation(value: int = 0) -> dict[str, np.ndarray]:
    return {"image": np.full(IMAGE, value, np.uint8)}


class OldEnv:
    """Old gym's four values: episodes of ``length`` steps, each of reward 1; frames tell the time."""

    def __init__(self, length: int = 3):
        self.length, self.time = length, 0
        self.resets, self.actions = 0, []
        self.action_space = self

    def sample(self):
        return np.random.uniform(-1, 1, ACTION_SIZE).astype(np.float32)

    def reset(self):
        self.time, self.resets = 0, self.resets + 1
        return observation(0)

    def step(self, action):
        self.time += 1
        self.actions.append(np.array(action))
        return observation(self.time * 40 % 256), 1.0, self.time >= self.length, {}

    def close(self):
        pass
