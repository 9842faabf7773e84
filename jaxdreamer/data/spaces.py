"""Gymnasium's spaces for what the agent sees and does, where an environment's own are not known or do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxdreamer.envs.host.restoring import space_of
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec

__all__ = ["action_space", "observation_space"]


def observation_space(obs: dict[str, ArraySpec]) -> Any:
    """The space of the agent's observations: a Dict, or the one space where there is one by the usual name."""
    from gymnasium import spaces

    members = {key: space_of(item) for key, item in obs.items()}
    usual = "image" if next(iter(obs.values())).kind == "image" else "state"
    return members[usual] if list(obs) == [usual] else spaces.Dict(members)


def action_space(action: ActionSpec) -> Any:
    """The space of the agent's own actions: a Tuple of its parts, or the one part."""
    from gymnasium import spaces

    parts = [_action(part) for part in action.parts]
    return parts[0] if len(parts) == 1 else spaces.Tuple(parts)


def _action(part: ActionPart) -> Any:
    from gymnasium import spaces

    return spaces.Discrete(part.size) if part.kind == "discrete" else spaces.Box(-1, 1, (part.size,), np.float32)
