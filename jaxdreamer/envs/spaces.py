"""Gymnasium spaces to and from the agent's units. Spaces are told by their class names, so old gym's work as well.

Observations, by leaf of the space tree (:class:`ObservationMap`)

    ===========================================================================  ==================================
    Box, three axes with 1, 3 or 4 channels last or first, uint8                 image, HWC, resized to image_size
    the same in floats bounded by [0, 1] or [0, 255], sides of 8 and more        image, scaled to uint8, resized
    Box, two axes, uint8, sides of 8 and more                                    image with one channel
    any other Box                                                                vector, float32
    Discrete, MultiDiscrete, MultiBinary                                         discrete, int32 from 0 (start off)
    ===========================================================================  ==================================

    Dict and Tuple are flattened to dotted keys (``arm.0.angle``); a space that is one leaf gets the key ``state``, or
    ``image``. A MultiDiscrete with unequal numbers of choices stays one key, with the largest number as its classes.

Actions (:class:`ActionMap`)

    Box is one continuous part, flattened in C order; Discrete is one discrete part; MultiDiscrete and MultiBinary are
    one discrete part for each entry, in C order; Dict and Tuple are their members' parts in the space's own order
    (gymnasium sorts the keys of a plain dict).

:func:`describe_space` and :func:`restore_space` keep a space in a JSON file, for a trained agent that acts without the
library its environment came from.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Protocol

import numpy as np

from jaxdreamer.envs.base import EnvError, SpaceError
from jaxdreamer.envs.images import resize
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, Observation

logger = logging.getLogger(__name__)

_LEAVES = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
_SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these"
_CHANNELS = (1, 3, 4)
_SMALLEST_IMAGE = 8


def kind_of(space: Any) -> str:
    """``Box``, ``Discrete``, ``MultiDiscrete``, ``MultiBinary``, ``Dict`` or ``Tuple``; else the space's class name."""
    names = [cls.__name__ for cls in type(space).__mro__]
    return next((name for name in names if name in (*_LEAVES, "Dict", "Tuple")), names[0])


def children(space: Any) -> dict[Any, Any]:
    """The members of a Dict or Tuple space by key or index, in the space's own order."""
    return dict(space.spaces.items()) if kind_of(space) == "Dict" else dict(enumerate(space.spaces))


class ObservationMap:
    """Turns observations of ``space`` into the agent's: calling it gives the arrays that ``spec`` lists."""

    def __init__(self, space: Any, image_size: tuple[int, int], exclude: Iterable[str] = ()) -> None:
        """Keys matching a glob in ``exclude``, and all below them, are left out; SpaceError for what cannot be used."""
        self.spec: dict[str, ArraySpec] = {}
        self._readers: list[tuple[str, tuple[Any, ...], Callable[[Any], np.ndarray]]] = []
        self._exclude = tuple(exclude)
        self._image_size = (int(image_size[0]), int(image_size[1]))
        self._excluded: list[str] = []
        self._add(space, (), "")
        if not self.spec:
            left_out = f"env.exclude {list(self._exclude)} leaves out {', '.join(self._excluded) or 'nothing'}"
            raise SpaceError(f"no observation is left of {space}; {left_out}")

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
        if kind not in _LEAVES:
            raise SpaceError(
                f"observation {key!r} has the unsupported space {space}; supported are {_SUPPORTED}. "
                f"Leave it out with env.exclude={key}, or convert it in an observation wrapper"
            )
        if key in self.spec:
            raise SpaceError(f"two observations share the dotted key {key!r}; rename one, or wrap the environment")
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
            raise EnvError(
                f"observation {key!r} is in the space, but not in what was given: expected an entry {name!r}, "
                f"found {found(value)}"
            ) from None
    return value


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
    raise SpaceError(f"{key!r} has the unsupported space {space}; supported are {_SUPPORTED}")


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


def describe_space(space: Any) -> dict[str, Any]:
    """``space`` as plain values for strict JSON, members in their order; :func:`restore_space` reads it back.

    Equal bounds are written once; an infinite one is the text ``"inf"`` or ``"-inf"``. A space of an unsupported kind
    is only named: an observation has them where ``env.exclude`` leaves them out.
    """
    kind = kind_of(space)
    if kind == "Dict":
        return {"kind": kind, "spaces": [[name, describe_space(child)] for name, child in children(space).items()]}
    if kind == "Tuple":
        return {"kind": kind, "spaces": [describe_space(child) for child in children(space).values()]}
    if kind not in _LEAVES:
        return {"kind": kind, "text": str(space)}
    described: dict[str, Any] = {"kind": kind}
    if kind == "MultiBinary":
        return described | {"n": np.asarray(space.n).tolist()}
    described["dtype"] = str(np.dtype(getattr(space, "dtype", None) or np.int64))
    if kind == "Box":
        return described | {"shape": list(space.shape), "low": _bound(space.low), "high": _bound(space.high)}
    if kind == "Discrete":
        return described | {"n": int(space.n), "start": int(getattr(space, "start", 0))}
    start = np.broadcast_to(getattr(space, "start", 0), np.shape(space.nvec))
    return described | {"nvec": np.asarray(space.nvec).tolist(), "start": start.tolist()}


def restore_space(data: Mapping[str, Any]) -> Any:
    """The gymnasium space that :func:`describe_space` described; a bare ``gymnasium.Space`` for an unsupported kind."""
    from gymnasium import spaces

    kind = data["kind"]
    if kind == "Dict":
        return spaces.Dict([(name, restore_space(child)) for name, child in data["spaces"]])
    if kind == "Tuple":
        return spaces.Tuple([restore_space(child) for child in data["spaces"]])
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["n"])
    if kind not in _LEAVES:
        return spaces.Space()
    dtype = np.dtype(data["dtype"])
    if kind == "Box":
        shape = tuple(data["shape"])
        low, high = (_restore_bound(data[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype)
    if kind == "Discrete":
        options = {} if dtype == np.int64 else {"dtype": dtype}  # gymnasium 1.1 has no such argument
        return spaces.Discrete(data["n"], start=data["start"], **options)
    return spaces.MultiDiscrete(np.array(data["nvec"], dtype), dtype=dtype, start=np.array(data["start"], dtype))


def _bound(bound: Any) -> Any:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    array = np.asarray(bound)
    equal = array.size > 0 and bool((array == array.flat[0]).all())
    return plain((array.flat[0] if equal else array).tolist())


def _restore_bound(data: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(item) for item in value]
        return float(value) if isinstance(value, str) else value

    if isinstance(data, list):
        return np.array(number(data), dtype).reshape(shape)
    return np.full(shape, number(data), dtype)
