"""Batches made ready by a thread while the device works.

A thread, not a process: NumPy's copies and jax's transfers release the interpreter lock, and forking a process that has
a jax runtime in it can deadlock.
"""

from __future__ import annotations

import math
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

from jaxdreamer.replay.host import HostReplay, Indices
from jaxdreamer.types import Batch

__all__ = ["Gatherer", "Prefetcher"]

I = TypeVar("I")  # noqa: E741
D = TypeVar("D")


class Prefetcher(Generic[I, D]):
    """``put(gather(indices))`` in a daemon thread, in the order of the requests.

    Args:
        gather: from indices to a host batch.
        put: from a host batch to what :meth:`get` returns, usually ``jax.device_put``.
        depth: finished batches that may wait; further requests wait as indices, which cost nothing.

    Only the caller draws indices, so what is sampled depends on no timing: the thread merely fetches.
    """

    def __init__(self, gather: Callable[[I], Any], put: Callable[[Any], D], depth: int = 2):
        if depth < 1:
            raise ValueError(f"depth must be at least 1, found {depth}")
        self._shared = _Shared(depth)
        # The thread gets no reference to self: a forgotten Prefetcher is closed when it is collected, and every one is
        # closed before the interpreter shuts down under the thread's feet.
        self._thread = threading.Thread(
            target=_work, args=(self._shared, gather, put), name="replay-prefetch", daemon=True
        )
        self._thread.start()
        self._finalizer = weakref.finalize(self, _stop, self._shared, self._thread)

    def request(self, indices: I) -> None:
        """Queue a batch; returns at once."""
        with self._shared.changed:
            if self._shared.closed:
                raise RuntimeError("the prefetcher is closed")
            self._shared.requested.append(indices)
            self._shared.changed.notify_all()

    def get(self) -> D:
        """The next batch, waiting for it if need be. Raises what the thread raised, with the thread's traceback."""
        shared = self._shared
        with shared.changed:
            if not (shared.ready or shared.requested or shared.error):
                raise RuntimeError("no batch was requested: call request(indices) before get()")
            shared.changed.wait_for(lambda: shared.ready or shared.error or shared.closed)
            if shared.ready:
                _, batch = shared.ready.popleft()
                shared.changed.notify_all()
                return batch
            if shared.error:
                raise shared.error
            raise RuntimeError("the prefetcher was closed while a batch was waited for")

    @property
    def pending(self) -> list[I]:
        """Indices requested and not yet taken, oldest first. A resumed run requests them again before any other."""
        with self._shared.changed:
            return [indices for indices, _ in self._shared.ready] + list(self._shared.requested)

    def close(self) -> None:
        """Stop the thread, dropping what is pending. May be called twice."""
        self._finalizer()

    def __enter__(self) -> Prefetcher[I, D]:
        """Close at the end of a with statement."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class _Shared:
    """What the caller and the thread both see, under ``changed``."""

    def __init__(self, depth: int):
        self.depth = depth
        self.changed = threading.Condition()
        self.requested: deque[Any] = deque()  # the first one stays here while the thread works on it
        self.ready: deque[tuple[Any, Any]] = deque()
        self.error: BaseException | None = None
        self.closed = False


def _work(shared: _Shared, gather: Callable[[Any], Any], put: Callable[[Any], Any]) -> None:
    while True:
        with shared.changed:
            shared.changed.wait_for(lambda: shared.closed or (shared.requested and len(shared.ready) < shared.depth))
            if shared.closed:
                return
            indices = shared.requested[0]
        try:
            batch = put(gather(indices))
        except BaseException as error:
            with shared.changed:
                shared.error = error
                shared.changed.notify_all()
            return
        with shared.changed:
            shared.requested.popleft()
            shared.ready.append((indices, batch))
            shared.changed.notify_all()
        del batch  # or this frame keeps a device batch alive until the next one


def _stop(shared: _Shared, thread: threading.Thread) -> None:
    with shared.changed:
        shared.closed = True
        shared.changed.notify_all()
    if thread is not threading.current_thread():
        thread.join(timeout=10)
    shared.ready.clear()
    shared.requested.clear()


class Gatherer:
    """``replay.gather`` into buffers that are used again, once nothing else refers to them.

    Fresh memory costs a page fault for every 4 kB, which can take longer than the copy itself. But a buffer handed to
    jax is not free when the transfer call returns: the transfer may still run, and on the CPU the jax array may *be*
    that memory. In both cases jax holds a reference to the NumPy array for as long as it needs it, and so does every
    view. A set of buffers is therefore used again only when each array's reference count is what it is at rest.

    The arrays start at multiples of 64 bytes, where jax on the CPU takes them over without a copy.

    For one thread at a time. At most ``keep`` sets are kept; when all are in use a new one is made.
    """

    def __init__(self, replay: HostReplay, groups: int | None = None, keep: int = 4):
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
