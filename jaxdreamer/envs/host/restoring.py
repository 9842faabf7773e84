"""The way back: the agent's arrays as observations in the task's own space (:class:`ObservationWriter`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxdreamer.envs.host.observations import Leaf, vector_scale
from jaxdreamer.envs.host.pictures import Picture, picture_of
from jaxdreamer.envs.interpreter.gym_api import children, kind_of
from jaxdreamer.types import ArraySpec, EnvSpec, Observation

Write = Callable[[Observation], Any]


class ObservationWriter:
    """Makes elements of :attr:`space` of an agent's arrays; undoes what an ObservationMap does, up to rounding.

    The space is the task's own, without the members that the agent does not see. Arrays that are no members of it, as a
    rendered frame, stand beside it in a dictionary under their own names, as :meth:`Agent.act` takes them. Where the task
    has no space, the space is made of the spec.
    """

    def __init__(self, spec: EnvSpec, space: Any, leaves: Sequence[Leaf], key: str = "state") -> None:
        """``leaves`` are those of an ObservationMap of ``space``, ``key`` what it is called beside a frame."""
        from gymnasium import spaces

        self._spec = spec
        made: dict[str, tuple[Any, Write]] = {}
        if leaves:
            own, write = self._member(space, {leaf.path: leaf for leaf in leaves}, ())
            made[key] = own, write
        given = {name: item for name, item in spec.obs.items() if name not in {leaf.key for leaf in leaves}}
        made |= {name: (space_of(item), _given(name, item)) for name, item in given.items()}
        self.space: Any
        self._write: Write
        if len(made) == 1:
            ((self.space, self._write),) = made.values()
            return
        if leaves and kind_of(space) == "Dict":  # the members themselves stand beside the frame
            own, write = made.pop(key)
            self.space = spaces.Dict({**own.spaces, **{name: item for name, (item, _) in made.items()}})
            self._write = lambda arrays: {**write(arrays), **{name: w(arrays) for name, (_, w) in made.items()}}
            return
        self.space = spaces.Dict({name: item for name, (item, _) in made.items()})
        self._write = lambda arrays: {name: write(arrays) for name, (_, write) in made.items()}

    def __call__(self, arrays: Observation) -> Any:
        """A fresh element of the space for the arrays of the spec, without a leading axis."""
        return self._write(arrays)

    def _member(self, space: Any, leaves: dict[tuple[Any, ...], Leaf], path: tuple[Any, ...]) -> tuple[Any, Write]:
        from gymnasium import spaces

        if path in leaves:
            return space, _restorer(leaves[path], self._spec.obs[leaves[path].key])
        inside = {
            name: self._member(child, leaves, (*path, name))
            for name, child in children(space).items()
            if any(leaf[: len(path) + 1] == (*path, name) for leaf in leaves)
        }
        if kind_of(space) == "Tuple":
            members = list(inside.values())
            return spaces.Tuple([item for item, _ in members]), lambda arrays: tuple(w(arrays) for _, w in members)
        made = spaces.Dict({name: item for name, (item, _) in inside.items()})
        # In the space's order, which sorts the names of a plain dictionary.
        return made, lambda arrays: {name: inside[name][1](arrays) for name in made.spaces}


def _restorer(leaf: Leaf, spec: ArraySpec) -> Write:
    """(arrays) -> one member of the space."""
    space, key = leaf.space, leaf.key
    if spec.kind == "image":
        picture = Picture(space, picture_of(space) or (0, 1), (spec.shape[0], spec.shape[1]))
        return lambda arrays: picture.restore(np.asarray(arrays[key]))
    if spec.kind == "discrete":
        start, kind = np.asarray(getattr(space, "start", 0)), kind_of(space)
        most = {"Discrete": lambda: space.n, "MultiDiscrete": lambda: space.nvec, "MultiBinary": lambda: 2}[kind]() - 1
        # Of unequal numbers of choices the networks know the largest only.
        return lambda arrays: (np.minimum(np.asarray(arrays[key]), most) + start).astype(space.dtype)[()]
    origin, width = vector_scale(space) or (0.0, 1.0)
    whole = np.dtype(space.dtype).kind != "f"

    def vector(arrays: Observation) -> np.ndarray:
        value = np.asarray(arrays[key], np.float64) * width + origin
        # Cut in the space's own type: a bound of float32 is another number than that of float64.
        return np.clip((np.rint(value) if whole else value).astype(space.dtype), space.low, space.high)

    return vector


def _given(key: str, spec: ArraySpec) -> Write:
    dtype = np.int64 if spec.kind == "discrete" else spec.dtype
    return lambda arrays: np.asarray(arrays[key]).astype(dtype)[()]


def space_of(spec: ArraySpec) -> Any:
    """A space for an array of a spec."""
    from gymnasium import spaces

    if spec.kind == "image":
        return spaces.Box(0, 255, spec.shape, np.uint8)
    if spec.kind == "vector":
        return spaces.Box(-np.inf, np.inf, spec.shape, np.float32)
    return spaces.MultiDiscrete(np.full(spec.shape, spec.classes)) if spec.shape else spaces.Discrete(spec.classes)
