"""What is taken over a whole batch of which several devices have a part each: nothing else names an axis of devices.

Inside ``jax.shard_map`` a device sees its own sequences (or environments) only, and whatever is computed of one sequence is
computed there alone. :class:`Across` is for the rest: means, gradients of means, moments, percentiles, and draws, which are
those that one device would make for the whole batch, so that their number changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdreamer.ops.trees import PyTree


class Across(NamedTuple):
    """The devices along one axis of a mesh, each with an equal part of a batch; without an axis: one, with all of it.

    Device i of n has the sequences ``i B / n`` to ``(i + 1) B / n - 1``. No gradient flows between devices: a gradient is
    that of the device's own part, and :meth:`mean` makes it that of the whole.
    """

    axis: str | None = None  # of the mesh
    sequences: int = 0  # this device's, which :meth:`over` names

    def over(self, sequences: int) -> Across:
        """The same devices, for a batch of which this one has so many sequences."""
        return self if self.axis is None else self._replace(sequences=sequences)

    @property
    def devices(self) -> int:
        """How many devices, n."""
        return 1 if self.axis is None else lax.axis_size(self.axis)

    @property
    def place(self) -> Array | int:
        """Which one this is, from 0: int32 []."""
        return 0 if self.axis is None else lax.axis_index(self.axis)

    def mean(self, tree: PyTree) -> PyTree:
        """The mean over devices of every array; of means over equal parts it is the mean over all."""
        return tree if self.axis is None else lax.pmean(tree, self.axis)

    def gather(self, tree: PyTree) -> PyTree:
        """Every device's arrays, on a new first axis [n, ...]; of one device as they are, without it."""
        return tree if self.axis is None else lax.all_gather(tree, self.axis)

    def all(self, flag: Array) -> Array:
        """Whether a bool [...] holds on every device."""
        return flag if self.axis is None else lax.pmin(flag.astype(jnp.int32), self.axis) > 0

    def at_least(self, mean: Array, floor: Array) -> Array:
        """``max(mean over all, floor)`` of a mean over this device's part, float []: its value and its gradient.

        Each device returns its share: their mean, :meth:`mean`, is the maximum.
        """
        if self.axis is None:
            return jnp.maximum(mean, floor)
        whole = self.mean(lax.stop_gradient(mean))
        return jnp.where(whole <= floor, floor, mean)  # a nan stays one

    def variance(self, x: Array) -> Array:
        """The (population) variance over the first axis, [m, ...] of equal parts to [...]."""
        if self.axis is None:
            return jnp.var(x, axis=0)
        mean = self.mean(jnp.mean(x, axis=0))
        return self.mean(jnp.mean(jnp.square(x - mean), axis=0))

    def std(self, x: Array) -> Array:
        """Standard deviation of all numbers, float []."""
        return jnp.std(x) if self.axis is None else jnp.sqrt(self.variance(x.reshape(-1)))

    # ---- draws -------------------------------------------------------------------------------------------------------

    def take(self, tree: PyTree, axis: int = 0) -> PyTree:
        """This device's part of what was made for all.

        Axis ``axis`` of every array has m B numbers, those of the B sequences side by side, m times.
        """
        if self.axis is None:
            return tree

        def part(x: Array) -> Array:
            before, after = x.shape[:axis], x.shape[axis + 1 :]
            parts = x.reshape(*before, -1, self.devices, self.sequences, *after)
            return lax.dynamic_index_in_dim(parts, self.place, axis + 1, keepdims=False).reshape(*before, -1, *after)

        return jax.tree.map(part, tree)

    def part(self, function: Callable[[Any], PyTree], tree: Any, axis: int = 0) -> PyTree:
        """``function(tree)`` of this device's sequences, with the draws that it makes for them among all.

        It is computed on as many sequences as all devices have, so let it be cheap.
        """
        return function(tree) if self.axis is None else self.take(function(self._widened(tree, axis)), axis)

    def sample(self, dist: Any, key: Array, axis: int = 0) -> Array:
        """``dist.sample(key)`` of a distribution over this device's sequences; only the noise is drawn for all of them."""
        if self.axis is None:
            return dist.sample(key)
        return dist.from_noise(self.take(self._widened(dist, axis).noise(key), axis))

    def _widened(self, tree: PyTree, axis: int) -> PyTree:
        """Arrays of the sizes that the whole batch's have; every device's part is filled with this one's."""

        def widen(x: Array) -> Array:
            before, after = x.shape[:axis], x.shape[axis + 1 :]
            parts = x.reshape(*before, -1, 1, self.sequences, *after)
            shape = (*parts.shape[: axis + 1], self.devices, *parts.shape[axis + 2 :])
            return jnp.broadcast_to(parts, shape).reshape(*before, -1, *after)

        return jax.tree.map(widen, tree)


ALONE = Across()
"""One device, with all of the batch."""
