"""The compiled program of a device run: environment, policy, replay and learning as one pure function of its carry.

Nothing here touches the host. :func:`make_program` gives functions for a single seed; :mod:`jaxdreamer.train.device.loop`
compiles them, with ``vmap`` over seeds where several are trained side by side, and with ``shard_map`` where several devices
share out a seed's environments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdreamer.agent.algorithm import Algorithm
from jaxdreamer.envs.device.functional import Lanes, LaneState
from jaxdreamer.ops.across import ALONE, Across
from jaxdreamer.replay.device import DeviceReplay, DeviceReplayState
from jaxdreamer.train.scores import EpisodeStats, Running, count_entry, merge, no_episodes
from jaxdreamer.train.tally import Learned, add_update, nothing_learned
from jaxdreamer.types import AnyArray, Array, PyTree, Timestep, TrainState


class Carry(NamedTuple):
    """Everything a run is made of."""

    train: TrainState
    lanes: LaneState
    timestep: Timestep  # the lanes' latest entries [B, ...]
    acting: PyTree  # the policy's state [B, ...]
    replay: DeviceReplayState
    running: Running
    ended: EpisodeStats  # of the episodes that ended in this call
    agent_steps: Array  # int32 [], over all lanes in this call; resets are none
    broken: Array  # int32 [], entries of this call replaced by a reset because they were not finite
    broken_in_a_row: Array  # int32 [B], since the lane's last good step
    key: Array  # typed key []


class Plan(NamedTuple):
    """What one call does, segment by segment: step the environments ``rows`` times, then update ``updates`` times.

    The host makes it; the numbers are data, so that every call is the same compiled program.
    """

    random: AnyArray  # bool [C], whether actions are drawn uniformly instead of by the policy
    rows: AnyArray  # int32 [C], entries of every lane
    updates: AnyArray  # int32 [C]


class Report(NamedTuple):
    """What the host reads of one call."""

    learned: Learned
    ended: EpisodeStats
    agent_steps: Array
    broken: Array
    broken_in_a_row: Array  # the most of any lane


class Program(NamedTuple):
    """Pure functions for one seed."""

    init: Callable[[Array], Carry]  # key -> fresh run
    run: Callable[[Carry, Plan], tuple[Carry, Report]]


def make_program(
    algorithm: Algorithm, lanes: Lanes, replay: DeviceReplay, *, cross_episodes: bool, across: Across = ALONE
) -> Program:
    """The program of a run. ``run`` may be compiled with its carry donated: replay is written in place.

    ``cross_episodes``: whether replay can be sampled as soon as it holds a sequence of every lane.

    With ``across``, which algorithm and replay must have too, ``run`` is one device's, for its part of the lanes; ``init``
    makes the carry of all.
    """
    row = _make_row(algorithm, lanes, replay)

    def init(key: Array) -> Carry:
        key_learner, key_lanes, key = jax.random.split(key, 3)
        count = lanes.num_envs
        obs = {k: jnp.zeros((count, *s.shape), s.dtype) for k, s in lanes.spec.obs.items()}
        nothing = jnp.zeros((count,), bool)
        zero = jnp.zeros((), jnp.int32)
        return Carry(
            train=algorithm.init(key_learner),
            lanes=lanes.init(key_lanes),
            # Before the first reset there is no entry; an is_first one makes the policy begin from an empty state.
            timestep=Timestep(obs, jnp.zeros((count,)), ~nothing, nothing, nothing),
            acting=algorithm.policy.init(count),
            replay=replay.init(),
            running=Running.none(count, jnp),
            ended=no_episodes(jnp),
            agent_steps=zero,
            broken=jnp.zeros((), jnp.int32),
            broken_in_a_row=jnp.zeros((count,), jnp.int32),
            key=key,
        )

    def update(state: tuple[Carry, Learned]) -> tuple[Carry, Learned]:
        carry, learned = state
        key, key_sample = jax.random.split(carry.key)
        train, metrics = algorithm.update(carry.train, replay.sample(carry.replay, key_sample))
        carry = carry._replace(train=train, key=key, replay=replay.seen(carry.replay))
        return carry, add_update(learned, train, metrics)

    def segment(state: tuple[Carry, Learned], part: Plan) -> tuple[tuple[Carry, Learned], None]:
        carry, learned = state
        carry = lax.fori_loop(0, part.rows, lambda _, c: row(c, part.random), carry)
        updates = part.updates
        if not cross_episodes:
            updates = jnp.where(replay.can_sample(carry.replay), updates, 0)
        return lax.fori_loop(0, updates, lambda _, state: update(state), (carry, learned)), None

    def run(carry: Carry, plan: Plan) -> tuple[Carry, Report]:
        # The host adds up what each call reports, in integers that cannot overflow.
        none = jnp.zeros((), jnp.int32)
        carry = carry._replace(ended=no_episodes(jnp), agent_steps=none, broken=none)
        shapes = jax.eval_shape(lambda now: algorithm.update(now.train, replay.sample(now.replay, now.key))[1], carry)
        (carry, learned), _ = lax.scan(segment, (carry, nothing_learned(shapes, carry.train)), plan)
        most = jnp.max(carry.broken_in_a_row)
        if across.axis is not None:
            carry, most = _counted(carry, most, across)
        return carry, Report(learned, carry.ended, carry.agent_steps, carry.broken, most)

    return Program(init, run)


def _counted(carry: Carry, most: Array, across: Across) -> tuple[Carry, Array]:
    """What the devices counted in a call, put together: alike on all of them."""
    ended, steps, broken, most = across.gather((carry.ended, carry.agent_steps, carry.broken, most))
    each = [jax.tree.map(lambda x, i=i: x[i], ended) for i in range(across.devices)]
    ended = functools.reduce(functools.partial(merge, xp=jnp), each)
    return carry._replace(ended=ended, agent_steps=steps.sum(), broken=broken.sum()), most.max()


def _make_row(algorithm: Algorithm, lanes: Lanes, replay: DeviceReplay) -> Callable[[Carry, Array], Carry]:
    """``row(carry, random)``: one entry of every lane; bool ``random``: with uniform actions."""

    def row(carry: Carry, random: Array) -> Carry:
        key, key_random, key_act = jax.random.split(carry.key, 3)

        def act(key: Array, mode: str) -> tuple[Array, PyTree]:
            params = algorithm.acting(carry.train.params, carry.train.aux)
            now = carry.timestep
            return algorithm.policy.act(params, carry.acting, now.obs, now.is_first, key, mode=mode)

        action, acting = lax.cond(random, lambda: act(key_random, "random"), lambda: act(key_act, "explore"))
        state, timestep, broken = lanes.step(carry.lanes, action)
        running, ended = count_entry(carry.running, timestep, jnp)
        broken_in_a_row = jnp.where(timestep.is_first, carry.broken_in_a_row, 0)
        return carry._replace(
            lanes=state,
            timestep=timestep,
            acting=acting,
            # A reset without an end before it: the episode broke off at its newest entry.
            replay=replay.add(replay.close(carry.replay, timestep.is_first), timestep, action, algorithm.keep(acting)),
            running=running,
            ended=merge(carry.ended, ended, jnp),
            agent_steps=carry.agent_steps + jnp.sum(~timestep.is_first, dtype=jnp.int32),
            broken=carry.broken + jnp.sum(broken, dtype=jnp.int32),
            broken_in_a_row=jnp.where(broken, carry.broken_in_a_row + 1, broken_in_a_row),
            key=key,
        )

    return row
