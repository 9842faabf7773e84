"""Several processes that train one run: how they begin, meet, agree, and end together. Nothing else knows jax.distributed.

Each computes the same program on its own devices, so their order of work is one. What only one of them does (an evaluation,
a file) the others wait for, on jax's coordination service, which process 0 keeps: texts under names, with a time limit. A
collective has no limit, and a process that is late at one holds the others up without a word.
"""

from __future__ import annotations

import atexit
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import jax
from jax._src import distributed  # the service's client has no public name, for orbax and others neither

from jaxdreamer.errors import ConfigError, JaxdreamerError

__all__ = ["ALONE", "Crew", "CrewLate", "CrewLost", "start_crew"]

_BEGIN = 300  # seconds for all processes to come
_HEARTBEAT = 20  # seconds without a sign of life, after which jax ends the others
_SHUTDOWN = 10  # seconds between the first and the last that leaves
_PATIENCE = 3.0  # seconds that the main thread has for finding out by itself that another process has ended
_LONGEST = 300  # characters of another process's error
# What jax raises where a process at the other end of a connection is gone; by gloo, NCCL, or the service.
_GONE = re.compile(r"gloo|nccl|connection (closed|reset|refused)|socket closed|coordination.?service|heartbeat", re.I)


class CrewLost(JaxdreamerError, RuntimeError):
    """Another process of this run has ended; the message says which, why where it is known, and how to go on."""


class CrewLate(JaxdreamerError, TimeoutError):
    """Another process of this run did not come within its time; the message says which, and to what."""


class Crew:
    """This process among those of a run. What it exchanges is numbered, so all of them must call in the same order."""

    def __init__(self, process: int = 0, processes: int = 1, client: Any = None):
        self.process, self.processes = process, processes
        self._client, self._calls = client, 0
        self.kept: Callable[[], str] = lambda: "with nothing of the run changed"
        """What of the run is on disk, in words."""
        self._ended = ""  # what a process said when it ended
        self._heard, self._left = threading.Event(), threading.Event()

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.processes == 1

    @property
    def leads(self) -> bool:
        """Whether this is process 0, which writes the run's folder and plays evaluations."""
        return self.process == 0

    def __str__(self) -> str:
        """Which one this is."""
        return f"process {self.process} of {self.processes} ({socket.gethostname()})"

    # ---- meeting -------------------------------------------------------------------------------------------------

    def collect(self, what: str, text: str = "", seconds: float = 600.0) -> list[str]:
        """What each process gave, in their order, once all are there. CrewLate, with ``what`` and who is missing."""
        if self.alone:
            return [text]
        call = self._number()
        self._client.key_value_set(f"{call}/{self.process}", text)
        until = time.monotonic() + seconds
        return [self._get(f"{call}/{other}", other, what, until, seconds) for other in range(self.processes)]

    def from_lead(self, what: str, text: str = "", seconds: float = 600.0, meanwhile: Callable[[], Any] = int) -> str:
        """What process 0 gave; the others wait for it, and call ``meanwhile`` every second."""
        if self.alone:
            return text
        call = self._number()
        if self.leads:
            self._client.key_value_set(f"{call}/0", text)
            return text
        return self._get(f"{call}/0", 0, what, time.monotonic() + seconds, seconds, meanwhile)

    def check_same(self, what: str, text: str, advice: str) -> None:
        """ConfigError where the processes do not have the same ``what``."""
        for other, found in enumerate(self.collect(what, text)):
            if found != text:
                raise ConfigError(
                    f"{what} must be the same in all processes, but {self} has {text} and process {other} {found}: {advice}"
                )

    def ask_to_stop(self) -> None:
        """Let process 0 know, while it does alone what the others wait for, that this one is to stop."""
        with suppress(jax.errors.JaxRuntimeError):  # already asked; or it is gone, which the wait finds out
            self._client.key_value_set(f"stop/{self._calls}/{self.process}", "")

    def asked_to_stop(self) -> bool:
        """Whether another process asked process 0 to stop, during what it does now."""
        return not self.alone and bool(self._client.key_value_dir_get(f"stop/{self._calls + 1}/"))

    def _number(self) -> int:
        self._calls += 1
        return self._calls

    def _get(
        self, key: str, other: int, what: str, until: float, seconds: float, meanwhile: Callable[[], Any] = int
    ) -> str:
        while True:
            left = max(0.001, min(1.0, until - time.monotonic()))
            try:
                return self._client.blocking_key_value_get(key, int(1000 * left))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
            if self._heard.is_set():
                raise CrewLost(self._sentence())
            meanwhile()
            if time.monotonic() > until:
                raise CrewLate(
                    f"process {other} of {self.processes} did not come to {what} within {seconds:g} seconds: see what it "
                    "says, then start all of them again with the same command"
                )

    # ---- ending --------------------------------------------------------------------------------------------------

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within this an error in one process is the end of all; at its exit none waits for others any more.

        Raises:
            CrewLost: in place of what jax raises where another process has ended. A process that waits in compiled code,
                where nothing can be raised, says the same and is ended.
        """
        if self.alone:
            yield
            return
        self._left.clear()
        thread = threading.Thread(target=self._listen, name="crew", daemon=True)
        thread.start()
        try:
            yield
        except BaseException as error:
            atexit.register(_leave)  # before jax's own, which waits for the others and then aborts
            if _GONE.search(str(error)) and not isinstance(error, JaxdreamerError):
                self._heard.wait(_PATIENCE)
                raise CrewLost(self._sentence()) from error
            self._say_end(error)
            raise
        finally:
            self._left.set()
            thread.join(2.0)

    def _say_end(self, error: BaseException) -> None:
        text = f"{self} ended: {type(error).__name__}: {error}".rstrip(": ")[:_LONGEST]
        with suppress(jax.errors.JaxRuntimeError):  # another was first, or the service is gone
            self._client.key_value_set("ended", text)
        if self.leads:
            time.sleep(1.0)  # the service ends with this process: the others are to hear of it before

    def _listen(self) -> None:
        while not self._left.is_set():
            try:
                self._ended = self._client.blocking_key_value_get("ended", 1000)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" in str(error):
                    continue
                if self._left.is_set():
                    return
                self._ended = "process 0 has ended without a word (killed, out of memory, or its machine is lost)"
                self._end()  # at once: jax is about to abort this process
            self._heard.set()
            if not self._ended.startswith(f"process {self.process} of ") and not self._left.wait(_PATIENCE):
                self._end()
            return

    def _sentence(self) -> str:
        why = self._ended or "another process has ended without a word (killed, out of memory, or its machine is lost)"
        return f"{why}. {self} ends too, {self.kept()}: start all of them again with the same command to go on"

    def _end(self) -> None:
        os.write(sys.stderr.fileno(), f"jaxdreamer: {self._sentence()}\n".encode())
        os._exit(1)


ALONE = Crew()
"""One process, which has nobody to wait for."""


def start_crew(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> Crew:
    """Join the processes of one run, before jax is asked for its devices.

    Args:
        coordinator: ``host:port`` of process 0, where its coordination service listens, the same in all of them;
            ``"auto"``: jax finds all three itself, from Slurm, Open MPI, Kubernetes or a TPU's pod.
        processes: how many there are.
        process: which one this is, from 0.

    Raises:
        ConfigError: they do not fit each other; nothing was found; or the others did not come.
    """
    if coordinator is None and processes in (None, 1) and not process:
        return ALONE
    if coordinator == "auto":
        if processes is not None or process is not None:
            raise ConfigError("--coordinator auto finds --processes and --process itself: leave them out")
        return _join({})
    if coordinator is None or processes is None or process is None:
        raise ConfigError(
            "several processes need all of --coordinator HOST:PORT --processes N --process I, or --coordinator auto under "
            "Slurm, Open MPI, Kubernetes or on TPUs"
        )
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:\[\]]+):[0-9]{1,5}", coordinator):
        raise ConfigError(f"--coordinator must be HOST:PORT of process 0, or auto; found {coordinator}")
    if processes < 1 or not 0 <= process < processes:
        raise ConfigError(f"--process must be 0 to {processes - 1} with --processes {processes}, found {process}")
    if processes == 1:
        return ALONE
    bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", coordinator)  # jax's own default is every interface
    return _join(
        {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": process,
            "coordinator_bind_address": bind,
            "cluster_detection_method": "deactivate",
        }
    )


def _join(named: dict[str, Any]) -> Crew:
    # It would take SIGTERM over, which is ours: every process tells the others at its next step that it is to stop.
    jax.config.update("jax_enable_preemption_service", False)
    limits: dict[str, Any] = {"heartbeat_timeout_seconds": _HEARTBEAT, "shutdown_timeout_seconds": _SHUTDOWN}
    where = named.get("coordinator_address", "the coordinator")
    never = threading.Timer(_BEGIN, _end_unmet, [where])  # jax would abort this process, with a trace of its own
    never.daemon = True
    never.start()
    try:
        jax.distributed.initialize(**named, **limits, initialization_timeout=2 * _BEGIN)
    except ValueError as error:
        raise ConfigError(
            f"--coordinator auto finds neither Slurm, Open MPI, Kubernetes nor TPUs here ({error}): name them, "
            "--coordinator HOST:PORT --processes N --process I"
        ) from error
    except RuntimeError as error:
        if "before" in str(error) or "once" in str(error):
            raise ConfigError(f"processes join each other once, before anything is computed ({error})") from error
        raise ConfigError(f"no coordination service at {where}: {str(error).splitlines()[0]}") from error
    finally:
        never.cancel()
    state = distributed.global_state
    return Crew(state.process_id, state.num_processes or 1, state.client)


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _end_unmet(where: str) -> None:
    text = (
        f"jaxdreamer: the processes did not find each other at {where} within {_BEGIN} seconds: start all of them, with the "
        "same --coordinator and --processes, and see that its port can be reached\n"
    )
    os.write(sys.stderr.fileno(), text.encode())
    os._exit(2)
