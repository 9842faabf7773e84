"""The agent's flat actions as elements of a Gymnasium space (:class:`ActionMap`)

Box is one continuous part, flattened in C order; Discrete is one discrete part; MultiDiscrete and MultiBinary are one
discrete part for each entry, in C order; Dict and Tuple are their members' parts in the space's own order (gymnasium sorts
the keys of a plain dict). What has no numbers at all, as a Box of shape (0,), is no part, and the environment gets it empty.

What counts as no bound
    A dimension of a Box has no lower bound where it is ``-inf`` or :data:`HUGE` and more below zero, and no upper one
    likewise, unless its two bounds lie less than :data:`HUGE` apart. Environments write the largest number of a type, 1e10
    or 1e30 where they mean none, and half of such a range is no action either. ``env.action_bound`` stands in, by dimension
    and by side: where both are missing the range is plus and minus it, where one is it is as wide as that from the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxdreamer.envs.base import EnvError, SpaceError
from jaxdreamer.envs.host.spaces import SUPPORTED, children, kind_of, understood
from jaxdreamer.types import ActionPart, ActionSpec

HUGE = 1e6
"""From here on a bound is taken for none. Limits that tasks have (torques, forces, speeds, watts) are smaller."""


class ActionMap:
    """Agent actions, flat float32 [A], to elements of ``space`` and back."""

    def __init__(self, space: Any, action_bound: float = 0.0) -> None:
        """``action_bound`` > 0 stands in for bounds that are none, see above; SpaceError for what cannot be used."""
        self._codec = _codec(understood(space), "action", action_bound)
        self.spec = ActionSpec(self._codec.parts)
        if not self.spec.size:
            raise SpaceError(f"the action space {space} has no dimensions; there is nothing to decide")
        self.notes = list(self._codec.notes)
        """Lines for the log about how ``action_bound`` was used."""
        if action_bound > 0 and not self.notes:
            self.notes = [
                f"env.action_bound={action_bound:g} is not used: every dimension of {space} has its own bounds"
            ]

    def to_env(self, action: np.ndarray) -> Any:
        """A fresh element of the space for ``action`` [A]: its own dtype and shape, inside its bounds; ends map to ends.

        Continuous numbers outside [-1, 1] are clipped; the largest number of a discrete part is the choice. The numbers
        must be finite: :class:`~jaxdreamer.envs.host.agent_env.AgentEnv` sees to that for every backend.
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
    notes: list[str]

    def decode(self, vector: np.ndarray) -> Any: ...

    def encode(self, action: Any) -> np.ndarray: ...


def _codec(space: Any, key: str, action_bound: float) -> _Codec:
    kind = kind_of(space)
    if kind == "Box":
        box = _bounded(space, key, action_bound)
        return _Numbers(box) if box.dtype.kind == "f" else _Integers(box)
    if kind in ("Discrete", "MultiDiscrete", "MultiBinary"):
        return _Choices(space, kind)
    if kind in ("Dict", "Tuple"):
        return _Nested({n: _codec(child, f"{key}.{n}", action_bound) for n, child in children(space).items()}, kind)
    raise SpaceError(f"{key!r} has the unsupported space {space}; supported are {SUPPORTED}")


class _Box(NamedTuple):
    """A Box whose dimensions all have bounds: the space's own, or the substitutes for missing ones."""

    low: list[Any]  # Python's numbers, in C order: its integers know no overflow
    high: list[Any]
    shape: tuple[int, ...]
    dtype: np.dtype
    notes: list[str]

    @property
    def parts(self) -> tuple[ActionPart, ...]:
        """One part, or none for a Box that holds no numbers."""
        return (ActionPart("continuous", len(self.low)),) if self.low else ()


def _bounded(space: Any, key: str, action_bound: float) -> _Box:
    dtype, shape = np.dtype(space.dtype), tuple(space.shape)
    if dtype.kind not in "fiub":
        raise SpaceError(f"{key!r} has the space {space} of the type {dtype}; supported are floats, integers and bools")
    bounds = [np.broadcast_to(np.asarray(bound), shape).ravel().tolist() for bound in (space.low, space.high)]
    low, high = ([int(bound) if isinstance(bound, bool) else bound for bound in side] for side in bounds)
    wrong = [(a, b) for a, b in zip(low, high) if not a <= b or a == np.inf or b == -np.inf]
    if wrong:
        raise SpaceError(
            f"{key!r} has the space {space}, whose bounds leave no number between {wrong[0][0]} and {wrong[0][1]}"
        )
    huge = min(HUGE, float(np.finfo(dtype).max)) if dtype.kind == "f" else HUGE
    free = [i for i, (a, b) in enumerate(zip(low, high)) if b - a >= huge and (a <= -huge or b >= huge)]
    if not free:
        return _Box(low, high, shape, dtype, [])
    if action_bound <= 0:
        lowest, highest = min(low[i] for i in free), max(high[i] for i in free)
        raise SpaceError(
            f"{key!r} has the space {space}, in which {len(free)} of the {len(low)} dimensions have no finite bounds, or "
            f"huge ones ({lowest:g} to {highest:g}; {huge:g} and more counts as none): set env.action_bound to the "
            "half-width to give them, as in env.action_bound=1"
        )
    for i in free:
        half = int(action_bound) if dtype.kind in "iu" else action_bound
        low[i], high[i] = _stand_in(low[i], high[i], half, huge)
    if dtype.kind == "f" and max(map(abs, (*low, *high))) > float(np.finfo(dtype).max):
        raise SpaceError(f"env.action_bound={action_bound:g} is more than {dtype}, the type of {key!r}, can hold")
    if dtype.kind in "iu" and any(low[i] == high[i] for i in free):
        raise SpaceError(f"env.action_bound={action_bound:g} leaves {key!r} a single integer; make it 1 or more")
    note = f"{key!r}: {len(free)} of the {len(low)} dimensions have no bounds and get the half-width {action_bound:g}"
    return _Box(low, high, shape, dtype, [note])


def _stand_in(low: Any, high: Any, half: float, huge: float) -> tuple[Any, Any]:
    """Bounds instead of those that are none; never outside the space's own."""
    if low <= -huge and high >= huge:
        return max(low, -half), min(high, half)
    return (low, min(high, low + 2 * half)) if high >= huge else (max(low, high - 2 * half), high)


class _Numbers:
    """A Box of floats: [-1, 1] is stretched over its bounds."""

    def __init__(self, box: _Box) -> None:
        self._low, self._high = np.array(box.low, np.float64), np.array(box.high, np.float64)
        self._shape, self._dtype, self.parts, self.notes = box.shape, box.dtype, box.parts, box.notes

    def decode(self, vector: np.ndarray) -> np.ndarray:
        # As a weighted mean both ends come out exactly; low + share * (high - low) can miss high by a rounding.
        share = 0.5 * (1.0 + vector)
        value = (1.0 - share) * self._low + share * self._high
        inside = np.minimum(np.maximum(value, self._low), self._high)  # np.clip takes twice as long for a few numbers
        return inside.astype(self._dtype).reshape(self._shape)

    def encode(self, action: Any) -> np.ndarray:
        value = np.asarray(action, np.float64).reshape(-1)
        width = self._high - self._low
        middle = 0.5 * self._low + 0.5 * self._high
        return np.clip(np.where(width > 0, 2.0 * (value - middle) / np.where(width > 0, width, 1.0), 0.0), -1.0, 1.0)


class _Integers:
    """A Box of integers or bools: [-1, 1] is stretched over its bounds, and the nearest one is taken.

    In Python's integers, because a float64 does not hold every int64, and the largest would become the lowest.
    """

    def __init__(self, box: _Box) -> None:
        self._low, self._width = box.low, [high - low for low, high in zip(box.low, box.high)]
        self._shape, self._dtype, self.parts, self.notes = box.shape, box.dtype, box.parts, box.notes

    def decode(self, vector: np.ndarray) -> np.ndarray:
        shares = np.clip(0.5 * (1.0 + vector), 0.0, 1.0).tolist()
        value = [low + min(width, round(share * width)) for low, width, share in zip(self._low, self._width, shares)]
        return np.array(value, self._dtype).reshape(self._shape)

    def encode(self, action: Any) -> np.ndarray:
        value = [int(item) for item in np.ravel(action)]
        shares = [(item - low) / width if width else 0.5 for item, low, width in zip(value, self._low, self._width)]
        return np.clip(2.0 * np.array(shares, np.float64) - 1.0, -1.0, 1.0)


class _Choices:
    """Discrete, MultiDiscrete or MultiBinary: one one-hot part for each choice."""

    def __init__(self, space: Any, kind: str) -> None:
        self._scalar = kind == "Discrete"
        self._shape = () if self._scalar else tuple(space.shape)
        self._dtype = np.dtype(getattr(space, "dtype", None) or np.int64)
        counts = {"Discrete": lambda: space.n, "MultiDiscrete": lambda: space.nvec, "MultiBinary": lambda: 2}[kind]()
        self._sizes = np.array(np.broadcast_to(counts, self._shape), np.int64).reshape(-1)
        self._start = np.array(np.broadcast_to(getattr(space, "start", 0), self._shape), np.int64).reshape(-1)
        self.parts = tuple(ActionPart("discrete", int(size)) for size in self._sizes)
        self.notes: list[str] = []
        self._ends = np.cumsum(self._sizes)

    def decode(self, vector: np.ndarray) -> Any:
        blocks = zip((self._ends - self._sizes).tolist(), self._ends.tolist())
        choice = np.array([vector[start:end].argmax() for start, end in blocks], np.int64)
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
        self.notes = [note for member in self._members.values() for note in member.notes]
        self._ends = np.cumsum([ActionSpec(member.parts).size for member in self._members.values()], dtype=int)

    def decode(self, vector: np.ndarray) -> Any:
        blocks = np.split(vector, self._ends)
        values = {name: member.decode(block) for (name, member), block in zip(self._members.items(), blocks)}
        return tuple(values.values()) if self._tuple else values

    def encode(self, action: Any) -> np.ndarray:
        blocks = [member.encode(action[name]) for name, member in self._members.items()]
        return np.concatenate(blocks) if blocks else np.zeros(0)
