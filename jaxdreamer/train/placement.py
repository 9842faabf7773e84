"""Where batches and states lie: the one place through which a loop's arrays reach its devices and come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdreamer.ops.across import ALONE, Across
from jaxdreamer.train.crew import ALONE as BY_ITSELF
from jaxdreamer.train.crew import Crew
from jaxdreamer.types import PyTree

_AXIS = "devices"
# Where arrays lie, for a tree or, like jax's own specs, for any part of one.
WHOLE = PartitionSpec()  # whole on every device
FIRST, SECOND, THIRD = (PartitionSpec(*[None] * axis, _AXIS) for axis in range(3))  # this axis shared out


def _itself(function: Callable, into: Any, out: Any) -> Callable:
    return function


class Placement(NamedTuple):
    """How a loop's arrays lie on devices. With one device nothing is shared out; see :func:`one_device`."""

    put_batch: Callable[[PyTree], PyTree]
    """Host arrays [K, T, B, ...] to the devices, each of which gets its share of the B sequences. Of several processes each
    gives those of its own devices, :attr:`own`."""
    put_state: Callable[[PyTree], PyTree]
    """A tree that every device needs whole, to all of them: train states, plans, keys."""
    gather: Callable[[PyTree], PyTree]
    """A tree from the devices to NumPy arrays of this process."""
    devices: int = 1
    """How many devices, of all processes together."""
    crew: Crew = BY_ITSELF
    """The processes that they belong to."""
    across: Across = ALONE
    """What a part of a batch is part of."""
    put: Callable[[PyTree, Any], PyTree] = lambda tree, where: jax.device_put(tree)
    """A tree that every process has whole to the devices, where ``where`` says."""
    put_own: Callable[[PyTree, Any], PyTree] = lambda tree, where: jax.device_put(tree)
    """Likewise, a tree of which each process has its own part: of ``where``'s axis, the one after the other's."""
    make: Callable[[Callable, Any], Callable] = lambda function, where: jax.jit(function)
    """``function`` compiled so that what it returns lies where ``where`` says."""
    over: Callable[[Callable, Any, Any], Callable] = _itself
    """``function`` as each device computes it on its parts, from what lies where ``into`` says to where ``out`` says."""
    reading: Callable[[], AbstractContextManager] = nullcontext
    """Around the reading of arrays that :attr:`put` will share out: all of them may be more than one device holds."""
    local: Callable[[PyTree], PyTree] = lambda tree: tree
    """A tree that lies whole on every device, on this process's first one alone: for what only that one does."""

    def own(self, count: int) -> slice:
        """Which of ``count``, shared out evenly over the devices, are those of this process's."""
        share = count // self.crew.processes
        return slice(self.crew.process * share, (self.crew.process + 1) * share)

    @property
    def is_writer(self) -> bool:
        """Whether this process writes the run's folder: metrics, checkpoints, pictures. Of several processes one does."""
        return self.crew.leads


def one_device() -> Placement:
    """Everything on jax's default device."""
    return Placement(put_batch=jax.device_put, put_state=jax.device_put, gather=jax.device_get)


def on_devices(devices: Sequence[jax.Device], crew: Crew = BY_ITSELF) -> Placement:
    """Batches and environments shared out evenly over several devices; parameters whole on each.

    ``devices`` are those of all processes, each one's side by side.
    """
    mesh = Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))

    def lying(where: Any) -> Any:
        is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), where, is_leaf=is_spec)

    def over(function: Callable, into: Any, out: Any) -> Callable:
        # Unchecked: scans begin with zeros, which jax would have to be told differ between devices later on.
        return jax.shard_map(function, mesh=mesh, in_specs=into, out_specs=out, check_vma=False)

    def reading() -> AbstractContextManager:
        try:
            return jax.default_device(jax.local_devices(backend="cpu")[0])
        except RuntimeError:  # JAX_PLATFORMS leaves the CPU out: then they pass through the first device
            return nullcontext()

    put, put_own = (jax.device_put, jax.device_put) if crew.alone else (_put_ours, _put_own)
    return Placement(
        put_batch=lambda tree: put_own(tree, lying(THIRD)),
        put_state=lambda tree: put(tree, lying(WHOLE)),
        gather=jax.device_get,
        devices=len(devices),
        crew=crew,
        across=Across(_AXIS),
        put=lambda tree, where: put(tree, lying(where)),
        put_own=lambda tree, where: put_own(tree, lying(where)),
        make=lambda function, where: jax.jit(function, out_shardings=lying(where)),
        over=over,
        reading=reading,
        # A view, in a hundredth of the time that device_put takes to find out that there is nothing to do.
        local=lambda tree: jax.tree.map(lambda x: x.addressable_data(0), tree),
    )


def _put_ours(tree: PyTree, lying: Any) -> PyTree:
    """``jax.device_put``, where other processes' devices have parts: this one puts its own, of arrays that it has whole."""

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return x  # it lies there already
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])

    return jax.tree.map(lambda sharding, part: jax.tree.map(lambda x: put(x, sharding), part), lying, tree)


def _put_own(tree: PyTree, lying: NamedSharding) -> PyTree:
    """``jax.device_put``, where this process has what goes to its own devices, and no more."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(lying, x), tree)


class Exchange:
    """Arrays of every process, for all of them."""

    def __init__(self, placement: Placement):
        self._place = placement
        self._gather = placement.make(lambda sent: sent, WHOLE)

    def __call__(self, mine: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays [n, ...] of this process to [processes n, ...]; all give as many, of the same names and dtypes."""
        sent = np.concatenate([np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in mine.values()])
        processes = self._place.crew.processes
        by = self._place.devices // processes
        padded = np.zeros(-(-sent.size // by) * by, np.uint8)
        padded[: sent.size] = sent
        heard = self._place.gather(self._gather(self._place.put_own(padded, FIRST))).reshape(processes, -1)
        ends = np.cumsum([0, *(x.nbytes for x in mine.values())])
        return {
            name: heard[:, start:stop].copy().view(x.dtype).reshape(processes * len(x), *x.shape[1:])
            for (name, x), start, stop in zip(mine.items(), ends, ends[1:])
        }


class Votes:
    """Yes and no of every process, and whether any said yes; known to all of them alike, and one call later.

    It is a collective of a few numbers behind what the devices have to do already, and nobody waits for it.
    """

    def __init__(self, placement: Placement):
        self._place, self._asked = placement, None
        self._any = jax.jit(placement.over(lambda votes: ~placement.across.all(~votes[0]), (FIRST,), WHOLE))

    def cast(self, *votes: bool) -> list[bool]:
        """Say so; returns what was said in the call before. False each, the first time."""
        before, count = self._asked, self._place.devices
        self._asked = self._any(self._place.put(np.tile(np.array(votes), (count, 1)), FIRST))
        return [False] * len(votes) if before is None else self._place.gather(before).tolist()
