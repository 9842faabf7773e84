"""What every group of settings has: typed values, and limits in the metadata of its fields. Imports no jax.

A lower limit is the least that makes sense, an upper one the most that the library can count to or start at all. Whether
memory suffices for a run depends on its environment too, and is checked once that is known.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import Field, field
from typing import Any, get_type_hints

from jaxdreamer import values
from jaxdreamer.errors import ConfigError, shown

INT32 = 2**31 - 1
FLOAT32 = 3.4e38
SMALLEST = 1.2e-38  # below it, float32 loses digits and then becomes 0
COUNT = 2**53  # the largest count that every file format keeps exactly


def setting(default: Any, low: float = 0, high: float | None = None, **metadata: Any) -> Any:
    """A field of settings whose numbers lie between ``low`` and ``high``; both, and ``metadata``, are the field's metadata.

    ``high=None`` is the largest int32 or float32. A number whose field is no ``setting`` has the limits 0 and None.
    ``free=True``: it may change within a run, as it only affects where a simulator runs. ``path=True``: it is a path,
    kept absolute; ``path="command"``: it is one where it has a slash.
    ``runs="start the program"``: its value does this, so its author must be trusted.
    """
    return field(default=default, metadata=metadata | {"limits": (low, high)})


class Settings:
    """A group of settings: values are converted to the fields' types. ConfigError for one that would change by that."""

    def __post_init__(self) -> None:
        own: Any = type(self)
        for name, kind in hints(own).items():
            value = getattr(self, name)
            if kind is Any:  # the class reads it itself
                continue
            if not dataclasses.is_dataclass(kind):
                object.__setattr__(self, name, values.convert(kind, name, value))  # as frozen dataclasses do it
            elif not isinstance(value, kind):  # type: ignore[arg-type]
                raise ConfigError(f"{name}: expected {kind.__name__}, found {shown(value)}")  # type: ignore[union-attr]


def hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    return _hints(kind)


_hints = functools.cache(get_type_hints)


def members(group: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """Dotted name, field and value of every setting; a backend's options are named as if they were of ``env`` itself."""
    for item in dataclasses.fields(group):
        value = getattr(group, item.name)
        if dataclasses.is_dataclass(value):
            yield from members(value, prefix if item.name == "options" else f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item, value


def check_limits(group: Any) -> None:
    """ConfigError for the first number outside of its field's limits."""
    for key, item, value in members(group):
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check_number(key, number, shown(value), *item.metadata.get("limits", (0, None)))


def _check_number(key: str, number: float, found: str, low: float, high: float | None) -> None:
    if isinstance(number, float) and not math.isfinite(number):
        raise ConfigError(f"{key} must be a finite number, found {found}")
    if high is None:
        high = FLOAT32 if isinstance(number, float) else INT32
    if low <= number <= high:
        return
    if high == 1:
        raise ConfigError(f"{key} must lie between {low:g} and 1, found {found}")
    if number > high:
        raise ConfigError(
            f"{key} must be at most {f'{high:,}' if isinstance(high, int) else f'{high:g}'}, found {found}"
        )
    if number < 0 == low:
        raise ConfigError(f"{key} must not be negative, found {found}")
    if low == 1 or low == SMALLEST:
        raise ConfigError(f"{key} must be above 0, found {found}{' (float32 cannot hold it)' if number > 0 else ''}")
    raise ConfigError(f"{key} must be at least {low:g}, found {found}")
