"""Values of settings, whatever they came as: numpy's scalars and arrays, paths, enumerations, numbers written as text."""

from __future__ import annotations

import argparse
import enum
import math
import os
import types
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from decimal import Decimal
from numbers import Real
from typing import Any

from jaxdreamer import TRUTH, ConfigError

NAMESPACES = (types.SimpleNamespace, argparse.Namespace)


def plain(value: Any) -> Any:
    """The same in Python's own types: arrays become numbers or tuples of them, paths text; other objects stay."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, os.PathLike):
        return plain(os.fspath(value))
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # an array or scalar of numpy, JAX or torch
        return plain(value.tolist()) if not isinstance(value, str) else str(value)
    kinds: tuple[Any, ...] = (bool, int, float, str, bytes)
    for kind in kinds:
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    if isinstance(value, NAMESPACES):
        value = vars(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return tuple(plain(item) for item in value)
    if isinstance(value, Set):
        return tuple(sorted((plain(item) for item in value), key=repr))
    return value


def writable(name: str, value: Any) -> Any:
    """A plain value as YAML and JSON know it, tuples as lists. ConfigError, with the field's name, for anything else."""
    value = plain(value)
    if isinstance(value, dict):
        return {key: writable(name, item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [writable(name, item) for item in value]
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    raise ConfigError(
        f"DreamerConfig.{name}: {value!r} cannot be written down: give numbers, text, lists or dictionaries of them"
    )


def fitted(value: Any, default: Any) -> Any:
    """A value in the type of the field's default: ``"6e-4"`` for a number, ``"no"`` for a truth, 3.0 for a whole number.

    Where it has no such meaning it is returned as it is; :func:`mismatch` then says what was expected.
    """
    value = plain(value)
    kind = type(default)
    if isinstance(value, tuple) and len(value) == 1 and kind in (bool, int, float, str):
        value = value[0]
    if kind is str:
        if value is None and default == "":
            return ""
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if kind is bool:
        if isinstance(value, str):
            return TRUTH.get(value.strip().lower(), value)
        return bool(value) if isinstance(value, int | float) and value in (0, 1) else value
    if kind in (int, float) and not isinstance(value, bool):
        return _number(value, kind)
    return value


def _number(value: Any, kind: type) -> Any:
    number: Any = value
    for read in (float, int) if isinstance(value, str) else ():
        with suppress(ValueError):
            number = read(value)
    if not isinstance(number, Real | Decimal):
        return value
    if kind is float:
        return float(number)
    whole = math.isfinite(number) and number == math.floor(number)
    return math.floor(number) if whole else value


def mismatch(value: Any, default: Any) -> str | None:
    """``expected int, found 'many'`` where a value is not of the type of the field's default; None where it is."""
    kind = type(default)
    if kind not in (bool, int, float, str) or type(value) is kind:
        return None
    return f"expected {kind.__name__}, found {value!r}"
