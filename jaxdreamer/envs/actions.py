"""The agent's flat actions as elements of a Gymnasium space (:class:`ActionMap`)

Box is one continuous part, flattened in C order; Discrete is one discrete part; MultiDiscrete and MultiBinary are one
discrete part for each entry, in C order; Dict and Tuple are their members' parts in the space's own order (gymnasium sorts
the keys of a plain dict).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from jaxdreamer.envs.base import EnvError, SpaceError
from jaxdreamer.envs.spaces import SUPPORTED, children, kind_of
from jaxdreamer.types import ActionPart, ActionSpec

logger = logging.getLogger(__name__)


class ActionMap:
    """Agent actions, flat float32 [A], to elements of ``space`` and back."""

    def __init__(self, space: Any, action_bound: float = 0.0) -> None:
        """``action_bound`` > 0 stands in for bounds that are not finite; SpaceError for what cannot be used."""
        self._codec = _codec(space, "action", action_bound)
        self.spec = ActionSpec(self._codec.parts)
        if not self.spec.size:
            raise SpaceError(f"the action space {space} has no dimensions; there is nothing to decide")

    def to_env(self, action: np.ndarray) -> Any:
        """The element of the space for ``action`` [A]: its own dtype and shape, inside its bounds; ends map to ends.

        Continuous numbers outside [-1, 1] are clipped; the largest number of a discrete part is the choice. The numbers
        must be finite: :class:`~jaxdreamer.envs.wrappers.AgentEnv` sees to that for every backend.
        """
        vector = np.asarray(action, np.float64)
        if vector.shape != (self.spec.size,):
            raise EnvError(f"expected an action of shape ({self.spec.size},), found {vector.shape}")
        return self._codec.decode(vector)

    def from_env(self, action: Any) -> np.ndarray:
        """The agent's action float32 [A] for an element of the space, the inverse of :meth:`to_env`."""
        return np.asarray(self._codec.encode(action), np.float32)


class _Codec(Protocol):
    parts: tuple[ActionPart, ...]

    def decode(self, vector: np.ndarray) -> Any: ...

    def encode(self, action: Any) -> np.ndarray: ...


def _codec(space: Any, key: str, action_bound: float) -> _Codec:
    kind = kind_of(space)
    if kind == "Box":
        return _Continuous(space, key, action_bound)
    if kind in ("Discrete", "MultiDiscrete", "MultiBinary"):
        return _Choices(space, kind)
    if kind in ("Dict", "Tuple"):
        return _Nested({n: _codec(child, f"{key}.{n}", action_bound) for n, child in children(space).items()}, kind)
    raise SpaceError(f"{key!r} has the unsupported space {space}; supported are {SUPPORTED}")


class _Continuous:
    """A Box: [-1, 1] is stretched over its bounds."""

    def __init__(self, space: Any, key: str, action_bound: float) -> None:
        self._shape, self._dtype = tuple(space.shape), np.dtype(space.dtype)
        low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
        # Old environments write the largest float where they mean no bound; half of that range is no action either.
        no_low, no_high = low <= -np.finfo(np.float32).max, high >= np.finfo(np.float32).max
        free = no_low | no_high
        if free.any():
            if action_bound <= 0:
                raise SpaceError(
                    f"{key!r} has the space {space}, and {int(free.sum())} of its {free.size} dimensions have no "
                    "finite bounds; set env.action_bound to the half-width they shall get, as in env.action_bound=1"
                )
            logger.warning("%r: dimensions without finite bounds in %s get the half-width %g", key, space, action_bound)
            low, high = (
                np.where(no_low, np.where(no_high, -action_bound, high - 2 * action_bound), low),
                np.where(no_high, np.where(no_low, action_bound, low + 2 * action_bound), high),
            )
        self._low, self._high = low, high
        self.parts: tuple[ActionPart, ...] = (ActionPart("continuous", low.size),)

    def decode(self, vector: np.ndarray) -> np.ndarray:
        # As a weighted mean both ends come out exactly; low + share * (high - low) can miss high by a rounding.
        share = 0.5 * (1.0 + vector)
        value = (1.0 - share) * self._low + share * self._high
        if self._dtype.kind in "iu":
            value = np.rint(value)
        return np.clip(value, self._low, self._high).astype(self._dtype).reshape(self._shape)

    def encode(self, action: Any) -> np.ndarray:
        value = np.asarray(action, np.float64).reshape(-1)
        width = self._high - self._low
        middle = 0.5 * self._low + 0.5 * self._high
        return np.clip(np.where(width > 0, 2.0 * (value - middle) / np.where(width > 0, width, 1.0), 0.0), -1.0, 1.0)


class _Choices:
    """Discrete, MultiDiscrete or MultiBinary: one one-hot part for each choice."""

    def __init__(self, space: Any, kind: str) -> None:
        self._scalar = kind == "Discrete"
        self._shape = () if self._scalar else tuple(space.shape)
        self._dtype = np.dtype(getattr(space, "dtype", None) or np.int64)
        counts = {"Discrete": lambda: space.n, "MultiDiscrete": lambda: space.nvec, "MultiBinary": lambda: 2}[kind]()
        self._sizes = np.broadcast_to(np.asarray(counts, np.int64), self._shape).reshape(-1)
        start = getattr(space, "start", 0)
        self._start = np.broadcast_to(np.asarray(start, np.int64), self._shape).reshape(-1)
        self.parts = tuple(ActionPart("discrete", int(size)) for size in self._sizes)
        self._ends = np.cumsum(self._sizes)

    def decode(self, vector: np.ndarray) -> Any:
        choice = np.array([np.argmax(part) for part in np.split(vector, self._ends[:-1])], np.int64)
        value = (choice + self._start).astype(self._dtype)
        return value[0] if self._scalar else value.reshape(self._shape)

    def encode(self, action: Any) -> np.ndarray:
        choice = np.asarray(action, np.int64).reshape(-1) - self._start
        vector = np.zeros(int(self._sizes.sum()))
        vector[self._ends - self._sizes + choice] = 1.0
        return vector


class _Nested:
    """Dict or Tuple: the members' parts side by side."""

    def __init__(self, members: Mapping[Any, _Codec], kind: str) -> None:
        self._members, self._tuple = dict(members), kind == "Tuple"
        self.parts = tuple(part for member in self._members.values() for part in member.parts)
        self._ends = np.cumsum([ActionSpec(member.parts).size for member in self._members.values()])

    def decode(self, vector: np.ndarray) -> Any:
        blocks = np.split(vector, self._ends[:-1])
        values = {name: member.decode(block) for (name, member), block in zip(self._members.items(), blocks)}
        return tuple(values.values()) if self._tuple else values

    def encode(self, action: Any) -> np.ndarray:
        return np.concatenate([member.encode(action[name]) for name, member in self._members.items()])
