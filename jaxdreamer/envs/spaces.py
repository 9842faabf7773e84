"""Gymnasium's spaces by kind, and in a JSON file. They are told by their class names, so old gym's work as well.

:func:`describe_space` and :func:`restore_space` keep a space in a JSON file, for a trained agent that acts without the
library its environment came from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

LEAVES = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these"


def kind_of(space: Any) -> str:
    """``Box``, ``Discrete``, ``MultiDiscrete``, ``MultiBinary``, ``Dict`` or ``Tuple``; else the space's class name."""
    names = [cls.__name__ for cls in type(space).__mro__]
    return next((name for name in names if name in (*LEAVES, "Dict", "Tuple")), names[0])


def children(space: Any) -> dict[Any, Any]:
    """The members of a Dict or Tuple space by key or index, in the space's own order."""
    return dict(space.spaces.items()) if kind_of(space) == "Dict" else dict(enumerate(space.spaces))


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
    if kind not in LEAVES:
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
