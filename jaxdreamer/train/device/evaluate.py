"""Evaluations as compiled programs: every episode has a lane of its own, so that short ones do not crowd out long."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdreamer.agent.algorithm import Policy
from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs.device.functional import FunctionalEnv, Lanes, LaneState, make_lanes
from jaxdreamer.train.evaluate import (
    EVAL_SEED_OFFSET,
    MAX_BROKEN_IN_A_ROW,
    Acts,
    Evaluation,
    Play,
    Watch,
    never_finite,
    unwatched,
)
from jaxdreamer.types import Array, PyTree, Timestep

_log = logging.getLogger("jaxdreamer")

FILM_STEPS = 500  # longest film, in agent steps


class Episodes(NamedTuple):
    """Episodes being played, one in each lane; whole where ``done``."""

    returns: Array  # float32 [E]
    lengths: Array  # int32 [E], agent steps
    broken: Array  # bool [E], ended by a state that was not finite
    missed: Array  # int32 [E], earlier episodes without a good step; given up at MAX_BROKEN_IN_A_ROW of them
    done: Array  # bool [E]
    lanes: LaneState
    timestep: Timestep
    acting: PyTree  # the policy's state
    key: Array


def make_episodes(
    lanes: Lanes, policy: Policy, steps: int = 100, mode: Acts = "greedy"
) -> tuple[Callable[[Array], Episodes], Callable[[PyTree, Episodes], Episodes]]:
    """``begin(key)`` and ``advance(params, episodes)``: one whole episode in every lane, without exploration.

    Equal keys give equal episodes. A call of ``advance`` plays at most ``steps`` steps, so that the caller can stop in
    between. The lanes must have a time limit, or this may never end.
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
        action, acting = policy.act(params, now.acting, now.timestep.obs, now.timestep.is_first, key_act, mode=mode)
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


def make_film(
    lanes: Lanes, policy: Policy, render: Callable[[PyTree], Array], steps: int, mode: Acts = "greedy"
) -> Callable[..., Array]:
    """``film(params, key) -> (frames uint8 [steps + 1, H, W, 3], shown bool [steps + 1])``: the ``shown`` are one episode.

    ``lanes`` is a single lane; with the key of an evaluation this is, to rounding, its first episode.
    """

    def film(params: PyTree, key: Array):
        key_lanes, key = jax.random.split(key)
        state, timestep, broken = lanes.step(lanes.init(key_lanes), jnp.zeros((1, lanes.spec.action.size)))

        def advance(carry, _):
            state, timestep, acting, key, going, blank = carry
            frame = render(jax.tree.map(lambda x: x[0], state.env))
            key, key_act = jax.random.split(key)
            action, acting = policy.act(params, acting, timestep.obs, timestep.is_first, key_act, mode=mode)
            state, after, broken = lanes.step(state, action)
            # An episode that breaks before its first step does not count, and another follows it.
            over = timestep.is_last[0] | (broken[0] & ~timestep.is_first[0])
            return (state, after, acting, key, going & ~over, broken[0]), (frame, going & ~blank, timestep.is_first[0])

        start = (state, timestep, policy.init(1), key, jnp.ones((), bool), broken[0])
        _, (frames, shown, first) = lax.scan(advance, start, None, length=steps + 1)
        index = jnp.arange(steps + 1)
        return frames, shown & (index >= jnp.max(jnp.where(shown & first, index, 0)))

    return film


def make_evaluate(config: EnvConfig, env: FunctionalEnv, policy: Policy) -> Play:
    """Evaluations on the device. A film is the first episode played again, at most ``FILM_STEPS`` of it.

    Raises:
        ConfigError: nothing limits the length of an episode.
    """
    repeat, limit = config.action_repeat, config.time_limit
    longest = limit or -(-env.time_limit // repeat)
    if not longest:
        raise ConfigError(
            f"env.time_limit: {config.id} has no time limit of its own, so an evaluation might never end; set one"
        )

    def lanes(count: int) -> Lanes:
        return make_lanes(env, count, action_repeat=repeat, time_limit=limit)

    @functools.cache
    def play(count: int, mode: Acts):
        begin, advance = make_episodes(lanes(count), policy, mode=mode)
        return jax.jit(begin), jax.jit(advance, donate_argnums=1)

    @functools.cache
    def draw(mode: Acts):
        assert env.render is not None
        return jax.jit(make_film(lanes(1), policy, env.render, min(longest, FILM_STEPS), mode))

    def evaluate(
        params: PyTree,
        episodes: int,
        *,
        seed: int,
        film: bool = False,
        watch: Watch = unwatched,
        mode: Acts = "greedy",
    ) -> Evaluation:
        key = jax.random.key(seed + EVAL_SEED_OFFSET)
        begin, advance = play(episodes, mode)
        playing, done = begin(key), 0
        while done < episodes:
            watch(done)
            playing = advance(params, playing)
            done = int(np.sum(jax.device_get(playing.done)))
        found = jax.device_get(playing)
        _warn(found, episodes)
        frames = None
        if film and env.render is not None:
            try:
                drawn, shown = jax.device_get(draw(mode)(params, key))
                frames = drawn[shown]
            except Exception as error:  # a film must not cost a run its evaluation
                _log.warning("no film: drawing the environment failed: %s", error)
        broken = int(found.missed.sum() + found.broken.sum())
        return Evaluation(found.returns.tolist(), found.lengths.tolist(), frames, env.frame_rate / repeat, broken)

    return evaluate


def _warn(found: Episodes, episodes: int) -> None:
    """Log what was not finite; EnvError where a lane gave nothing else."""
    if found.missed.max() >= MAX_BROKEN_IN_A_ROW:
        raise never_finite("in an evaluation ")
    if found.missed.any():
        text = "%d evaluation episodes began with numbers that are not finite; others are played instead"
        _log.warning(text, found.missed.sum())
    if found.broken.any():
        _log.warning("%d of %d evaluation episodes broke off: not finite", found.broken.sum(), episodes)
