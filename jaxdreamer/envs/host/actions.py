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

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdreamer.envs.base import EnvError, SpaceError
from jaxdreamer.envs.host.spaces import SUPPORTED, understood
from jaxdreamer.envs.interpreter.gym_api import children, kind_of
from jaxdreamer.types import ActionPart, ActionSpec

HUGE = 1e6
"""From here on a bound is taken for none. Limits that tasks have (torques, forces, speeds, watts) are smaller."""


class ActionMap:
    """Agent actions, flat float32 [A], to elements of ``space``."""

    def __init__(self, space: Any, action_bound: float = 0.0) -> None:
        """``action_bound`` > 0 stands in for bounds that are none, see above; SpaceError for what cannot be used."""
        self._codec = _codec(understood(space), "action", action_bound)
        self.spec = ActionSpec(self._codec.parts)
        self.leaves = self._codec.leaves
        """The arrays that an action consists of, in the order of their numbers in the flat vector."""
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

    def from_env(self, value: Any) -> np.ndarray:
        """The agent's action, float32 [A], for an element of the space; EnvError where it is none.

        Undoes :meth:`to_env` up to rounding. Numbers outside of their bounds are cut.
        """
        return np.concatenate([leaf.encode(value) for leaf in self.leaves])


class ActionLeaf(NamedTuple):
    """One array of an action: what its numbers in the flat vector mean. Either a Box's, or choices."""

    key: str  # "action", for members of a Dict or Tuple followed by their names: "action.gear"
    path: tuple[Any, ...]  # of names and indices in the space's tree
    shape: tuple[int, ...]
    dtype: np.dtype  # the environment's
    size: int  # width in the flat vector
    low: tuple[Any, ...] = ()  # of each number of a Box, in C order
    high: tuple[Any, ...] = ()
    choices: tuple[int, ...] = ()  # how many there are for each number, in C order
    first: tuple[int, ...] = ()  # the lowest of each

    def encode(self, value: Any) -> np.ndarray:
        """This array of an action in the environment's units as the agent's numbers, float32 [size]."""
        try:
            for name in self.path:
                value = value[name]
            numbers = np.asarray(value, np.float64).reshape(-1)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EnvError(f"{self.key}: expected numbers of shape {self.shape}, found {value!r:.100}") from error
        if numbers.size != (len(self.choices) or len(self.low)) or not np.isfinite(numbers).all():
            raise EnvError(f"{self.key}: expected finite numbers of shape {self.shape}, found {value!r:.100}")
        if not self.choices:
            low, high = np.array(self.low, np.float64), np.array(self.high, np.float64)
            width = np.where(high > low, high - low, 1.0)
            return np.clip(2.0 * (numbers - low) / width - 1.0, -1.0, 1.0).astype(np.float32)
        chosen = numbers - self.first
        if ((chosen < 0) | (chosen >= self.choices) | (chosen != np.rint(chosen))).any():
            raise EnvError(f"{self.key}: there is no such choice as {value!r:.100}")
        ends = np.cumsum(self.choices)
        vector = np.zeros(self.size, np.float32)
        vector[(ends - self.choices + chosen).astype(int)] = 1.0
        return vector


class _Codec(NamedTuple):
    """How the agent's numbers of one space become its elements."""

    parts: tuple[ActionPart, ...]
    decode: Callable[[np.ndarray], Any]
    notes: list[str]
    leaves: tuple[ActionLeaf, ...]


def _codec(space: Any, key: str, action_bound: float, path: tuple[Any, ...] = ()) -> _Codec:
    kind = kind_of(space)
    if kind == "Box":
        box = _bounded(space, key, action_bound)
        leaf = ActionLeaf(key, path, box.shape, box.dtype, len(box.low), tuple(box.low), tuple(box.high))
        decode = (_numbers if box.dtype.kind == "f" else _integers)(box)
        return _Codec(box.parts, decode, box.notes, (leaf,) if box.parts else ())
    if kind in ("Discrete", "MultiDiscrete", "MultiBinary"):
        return _choices(space, kind, key, path)
    if kind in ("Dict", "Tuple"):
        inner = children(space).items()
        return _nested({n: _codec(child, f"{key}.{n}", action_bound, (*path, n)) for n, child in inner}, kind)
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


def _numbers(box: _Box) -> Callable[[np.ndarray], np.ndarray]:
    """A Box of floats: [-1, 1] is stretched over its bounds."""
    low, high = np.array(box.low, np.float64), np.array(box.high, np.float64)

    def decode(vector: np.ndarray) -> np.ndarray:
        # As a weighted mean both ends come out exactly; low + share * (high - low) can miss high by a rounding.
        share = 0.5 * (1.0 + vector)
        value = (1.0 - share) * low + share * high
        inside = np.minimum(np.maximum(value, low), high)  # np.clip takes twice as long for a few numbers
        return inside.astype(box.dtype).reshape(box.shape)

    return decode


def _integers(box: _Box) -> Callable[[np.ndarray], np.ndarray]:
    """A Box of integers or bools: [-1, 1] is stretched over its bounds, and the nearest one is taken.

    In Python's integers, because a float64 does not hold every int64, and the largest would become the lowest.
    """
    lowest, widths = box.low, [high - low for low, high in zip(box.low, box.high)]

    def decode(vector: np.ndarray) -> np.ndarray:
        shares = np.clip(0.5 * (1.0 + vector), 0.0, 1.0).tolist()
        value = [low + min(width, round(share * width)) for low, width, share in zip(lowest, widths, shares)]
        return np.array(value, box.dtype).reshape(box.shape)

    return decode


def _choices(space: Any, kind: str, key: str, path: tuple[Any, ...]) -> _Codec:
    """Discrete, MultiDiscrete or MultiBinary: one one-hot part for each choice."""
    scalar = kind == "Discrete"
    shape = () if scalar else tuple(space.shape)
    dtype = np.dtype(getattr(space, "dtype", None) or np.int64)
    counts = {"Discrete": lambda: space.n, "MultiDiscrete": lambda: space.nvec, "MultiBinary": lambda: 2}[kind]()
    sizes = np.array(np.broadcast_to(counts, shape), np.int64).reshape(-1)
    first = np.array(np.broadcast_to(getattr(space, "start", 0), shape), np.int64).reshape(-1)
    ends = np.cumsum(sizes)
    blocks = list(zip((ends - sizes).tolist(), ends.tolist()))

    def decode(vector: np.ndarray) -> Any:
        choice = np.array([vector[start:end].argmax() for start, end in blocks], np.int64)
        value = (choice + first).astype(dtype)
        return value[0] if scalar else value.reshape(shape)

    counts_from = {"choices": tuple(sizes.tolist()), "first": tuple(first.tolist())}
    leaf = ActionLeaf(key, path, shape, dtype, int(sizes.sum()), **counts_from)
    parts = tuple(ActionPart("discrete", int(size)) for size in sizes)
    return _Codec(parts, decode, [], (leaf,) if parts else ())


def _nested(members: Mapping[Any, _Codec], kind: str) -> _Codec:
    """Dict or Tuple: the members' parts side by side."""
    ends = np.cumsum([ActionSpec(member.parts).size for member in members.values()], dtype=int)

    def decode(vector: np.ndarray) -> Any:
        values = {name: members[name].decode(block) for name, block in zip(members, np.split(vector, ends))}
        return tuple(values.values()) if kind == "Tuple" else values

    parts = tuple(part for member in members.values() for part in member.parts)
    notes = [note for member in members.values() for note in member.notes]
    return _Codec(parts, decode, notes, tuple(leaf for member in members.values() for leaf in member.leaves))
