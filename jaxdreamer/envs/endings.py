"""What must be ended when the program leaves at once: worker processes, simulators, shared memory."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

_endings: dict[int, Callable[[], None]] = {}
_numbers = itertools.count()


def at_once(owner: Any, end: Callable[[], None]) -> None:
    """Let :func:`end_everything` call ``end`` for as long as ``owner`` lives.

    ``end`` must not refer to its owner, must wait for nobody, and must allow for what is gone already: it may be called
    from any thread, while another is in the midst of using or closing the same things.
    """
    number = next(_numbers)
    _endings[number] = end
    weakref.finalize(owner, _endings.pop, number, None).atexit = False


def end_everything() -> None:
    """End all that is still open, without asking it to close: for a program that cannot wait any longer."""
    for end in list(_endings.values()):
        end()
