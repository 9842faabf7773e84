"""Lanes in worker processes: shared memory for the numbers, one short message each way for every entry.

Workers are spawned, never forked, import neither jax nor the program that starts them, and are started again where they die,
hang or raise. The episodes that a failed worker had under way end where they were: each of its lanes answers with the first
entry of a new episode, without a last entry of the old, and the collecting loop closes the old episode there.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from jaxdreamer.config import ConfigError
from jaxdreamer.envs import endings
from jaxdreamer.envs.base import Env, EnvError
from jaxdreamer.envs.host.vector import Lanes, Place
from jaxdreamer.envs.host.workers.process import GRACE, IDLE, RESET, STEP, Memory, Worker, WorkerFailed
from jaxdreamer.types import Timestep, unflatten

logger = logging.getLogger(__name__)


class WorkerVectorEnv(Lanes):
    """Lanes shared out evenly to worker processes, a :class:`~jaxdreamer.envs.base.VectorEnv`.

    Lanes, seeds and entries are those of a LocalVectorEnv. Between ``send`` and ``receive`` the lanes advance while the
    caller learns.
    """

    lanes: list[Place]
    overlaps = True
    restarts: int

    def __init__(
        self,
        make: Sequence[Callable[[], Env]],
        seed: int = 0,
        *,
        workers: int,
        first: int = 0,
        timeout: float = 120.0,
        max_restarts: int = 3,
    ) -> None:
        """Start ``workers`` processes, or one a lane where that is fewer.

        Args:
            make: for each lane a function that makes its environment; it is sent by value where it comes from a script.
            seed: of all lanes.
            workers: processes, at least 1.
            first: the number of lane 0 among all lanes, where others are stepped elsewhere.
            timeout: seconds after which a process that does not answer is taken for hung.
            max_restarts: of one process in a row, with no episode finished in between.

        Raises ConfigError for what the environments refuse, EnvError where a process cannot start.
        """
        if not make:
            raise ConfigError("a vector environment needs at least one environment, found none")
        if workers < 1:
            raise ConfigError(f"env.workers must be at least 1 here, found {workers}")
        if any(hasattr(item, "reset") and not isinstance(item, type) for item in make):
            raise ConfigError("worker processes need functions that make environments, not environments")
        super().__init__(seed)
        self.restarts, self.notes = 0, list[str]()
        self._timeout, self._max_restarts = timeout, max_restarts
        self.lanes = [Place(seed, first + number) for number in range(len(make))]
        self._memory: Memory | None = None
        self._told: set[str] = set()
        shares = [share.tolist() for share in np.array_split(np.arange(len(make)), min(workers, len(make)))]
        self._workers = [
            Worker(number, share, _pickled([make[i] for i in share])) for number, share in enumerate(shares)
        ]
        self._finalizer = weakref.finalize(self, _shut_down, self._workers, lambda: None)
        endings.at_once(self, partial(_kill, self._workers))
        try:
            for worker in self._workers:
                worker.start()
            for worker in self._workers:
                self._ready(worker)
            entries = [(name, dtype, (len(make), *shape)) for name, (shape, dtype) in self.spec.layout.items()]
            orders = [("command", "int8", (len(make),)), ("seed", "int64", (len(make),))]
            self._memory = Memory(np.dtype([*entries, *orders], align=True))
            self._finalizer.detach()
            self._finalizer = weakref.finalize(self, _shut_down, self._workers, self._memory.remove)
            endings.at_once(self, self._memory.unlink)
            for worker in self._workers:
                worker.send("attach", self._memory.name, self._memory.layout)
                self._answer(worker)
        except WorkerFailed as error:
            self.close()
            raise EnvError(str(error)) from None
        except BaseException:
            self.close()
            raise

    def send(self, actions: np.ndarray) -> None:
        """Let every lane begin its next entry."""
        super().send(actions)
        actions = np.asarray(self._sent)
        stepped = ~self.reset_mask
        if not np.isfinite(actions[stepped]).all():
            self._take_sent()
            lane = int(np.flatnonzero(stepped & ~np.isfinite(actions).all(axis=1))[0])
            raise EnvError(
                f"the agent's action is not finite: {actions[lane]}; look for nan in the losses or parameters\n"
                f"in lane {lane}, episode {self.lanes[lane].episode}, agent step {self.lanes[lane].steps}"
            )
        self._shared["action"][:] = actions
        for lane, place in enumerate(self.lanes):
            self._command(lane, RESET if place.needs_reset else STEP)
        for worker in self._workers:
            worker.send("advance")

    def receive(self) -> Timestep:
        """Wait for every lane's entry; lanes of a worker that failed begin a new episode."""
        self._take_sent()
        said: dict[int, dict[str, float]] = {}
        for worker in self._workers:
            try:
                said |= self._answer(worker)
            except WorkerFailed as error:
                self._restart(worker, error)
                self._begin(worker, worker.lanes)
        self.said = said
        entries = self._entries()
        for place, first, last in zip(self.lanes, entries.is_first, entries.is_last):
            place.arrive(first, last)
        for worker in self._workers:
            if entries.is_last[worker.lanes].any():
                worker.failures = 0
        self.agent_steps += int(np.sum(~entries.is_first))
        return entries

    def reset_lane(self, lane: int) -> Timestep:
        """Begin a lane's next episode now; its entry, without a lane axis."""
        self._begin(self._worker_of(lane), [lane])
        entries = self._entries()
        self.lanes[lane].arrive(True, False)
        one = [np.array(flag[lane]) for flag in entries[1:]]
        return Timestep({key: value[lane] for key, value in entries.obs.items()}, *one)

    def render(self, lane: int = 0) -> np.ndarray:
        """One lane's present moment as uint8 [H, W, 3]."""
        worker = self._worker_of(lane)
        try:
            worker.send("render", lane)
            return self._answer(worker)
        except WorkerFailed as error:
            self._restart(worker, error)
            for index in worker.lanes:
                self.abandon(index)
            raise EnvError(f"lane {lane} could not be drawn: {error}") from None

    def restore(self, state: dict[str, Any], actions: Sequence[np.ndarray | None]) -> list[Timestep | None]:
        """Play every lane's saved episode again; where a worker fails on the way, its lanes come back as None."""
        self._begin_restore(state, actions)
        seeds = [
            None if played is None else place.replayed_seed(saved, played)
            for place, saved, played in zip(self.lanes, state["lanes"], actions)
        ]
        entries: list[Timestep | None] = [None] * self.num_envs
        # One lane of every worker at a time: the workers run side by side, and no pipe ever fills up.
        for turn in range(max(len(worker.lanes) for worker in self._workers)):
            busy = []
            for worker in self._workers:
                lane = worker.lanes[turn] if turn < len(worker.lanes) else -1
                if lane >= 0 and seeds[lane] is not None:
                    worker.send("replay", lane, seeds[lane], np.asarray(actions[lane], np.float32))
                    busy.append((worker, lane))
            for worker, lane in busy:
                try:
                    entry, steps = self._answer(worker, extra=0.1 * len(actions[lane]))  # type: ignore[arg-type]
                except WorkerFailed as error:
                    self._restart(worker, error)
                    for index in worker.lanes:
                        entries[index], seeds[index], self.lanes[index].needs_reset = None, None, True
                    continue
                entries[lane], self.lanes[lane].steps = entry, steps
                self.lanes[lane].needs_reset = bool(entry.is_last)
        return entries

    def close(self) -> None:
        """End the workers, which close their environments, and free the memory; calling it twice is fine."""
        if hasattr(self, "_finalizer"):
            self._finalizer()

    @property
    def _shared(self) -> dict[str, np.ndarray]:
        if self._memory is None or not self._finalizer.alive:
            raise EnvError("this vector environment is closed")
        return self._memory.arrays

    def _command(self, lane: int, command: int) -> None:
        self._shared["command"][lane] = command
        self._shared["seed"][lane] = self.lanes[lane].next_seed

    def _begin(self, worker: Worker, lanes: list[int]) -> None:
        """Reset some of a worker's lanes and wait for them, again where it fails again."""
        while True:
            for lane in worker.lanes:
                self._command(lane, RESET if lane in lanes else IDLE)
            try:
                worker.send("advance")
                self._answer(worker)
                return
            except WorkerFailed as error:
                for lane in worker.lanes:
                    if lane not in lanes:
                        self.abandon(lane)
                self._restart(worker, error)

    def _entries(self) -> Timestep:
        return unflatten(Timestep, {name: array.copy() for name, array in self._shared.items()})

    def _worker_of(self, lane: int) -> Worker:
        return next(worker for worker in self._workers if lane in worker.lanes)

    def _ready(self, worker: Worker) -> None:
        specs, about = self._answer(worker)
        if worker.number == 0 and self._memory is None:
            self.spec, (self.spaces, self.frame_rate, self.can_render) = specs[0], about
        for lane, spec in zip(worker.lanes, specs):
            if spec != self.spec:
                raise ConfigError(f"lanes must have one spec; lane 0 has {self.spec}, lane {lane} {spec}")

    def _answer(self, worker: Worker, extra: float = 0.0) -> Any:
        kind, value, lines, notes = worker.receive(self._timeout + extra)
        for line in lines:
            if line not in self._told:
                self._told.add(line)
                logger.warning(line)
        self.notes = list(dict.fromkeys([*self.notes, *notes]))
        if kind == "refused":
            raise ConfigError(value)
        if kind == "undrawn":
            raise EnvError(f"{worker}: {value}")
        if kind == "failed":
            raise WorkerFailed(f"{worker} failed:\n{value}")
        return value

    def _restart(self, worker: Worker, failure: WorkerFailed) -> None:
        """A fresh process for a worker that failed; EnvError with its own traceback where it keeps failing.

        The failed episodes' numbers are used up: what fails always with one seed is met once.
        """
        error: Exception = failure
        while True:
            worker.stop(grace=0.0)
            worker.failures += 1
            if worker.failures > self._max_restarts:
                self.close()
                tried = f"{self._max_restarts} restarts in a row did not help (env.max_restarts)"
                raise EnvError(f"{error}\n{tried}") from None
            logger.warning(
                "%s\nstarting it again (%d of %d in a row); its unfinished episodes end here", error, worker.failures,
                self._max_restarts,
            )  # fmt: skip
            self.restarts += 1
            try:
                worker.start()
                self._ready(worker)
                worker.send("attach", self._memory.name, self._memory.layout)  # type: ignore[union-attr]
                self._answer(worker)
                return
            except (WorkerFailed, ConfigError) as again:
                error = again


def _shut_down(workers: list[Worker], remove: Callable[[], None]) -> None:
    for worker in workers:  # all are asked before the first is waited for
        if worker.process is not None:
            worker.send("close")
    with ExitStack() as rest:  # whatever becomes of one, the others are ended and the memory is freed
        rest.callback(remove)
        for worker in workers:
            rest.callback(worker.stop, grace=GRACE)


def _kill(workers: list[Worker]) -> None:
    for worker in workers:
        worker.kill()


def _pickled(make: list[Callable[[], Env]]) -> bytes:
    import cloudpickle

    try:
        return cloudpickle.dumps(make)
    except Exception as error:
        raise ConfigError(
            f"worker processes cannot be sent what makes the environment ({type(error).__name__}: {error}): make it in a "
            "function that refers to nothing open or running, or set env.workers=0"
        ) from error
