"""Observations of a Gymnasium space as the agent's arrays, by leaf of the space tree (:class:`ObservationMap`)

    ===========================================================================  ==================================
    Box, three axes with 1, 3 or 4 channels last or first, uint8                 image, HWC, resized to image_size
    the same in floats bounded by [0, 1] or [0, 255], sides of 8 and more        image, scaled to uint8, resized
    Box, two axes, uint8, sides of 8 and more                                    image with one channel
    any other Box                                                                vector, float32
    Discrete, MultiDiscrete, MultiBinary                                         discrete, int32 from 0 (start off)
    ===========================================================================  ==================================

Dict and Tuple are flattened to dotted keys (``arm.0.angle``); a space that is one leaf gets the key ``state``, or ``image``.
A MultiDiscrete with unequal numbers of choices stays one key, with the largest number as its classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from jaxdreamer.envs.base import EnvError, SpaceError
from jaxdreamer.envs.images import resize
from jaxdreamer.envs.spaces import LEAVES, SUPPORTED, children, kind_of, understood
from jaxdreamer.types import ArraySpec, Observation

_CHANNELS = (1, 3, 4)
_SMALLEST_IMAGE = 8


class ObservationMap:
    """Turns observations of ``space`` into the agent's: calling it gives the arrays that ``spec`` lists."""

    def __init__(self, space: Any, image_size: tuple[int, int], exclude: Iterable[str] = ()) -> None:
        """Keys matching a glob in ``exclude``, and all below them, are left out; SpaceError for what cannot be used."""
        self.spec: dict[str, ArraySpec] = {}
        self._readers: list[tuple[str, tuple[Any, ...], Callable[[Any], np.ndarray]]] = []
        self._exclude = tuple(exclude)
        self._image_size = (int(image_size[0]), int(image_size[1]))
        self._excluded: list[str] = []
        self.notes: list[str] = []
        """What the log should say of what was left out."""
        self._add(understood(space), (), "")
        if not self.spec:
            left_out = f"env.exclude {list(self._exclude)} leaves out {', '.join(self._excluded) or 'nothing'}"
            raise SpaceError("; ".join([f"no observation is left of {space}", left_out, *self.notes]))

    def __call__(self, observation: Any) -> Observation:
        """Fresh arrays by key; EnvError where the observation is not of the space."""
        return {key: self._read(key, convert, _follow(key, path, observation)) for key, path, convert in self._readers}

    def stacked(self, observations: Any, count: int) -> Observation:
        """Fresh arrays [count, ...] of observations that are stacked leaf by leaf, as vector environments do it."""
        return {
            key: np.stack(
                [self._read(key, convert, item) for item in split(key, _follow(key, path, observations), count)]
            )
            for key, path, convert in self._readers
        }

    def _read(self, key: str, convert: Callable[[Any], np.ndarray], value: Any) -> np.ndarray:
        try:
            array = convert(value)
        except (TypeError, ValueError, OverflowError):
            raise EnvError(
                f"observation {key!r}: expected numbers of shape {self.spec[key].shape}, found {found(value)}"
            ) from None
        if array.shape != self.spec[key].shape:
            raise EnvError(f"observation {key!r}: the space says shape {self.spec[key].shape}, found {array.shape}")
        return array

    def _add(self, space: Any, path: tuple[Any, ...], key: str) -> None:
        kind = kind_of(space)
        if kind not in ("Dict", "Tuple") and not key:
            key = "image" if _image_layout(space) else "state"
        if key and any(fnmatchcase(key, glob) for glob in self._exclude):
            self._excluded.append(key)
            return
        if kind in ("Dict", "Tuple"):
            for name, child in children(space).items():
                self._add(child, (*path, name), f"{key}.{name}" if key else str(name))
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
        self._readers.append((key, path, convert))


def found(value: Any) -> str:
    """What a value is, for an error message: a mapping's keys, an array's shape, or else the type."""
    if isinstance(value, Mapping):
        return f"a dictionary with the keys {[str(key) for key in value]}"
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.array(None)
    return type(value).__name__ if array.dtype.kind in "OUS" else f"{type(value).__name__} of shape {array.shape}"


def split(key: str, values: Any, count: int) -> list[Any]:
    """The ``count`` items along the leading axis of observation ``key``; EnvError where there are not that many."""
    try:
        length = None if isinstance(values, Mapping | str) else len(values)
    except TypeError:
        length = None
    if length != count:
        raise EnvError(f"observation {key!r}: expected {count} along the leading axis, found {found(values)}")
    return [values[index] for index in range(count)]


def _follow(key: str, path: tuple[Any, ...], value: Any) -> Any:
    for name in path:
        try:
            value = value[name]
        except (KeyError, IndexError, TypeError):
            if name in getattr(value, "_fields", ()):  # a named tuple
                value = getattr(value, name)
                continue
            raise EnvError(
                f"observation {key!r} is in the space, but not in what was given: expected an entry {name!r}, "
                f"found {found(value)}"
            ) from None
    return value


def _shape(space: Any, kind: str) -> tuple[int, ...]:
    return () if kind == "Discrete" else tuple(np.shape(space.nvec) if kind == "MultiDiscrete" else space.shape)


def _image_layout(space: Any) -> str:
    """``HWC``, ``CHW`` or ``HW`` where a space holds images, else nothing. Channels last wins where both could be."""
    if kind_of(space) != "Box" or len(space.shape) not in (2, 3):
        return ""
    dtype, shape = np.dtype(space.dtype), tuple(space.shape)
    if len(shape) == 2:
        return "HW" if dtype == np.uint8 and min(shape) >= _SMALLEST_IMAGE else ""
    layout = "HWC" if shape[2] in _CHANNELS else "CHW" if shape[0] in _CHANNELS else ""
    if not layout or dtype == np.uint8:
        return layout
    # Floats are taken for an image only where nothing speaks against it: a 3 x 3 x 3 Box in [0, 1] is no picture.
    sides = shape[:2] if layout == "HWC" else shape[1:]
    bounded = np.all(space.low == 0) and (np.all(space.high == 1) or np.all(space.high == 255))
    return layout if dtype.kind == "f" and bounded and min(sides) >= _SMALLEST_IMAGE else ""


def _observation_leaf(
    space: Any, kind: str, key: str, image_size: tuple[int, int]
) -> tuple[ArraySpec, Callable[[Any], np.ndarray]]:
    layout = _image_layout(space)
    if layout:
        shape = tuple(space.shape)
        scale = 1.0 if np.dtype(space.dtype) == np.uint8 else 255.0 / float(np.max(space.high))
        channels = {"HWC": shape[-1], "CHW": shape[0], "HW": 1}[layout]
        spec = ArraySpec((*image_size, channels), "uint8", "image")
        return spec, lambda value: _read_image(value, key, shape, layout, scale, image_size)
    if kind == "Box":
        return ArraySpec(tuple(space.shape), "float32", "vector"), _read_vector
    if kind == "Discrete":
        shape, classes = (), int(space.n)
    elif kind == "MultiBinary":
        shape, classes = tuple(space.shape), 2
    else:
        shape, classes = tuple(np.shape(space.nvec)), int(np.max(space.nvec))
    start = np.asarray(getattr(space, "start", 0))
    return ArraySpec(shape, "int32", "discrete", classes), lambda value: _read_discrete(value, key, start, classes)


def _read_vector(value: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # beyond float32 becomes inf, which the learner sees and counts
        return np.array(value, np.float32)


def _read_discrete(value: Any, key: str, start: np.ndarray, classes: int) -> np.ndarray:
    array = np.array(np.asarray(value) - start, np.int32)
    if array.size and (array.min() < 0 or array.max() >= classes):
        raise EnvError(f"observation {key!r} must lie in [{start}, {start + classes - 1}], found {value}")
    return array


def _read_image(
    value: Any, key: str, shape: tuple[int, ...], layout: str, scale: float, size: tuple[int, int]
) -> np.ndarray:
    image = np.asarray(value)
    if image.shape != shape:
        raise EnvError(f"observation {key!r}: the space says shape {shape}, found {image.shape}")
    if layout == "CHW":
        image = image.transpose(1, 2, 0)
    elif layout == "HW":
        image = image[..., None]
    if image.dtype != np.uint8:
        scaled = np.nan_to_num(np.asarray(image, np.float64) * scale)
        image = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return resize(np.array(image, order="C"), size)
