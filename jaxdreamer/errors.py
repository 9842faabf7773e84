"""The errors that a user can mend: each message says what was wrong, what was found and what to do."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable


class JaxdreamerError(Exception):
    """Base of the library's errors. The command line prints the message of one alone; anything else is a traceback."""


class ConfigError(JaxdreamerError, ValueError):
    """A setting that cannot be; the message names it, says what was found and what is allowed."""


class MissingExtra(ConfigError, ImportError):
    """A library is not installed; the last line of the message is the pip command that installs it."""

    def __init__(self, requirement: str, why: str) -> None:
        """``requirement`` is what pip is given, such as ``jaxdreamer[classic]``; ``why`` says what needs it."""
        super().__init__(f"{why}\npip install {shlex.quote(requirement)}")
        self.requirement = requirement


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """`` (did you mean a, b?)`` with the most similar known names, or nothing where none is similar."""
    by_small = {item.lower(): item for item in known}
    matches = [by_small[item] for item in difflib.get_close_matches(name.lower(), by_small, n=count, cutoff=0.5)]
    return f" (did you mean {', '.join(matches)}?)" if matches else ""
