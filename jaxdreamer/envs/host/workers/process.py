"""One worker process, both ends of it: the parent's handle, the shared memory, and what runs in the process.

The parent sends ``(kind, *values)`` and gets ``(kind, value, log lines, notes)``; arrays travel by shared memory.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from jaxdreamer.config import ConfigError
from jaxdreamer.envs.base import Env
from jaxdreamer.envs.host.instance import as_env, check_apart
from jaxdreamer.envs.host.vector import play_again, said_at_end
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.types import flatten

IDLE, STEP, RESET = range(3)
"""Commands to a lane, obeyed when its worker advances."""
GRACE = 5.0
"""Seconds a worker has for closing its environments."""
_CONTEXT = multiprocessing.get_context("spawn")


class WorkerFailed(Exception):
    """A worker process died, hung or raised; the message says which, with its traceback where there is one."""


@dataclass
class Worker:
    """The parent's end of one process."""

    number: int
    lanes: list[int]
    make: bytes
    failures: int = 0
    process: Any = None
    pipe: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        which = f"lane {self.lanes[0]}" if len(self.lanes) == 1 else f"lanes {self.lanes[0]} to {self.lanes[-1]}"
        return f"environment worker {self.number} ({which})"

    def start(self) -> None:
        """Start the process; it answers with what it is about."""
        self.pipe, theirs = _CONTEXT.Pipe()
        arguments = (theirs, self.make, self.lanes)
        self.process = _CONTEXT.Process(target=work, args=arguments, name=str(self), daemon=True)
        with _no_main(), _deaf():
            self.process.start()
        theirs.close()

    def send(self, kind: str, *values: Any) -> None:
        """Send a command; :meth:`receive` must follow."""
        with suppress(OSError):  # it is dead: receive raises the error
            self.pipe.send((kind, *values))

    def receive(self, timeout: float) -> Any:
        """Its next answer; WorkerFailed where there is none."""
        started = time.monotonic()
        try:
            if not self.pipe.poll(timeout):
                drawing = f" (drawing by MUJOCO_GL={os.environ['MUJOCO_GL']})" if "MUJOCO_GL" in os.environ else ""
                raise WorkerFailed(
                    f"{self} hangs: no answer within {time.monotonic() - started:.0f} s{drawing}; where the task is that "
                    "slow, raise env.worker_timeout"
                )
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(GRACE)
            raise WorkerFailed(f"{self} died: {how_it_ended(self.process.exitcode)}") from None

    def stop(self, grace: float) -> None:
        """Ask it to close, then end it, then kill it."""
        if self.process is None:
            return
        self.send("close")
        if grace:
            self.process.join(grace)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()
        self.process.close()
        self.process = None

    def kill(self) -> None:
        """End it at once, whatever it or the parent is doing."""
        process = self.process
        if process is not None:
            with suppress(ValueError, OSError):  # another thread has just ended it
                process.kill()


def how_it_ended(code: int | None) -> str:
    """An exit code in words, of a process whose streams are ours."""
    if code is None:
        return "its pipe is closed"
    if code >= 0:
        return f"exit code {code}; what it printed last is above"
    name = signal.Signals(-code).name
    hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
    return f"by signal {name}{hint}"


_TERMINAL = [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]
"""Signals that a terminal sends to every process it started: they are the parent's, which ends its workers in order."""


@contextmanager
def _deaf() -> Iterator[None]:
    """Let a new process begin with these signals blocked: its imports take a second in which one would end it.

    multiprocessing's own helper, which frees shared memory, is started along with the first worker and stays deaf.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _no_main() -> Iterator[None]:
    """Let the new process start without running the caller's script again: it may have no guard, and may import jax."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class Memory:
    """Named arrays in one block of shared memory."""

    def __init__(self, layout: np.dtype, name: str | None = None) -> None:
        """``layout`` is a record of the arrays; without the ``name`` of a block, a new one is made."""
        self._block = SharedMemory(name, create=name is None, size=layout.itemsize)
        self.name, self.layout = self._block.name, layout
        self._unlinked = False
        record = np.ndarray((), layout, self._block.buf)
        self.arrays: dict[str, np.ndarray] = {key: record[key] for key in layout.names or ()}

    def remove(self) -> None:
        """Free the block for all processes; it may be gone already, and this may be called twice."""
        self.arrays.clear()
        self.unlink()
        with suppress(BufferError):  # an array is in use, by a traceback say: the process's end unmaps the block
            self._block.close()

    def unlink(self) -> None:
        """Take the block's name away; the memory goes with the last process that has it open."""
        try:
            self._block.unlink()
        except FileNotFoundError:
            if not self._unlinked:  # somebody cleaned up: or multiprocessing would try it, and complain, at the end
                resource_tracker.unregister(f"/{self.name}", "shared_memory")
        self._unlinked = True


# ---- in the worker process -------------------------------------------------------------------------------------------


class _Lines(logging.Handler):
    """Keeps log records for the parent, which has the log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's text."""
        self.lines.append(record.getMessage())

    def take(self) -> list[str]:
        """What came since the last call."""
        lines, self.lines = self.lines, []
        return lines


class _Asked(SystemExit):
    """The process was asked to end. A plain SystemExit, in the midst of an environment's code, would be that one's."""


def work(pipe: Any, make: bytes, lanes: list[int]) -> None:
    """A worker process: make the lanes' environments, then obey the parent until the pipe closes."""
    for number in _TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TERMINAL)

    def terminate(number: int, frame: Any) -> None:
        # A scheduler sends this to every process of a job. Only where the parent has asked to close, or is gone, it is
        # meant for this one: through the lines below that close environments.
        if pipe.poll():
            raise _Asked(143)

    signal.signal(signal.SIGTERM, terminate)
    heard = _Lines()
    logging.getLogger().addHandler(heard)
    envs: dict[int, Env] = {}
    state = {"at": "while the environment was made", "error": "refused"}
    try:
        for lane, one in zip(lanes, pickle.loads(make)):
            envs[lane] = as_env(one())
        check_apart(list(envs.values()))
        env = envs[lanes[0]]
        about = getattr(env, "spaces", None), env.frame_rate, env.can_render
        pipe.send(("done", ([item.spec for item in envs.values()], about), heard.take(), []))
        _serve(pipe, envs, heard, state)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except Exception as error:
        kind = state["error"] if isinstance(error, ConfigError) else "failed"
        text = str(error) if kind == "refused" else f"{traceback.format_exc().rstrip()}\n{state['at']}"
        with _quietly():
            pipe.send((kind, text, heard.take(), []))
    finally:
        for item in envs.values():
            with _quietly():
                item.close()


def _serve(pipe: Any, envs: dict[int, Env], heard: _Lines, state: dict[str, str]) -> None:
    """Answer the parent until it says close. ``state`` keeps what was being done, and what an error is from then on."""
    arrays: dict[str, np.ndarray] = {}
    while True:
        kind, *values = pipe.recv()
        answer: Any = None
        notes: list[str] = []
        if kind == "attach":
            memory = Memory(values[1], values[0])
            arrays, state["error"] = memory.arrays, "failed"
        elif kind == "advance":
            answer = {}
            for lane, env in envs.items():
                state["at"] = f"in lane {lane}"
                if said := _advance(env, lane, arrays):
                    answer[lane] = said
            if arrays["is_first"][[*envs]].any():  # notes come with the first frames
                notes = [note for item in envs.values() for note in getattr(item, "notes", [])]
        elif kind == "replay":
            state["at"] = f"in lane {values[0]}, playing its episode again"
            answer = play_again(envs[values[0]], *values[1:])
        elif kind == "render":
            state["at"] = f"in lane {values[0]}, drawing it"
            try:
                answer = envs[values[0]].render()
            except Exception as error:  # a picture less, and no reason to lose the episodes
                text = str(error) if isinstance(error, JaxdreamerError) else f"{type(error).__name__}: {error}"
                pipe.send(("undrawn", text, heard.take(), []))
                continue
        else:
            return
        pipe.send(("done", answer, heard.take(), notes))


@contextmanager
def _quietly() -> Iterator[None]:
    """For the last things a process does: their exceptions are printed and must not hide an earlier one."""
    try:
        yield
    except Exception:
        traceback.print_exc()


def _advance(env: Env, lane: int, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Obey a lane's command; what its environment says of an episode that ends with it."""
    command = int(arrays["command"][lane])
    if command == IDLE:
        return {}
    entry = env.reset(int(arrays["seed"][lane])) if command == RESET else env.step(arrays["action"][lane].copy())
    for name, value in flatten(entry).items():
        arrays[name][lane] = value
    return said_at_end(env, entry)
