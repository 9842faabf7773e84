"""A process in another interpreter seen from the trainer: it is started, spoken to, and ended with what it started."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from jaxdreamer.config import ConfigError
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.host.workers.process import how_it_ended
from jaxdreamer.envs.interpreter import wire

STARTING_SECONDS = 30.0
"""For an interpreter's start, and for its imports."""
_CLOSING_SECONDS = 2 * wire.CLOSING_SECONDS


class ProcessLost(EnvError):
    """The process died, hangs or sends nonsense."""


class Failed(EnvError):
    """The process says that a command failed: a :class:`~jaxdreamer.envs.interpreter.wire.Failure` on the other side."""

    def __init__(self, reason: str, message: str, exit_code: int | None) -> None:
        super().__init__(message)
        self.reason, self.exit_code = reason, exit_code


class Process:
    """``python`` running :mod:`jaxdreamer.envs.interpreter.worker` with the module in the file ``served``."""

    def __init__(
        self, setting: str, python: str, served: Path, *, stderr: Any = None, scratch: Path | None = None
    ) -> None:
        """Start it and wait for its first word; ConfigError where ``python`` is no Python.

        Args:
            setting: what ``python`` comes from, for messages.
            python: a path, or a name that is looked up; empty is this interpreter.
            served: the file of its module.
            stderr: of ``subprocess.Popen``, where its prints go. None: where this program's go.
            scratch: a folder that is removed once it has ended.
        """
        environment = dict(os.environ)
        if python:  # what leads this interpreter to its libraries misleads another
            for name in ("PYTHONPATH", "PYTHONHOME"):
                environment.pop(name, None)
        try:
            self._process = subprocess.Popen(
                [python or sys.executable, "-u", Path(__file__).with_name("worker.py"), served],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the trainer, which ends its workers in its own time
            )
        except OSError as error:
            _remove(scratch)
            raise ConfigError(f"{setting}: {python!r} cannot be started: {error}") from error
        # Also where nobody calls close: when this object is forgotten, and when the program ends.
        self._end = weakref.finalize(self, _end, self._process, scratch)
        self._replies: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=_listen, args=(self._process.stdout, self._replies), daemon=True).start()
        try:
            self.receive(STARTING_SECONDS)
        except BaseException as error:
            self.kill()
            if not isinstance(error, ProcessLost):
                raise
            raise ConfigError(
                f"{setting}: {python!r} does not answer as Python 3.8 or later does: {error}; give the path of an "
                "interpreter, as in venv/bin/python"
            ) from None

    def send(self, header: dict[str, Any], arrays: dict[str, Any] | None = None) -> None:
        """Send a command; :meth:`receive` must follow."""
        with contextlib.suppress(OSError):  # it is dead: receive raises the error
            wire.send(self._process.stdin, header, arrays)  # type: ignore[arg-type]

    def receive(self, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """Its next reply, header and arrays; Failed where the command failed, ProcessLost where no reply comes."""
        try:
            reply = self._replies.get(timeout=seconds)
        except queue.Empty:
            raise ProcessLost(f"no answer within {seconds:g} s") from None
        if isinstance(reply, Exception):
            self._replies.put(reply)  # for whoever asks again
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_CLOSING_SECONDS)
            how = how_it_ended(self._process.returncode)
            raise ProcessLost(f"its worker process ended: {how} ({reply})") from reply
        header, arrays = reply
        if header.get("kind") == "error":
            raise Failed(header["reason"], header["message"], header["exit_code"])
        return header, arrays

    def kill(self) -> None:
        """End it at once, with what it started and did not put into a session of its own."""
        if self._process.poll() is None:
            wire.kill_group(self._process.pid)
        self._end()

    def close(self) -> None:
        """Let it close what it holds, and end it; calling it twice is fine."""
        self._end()


def _listen(stream: Any, replies: queue.Queue[Any]) -> None:
    """Put every message of the process into ``replies``, and last the exception that ended it."""
    try:
        while True:
            replies.put(wire.receive(stream))
    except Exception as error:  # EOFError where the process ended; anything else is nonsense on the line
        replies.put(error)
    finally:
        stream.close()


def _end(process: subprocess.Popen[bytes], scratch: Path | None) -> None:
    """Without its standard input it ends what it holds, and itself."""
    with contextlib.suppress(OSError):  # bytes for a process that is gone
        process.stdin.close()  # type: ignore[union-attr]
    try:
        process.wait(_CLOSING_SECONDS)
    except subprocess.TimeoutExpired:
        wire.kill_group(process.pid)
        process.wait()
    _remove(scratch)


def _remove(scratch: Path | None) -> None:
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)
