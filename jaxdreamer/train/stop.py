"""Ctrl-C, SIGTERM and a closed terminal, heard at once whatever the main thread is waiting for.

Python runs signal handlers between two bytecodes of the main thread, which may compile for a minute or wait for a call of
half a minute. So a thread of its own is told of each signal, answers it, and where the main thread cannot leave soon enough
ends the process: checkpoints are written beside their place and renamed, so the newest one is whole at any moment.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console

from jaxdreamer.envs import endings
from jaxdreamer.record.progress import say

PATIENCE = 3.0
"""Seconds that the main thread has for leaving in order."""
EXIT_CODE = 130
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class StopRequested(Exception):
    """An evaluation was given up because the run is to stop; the run itself is as it was before."""


class Stoppable(Protocol):
    """What a signal asks to stop: a trainer."""

    stop_requested: bool

    def under_way(self) -> str:
        """What has to end before the run can be saved, in words."""

    def kept(self) -> str:
        """What of the run is on disk, in words."""


class Signals:
    """Listens for the length of a with statement, in the main thread; a host program's handlers are then put back.

    Outside of :meth:`saving` a signal is a KeyboardInterrupt. A process that could not raise it within ``PATIENCE`` seconds
    is ended, and so is one that is still there that long after a second Ctrl-C. In another thread, or within another of
    these, nothing is done.
    """

    def __init__(self, console: Console):
        """``console``: where to answer."""
        self._console = console
        self._running: Stoppable | None = None
        self._asked = self._leaving = self._raised = self._hurried = False
        self._left = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        """Begin to listen."""
        if threading.current_thread() is not threading.main_thread():
            return self  # signal handlers belong to the main thread
        if isinstance(getattr(signal.getsignal(signal.SIGINT), "__self__", None), Signals):
            return self
        self._heard, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for name in _NAMES:
            number = getattr(signal, name, None)
            # A program that is to survive its terminal (nohup) goes on surviving it.
            if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                self._before[number] = signal.signal(number, self._interrupt)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        if not self._before:
            return
        self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._fd_before)
        self._wake.close()
        self._thread.join()
        self._heard.close()

    @contextmanager
    def saving(self, running: Stoppable) -> Iterator[None]:
        """Within this, the first signal asks ``running`` to save and end, and a Ctrl-C after it leaves at once."""
        self._running = running
        try:
            yield
        finally:
            self._running = None

    def _interrupt(self, number: int, frame: Any) -> None:
        """In the main thread: what it comes to was decided by the other one, which hears every signal and is never late."""
        del number, frame
        if self._leaving and not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def _listen(self) -> None:
        while numbers := self._heard.recv(64):
            for number in numbers:
                if number in self._before and not self._leaving:
                    self._answer(number)
                elif number == signal.SIGINT and self._hurried:
                    self._end()

    def _answer(self, number: int) -> None:
        running = self._running
        if running is not None and not running.stop_requested:
            running.stop_requested = self._asked = True
            say(
                self._console,
                f"stopping: the run will be saved after {running.under_way()}; Ctrl-C again leaves now, {running.kept()}",
            )
        elif number == signal.SIGINT or not self._asked:  # a terminal that closes may say so more than once
            again, self._asked, self._leaving = self._asked, True, True
            if running is not None:
                say(self._console, f"leaving now, {running.kept()}")
            if not self._made_to_leave():
                if self._raised and not again:
                    self._hurried = True  # it is on its way out, and may have much to close: only one more ends it
                else:
                    self._end()

    def _made_to_leave(self) -> bool:
        """Interrupt the main thread; whether it left within ``PATIENCE`` seconds."""
        until = time.monotonic() + PATIENCE
        # It has perhaps seen the signal before this thread did, and thought nothing of it. One may not be enough: what
        # comes just before the main thread begins to wait for something does not wake it.
        while not self._raised and not self._left.is_set() and time.monotonic() < until:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
            self._heard.recv(1)  # that one is no further wish
            self._left.wait(0.1)
        return self._left.wait(max(0.0, until - time.monotonic()))

    def _end(self) -> None:
        """End the process, but for an interactive session, which is not ours to end."""
        if not hasattr(sys, "ps1"):
            endings.end_everything()
            self._console.show_cursor()
            os._exit(EXIT_CODE)
