"""What environments and functions of others return and raise, as plain numbers, flags and errors with a sentence."""

from __future__ import annotations

import reprlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from numbers import Real
from typing import Any

from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.observations import found
from jaxdreamer.errors import JaxdreamerError


def reward_of(value: Any, who: str) -> float:
    """The number in ``value``: Python's, or of an array, tensor or list of one. EnvError, naming who returned it."""
    number = _single(value)
    if isinstance(number, Real | Decimal) or hasattr(type(number), "__float__"):
        try:
            return float(number)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass  # told below, like everything that is no number
    raise EnvError(f"the reward must be one number, {who} returned {_shown(value)}")


def flag_of(value: Any, name: str, who: str) -> bool:
    """Whether ``value`` is true: a bool, a number, None for no, or an array, tensor or list of one of these."""
    flag = _single(value)
    if flag is None:
        return False
    if isinstance(flag, Real) and flag == flag:
        return bool(flag)
    raise EnvError(f"{name} must be true or false, {who} returned {_shown(value)}")


def _single(value: Any) -> Any:
    """The Python object in an array, tensor, list or tuple of one; anything else as it is."""
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    item = getattr(value, "item", None)
    if not callable(item):
        return value
    try:
        return item()
    except (TypeError, ValueError, RuntimeError):  # it holds many, or none
        return value


def _shown(value: Any) -> str:
    missing = "; does a `return` lack?" if value is None else ""
    return f"{reprlib.repr(value)} ({found(value)}){missing}"


@contextmanager
def told(call: str, *passing: type[Exception]) -> Iterator[None]:
    """What is raised inside becomes EnvError: which call it was, what it raised, and in which line.

    The library's own errors, and those of the types ``passing``, go through as they are.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (JaxdreamerError, *passing)):
            raise
        at = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise EnvError(f"{call} raised {text} ({at.filename}, line {at.lineno}, in {at.name})") from error
