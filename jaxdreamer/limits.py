"""The limits of a configuration's numbers: a value that no run could use is refused by name instead of failing later.

A lower limit is the least that makes sense. An upper one is the most that the library can count to, or start at all.
Whether memory holds what a run asks for depends on its environment too, and is checked once that is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from jaxdreamer.errors import ConfigError, shown

INT32 = 2**31 - 1
FLOAT32 = 3.4e38
SMALLEST = 1.2e-38  # below it, float32 has fewer digits, then none
COUNT = 2**53  # whole numbers that every file format keeps exactly

# The rest lies between 0 and INT32, or FLOAT32.
LIMITS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),  # jax's random keys take 32 bits: a larger one would silently be a smaller one
    "env.image_size": (8, 4096),
    "env.action_repeat": (1, 1_000_000),
    "env.num_envs": (1, 2**20),
    **{f"model.{name}": (1, 2**20) for name in ("stoch_size", "deter_size", "hidden_size", "cnn_depth", "units")},
    **{f"model.{name}": (0, 2**20) for name in ("embed_size", "classes")},
    # Each layer is compiled by itself: of thousands nothing would ever come.
    "model.vector_layers": (1, 100),
    **{f"model.{name}_layers": (0, 100) for name in ("reward", "discount", "critic", "actor")},
    "model.blocks": (1, 1024),
    "model.prior_layers": (1, 100),
    **{f"model.{name}": (0, 0.999) for name in ("unimix", "actor_unimix")},
    **{f"model.actor_{name}": (SMALLEST, FLOAT32) for name in ("min_std", "max_std", "output_scale")},
    "loss.kl_balance": (0, 1),
    "loss.reward_scale": (SMALLEST, FLOAT32),
    "behavior.imagine_horizon": (1, 100_000),
    **{f"behavior.{name}": (0, 1) for name in ("discount", "td_lambda", "actor_gradient_mix", "exploration_epsilon")},
    **{f"optimizer.{name}_learning_rate": (SMALLEST, FLOAT32) for name in ("model", "actor", "critic")},
    "optimizer.adam_epsilon": (SMALLEST, FLOAT32),
    "optimizer.grad_clip_norm": (SMALLEST, FLOAT32),
    "optimizer.weight_decay": (0, 1),
    "replay.capacity": (1, COUNT),
    "replay.batch_size": (1, INT32),
    "replay.batch_length": (1, INT32),
    "run.frames": (1, COUNT),
    **{f"run.{name}": (0, COUNT) for name in ("prefill", "eval_every")},
    **{f"run.{name}": (1, COUNT) for name in ("train_every", "log_every", "checkpoint_every")},
    "run.updates": (1, INT32),
    "run.updates_per_call": (1, 100_000),
    "run.eval_episodes": (1, 100_000),
    "run.keep_checkpoints": (1, INT32),
}


def setting(default: Any, low: float | None = None, high: float | None = None, **metadata: Any) -> Any:
    """A field of settings with its limits, and with what else is known of it, in its metadata.

    ``free=True``: it may change within a run, as it only says where and how a simulator runs. ``path=True``: it is a path,
    kept absolute; ``path="command"``: it is one where it has a slash.
    ``runs="start the program"``: what its value makes happen that needs trust in whoever wrote it.
    """
    return field(default=default, metadata=metadata | ({} if low is None else {"limits": (low, high)}))


def check_limits(flat: Mapping[str, Any], own: Mapping[str, tuple[float, float]]) -> None:
    """ConfigError for the first setting, by dotted name, outside of LIMITS or of ``own``, the limits in its metadata."""
    for key, value in flat.items():
        limits = own.get(key) or LIMITS.get(key)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                check_number(key, number, shown(value), limits)


def check_number(key: str, number: float, found: str, limits: tuple[float, float] | None) -> None:
    """ConfigError where ``number`` lies outside the limits of setting ``key``; ``found`` is how it was written."""
    if isinstance(number, float) and not math.isfinite(number):
        raise ConfigError(f"{key} must be a finite number, found {found}")
    low, high = limits or (0, FLOAT32 if isinstance(number, float) else INT32)
    if low <= number <= high:
        return
    if high == 1:
        raise ConfigError(f"{key} must lie between {low:g} and 1, found {found}")
    if number > high:
        most = f"{high:,}" if isinstance(high, int) else f"{high:g}"
        raise ConfigError(f"{key} must be at most {most}, found {found}")
    if number < 0 == low:
        raise ConfigError(f"{key} must not be negative, found {found}")
    if low == 1 or low == SMALLEST:
        raise ConfigError(f"{key} must be above 0, found {found}{' (float32 cannot hold it)' if number > 0 else ''}")
    raise ConfigError(f"{key} must be at least {low:g}, found {found}")
