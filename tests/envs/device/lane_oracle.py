"""Lanes in plain Python: one environment at a time, by the definition, for comparison with the compiled ones."""

from __future__ import annotations

import math

import jax


def rollout(lanes, key, actions):
    """The compiled lanes under ``actions`` [steps, B, ...], in one scan: (timesteps, broken, states)."""

    def advance(state, action):
        state, timestep, broken = lanes.step(state, action)
        return state, (timestep, broken, state)

    return jax.jit(lambda key, actions: jax.lax.scan(advance, lanes.init(key), actions)[1])(key, actions)


class SlowLane:
    """One lane of ``counting``-like tasks: what time it is, and what the entry must hold.

    ``ends_at``, ``breaks_at`` and ``own_limit`` are in simulator steps, ``limit`` in agent steps; 0: never.
    """

    def __init__(self, *, repeat, limit, own_limit, ends_at=0, breaks_at=0):
        self.repeat, self.limit, self.own_limit = repeat, limit, own_limit
        self.ends_at, self.breaks_at = ends_at, breaks_at
        self.due = True

    def advance(self, choice):
        """The next entry: (time, choice shown, reward, first, last, terminal, broken)."""
        if self.due:
            return self._reset(broken=False)
        total, terminal = 0.0, False
        for _ in range(self.repeat):
            self.time += 1
            total += self.time
            if self.time == self.breaks_at:
                return self._reset(broken=True)
            terminal = self.time == self.ends_at
            if terminal or self.time == self.own_limit:
                break
        self.steps += 1
        last = terminal or self.time == self.own_limit or self.steps == (self.limit or math.inf)
        self.due = last
        return self.time, choice, total, False, last, terminal, False

    def _reset(self, broken):
        self.time, self.steps, self.due = 0, 0, False
        return 0, -1, 0.0, True, False, False, broken
