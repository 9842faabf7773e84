"""What a call of the compiled loop is made of, in seconds.

No clock runs inside a compiled program, but how many rows and updates a call does is data. So the very program of the run is
called with rows alone, with rows of random actions, with updates alone, and with nothing; the differences are the policy,
the updates and the cost of a call. Two small pieces are compiled by themselves and timed: storing rows in replay, and
sampling batches. Compiled apart they may take a little more or less than within the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdreamer.agent.algorithm import Algorithm
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.replay.device import DeviceReplay, DeviceReplayState
from jaxdreamer.train.device.loop import DeviceLoop
from jaxdreamer.train.device.program import Plan, Report
from jaxdreamer.types import Array, Batch, PyTree, Timestep

__all__ = ["Parts"]


class Parts:
    """Times the parts of a loop's program, by and by: :meth:`measure` as often as wanted, then :meth:`each`.

    The loop is advanced by this: it is no longer a run that anything can be learned from.
    """

    def __init__(self, loop: DeviceLoop, unit: float):
        """``unit``: about so many seconds each is done for at once. The loop's program is compiled already."""
        self._loop = loop
        store, sample = _storing(loop.algorithm, loop.replay), _sampling(loop.replay)
        if len(loop.runs) > 1:
            store, sample = jax.vmap(store, (0, 0, 0, None)), jax.vmap(sample, (0, 0, None))
        self._store, self._sample = jax.jit(store, donate_argnums=0), jax.jit(sample)
        # Each does its part so many times over.
        self._do: dict[str, Callable[[int], Any]] = {
            "call": lambda count: [self._advance() for _ in range(count)],
            "random": lambda count: self._advance(rows=count, random=True),
            "rows": lambda count: self._advance(rows=count),
            "learn": lambda count: self._advance(updates=count),
            "store": self._stored,
            "sample": lambda count: self._sample(self._loop.carry.replay, self._loop.carry.key, count),
        }
        self._often = dict.fromkeys(self._do, 1)
        for name in self._do:  # compiles, and finds out how often is often enough
            for _ in range(4):
                spent, _ = self._once(name)
                self._often[name] = int(
                    min(max(1, self._often[name] * unit / max(spent, 1e-9)), 32 * self._often[name])
                )
        self._spent, self._done, self._turns = dict.fromkeys(self._do, 0.0), dict.fromkeys(self._do, 0), 0

    def measure(self) -> None:
        """Do all of them in turn, each as often as ever: what else a busy machine does then slows all alike."""
        self._turns += 1
        for name in self._do:
            spent, done = self._once(name)
            self._spent[name] += spent
            self._done[name] += done

    def _once(self, name: str) -> tuple[float, int]:
        """Seconds of doing a part as often as it is done at once, and how often that was."""
        often, updates = self._often[name], self._updates()
        began = perf_counter()
        jax.block_until_ready((self._do[name](often), self._loop.carry))
        spent = perf_counter() - began
        return spent, self._updates() - updates if name == "learn" else often

    def each(self) -> dict[str, float]:
        """Seconds of a row's environment, policy and store, of an update's sample and update, of a call's transfer."""
        if not self._done["learn"]:
            raise JaxdreamerError("no update was made: replay holds no sequence yet that could be learned from")
        call = self._spent["call"] / self._done["call"]
        calls = dict.fromkeys(("random", "rows", "learn"), self._turns * call)  # each turn of theirs is one call
        one = {name: (spent - calls.get(name, 0.0)) / self._done[name] for name, spent in self._spent.items()}
        return {
            "environment": one["random"] - one["store"],
            "policy": one["rows"] - one["random"],
            "store": one["store"],
            "sample": one["sample"],
            "update": one["learn"] - one["sample"],
            "transfer": call,
        }

    def _advance(self, rows: int = 0, updates: int = 0, random: bool = False) -> Report:
        """A call of the program that does this in its first segment, and nothing in the others."""
        others = self._loop.per_call - 1
        steps, learned = (np.array([count, *[0] * others], np.int32) for count in (rows, updates))
        return self._loop.advance(Plan(np.full(others + 1, random), steps, learned))

    def _stored(self, count: int) -> None:
        carry = self._loop.carry
        ring = self._store(carry.replay, carry.timestep, carry.acting, count)
        self._loop.carry = carry._replace(replay=ring)

    def _updates(self) -> int:
        return int(np.max(jax.device_get(self._loop.carry.train.updates)))


def _storing(algorithm: Algorithm, replay: DeviceReplay) -> Callable[..., DeviceReplayState]:
    """``store(ring, timestep, acting, count)``: the same row, ``count`` times."""

    def store(ring: DeviceReplayState, now: Timestep, acting: PyTree, count: Array) -> DeviceReplayState:
        action, kept = jnp.zeros(ring.entries.action.shape[1:]), algorithm.keep(acting)

        def once(_: Array, ring: DeviceReplayState) -> DeviceReplayState:
            return replay.add(replay.close(ring, now.is_first), now, action, kept)

        return lax.fori_loop(0, count, once, ring)

    return store


def _sampling(replay: DeviceReplay) -> Callable[..., Batch]:
    """``sample(ring, key, count)``: the last of so many batches."""

    def sample(ring: DeviceReplayState, key: Array, count: Array) -> Batch:
        def once(_: Array, state: tuple[Array, Batch]) -> tuple[Array, Batch]:
            key, now = jax.random.split(state[0])
            return key, replay.sample(ring, now)

        return lax.fori_loop(1, count, once, (key, replay.sample(ring, key)))[1]

    return sample
