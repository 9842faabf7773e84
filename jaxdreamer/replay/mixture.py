"""Batches from two rings: what a run collects, and what it was given to learn from."""

from __future__ import annotations

import math

import numpy as np

from jaxdreamer.replay.host import HostReplay, Indices
from jaxdreamer.types import Batch, flatten, unflatten

__all__ = ["Mixture"]


class Mixture:
    """Samples two rings as if they were one; the lanes of the ``given`` one come after the others.

    Args:
        own: what is collected. Nothing is drawn from it before it holds a window.
        given: rows that stay as they are.
        batch_size: B, windows of a batch.
        fraction: share of every batch from ``given``. None: that of its windows among all, so that each is equally likely.
    """

    def __init__(self, own: HostReplay, given: HostReplay, batch_size: int, fraction: float | None):
        self.own, self.given, self.length = own, given, own.length
        self._batch_size, self._fraction = batch_size, fraction

    @property
    def can_sample(self) -> bool:
        """Whether at least one window can be sampled now."""
        return self.share > 0 or self.own.can_sample

    @property
    def share(self) -> float:
        """The share of a batch that comes from what was given."""
        if self._fraction is not None and self.own.can_sample:
            return self._fraction
        return self.given.valid_starts / max(1, self.given.valid_starts + self.own.valid_starts)

    def why_empty(self) -> str:
        """As :meth:`HostReplay.why_empty`."""
        return self.own.why_empty()

    def sample_indices(self, rng: np.random.Generator, count: int, online: bool = False) -> Indices:
        """``count`` windows, batch after batch: in each first those of its own, then those given.

        A share that is no whole number of windows is rounded up or down by chance, so that it is right on average.
        """
        batches = -(-count // self._batch_size)
        wanted = self.share * self._batch_size
        wanted = round(wanted) if math.isclose(wanted, round(wanted), abs_tol=1e-9) else wanted
        many = np.floor(wanted + rng.random(batches)).astype(int)
        place = np.arange(count) % self._batch_size
        sizes = np.minimum(self._batch_size, count - np.arange(batches) * self._batch_size)
        mask = place >= np.repeat(np.maximum(sizes - many, 0), sizes)
        start, lane = np.zeros(count, np.int64), np.zeros(count, np.int64)
        for ring, where, shift in ((self.own, ~mask, 0), (self.given, mask, self.own.lanes)):
            if where.any():
                draw = ring.next_indices if online and ring is self.own else ring.sample_indices
                start[where], found = draw(rng, int(where.sum()))
                lane[where] = found + shift
        return Indices(start, lane)

    def next_indices(self, rng: np.random.Generator, count: int) -> Indices:
        """Likewise, and of its own ring those first that were not given out yet: :meth:`HostReplay.next_indices`."""
        return self.sample_indices(rng, count, online=True)

    def gather(self, indices: Indices, groups: int | None = None, out: dict[str, np.ndarray] | None = None) -> Batch:
        """As :meth:`HostReplay.gather`."""
        count = len(indices.start)
        out = self.buffers(count, groups) if out is None else out
        for ring, mask, shift in (
            (self.own, indices.lane < self.own.lanes, 0),
            (self.given, indices.lane >= self.own.lanes, self.own.lanes),
        ):
            where = np.flatnonzero(mask)
            if where.size:
                batch, column = np.divmod(where, count // (groups or 1))
                for key, value in flatten(
                    ring.gather(Indices(indices.start[mask], indices.lane[mask] - shift))
                ).items():
                    target = out[key] if groups else out[key][None]
                    target[batch, :, column] = np.swapaxes(value, 0, 1)
        return unflatten(Batch, out)

    def buffers(self, count: int, groups: int | None = None) -> dict[str, np.ndarray]:
        """As :meth:`HostReplay.buffers`."""
        return self.own.buffers(count, groups)
