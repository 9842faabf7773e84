"""Experience on the accelerator: a pure ring, time x lanes, in the dtypes the environment uses.

The module-level functions are the replay; :func:`make_device_replay` checks the sizes and binds them. All are pure and
work under ``jax.jit``, ``jax.vmap`` (over a leading axis of seeds) and ``jax.lax.scan``; none calls back to the host. A
program that donates the state, or carries it through a scan, writes rows in place: the ring exists once.

Where several devices share a ring out, each has some of its lanes, in groups that batches are drawn from in equal parts: a
batch is then made of windows that lie where they are learned from, and nothing is sent.

What a row, a lane and a window are is :mod:`~jaxdreamer.replay.host`'s. What differs: nothing here can raise about
*values*, as they are known on the device only. The caller sees to it that entries are finite and that the entry after
``is_last`` is a reset.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdreamer.config import ConfigError
from jaxdreamer.memory import available_memory
from jaxdreamer.ops.across import ALONE, Across
from jaxdreamer.replay.layout import Layout, RingSize, bytes_by_field, check_row, rows_for
from jaxdreamer.types import Array, Batch, EnvSpec, Timestep, flatten, unflatten

_INT32_MAX = 2**31 - 1
# Positions, ages and counts of windows are int32, and sums of two of them must be as well.
_MOST_ENTRIES = 2**30


class DeviceReplayState(NamedTuple):
    """The ring. ``position`` and ``filled`` stay below ``rows + 1``, so a run of any length overflows neither."""

    entries: Batch  # each field [rows, lanes, ...] in its own dtype
    age: Array  # int32 [rows, lanes], entries since the lane's episode began: 0 at is_first; stops at 2**31 - 1
    position: Array  # int32 [], where the next row goes
    filled: Array  # int32 [], rows that hold something
    begun: Array  # int32 [], rows since the online queue's last window was complete
    unseen: Array  # int32 [], complete windows of the online queue, in all lanes, that no batch has held


class DeviceReplay(NamedTuple):
    """What :func:`make_device_replay` binds."""

    init: Callable[[], DeviceReplayState]
    add: Callable[..., DeviceReplayState]  # (state, timestep, action, kept)
    close: Callable[[DeviceReplayState, Array], DeviceReplayState]
    can_sample: Callable[[DeviceReplayState], Array]
    sample: Callable[[DeviceReplayState, Array], Batch]  # (state, key)
    seen: Callable[[DeviceReplayState], DeviceReplayState]  # after each batch that was learned from
    size: RingSize


def init(layout: Layout, *, rows: int, lanes: int) -> DeviceReplayState:
    """An empty ring of entries of that layout, by the names of :func:`jaxdreamer.types.flatten`."""
    made = {key: jnp.zeros((rows, lanes, *shape), dtype) for key, (shape, dtype) in layout.items()}
    counts = [jnp.int32(0) for _ in range(4)]
    return DeviceReplayState(unflatten(Batch, made), jnp.zeros((rows, lanes), jnp.int32), *counts)


def add(
    state: DeviceReplayState,
    timestep: Timestep,
    action: Array,
    kept: dict[str, Array] | None = None,
    *,
    length: int,
    across: Across = ALONE,
) -> DeviceReplayState:
    """Append one row; over the oldest one where the ring is full.

    Args:
        state: the ring; in place where it is donated or a scan's carry.
        timestep: arrays with a leading lane axis.
        action: float32 [lanes, A], what led to ``timestep``. On reset entries it is stored as zero, and so is the
            reward.
        kept: per name [lanes, ...], for :attr:`Batch.kept`.
        length: T, entries of a window of the online queue.
        across: who has the other lanes.

    Raises:
        ValueError: when traced, for a key, shape or dtype that is not the ring's.
    """
    row = jax.tree.map(jnp.asarray, Batch(action=action, kept=kept or {}, **timestep._asdict()))
    check_row(flatten(row), flatten(state.entries))
    first = row.is_first
    row = row._replace(action=jnp.where(first[:, None], 0, row.action), reward=jnp.where(first, 0, row.reward))
    # The lane's age is carried from row to row, so it stays right when the episode's first entry is overwritten.
    before = jnp.minimum(_newest(state, state.age), _INT32_MAX - 1)
    age = jnp.where(first | (state.filled == 0), 0, before + 1)

    def put(leaf: Array, new: Array) -> Array:
        return _put(leaf, new, state.position)

    filled = jnp.minimum(state.filled + 1, _rows(state))
    begun = (state.begun + 1) % length
    lanes = state.age.shape[1] * across.devices
    unseen = state.unseen + jnp.where(begun == 0, lanes, 0)
    return DeviceReplayState(
        entries=jax.tree.map(put, state.entries, row),
        age=put(state.age, age),
        position=(state.position + 1) % _rows(state),
        filled=filled,
        begun=begun,
        unseen=jnp.minimum(unseen, (filled - begun) // length * lanes),
    )


def close(state: DeviceReplayState, mask: Array) -> DeviceReplayState:
    """End the current episode of the lanes in ``mask`` (bool [lanes]) at their newest entry, without being terminal.

    For an episode whose next state is of no use (not finite). Nothing happens to a lane whose newest entry ends an
    episode already, nor to an empty ring.
    """
    mask = jnp.asarray(mask)
    if mask.shape != state.age.shape[1:] or mask.dtype != bool:
        raise ValueError(f"mask: expected bool {state.age.shape[1:]}, found {mask.dtype} {mask.shape}")
    ends = state.entries.is_last
    closed = _newest(state, ends) | (mask & (state.filled > 0))
    return state._replace(entries=state.entries._replace(is_last=_put(ends, closed, _newest_position(state))))


def cut(state: DeviceReplayState, rows: int) -> DeviceReplayState:
    """The first ``rows`` rows only: with ``rows = filled``, all that a ring holds, for keeping it elsewhere.

    Rows are filled from the first on, so nothing lies behind those. :func:`grow` makes it a ring again.
    """
    if rows == _rows(state):
        return state  # a slice would be a copy
    return state._replace(entries=jax.tree.map(lambda x: x[:rows], state.entries), age=state.age[:rows])


def grow(state: DeviceReplayState, rows: int) -> DeviceReplayState:
    """The inverse of :func:`cut`: a ring of ``rows`` rows."""

    def pad(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, rows - leaf.shape[0])] + [(0, 0)] * (leaf.ndim - 1))

    return state._replace(entries=jax.tree.map(pad, state.entries), age=pad(state.age))


def can_sample(
    state: DeviceReplayState, *, length: int, cross_episodes: bool, groups: int = 1, across: Across = ALONE
) -> Array:
    """Whether there is a window of ``length`` entries to sample in each group of lanes, here and elsewhere: bool []."""
    if cross_episodes:
        return state.filled >= length
    allowed = _allowed(state, length)
    if groups == 1:
        return allowed.any()
    return across.all(allowed.reshape(len(allowed), groups // across.devices, -1).any((0, 2)).all())


def sample(
    state: DeviceReplayState,
    key: Array,
    *,
    length: int,
    batch_size: int,
    cross_episodes: bool,
    online: bool = False,
    groups: int = 1,
    across: Across = ALONE,
) -> Batch:
    """Windows of one lane's consecutive entries, each allowed one equally likely, independently, with replacement.

    A window lies within the rows the ring holds, so never across the place where the next row goes. Without
    ``cross_episodes`` it also lies within one episode, or begins with one that is shorter than a window.

    With ``online`` the oldest windows of the online queue come first, see :meth:`HostReplay.next_indices`; :func:`seen` then
    takes them out.

    With G ``groups`` of neighbouring lanes, B / G windows of each come one group after another, drawn from a key of the
    group's number: which of them a device has does not depend on how many devices there are.

    Returns:
        Batch [T, B, ...] with T = ``length`` and B = ``batch_size``, or this device's part of it. Meaningless where
        :func:`can_sample` is false: check it first.
    """
    choose = _choose_any if cross_episodes else _choose_allowed

    def windows(state: DeviceReplayState, key: Array) -> tuple[Array, Array]:
        start, lane = choose(state, key, length, batch_size // groups)
        return _prefer_unseen(state, start, lane, length) if online else (start, lane)

    start, lane = windows(state, key) if groups == 1 else _by_group(windows, state, key, groups, across)
    rows = (start[None] + jnp.arange(length)[:, None]) % _rows(state)
    return jax.tree.map(lambda leaf: leaf.at[rows, lane].get(mode="clip"), state.entries)


def _by_group(
    windows: Callable[..., tuple[Array, Array]], state: DeviceReplayState, key: Array, groups: int, across: Across
) -> tuple[Array, Array]:
    """``windows(state, key)`` of each group of lanes on this device, one after another: int32 [B / devices] each."""
    here = groups // across.devices
    number = jnp.arange(here)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, across.place * here + number)
    ages = state.age.reshape(len(state.age), here, -1)

    def of_group(age: Array, key: Array) -> tuple[Array, Array]:
        # Entries are not looked at; each group has an equal part of the online queue.
        return windows(state._replace(age=age, unseen=state.unseen // groups), key)

    start, lane = jax.vmap(of_group, (1, 0))(ages, keys)
    return start.reshape(-1), (lane + number[:, None] * ages.shape[2]).reshape(-1)


def seen(state: DeviceReplayState, *, batch_size: int) -> DeviceReplayState:
    """The ring after a batch of :func:`sample` with ``online``: what it took from the queue is gone from there."""
    return state._replace(unseen=jnp.maximum(state.unseen - batch_size, 0))


def _prefer_unseen(state: DeviceReplayState, start: Array, lane: Array, length: int) -> tuple[Array, Array]:
    """Windows of the online queue in place of as many drawn ones: the queue ends with the newest complete window."""
    lanes = state.age.shape[1]
    number = jnp.arange(len(start))
    behind = state.unseen - 1 - number  # windows that come after it
    first = state.position - state.begun - (behind // lanes + 1) * length + 2 * _rows(state)
    waits = number < state.unseen
    return jnp.where(waits, first, start), jnp.where(waits, lanes - 1 - behind % lanes, lane)


def _choose_any(state: DeviceReplayState, key: Array, length: int, count: int) -> tuple[Array, Array]:
    """Positions of first entries and lanes, int32 [count], of windows anywhere in the ring."""
    start_key, lane_key = jax.random.split(key)
    start = jax.random.randint(start_key, (count,), 0, state.filled - length + 1)
    return _oldest(state) + start, jax.random.randint(lane_key, (count,), 0, state.age.shape[1])


def _choose_allowed(state: DeviceReplayState, key: Array, length: int, count: int) -> tuple[Array, Array]:
    """Positions of first entries and lanes, int32 [count], of windows that :func:`_allowed` allows.

    All windows are counted, by row and by block of rows; a window's number then leads to its block, row and lane. A
    running sum over all entries would do as well, but costs several times as much as these sums of sums.
    """
    rows = _rows(state)
    block = math.isqrt(rows - 1) + 1
    allowed = _allowed(state, length)
    by_row = jnp.pad(allowed.sum(1, dtype=jnp.int32), (0, -rows % block)).reshape(-1, block)
    by_block = by_row.sum(1)
    number = jax.random.randint(key, (count,), 0, by_block.sum())
    chosen, number = _find(by_block, number)
    row, number = _find(by_row[chosen], number)
    end = chosen * block + row
    lane, _ = _find(allowed[end].astype(jnp.int32), number)
    return end - (length - 1) + rows, lane


def _find(counts: Array, number: Array) -> tuple[Array, Array]:
    """Which of ``counts`` [n] or [B, n] holds item ``number`` [B], counting from 0, and its number in there."""
    ends = jnp.broadcast_to(jnp.cumsum(counts, axis=-1), (*number.shape, counts.shape[-1]))
    index = jnp.minimum((ends <= number[:, None]).sum(-1, dtype=jnp.int32), counts.shape[-1] - 1)
    before = jnp.where(index > 0, jnp.take_along_axis(ends, jnp.maximum(index - 1, 0)[:, None], -1)[:, 0], 0)
    return index, number - before


def _allowed(state: DeviceReplayState, length: int) -> Array:
    """bool [rows, lanes]: whether the window of ``length`` entries that ends here is in the ring, and not cut by episodes.

    It lies in one episode, or begins where one does: otherwise episodes shorter than a window would never be sampled.
    """
    order = (jnp.arange(_rows(state)) - _oldest(state)) % _rows(state)  # 0: the oldest row
    complete = (order >= length - 1) & (order < state.filled)
    begins = jnp.roll(state.age, length - 1, axis=0) == 0
    return complete[:, None] & ((state.age >= length - 1) | begins)


def _rows(state: DeviceReplayState) -> int:
    return state.age.shape[0]


def _oldest(state: DeviceReplayState) -> Array:
    return (state.position - state.filled) % _rows(state)


def _newest_position(state: DeviceReplayState) -> Array:
    return (state.position - 1) % _rows(state)


def _newest(state: DeviceReplayState, leaf: Array) -> Array:
    """The newest row of one of the ring's arrays: [lanes, ...]."""
    return lax.dynamic_index_in_dim(leaf, _newest_position(state), keepdims=False)


@jax.custom_batching.custom_vmap
def _put(leaf: Array, row: Array, position: Array) -> Array:
    """``leaf`` [rows, lanes, ...] with ``row`` [lanes, ...] at ``position``."""
    return lax.dynamic_update_index_in_dim(leaf, row.astype(leaf.dtype), position, 0)


@_put.def_vmap
def _put_seeds(size: int, batched: list[bool], leaf: Array, row: Array, position: Array) -> tuple[Array, bool]:
    # Over seeds this is a scatter, and XLA's CPU code for one moves bytes ten times faster in one axis. Not so for a single
    # lane, or without seeds: flattened, a ring of one lane gets another layout, and is copied twice for every row.
    def put(leaf: Array, row: Array, position: Array) -> Array:
        shape = leaf.shape
        if shape[1] > 1:
            leaf, row = leaf.reshape(shape[0], -1), row.reshape(-1)
        return lax.dynamic_update_index_in_dim(leaf, row.astype(leaf.dtype), position, 0).reshape(shape)

    return jax.vmap(put, [0 if one else None for one in batched], axis_size=size)(leaf, row, position), True


def make_device_replay(
    spec: EnvSpec,
    *,
    capacity: int,
    lanes: int,
    length: int,
    batch_size: int,
    cross_episodes: bool,
    online: bool = False,
    groups: int = 1,
    across: Across = ALONE,
    devices: int = 1,
    copies: int = 1,
    memory_fraction: float = 0.8,
    kept: Layout | None = None,
) -> DeviceReplay:
    """Check that the ring fits, and bind this module's functions to its sizes. Nothing is allocated before ``init``.

    Args:
        spec: of the environment.
        capacity: entries over all lanes; rounded down to a multiple of ``lanes``.
        lanes: environments stepped side by side.
        length: T, entries of every sampled window.
        batch_size: B, windows of a sampled batch.
        cross_episodes: whether any window may run over an episode's end into the next episode, or only one that
            begins with an episode shorter than itself.
        online: whether batches prefer the windows of the online queue.
        groups: of lanes, that every batch is drawn from in equal parts; a divisor of ``lanes`` and ``batch_size``.
        across: all but ``init``, which makes the whole ring, are one device's, for its groups. devices: that share it out.
        copies: rings that will exist side by side, one for each of the seeds trained in one program.
        memory_fraction: share of the device's memory that all copies together may take; of the memory available on
            this machine where the device is the CPU. Devices that do not report their memory raise their own error.
        kept: shape and dtype of what :attr:`Batch.kept` holds of one entry, by name.

    Raises:
        ReplayTooLarge: more memory asked for than that.
        ConfigError: the ring is too short to hold one window, or has more entries than int32 can count.
    """
    rows = rows_for(capacity=capacity, lanes=lanes, length=length, cross_episodes=cross_episodes)
    if rows * lanes > _MOST_ENTRIES:
        raise ConfigError(f"replay.capacity {capacity}: a replay on the device holds at most {_MOST_ENTRIES} entries")
    layout = spec.layout | {f"kept/{key}": item for key, item in (kept or {}).items()}
    sizes = bytes_by_field(layout, rows * lanes) | {"age": rows * lanes * 4}
    device = jax.local_devices()[0]
    size = RingSize(sizes, rows, lanes, "host" if device.platform == "cpu" else device.device_kind, copies, devices)
    available = _memory_of(device)
    if available is not None:
        size.refuse_if_too_large(available * (1 if size.where == "host" else devices), memory_fraction)
    shared: Any = {"groups": groups, "across": across}
    return DeviceReplay(
        init=functools.partial(init, layout, rows=rows, lanes=lanes),
        add=functools.partial(add, length=length, across=across),
        close=close,
        can_sample=functools.partial(can_sample, length=length, cross_episodes=cross_episodes, **shared),
        sample=functools.partial(
            sample, length=length, batch_size=batch_size, cross_episodes=cross_episodes, online=online, **shared
        ),
        seen=functools.partial(seen, batch_size=batch_size),
        size=size,
    )


def _memory_of(device: jax.Device) -> int | None:
    """Bytes the device's allocator may hand out in all; None where it does not say."""
    if device.platform == "cpu":
        return available_memory()
    return (device.memory_stats() or {}).get("bytes_limit")
