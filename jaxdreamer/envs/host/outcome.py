"""Results and exceptions of a user's environments and functions, as plain numbers, flags and one-sentence errors."""

from __future__ import annotations

import logging
import reprlib
import traceback
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.host.observations import found
from jaxdreamer.errors import JaxdreamerError

logger = logging.getLogger(__name__)

LARGEST = float(np.finfo(np.float32).max)
"""Of a float32."""


def reward_of(value: Any, who: str) -> float:
    """The number in ``value``: Python's, or of an array, tensor or list of one. EnvError, naming who returned it."""
    if isinstance(value, float):  # nearly always
        return float(value)
    return _number(value, "the reward", who)


def episode_metrics_of(said: Any, who: str) -> dict[str, float]:
    """What an environment said of an episode in ``info["episode_metrics"]``: finite numbers by name.

    EnvError for what is no mapping of names to numbers. What is not finite, or beyond float32, is left out with a line in
    the log.
    """
    if not isinstance(said, Mapping) or not all(isinstance(name, str) and name for name in said):
        raise EnvError(f"info['episode_metrics'] must be a dictionary of numbers by name, {who} gave {_shown(said)}")
    numbers = {
        name: _number(value, f"info['episode_metrics'][{reprlib.repr(name)}]", who) for name, value in said.items()
    }
    good = {name: value for name, value in numbers.items() if abs(value) <= LARGEST}
    if bad := {name: value for name, value in numbers.items() if name not in good}:
        logger.warning("info['episode_metrics'] of %s is not finite and left out: %s", who, reprlib.repr(bad))
    return good


def _number(value: Any, what: str, who: str) -> float:
    number = _single(value)
    if isinstance(number, Real | Decimal) or hasattr(type(number), "__float__"):
        try:
            return float(number)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass  # refused below, like everything else that is not a number
    raise EnvError(f"{what} must be one number, {who} returned {_shown(value)}")


def flag_of(value: Any, name: str, who: str) -> bool:
    """Whether ``value`` is true: a bool, a number, None for no, or an array, tensor or list of one of these."""
    if isinstance(value, bool):  # nearly always
        return value
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
    missing = "; is a `return` missing?" if value is None else ""
    return f"{reprlib.repr(value)} ({found(value)}){missing}"


class reporting:
    """Around a call of a user's code: an exception becomes an EnvError that names the call, the exception and its place.

    SystemExit is such an exception: a user's environment does not end this program. The library's own errors, and those
    of the types ``passing``, are not changed. An instance can be reused: making one for every step would take as long as a
    small environment's step. A generator would, too, and it cannot convert StopIteration.
    """

    def __init__(self, call: str, *passing: type[Exception]) -> None:
        self._call, self._passing = call, passing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        if not isinstance(error, (Exception, SystemExit)) or isinstance(error, (JaxdreamerError, *self._passing)):
            return
        if isinstance(error, SystemExit) and type(error) is not SystemExit:  # our own: a worker that is asked to end
            return
        line = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise EnvError(f"{self._call} raised {text} ({line.filename}, line {line.lineno}, in {line.name})") from error


def name_of(env: Any) -> str:
    """The environment's ``str`` on one line; the name of its class where that raises."""
    try:
        return " ".join(str(env).split())
    except Exception:  # for example because its board is made by the first reset: no reason to fail
        return f"<{type(env).__name__}>"
