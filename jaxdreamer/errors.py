"""Errors that a user can fix: each message says what was wrong, what was found and what to do."""

from __future__ import annotations

import difflib
import importlib
import reprlib
import shlex
from collections.abc import Iterable
from typing import Any


class JaxdreamerError(Exception):
    """Base of the library's errors. The command line prints only their message; any other exception is a traceback."""


class ConfigError(JaxdreamerError, ValueError):
    """An invalid setting; the message names it, says what was found and what is allowed."""


class MissingExtra(ConfigError, ImportError):
    """A library is not installed; the last line of the message is the pip command that installs it."""

    def __init__(self, requirement: str, why: str) -> None:
        """``requirement`` is pip's argument, such as ``jaxdreamer[classic]``; ``why`` says what needs it."""
        super().__init__(f"{why}\npip install {shlex.quote(requirement)}")
        self.requirement = requirement


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """`` (did you mean a, b?)`` with the most similar known names, or nothing where none is similar."""
    by_small = {item.lower(): item for item in known}
    matches = [by_small[item] for item in difflib.get_close_matches(name.lower(), by_small, n=count, cutoff=0.5)]
    return f" (did you mean {', '.join(matches)}?)" if matches else ""


def shown(value: Any, most: int = 200) -> str:
    """``repr(value)`` for an error message, cut to about ``most`` characters however large the value is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = most
    short.maxlevel, short.maxdict, short.maxlist, short.maxtuple = 3, 8, 8, 8
    try:
        text = short.repr(value)
    except ValueError:  # an integer with more digits than Python converts
        text = f"an integer of {int(value).bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= most else text[:most] + "..."


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """Import ``module``, or raise MissingExtra that names the package's extra ``jaxdreamer[extra]``."""
    try:
        found = importlib.import_module(module)
        if getattr(found, "__file__", "") is None:  # such as the folder of runs that wandb makes in the working folder
            raise ImportError(f"{next(iter(found.__path__))} is a folder without a module")
        return found
    except ImportError as error:
        package = module.partition(".")[0]
        why = f"{purpose} needs the Python package {package}, which cannot be imported ({error})"
        raise MissingExtra(f"jaxdreamer[{extra}]", why) from error
