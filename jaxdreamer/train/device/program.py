"""The compiled program of a device run: environment, policy, replay and learning as one pure function of its carry.

Nothing here touches the host. :func:`make_program` gives functions for a single seed; :mod:`jaxdreamer.train.device.trainer`
compiles them, with ``vmap`` over seeds where several are trained side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdreamer.agent.algorithm import Algorithm, Policy
from jaxdreamer.config import Config
from jaxdreamer.envs.device.functional import Lanes, LaneState
from jaxdreamer.ops.trees import select
from jaxdreamer.replay.device import DeviceReplay, DeviceReplayState
from jaxdreamer.train.host.collect import MAX_BROKEN_IN_A_ROW
from jaxdreamer.types import AnyArray, Array, Metrics, PyTree, Timestep, TrainState


class Scores(NamedTuple):
    """Returns of episodes, in the environment's own units."""

    current: Array  # float32 [B], of the episodes under way
    length: Array  # int32 [B], their agent steps
    episodes: Array  # int32 [], ended since the counts were last cleared; the rest is over these
    shift: (
        Array  # float32 [], what total and squares are told from, for their digits: the return that was latest before
    )
    total: Array  # float32 [], of return - shift
    squares: Array  # float32 [], of (return - shift)^2
    lowest: Array  # float32 []
    highest: Array  # float32 []
    steps: Array  # int32 []
    latest: Array  # float32 [], the return that ended last; nan before any


class Carry(NamedTuple):
    """Everything a run is made of."""

    train: TrainState
    lanes: LaneState
    timestep: Timestep  # the lanes' latest entries [B, ...]
    acting: PyTree  # the policy's state [B, ...]
    replay: DeviceReplayState
    scores: Scores
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
    """What the host is told of one call."""

    means: Metrics  # of the updates; nan where there were none
    told: Metrics  # the update that ended the longest run of skipped ones
    scores: Scores  # of the episodes that ended in this call
    agent_steps: Array  # of this call
    broken: Array  # of this call
    broken_in_a_row: Array  # the most of any lane
    updates: Array  # of the whole run
    skipped: Array


class Episodes(NamedTuple):
    """Episodes being played, one in each lane; whole where ``done``."""

    returns: Array  # float32 [E]
    lengths: Array  # int32 [E], agent steps
    broken: Array  # bool [E], ended by a state that was not finite
    missed: (
        Array  # int32 [E], episodes before it that had no good step; with MAX_BROKEN_IN_A_ROW of them it is none itself
    )
    done: Array  # bool [E]
    lanes: LaneState
    timestep: Timestep
    acting: PyTree
    key: Array


class Program(NamedTuple):
    """Pure functions for one seed."""

    init: Callable[[Array], Carry]  # key -> fresh run
    run: Callable[[Carry, Plan], tuple[Carry, Report]]


def make_program(config: Config, lanes: Lanes, replay: DeviceReplay, algorithm: Algorithm) -> Program:
    """The program of a configuration. ``run`` may be compiled with its carry donated: replay is written in place."""
    policy = algorithm.policy

    def init(key: Array) -> Carry:
        key_learner, key_lanes, key = jax.random.split(key, 3)
        count = lanes.num_envs
        obs = {k: jnp.zeros((count, *s.shape), s.dtype) for k, s in lanes.spec.obs.items()}
        nothing = jnp.zeros((count,), bool)
        # Before the first reset there is no entry; an is_first one makes the policy begin from an empty state.
        timestep = Timestep(obs, jnp.zeros((count,)), ~nothing, nothing, nothing)
        zero = jnp.zeros((), jnp.int32)
        return Carry(
            algorithm.init(key_learner),
            lanes.init(key_lanes),
            timestep,
            policy.init(count),
            replay.init(),
            no_scores(count),
            zero,
            jnp.zeros((), jnp.int32),
            jnp.zeros((count,), jnp.int32),
            key,
        )

    def row(carry: Carry, random: Array) -> Carry:
        """One entry of every lane."""
        key, key_random, key_act = jax.random.split(carry.key, 3)

        def act(key: Array, mode: str) -> tuple[Array, PyTree]:
            params = algorithm.acting(carry.train.params, carry.train.aux)
            return policy.act(params, carry.acting, carry.timestep.obs, carry.timestep.is_first, key, mode=mode)

        action, acting = lax.cond(random, lambda: act(key_random, "random"), lambda: act(key_act, "explore"))
        state, timestep, broken = lanes.step(carry.lanes, action)
        # A reset that no end came before: the episode broke off at its newest entry.
        buffer = replay.add(replay.close(carry.replay, timestep.is_first), timestep, action)
        return carry._replace(
            lanes=state,
            timestep=timestep,
            acting=acting,
            replay=buffer,
            scores=add_scores(carry.scores, timestep),
            agent_steps=carry.agent_steps + jnp.sum(~timestep.is_first, dtype=jnp.int32),
            broken=carry.broken + jnp.sum(broken, dtype=jnp.int32),
            broken_in_a_row=jnp.where(
                broken, carry.broken_in_a_row + 1, jnp.where(timestep.is_first, carry.broken_in_a_row, 0)
            ),
            key=key,
        )

    batch = jax.eval_shape(lambda: replay.sample(replay.init(), jax.random.key(0)))
    shapes = jax.eval_shape(algorithm.update, jax.eval_shape(algorithm.init, jax.eval_shape(jax.random.key, 0)), batch)[
        1
    ]
    nothing_told = {name: jnp.zeros(x.shape) for name, x in shapes.items()}

    def update(learning: _Learning, buffer: DeviceReplayState) -> _Learning:
        key, key_sample = jax.random.split(learning.key)
        train, metrics = algorithm.update(learning.train, replay.sample(buffer, key_sample))
        good = {name: jnp.isfinite(value) for name, value in metrics.items()}
        sums = {k: learning.sums[k] + jnp.where(good[k], v, 0.0) for k, v in metrics.items()}
        counts = {k: learning.counts[k] + good[k] for k in metrics}
        worse = metrics["skipped_in_a_row"] >= learning.told["skipped_in_a_row"]
        return _Learning(train, key, sums, counts, select(worse, metrics, learning.told))

    def run(carry: Carry, plan: Plan) -> tuple[Carry, Report]:
        none = jnp.zeros((), jnp.int32)  # the host adds up what each call tells, in integers that cannot overflow
        carry = carry._replace(scores=clear_scores(carry.scores), agent_steps=none, broken=none)

        def segment(state, part: Plan):
            carry, sums, counts, told = state
            carry = lax.fori_loop(0, part.rows, lambda _, c: row(c, part.random), carry)
            updates = part.updates
            if not config.replay.cross_episodes:  # else the plan knows that there are windows
                updates = jnp.where(replay.can_sample(carry.replay), updates, 0)
            learning = _Learning(carry.train, carry.key, sums, counts, told)
            learning = lax.fori_loop(0, updates, lambda _, learning: update(learning, carry.replay), learning)
            carry = carry._replace(train=learning.train, key=learning.key)
            return (carry, learning.sums, learning.counts, learning.told), None

        zeros = {name: jnp.zeros(()) for name in shapes}
        (carry, sums, counts, told), _ = lax.scan(segment, (carry, zeros, zeros, nothing_told), plan)
        means = {name: sums[name] / counts[name] for name in sums if not name.startswith("skipped")}
        train = carry.train
        in_a_row = jnp.max(carry.broken_in_a_row)
        return carry, Report(
            means, told, carry.scores, carry.agent_steps, carry.broken, in_a_row, train.updates, train.skipped
        )

    return Program(init, run)


class _Learning(NamedTuple):
    """What a run of updates carries along."""

    train: TrainState
    key: Array
    sums: Metrics
    counts: Metrics
    told: Metrics


def make_episodes(
    lanes: Lanes, policy: Policy, steps: int = 100
) -> tuple[Callable[[Array], Episodes], Callable[[PyTree, Episodes], Episodes]]:
    """``begin(key)`` and ``advance(params, episodes)``: one whole episode in every lane, without exploration.

    Equal keys give equal episodes. A call of ``advance`` plays at most ``steps`` steps: one may stop in between.
    The lanes must have a time limit, or this may never end.
    """

    def begin(key: Array) -> Episodes:
        key_lanes, key = jax.random.split(key)
        still = jnp.zeros((lanes.num_envs, lanes.spec.action.size))
        state, timestep, broken = lanes.step(lanes.init(key_lanes), still)
        zero, no = jnp.zeros((lanes.num_envs,), jnp.int32), jnp.zeros((lanes.num_envs,), bool)
        returns, missed, acting = zero.astype(jnp.float32), broken.astype(jnp.int32), policy.init(lanes.num_envs)
        return Episodes(returns, zero, no, missed, timestep.is_last, state, timestep, acting, key)

    def step(params: PyTree, now: Episodes) -> Episodes:
        key, key_act = jax.random.split(now.key)
        action, acting = policy.act(params, now.acting, now.timestep.obs, now.timestep.is_first, key_act, mode="greedy")
        state, timestep, broken = lanes.step(now.lanes, action)
        begun = now.lengths > 0
        missed = now.missed + (broken & ~begun & ~now.done)
        cut = broken & begun & ~now.done  # an episode that broke ended at its last good entry
        done = now.done | cut | (missed >= MAX_BROKEN_IN_A_ROW)
        returns = jnp.where(done, now.returns, now.returns + timestep.reward)
        lengths = jnp.where(done | timestep.is_first, now.lengths, now.lengths + 1)
        done = done | timestep.is_last
        return Episodes(returns, lengths, now.broken | cut, missed, done, state, timestep, acting, key)

    def advance(params: PyTree, now: Episodes) -> Episodes:
        def going(loop: tuple[Array, Episodes]) -> Array:
            return (loop[0] < steps) & ~jnp.all(loop[1].done)

        return lax.while_loop(going, lambda loop: (loop[0] + 1, step(params, loop[1])), (jnp.int32(0), now))[1]

    return begin, advance


def make_film(lanes: Lanes, policy: Policy, render: Callable[[PyTree], Array], steps: int) -> Callable[..., Array]:
    """``film(params, key) -> (frames uint8 [steps + 1, H, W, 3], shown bool [steps + 1])``: those ``shown`` are one episode.

    ``lanes`` is a single lane; with the key of an evaluation this is, to rounding, its first episode.
    """

    def film(params: PyTree, key: Array):
        key_lanes, key = jax.random.split(key)
        state, timestep, broken = lanes.step(lanes.init(key_lanes), jnp.zeros((1, lanes.spec.action.size)))

        def advance(carry, _):
            state, timestep, acting, key, going, blank = carry
            frame = render(jax.tree.map(lambda x: x[0], state.env))
            key, key_act = jax.random.split(key)
            action, acting = policy.act(params, acting, timestep.obs, timestep.is_first, key_act, mode="greedy")
            state, after, broken = lanes.step(state, action)
            # What breaks before its first step is no episode, and another follows it.
            over = timestep.is_last[0] | (broken[0] & ~timestep.is_first[0])
            return (state, after, acting, key, going & ~over, broken[0]), (frame, going & ~blank, timestep.is_first[0])

        start = (state, timestep, policy.init(1), key, jnp.ones((), bool), broken[0])
        _, (frames, shown, first) = lax.scan(advance, start, None, length=steps + 1)
        index = jnp.arange(steps + 1)
        return frames, shown & (index >= jnp.max(jnp.where(shown & first, index, 0)))

    return film


def no_scores(lanes: int) -> Scores:
    """Before the first episode."""
    none, zero = jnp.zeros((), jnp.int32), jnp.zeros(())
    current, length = jnp.zeros((lanes,)), jnp.zeros((lanes,), jnp.int32)
    return clear_scores(
        Scores(current, length, none, zero, zero, zero, zero, zero, none, jnp.full((), jnp.nan, jnp.float32))
    )


def clear_scores(scores: Scores) -> Scores:
    """Begin to count anew; the episodes under way go on."""
    return scores._replace(
        episodes=jnp.zeros((), jnp.int32),
        shift=jnp.nan_to_num(scores.latest),
        total=jnp.zeros(()),
        squares=jnp.zeros(()),
        lowest=jnp.full((), jnp.inf, jnp.float32),
        highest=jnp.full((), -jnp.inf, jnp.float32),
        steps=jnp.zeros((), jnp.int32),
    )


def add_scores(scores: Scores, timestep: Timestep) -> Scores:
    """Count one entry of every lane."""
    current = jnp.where(timestep.is_first, 0.0, scores.current + timestep.reward)
    length = jnp.where(timestep.is_first, 0, scores.length + 1)
    last = timestep.is_last
    ended = jnp.where(last, current - scores.shift, 0.0)
    return Scores(
        current,
        length,
        scores.episodes + jnp.sum(last, dtype=jnp.int32),
        scores.shift,
        scores.total + jnp.sum(ended),
        scores.squares + jnp.sum(jnp.square(ended)),
        jnp.minimum(scores.lowest, jnp.min(jnp.where(last, current, jnp.inf))),
        jnp.maximum(scores.highest, jnp.max(jnp.where(last, current, -jnp.inf))),
        scores.steps + jnp.sum(jnp.where(last, length, 0), dtype=jnp.int32),
        jnp.where(jnp.any(last), current[jnp.argmax(last)], scores.latest),
    )
