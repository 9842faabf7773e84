"""Observations of a Gymnasium space as the agent's arrays, by leaf of the space tree (:class:`ObservationMap`)

    ===============================================================  ====================================================
    Box with the shape of a picture and bounds                       image: [low, high] as 0 to 255, HWC, image_size
    any other Box of whole numbers with bounds                       vector, float32: [0, high] as [0, 1] (see below)
    any other Box                                                    vector, float32, as it is
    Discrete, MultiDiscrete, MultiBinary                             discrete, int32 from 0 (start off)
    Text                                                             left out, with a line in the log
    ===============================================================  ====================================================

What a picture is
    :func:`~jaxdreamer.envs.host.pictures.picture_axes` decides by the shape, for every dtype: two sides of at least 8,
    channels last or first, or frames stacked before that. So a stack of frames is a picture with their channels side by
    side, and neither a 7 x 7 x 3 grid nor a chess board of 8 x 8 x 12 is one. Bounds must be no more than 2^16 apart.

What is scaled
    Whole numbers between bounds, such as bytes of a memory, are counted from their lowest bound, in ranges of [0, 1]; in
    [-1, 1] where they may be negative. Each number has bounds of its own; those without keep their units, as floats do.

Dict and Tuple are flattened to dotted keys (``arm.0.angle``); a space that is one leaf gets the key ``state``, or ``image``.
A MultiDiscrete with unequal numbers of choices stays one key, with the largest number as its classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxdreamer.envs.base import EnvError, NotFinite, SpaceError
from jaxdreamer.envs.host.pictures import NOT_FINITE, Picture, picture_of, stretchable
from jaxdreamer.envs.host.spaces import SUPPORTED, understood
from jaxdreamer.envs.interpreter.gym_api import LEAVES, children, kind_of
from jaxdreamer.types import ArraySpec, Observation

MOST_CLASSES = 2**16
"""Of a discrete observation: it is one-hot to the networks."""

FEW_LEVELS = 16
"""Of 255: a picture that shows no more is almost a single colour."""
SMALL, LARGE = 0.1, 1e3
"""Vectors that stay within the first or reach the second are far from unit scale."""
_SHORT_FLOATS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")  # JAX's, which numpy does not count among its numbers


class Leaf(NamedTuple):
    """One array of an observation, and how it is read."""

    key: str
    path: tuple[Any, ...]  # of names and indices in the space's tree
    space: Any
    convert: Callable[[Any], np.ndarray]


class ObservationMap:
    """Turns observations of ``space`` into the agent's: calling it gives the arrays that ``spec`` lists."""

    def __init__(self, space: Any, image_size: tuple[int, int], exclude: Iterable[str] = ()) -> None:
        """Keys matching a glob in ``exclude``, and all below them, are left out; SpaceError for what cannot be used."""
        self.spec: dict[str, ArraySpec] = {}
        self.leaves: list[Leaf] = []
        """In the order of ``spec``."""
        self._exclude = tuple(exclude)
        self._image_size = (int(image_size[0]), int(image_size[1]))
        self._excluded: list[str] = []
        self.notes: list[str] = []
        """Lines for the log about keys that were left out."""
        self._add(understood(space), (), "")
        if not self.spec:
            asked = f"env.exclude {list(self._exclude)} leaves out {', '.join(self._excluded) or 'nothing'}"
            why = [asked, *self.notes] if self._exclude or not self.notes else self.notes
            raise SpaceError("; ".join([f"no observation is left of {space}", *why]))

    def __call__(self, observation: Any) -> Observation:
        """Fresh arrays by key; EnvError where the observation is not of the space, NotFinite for such a picture."""
        return {leaf.key: self._read(leaf, _follow(leaf, observation)) for leaf in self.leaves}

    def stacked(self, observations: Any, count: int) -> Observation:
        """Fresh arrays [count, ...] of observations that are stacked leaf by leaf, as vector environments do it."""
        read: Observation = {}
        for leaf in self.leaves:
            items = []
            for lane, item in enumerate(split(leaf.key, _follow(leaf, observations), count)):
                try:
                    items.append(self._read(leaf, item))
                except EnvError as error:
                    raise EnvError(f"{error} (in lane {lane})") from None
            read[leaf.key] = np.stack(items)
        return read

    def strays(self, observation: Any) -> dict[str, str]:
        """What is outside of its space, and how, by key."""
        found = {leaf.key: _stray(leaf.space, _follow(leaf, observation)) for leaf in self.leaves}
        return {key: why for key, why in found.items() if why}

    def _read(self, leaf: Leaf, value: Any) -> np.ndarray:
        shape = self.spec[leaf.key].shape
        try:
            array = leaf.convert(value)
        except (TypeError, ValueError, OverflowError):
            raise EnvError(
                f"observation {leaf.key!r}: expected numbers of shape {shape}, found {found(value)}"
            ) from None
        if array.shape != shape:
            raise EnvError(f"observation {leaf.key!r}: the space says shape {shape}, found {array.shape}")
        return array

    def _add(self, space: Any, path: tuple[Any, ...], key: str) -> None:
        kind = kind_of(space)
        if kind not in ("Dict", "Tuple") and not key:
            key = "image" if kind == "Box" and picture_of(space) else "state"
        if key and any(fnmatchcase(key, glob) for glob in self._exclude):
            self._excluded.append(key)
            return
        if kind in ("Dict", "Tuple"):
            for name, child in children(space).items():
                self._add(child, (*path, name), f"{key}.{name}" if key else str(name))
            return
        if kind == "Text":
            self.notes.append(f"observation {key!r} is left out: it is text, which the networks do not read")
            return
        if kind not in LEAVES:
            raise SpaceError(
                f"observation {key!r} has the unsupported space {space}; supported are {SUPPORTED}. "
                f"Leave it out with env.exclude={key}, or convert it in an observation wrapper"
            )
        if key in self.spec:
            raise SpaceError(f"two observations share the dotted key {key!r}; rename one, or wrap the environment")
        if 0 in _shape(space, kind):
            self.notes.append(f"observation {key!r} is left out: {space} holds no numbers")
            return
        self.spec[key], convert = _observation_leaf(space, kind, key, self._image_size)
        self.leaves.append(Leaf(key, path, space, convert))


def found(value: Any) -> str:
    """What a value is, for an error message: a mapping's keys, an array's shape, a list's members, or else the type."""
    if isinstance(value, Mapping):
        return f"a dictionary with the keys {[str(key) for key in value]}"
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.array(None)
    kind = type(value).__name__
    if array.dtype.kind in "biuf":
        return f"{kind} of shape {array.shape}"
    if isinstance(value, list | tuple):
        return f"a {kind} of {', '.join(type(item).__name__ for item in value[:5])}{', ...' if len(value) > 5 else ''}"
    return f"{kind} of {array.dtype} and shape {array.shape}" if isinstance(value, np.ndarray) else kind


def split(key: str, values: Any, count: int) -> list[Any]:
    """The ``count`` items along the leading axis of observation ``key``; EnvError where there are not that many."""
    try:
        length = None if isinstance(values, Mapping | str) else len(values)
    except TypeError:
        length = None
    if length != count:
        raise EnvError(f"observation {key!r}: expected {count} along the leading axis, found {found(values)}")
    return [values[index] for index in range(count)]


def _follow(leaf: Leaf, value: Any) -> Any:
    for name in leaf.path:
        try:
            value = value[name]
        except (KeyError, IndexError, TypeError):
            if name in getattr(value, "_fields", ()):  # a named tuple
                value = getattr(value, name)
                continue
            raise EnvError(
                f"observation {leaf.key!r} is in the space, but not in what was given: expected an entry {name!r}, "
                f"found {found(value)}"
            ) from None
    return value


def _shape(space: Any, kind: str) -> tuple[int, ...]:
    return () if kind == "Discrete" else tuple(np.shape(space.nvec) if kind == "MultiDiscrete" else space.shape)


def _observation_leaf(
    space: Any, kind: str, key: str, image_size: tuple[int, int]
) -> tuple[ArraySpec, Callable[[Any], np.ndarray]]:
    if kind == "Box":
        axes = picture_of(space)
        if axes:
            picture = Picture(space, axes, image_size)
            return ArraySpec((*image_size, picture.channels), "uint8", "image"), lambda value: picture.read(key, value)
        return ArraySpec(tuple(space.shape), "float32", "vector"), _vector_reader(space)
    if kind == "Discrete":
        shape, classes = (), int(space.n)
    elif kind == "MultiBinary":
        shape, classes = tuple(space.shape), 2
    else:
        shape, classes = tuple(np.shape(space.nvec)), int(np.max(space.nvec))
    if classes > MOST_CLASSES:
        raise SpaceError(
            f"observation {key!r} is one of {classes:,} choices, each of which would be a separate input, and "
            f"{MOST_CLASSES:,} are the most: make its space a Box, or leave it out with env.exclude={key}"
        )
    start = np.asarray(getattr(space, "start", 0))
    return ArraySpec(shape, "int32", "discrete", classes), lambda value: read_discrete(value, key, start, classes)


def _vector_reader(space: Any) -> Callable[[Any], np.ndarray]:
    scale = vector_scale(space)
    if scale is None:
        return read_vector
    origin, width = scale
    return lambda value: ((_numbers(value, np.float64) - origin) / width).astype(np.float32)


def vector_scale(space: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Origin and width, float64 of the Box's shape, with which its numbers become ``(x - origin) / width``; None: as is."""
    low, high = (np.asarray(bound, np.float64) for bound in (space.low, space.high))
    scaled = stretchable(space) & (high > low)
    if np.dtype(space.dtype).kind == "f" or not scaled.any():
        return None
    origin = np.where(scaled, np.where(low < 0, (low + high) / 2, low), 0.0)
    return origin, np.where(scaled, np.where(low < 0, (high - low) / 2, high - low), 1.0)


def read_vector(value: Any) -> np.ndarray:
    """Numbers as float32, nan and inf included; TypeError for what are none."""
    return _numbers(value, np.float32)


def read_discrete(value: Any, key: str, start: Any, classes: int) -> np.ndarray:
    """Choices from ``start`` on as int32 from 0; EnvError for others, NotFinite for nan and inf."""
    array = _numbers(value, np.float64) - start
    whole = np.asarray(value).dtype.kind in "biu"
    if not whole and not np.isfinite(array).all():
        raise NotFinite(f"observation {key!r} {NOT_FINITE}")
    if array.size and (array.min() < 0 or array.max() >= classes):
        raise EnvError(f"observation {key!r} must lie in [{start}, {start + classes - 1}], found {value}")
    if not whole and (array != np.rint(array)).any():
        raise EnvError(f"observation {key!r} must be in whole numbers, found {value}")
    return array.astype(np.int32)


def _numbers(value: Any, dtype: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind == "V" and array.dtype.name in _SHORT_FLOATS:
        array = array.astype(np.float32)
    if array.dtype.kind not in "biufO" or (array.dtype.kind == "O" and any(item is None for item in array.flat)):
        raise TypeError(f"{array.dtype} are no numbers")
    if array.dtype == dtype:
        return array.copy()
    with np.errstate(over="ignore"):  # beyond float32 becomes inf, which the learner sees and counts
        return np.array(array, dtype)


def _stray(space: Any, value: Any) -> str:
    array = np.asarray(value)
    if kind_of(space) != "Box":
        return "" if space.contains(value) else f"is {value!r}, its space says {space}"
    if array.dtype.kind not in "biuf" or array.shape != tuple(space.shape):
        return f"is {found(value)}, its space says {space}"
    if not np.isfinite(array).all() and picture_of(space):
        return NOT_FINITE
    if (array < space.low).any() or (array > space.high).any():
        return f"holds {array.min():g} to {array.max():g}, its space says {space}"
    whole = np.dtype(space.dtype).kind != "f"
    fits = array.dtype.kind != "f" if whole else np.can_cast(array.dtype, space.dtype)
    return "" if fits else f"is {array.dtype}, its space says {space}"


def ill_scaled(key: str, spec: ArraySpec, low: ArrayLike, high: ArrayLike) -> str:
    """What is wrong with the size of the numbers that came for ``key``, and what helps; empty where nothing is.

    ``low`` and ``high`` are the least and the greatest that came, of each number or of all.
    """
    least, greatest = float(np.min(low, initial=np.inf)), float(np.max(high, initial=-np.inf))
    if not greatest > least:
        return ""
    if spec.kind == "image" and greatest - least < FEW_LEVELS:
        return (
            f"{key!r} is almost a single colour{' (black)' if greatest < FEW_LEVELS else ''}: it uses {greatest - least:g} "
            "of 255 levels. If its numbers are symbols, give its space their own lowest and highest as bounds, which "
            "become 0 and 255"
        )
    reach = max(abs(least), abs(greatest))
    if spec.kind == "vector" and reach < SMALL:
        return (
            f"{key!r} stays within {reach:.2g} of 0, where its errors hardly count: set model.normalize_inputs=true, or, "
            "where its space's bounds are wider than its whole numbers, give it their own"
        )
    if spec.kind == "vector" and reach > LARGE:
        return f"{key!r} reaches {reach:.3g}: set model.symlog_inputs=true or model.normalize_inputs=true"
    return ""
