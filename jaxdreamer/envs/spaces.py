"""Gymnasium's spaces by kind, as themselves (:func:`understood`), and in a JSON file.

Old gym's, and whatever else looks like one, are told by their class names, or else by what they have: ``low`` and ``high``,
``nvec``, ``n``, ``spaces``; a dictionary of spaces is a Dict, a tuple of spaces a Tuple, a named tuple of spaces a Dict.
:func:`describe_space` and :func:`restore_space` keep a space in a JSON file, for a trained agent that acts without the
library its environment came from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdreamer.envs.base import SpaceError

LEAVES = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these"


_OTHERS = ("Text", "Sequence", "Graph", "OneOf")  # gymnasium's, which are not supported


def kind_of(space: Any) -> str:
    """``Box``, ``Discrete``, ``MultiDiscrete``, ``MultiBinary``, ``Dict`` or ``Tuple``; else the space's class name."""
    names = [cls.__name__ for cls in type(space).__mro__]
    known = next((name for name in names if name in (*LEAVES, "Dict", "Tuple", *_OTHERS)), None)
    return known or _kind_by_structure(space) or names[0]


def _kind_by_structure(space: Any) -> str:
    if isinstance(space, Mapping) or hasattr(space, "_fields"):
        return "Dict"
    if isinstance(space, tuple | list):
        return "Tuple"
    inner = getattr(space, "spaces", None)
    if inner is not None:
        return "Dict" if isinstance(inner, Mapping) else "Tuple"
    if hasattr(space, "low") and hasattr(space, "high"):
        return "Box"
    if hasattr(space, "nvec"):
        return "MultiDiscrete"
    if hasattr(space, "n"):
        many = np.ndim(space.n) > 0 or getattr(space, "shape", None)
        return "MultiBinary" if many else "Discrete"
    return ""


def children(space: Any) -> dict[Any, Any]:
    """The members of a Dict or Tuple space by key or index, in the space's own order."""
    inner = getattr(space, "spaces", space)
    if hasattr(inner, "_fields"):
        inner = inner._asdict()
    return dict(inner.items()) if isinstance(inner, Mapping) else dict(enumerate(inner))


def understood(space: Any) -> Any:
    """``space`` itself where it is gymnasium's, else the one of gymnasium's that it looks like.

    A member of an unsupported kind becomes a space that only has its name. SpaceError where it describes nothing.
    """
    import gymnasium

    if isinstance(space, gymnasium.Space):
        return space
    try:
        return restore_space(describe_space(space))
    except (AttributeError, TypeError, ValueError, AssertionError) as error:
        raise SpaceError(f"{space} of type {type(space).__name__} is no space that can be used: {error}") from error


def _box_dtype(space: Any) -> np.dtype:
    """A Box's type; before old gym had them, Boxes held float32."""
    return np.dtype(getattr(space, "dtype", None) or np.float32)


def _box_shape(space: Any) -> list[int]:
    shape = getattr(space, "shape", None)
    return list(np.broadcast_shapes(np.shape(space.low), np.shape(space.high)) if shape is None else shape)


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
    if kind not in LEAVES:
        return {"kind": kind, "text": str(space)}
    described: dict[str, Any] = {"kind": kind}
    if kind == "MultiBinary":
        return described | {"n": np.asarray(space.n).tolist()}
    if kind == "Box":
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return described | {"dtype": str(_box_dtype(space)), "shape": _box_shape(space)} | bounds
    described["dtype"] = str(np.dtype(getattr(space, "dtype", None) or np.int64))
    if kind == "Discrete":
        return described | {"n": int(space.n), "start": int(getattr(space, "start", 0))}
    start = np.broadcast_to(getattr(space, "start", 0), np.shape(space.nvec))
    return described | {"nvec": np.asarray(space.nvec).tolist(), "start": start.tolist()}


def restore_space(data: Mapping[str, Any]) -> Any:
    """The gymnasium space that :func:`describe_space` described; for an unsupported kind one that only has its name."""
    from gymnasium import spaces

    kind = data["kind"]
    if kind == "Dict":
        return spaces.Dict([(name, restore_space(child)) for name, child in data["spaces"]])
    if kind == "Tuple":
        return spaces.Tuple([restore_space(child) for child in data["spaces"]])
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["n"])
    if kind not in LEAVES:
        return type(kind, (spaces.Space,), {"__repr__": lambda _: data.get("text", kind)})()
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
