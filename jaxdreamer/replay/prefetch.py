"""Batches made ready by a thread while the device works.

A thread, not a process: NumPy's copies and jax's transfers release the interpreter lock, and forking a process that has
a jax runtime in it can deadlock.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np

from jaxdreamer.replay.host import HostReplay, Indices
from jaxdreamer.replay.mixture import Mixture
from jaxdreamer.types import Batch

__all__ = ["Gatherer", "Prefetcher"]

I = TypeVar("I")  # noqa: E741
D = TypeVar("D")


class Prefetcher(Generic[I, D]):
    """``put(gather(indices))`` in a thread, in the order of the requests.

    Args:
        gather: from indices to a host batch.
        put: from a host batch to what :meth:`get` returns, usually ``jax.device_put``.
        depth: batches made or being made at a time; further requests wait as indices, which cost nothing.

    Only the caller draws indices, so what is sampled does not depend on timing: the thread merely fetches. One thread
    requests, gets and closes. A Prefetcher that is forgotten, or still open at exit, ends its thread.
    """

    def __init__(self, gather: Callable[[I], Any], put: Callable[[Any], D], depth: int = 2):
        if depth < 1:
            raise ValueError(f"depth must be at least 1, found {depth}")
        self._depth = depth

        def make(indices: I) -> tuple[D, float]:  # no method: the thread must not keep this object alive
            gathered = gather(indices)
            began = time.perf_counter()
            return put(gathered), began

        self._make = make
        self.waited_for_put = 0.0
        """Seconds of the last :meth:`get` in which ``put`` was under way; the rest of its wait was for ``gather``."""
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="replay-prefetch")
        self._making: deque[tuple[I, Future[tuple[D, float]]]] = deque()
        self._waiting: deque[I] = deque()

    def request(self, indices: I) -> None:
        """Queue a batch; returns at once."""
        self._waiting.append(indices)
        self._start()

    def _start(self) -> None:
        if self._pool is None:
            raise RuntimeError("the prefetcher is closed")
        while self._waiting and len(self._making) < self._depth:
            indices = self._waiting.popleft()
            self._making.append((indices, self._pool.submit(self._make, indices)))

    def get(self) -> D:
        """The next batch, waiting for it if need be. Raises what the thread raised, with the thread's traceback."""
        if not self._making:
            raise RuntimeError("no batch was requested: call request(indices) before get()")
        called = time.perf_counter()
        batch, began = self._making[0][1].result()
        self.waited_for_put = min(time.perf_counter() - called, max(0.0, time.perf_counter() - began))
        self._making.popleft()
        self._start()
        return batch

    @property
    def pending(self) -> list[I]:
        """Indices requested and not yet taken, oldest first. A resumed run requests them again before any other."""
        return [indices for indices, _ in self._making] + list(self._waiting)

    def close(self) -> None:
        """Stop the thread, dropping what is pending. May be called twice."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._making.clear()
        self._waiting.clear()

    def __enter__(self) -> Prefetcher[I, D]:
        """Close at the end of a with statement."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class Gatherer:
    """``replay.gather`` into buffers that are used again, once nothing else refers to them.

    Fresh memory costs a page fault for every 4 kB, which can take longer than the copy itself. But a buffer handed to
    jax is not free when the transfer call returns: the transfer may still run, and on the CPU the jax array may *be*
    that memory. In both cases jax holds a reference to the NumPy array for as long as it needs it, and so does every
    view. A set of buffers is therefore used again only when each array's reference count is that of an unused one.

    The arrays start at multiples of 64 bytes, where jax on the CPU takes them over without a copy.

    For one thread at a time. At most ``keep`` sets are kept; when all are in use a new one is made.
    """

    def __init__(self, replay: HostReplay | Mixture, groups: int | None = None, keep: int = 4):
        self._replay, self._groups, self._keep = replay, groups, keep
        self._sets: list[tuple[int, dict[str, np.ndarray]]] = []
        self._at_rest = _references({"": _aligned((1,), np.dtype(np.uint8))})[0]

    def __call__(self, indices: Indices) -> Batch:
        """Like ``replay.gather(indices, groups)``."""
        count = len(indices.start)
        return self._replay.gather(indices, self._groups, out=self._free(count) or self._new(count))

    def _free(self, count: int) -> dict[str, np.ndarray] | None:
        for size, arrays in self._sets:
            if size == count and all(found == self._at_rest for found in _references(arrays)):
                return arrays
        return None

    def _new(self, count: int) -> dict[str, np.ndarray]:
        wanted = self._replay.buffers(count, self._groups)
        arrays = {key: _aligned(array.shape, array.dtype) for key, array in wanted.items()}
        if len(self._sets) < self._keep:
            self._sets.append((count, arrays))
        return arrays


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    offset = -memory.ctypes.data % 64
    return memory[offset : offset + size].view(dtype).reshape(shape)


def _references(arrays: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    # Both the array and the memory it is a view of: NumPy makes a view of a view refer to the memory alone. What the
    # counts are at rest is measured by this same line, so it holds for any Python.
    return [(sys.getrefcount(arrays[key]), sys.getrefcount(arrays[key].base)) for key in arrays]
