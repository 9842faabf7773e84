"""Values of settings and options, converted from text or from any Python value to the type each has.

The types are those of the dataclasses' fields: str, int, float, bool, Path, Literal, tuples of these, and ``... | None``.
"""

from __future__ import annotations

import ast
import json
import numbers
import os
import re
import warnings
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from jaxdreamer.errors import ConfigError, nearest, shown

__all__ = ["TRUTH", "convert", "describe", "optional", "parse"]

TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
"""How yes and no are written."""


def parse(kind: Any, name: str, text: str) -> Any:
    """The value of type ``kind`` that ``text`` writes; ConfigError, naming ``name``, where it writes none."""
    inner, may_be_none = optional(kind)
    bare = text.strip()
    value: Any = text
    if inner in (int, float):
        value = None if may_be_none and bare.lower() in ("none", "null") else _number(bare)
    elif inner is bool:
        value = TRUTH.get(bare.lower(), text)
    elif get_origin(inner) is Literal:
        value = bare
    elif get_origin(inner) is tuple:
        value = _numbers(bare) if get_args(inner)[0] in (int, float) else _strings(bare)
    try:
        return convert(kind, name, value)
    except ConfigError as error:
        if inner not in (int, float) and get_origin(inner) is not tuple:
            raise
        raise _wrong(kind, name, text) from error  # as it was written, not as it was taken apart


def convert(kind: Any, name: str, value: Any) -> Any:
    """``value`` as ``kind``: numbers, texts, paths and lists of any library; ConfigError where that would change it."""
    inner, may_be_none = optional(kind)
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # numpy's, jax's and torch's scalars and arrays
        value = value.tolist()
    if value is None and may_be_none:
        return None
    if get_origin(inner) is Literal:
        found = next((item for item in get_args(inner) if item == value), None)
        if found is None:
            raise ConfigError(f"{_wrong(kind, name, value)}{nearest(str(value)[:100], get_args(inner))}")
        return found
    if get_origin(inner) is tuple:
        kinds = get_args(inner)
        if isinstance(value, str) and kinds[0] in (int, float):  # a size is written so in YAML and Python too
            value = _numbers(value)
        if not isinstance(value, list | tuple) or (kinds[-1] is not Ellipsis and len(value) != len(kinds)):
            raise _wrong(kind, name, value)
        return tuple(convert(kinds[0], name, item) for item in value)
    if inner in (str, Path):
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or "\0" in value:
            raise _wrong(kind, name, value)
        return str.__str__(value) if inner is str else _path(kind, name, value)
    if inner is bool:
        if not isinstance(value, bool):
            raise _wrong(kind, name, value)
        return value
    return _as_number(inner, kind, name, value)


def describe(kind: Any) -> str:
    """What is expected, in words."""
    inner, may_be_none = optional(kind)
    if get_origin(inner) is Literal:
        words = "one of " + ", ".join(get_args(inner))
    elif get_origin(inner) is tuple:
        several = f"{len(get_args(inner))} of {get_args(inner)[0].__name__}, as in 64x64"
        words = 'a list of texts, as in a,b or ["a", "b"]' if get_args(inner)[-1] is Ellipsis else several
    else:
        words = {str: "a text", bool: "true or false", Path: "a path"}.get(inner) or inner.__name__
    return f"{words} or none" if may_be_none and inner in (int, float) else words


def _wrong(kind: Any, name: str, value: Any) -> ConfigError:
    return ConfigError(f"{name}: expected {describe(kind)}, found {shown(value)}")


def optional(kind: Any) -> tuple[Any, bool]:
    """The type beside None, and whether None is allowed."""
    kinds = get_args(kind)
    if type(None) not in kinds:
        return kind, False
    return next(item for item in kinds if item is not type(None)), True


def _as_number(inner: Any, kind: Any, name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, numbers.Real | Decimal):
        raise _wrong(kind, name, value)
    try:
        number = inner(value)
    except (OverflowError, ValueError) as error:  # int of inf and nan, float of huge integers
        raise _wrong(kind, name, value) from error
    if inner is int and number != value:
        raise _wrong(kind, name, value)
    return number


def _path(kind: Any, name: str, text: str) -> Path:
    if not text.strip():
        raise _wrong(kind, name, text)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{name}: {shown(text)} names a user whose home folder is not known ({error})") from error


def _number(text: str) -> Any:
    """``1_000``, ``1e6``, ``.5``; the text itself where it is no number."""
    for read in (int, float):
        with suppress(ValueError):
            return read(text)
    return text


def _numbers(text: str) -> list[Any]:
    """Of ``64x64``, ``64,64``, ``64 64``, ``(64, 64)`` or ``[64,64]``."""
    parts = re.split(r"\s*[x,]\s*|\s+", _unwrapped(text).strip().lower())
    return [_number(part) for part in parts]


def _strings(text: str) -> list[Any]:
    """Of ``a,b``, or of a JSON or Python list, whose items may hold anything."""
    if text[:1] in ("[", "("):
        for read in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError), warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # a backslash that escapes nothing is a backslash
                value = read(text)
                if isinstance(value, list | tuple) and not all(isinstance(item, int | float) for item in value):
                    return list(value)  # bare numbers are words like any other
    return [part.strip() for part in _unwrapped(text).split(",") if part.strip()]


def _unwrapped(text: str) -> str:
    """Without the brackets around a list; a glob that begins with ``[ab]`` keeps its own."""
    inside = text[1:-1]
    if text[:1] + text[-1:] in ("[]", "()") and not set(inside) & set("[]()"):
        return inside
    return text
