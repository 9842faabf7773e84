"""Gymnasium's spaces by kind, as themselves (:func:`understood`), and in a JSON file.

Old gym's, and others like them, are recognised by their class names, or else by their attributes: ``spaces``; ``low`` and
``high``, ``nvec`` or ``n`` that are numbers; a dtype of text. A dictionary of spaces is a Dict, a tuple of spaces a Tuple, a
named tuple of spaces a Dict.
:func:`describe_space` and :func:`restore_space` keep a space in a JSON file, for a trained agent that acts without the
library its environment came from.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from jaxdreamer.config import ConfigError
from jaxdreamer.envs.base import SpaceError
from jaxdreamer.envs.interpreter.gym_api import LEAVES, describe_space
from jaxdreamer.errors import shown
from jaxdreamer.files import MEND, one_of, read_json, require, whole
from jaxdreamer.memory import refuse_beyond_memory
from jaxdreamer.types import EnvSpec, SpecError

Read = TypeVar("Read")

# What a file may ask for: a picture of the largest size has fewer numbers, and no action comes near to so many choices.
_MOST_NUMBERS, _MOST_CHOICES = 2**26, 2**16
SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these"


def _dtypes(kinds: str) -> set[str]:
    """Names of the types whose ``dtype.kind`` is one of these."""
    return {str(np.dtype(code)) for code in "?bhilqBHILQefdg" if np.dtype(code).kind in kinds}


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


def read_spec(path: str | os.PathLike[str]) -> EnvSpec:
    """The spec in a run's ``spec.json``. ConfigError where it describes none, TooLarge where nothing could hold it."""
    spec = _from_file(path, EnvSpec.from_dict)
    refuse_beyond_memory(f"{path}: one observation and action", spec.nbytes, MEND)
    return spec


def read_spaces(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The environment's own spaces in a run's ``spec.json``, by ``observation`` and ``action``; errors as above."""

    def restore(data: Any) -> dict[str, Any]:
        described = data.get("spaces") if isinstance(data, Mapping) else None
        if not isinstance(described, Mapping | None):
            raise SpecError(f"'spaces' cannot be {shown(described)}")
        _refuse_more(_numbers_in([*(described or {}).values()]), _MOST_NUMBERS, "numbers", "'spaces' together")
        return {name: None if item is None else restore_space(item) for name, item in (described or {}).items()}

    return _from_file(path, restore)


def _numbers_in(data: Any) -> int:
    """How many numbers the bounds of all boxes in a description would be; what is no description counts as none."""
    if isinstance(data, list):
        return sum(_numbers_in(item) for item in data)
    if not isinstance(data, Mapping):
        return 0
    shape = data.get("shape")
    own = math.prod(size for size in shape if type(size) is int) if isinstance(shape, list) else 0
    return max(0, own) + _numbers_in(data.get("spaces"))


def _from_file(path: str | os.PathLike[str], read: Callable[[Any], Read]) -> Read:
    try:
        return read(read_json(path))
    except SpecError as error:
        raise ConfigError(f"{path}: {error}: {MEND}") from error


def restore_space(data: Any) -> Any:
    """The gymnasium space that :func:`describe_space` described; for an unsupported kind one that only has its name.

    SpecError for what it never writes.
    """
    from gymnasium import spaces

    require(data, {"kind": str}, "a space", SpecError)
    kind = data["kind"]
    where = f"a {shown(kind)} space"
    require(data, _FORMS.get(kind, {"text": str}), where, SpecError)
    if kind == "Dict":
        items = data["spaces"]
        if len({name for name, _ in items}) != len(items):
            raise SpecError(f"{where} has two members of one name")
        return spaces.Dict([(name, restore_space(child)) for name, child in items])
    if kind == "Tuple":
        return spaces.Tuple([restore_space(child) for child in data["spaces"]])
    if kind not in LEAVES:
        if not kind.isidentifier():
            raise SpecError(f"{where}: there is no class of this name")
        return type(kind, (spaces.Space,), {"__repr__": lambda _: data["text"]})()
    try:
        with np.errstate(over="raise"):
            return _LEAF[kind](data, where)
    except (ValueError, TypeError, AssertionError, ArithmeticError) as error:  # gymnasium asserts
        raise error if isinstance(error, SpecError) else SpecError(f"{where} cannot be made: {error}") from error


def _is_member(item: Any) -> bool:
    """Whether it is a name and the description of a space."""
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str | int)


_TOP = 2**63 - 1
_FORMS: dict[str, Any] = {
    "Dict": {"spaces": [_is_member]},
    "Tuple": {"spaces": list},
    "Box": {"dtype": one_of(*_dtypes("biuf")), "shape": [whole(0)], "low": Any, "high": Any},
    "Discrete": {"dtype": one_of(*_dtypes("iu")), "n": whole(1, _TOP), "start": whole(-_TOP, _TOP)},
    "MultiDiscrete": {"dtype": one_of(*_dtypes("iu")), "nvec": list, "start": list},
    "MultiBinary": {"n": lambda value: all(map(whole(1), value if isinstance(value, list) else [value]))},
}


def _restore_box(data: Any, where: str) -> Any:
    from gymnasium import spaces

    dtype, shape = np.dtype(data["dtype"]), tuple(data["shape"])
    _refuse_more(math.prod(shape), _MOST_NUMBERS, "numbers", where)
    low, high = (_restore_bound(data[name], shape, dtype, where) for name in ("low", "high"))
    if (low > high).any():
        raise SpecError(f"{where}: a lower bound is above the upper one")
    return spaces.Box(low, high, shape, dtype.type)


def _restore_discrete(data: Any, where: str) -> Any:
    from gymnasium import spaces

    dtype, count, start = np.dtype(data["dtype"]), data["n"], data["start"]
    if start > _TOP - count:
        raise SpecError(f"{where}: {count} choices from {start} are more than 64 bits can count")
    options: dict[str, Any] = {} if dtype == np.int64 else {"dtype": dtype}  # gymnasium 1.1 has no such argument
    return spaces.Discrete(count, start=start, **options)


def _restore_multi_discrete(data: Any, where: str) -> Any:
    from gymnasium import spaces

    dtype = np.dtype(data["dtype"])
    choices, start = (_numbers(data[name], dtype, f"{where}, {name!r}") for name in ("nvec", "start"))
    _refuse_more(choices.size, _MOST_CHOICES, "choices", where)
    if choices.shape != start.shape or (choices < 1).any():
        raise SpecError(f"{where}: 'nvec' and 'start' are lists of one shape, of numbers from 1 in 'nvec'")
    return spaces.MultiDiscrete(choices, dtype=dtype.type, start=start)


def _restore_multi_binary(data: Any, where: str) -> Any:
    from gymnasium import spaces

    size = data["n"]
    _refuse_more(math.prod(size) if isinstance(size, list) else size, _MOST_CHOICES, "choices", where)
    return spaces.MultiBinary(size)


def _refuse_more(count: int, most: int, what: str, where: str) -> None:
    if count > most:
        raise SpecError(f"{where} has at most {most:,} {what}, found {count:,}")


_LEAF = {
    "Box": _restore_box,
    "Discrete": _restore_discrete,
    "MultiDiscrete": _restore_multi_discrete,
    "MultiBinary": _restore_multi_binary,
}


def _restore_bound(data: Any, shape: tuple[int, ...], dtype: np.dtype, where: str) -> np.ndarray:
    numbers = _numbers(data, dtype, f"{where}, its bounds")
    if numbers.shape and numbers.size != math.prod(shape):
        raise SpecError(f"{where}: a bound has shape {numbers.shape}, the space {shape}")
    return numbers.reshape(shape) if numbers.shape else np.broadcast_to(numbers, shape)


def _numbers(data: Any, dtype: np.dtype, where: str) -> np.ndarray:
    """An array of nested lists of numbers, none of which may change by becoming ``dtype``."""

    kinds = {"b": (bool,), "f": (int, float)}.get(dtype.kind, (int,))

    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(item) for item in value]
        if dtype.kind == "f" and value in ("inf", "-inf", "nan"):
            return float(value)
        if dtype.kind in "iu" and isinstance(value, float) and value.is_integer():
            return int(value)
        if type(value) not in kinds or (isinstance(value, float) and not math.isfinite(value)):
            raise SpecError(f"{where}: expected numbers of type {dtype}, found {shown(value)}")
        return value

    return np.array(number(data), dtype)
