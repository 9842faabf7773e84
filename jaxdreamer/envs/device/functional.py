"""Environments as pure functions, and lanes of them in agent steps: what runs inside a compiled program.

A backend supplies a :class:`FunctionalEnv`, which knows nothing of agent steps; :func:`make_lanes` adds lanes, action
repeat, time limit, reset and the care for broken states, once for all backends. The simulator libraries' own wrappers are
not used: Brax's, for one, overwrite an episode's final observation, restart each lane from its first state for ever, and
step on past a termination inside an action repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdreamer.config import ConfigError
from jaxdreamer.ops.trees import all_finite
from jaxdreamer.types import Array, EnvSpec, Observation, PyTree, Timestep


@dataclass(frozen=True)
class FunctionalEnv:
    """ONE environment as pure functions of its state: single simulator steps, and an observation when it is asked for.

    ``reset(key) -> state``; ``step(state, action) -> (state, reward, terminal)``; ``observe(state) -> observation``.

    The state is any pytree of arrays of fixed shapes. ``key`` is a typed key; equal keys give equal episodes. ``action`` is
    the agent's, float32 [A]: numbers in [-1, 1], choices one-hot; scaling to other units is the environment's. ``reward``
    is a float scalar in the task's own units, ``terminal`` a bool scalar: the task itself ended (never: time ran out).
    Observations are what ``spec`` says, without a lane axis. Nothing is said about a step after the end: it is not taken.
    """

    spec: EnvSpec
    reset: Callable[[Array], PyTree]
    step: Callable[[PyTree, Array], tuple[PyTree, Array, Array]]
    observe: Callable[[PyTree], Observation]
    time_limit: int = 0
    """Longest episode in simulator steps; reaching it ends the episode without being terminal. 0: none."""
    frame_rate: float = 30.0
    """Simulator steps per second of the task's own time."""
    render: Callable[[PyTree], Array] | None = None
    """state -> uint8 [H, W, 3], for films; None where the task cannot be drawn."""
    finite: Callable[[PyTree], Array] = all_finite
    """state -> bool []: whether the simulation can continue from it. Default: every floating-point number is finite."""


class LaneState(NamedTuple):
    """Where the lanes are."""

    env: PyTree  # the environment's own states, [B, ...]
    key: Array  # typed keys [B], for the resets to come
    steps: Array  # int32 [B], agent steps done in the episode
    frames: Array  # int32 [B], simulator steps done in the episode
    due: Array  # bool [B], the next entry is a reset


class Lanes(NamedTuple):
    """B copies of an environment in lockstep: every call advances every lane by exactly one entry.

    A lane whose previous entry was ``is_last``, and every fresh lane, is reset instead of stepped: its entry is ``is_first``
    with reward 0, its action is ignored, and the episode starts from a key that was
    never used before. So the final observation and the next episode's first are two entries.

    A lane whose state, reward or observation stops being finite is reset at once and marked ``broken``: its previous entry
    was its episode's last good one, and nothing that is not finite is ever handed out. A reset that fails gives a blank
    entry, and another reset.
    """

    spec: EnvSpec
    num_envs: int  # B
    init: Callable[[Array], LaneState]  # key -> fresh lanes
    step: Callable[
        [LaneState, Array], tuple[LaneState, Timestep, Array]
    ]  # (state, [B, A]) -> (.., [B, ..], broken [B])
    frame_rate: float  # agent steps per second of the task's own time


def make_lanes(env: FunctionalEnv, count: int, *, action_repeat: int = 1, time_limit: int = 0) -> Lanes:
    """Lanes of an environment in agent steps.

    One agent step is ``action_repeat`` simulator steps with the same action, fewer where the episode ends; the rewards are
    added up and one observation is made. ``time_limit`` counts agent steps (0: the environment's own limit alone); reaching
    either truncates. A step that both ends the task and runs out of time is terminal.

    Raises:
        ConfigError: the environment's functions do not fit each other or its spec; the message names the array.
    """
    check_functional(env)
    env = in_full_precision(env)
    most_frames = env.time_limit or jnp.iinfo(jnp.int32).max
    reset, advance = strong_reset(env), _agent_step(env, action_repeat, most_frames)

    def sound(state: PyTree) -> Array:
        # Of what is observed only numbers are looked at: compiled, pictures are not drawn for this.
        return env.finite(state) & all_finite(env.observe(state))

    def init(key: Array) -> LaneState:
        keys = jax.vmap(jax.random.split)(jax.random.split(key, count))
        zero = jnp.zeros((count,), jnp.int32)
        # These first states are never seen, only their shapes matter: every lane is due to be reset.
        return LaneState(jax.vmap(reset)(keys[:, 0]), keys[:, 1], zero, zero, jnp.ones((count,), bool))

    def step(lanes: LaneState, action: Array) -> tuple[LaneState, Timestep, Array]:
        state, frames, reward, terminal = jax.vmap(advance)(lanes.env, lanes.frames, action)
        broken = ~lanes.due & ~(jax.vmap(sound)(state) & jnp.isfinite(reward))
        first = lanes.due | broken

        def renew(_):
            keys = jax.vmap(jax.random.split)(lanes.key)
            fresh = jax.vmap(reset)(keys[:, 0])
            return jax.tree.map(lambda new, old: _where(first, new, old), (fresh, keys[:, 1]), (state, lanes.key))

        # Most moments have no reset in any lane; then none is computed (unless a vmap makes a choice of the condition).
        state, key = lax.cond(jnp.any(first), renew, lambda _: (state, lanes.key), None)
        steps, frames = jnp.where(first, 0, lanes.steps + 1), jnp.where(first, 0, frames)
        terminal = terminal & ~first
        out_of_time = frames >= most_frames
        if time_limit:
            out_of_time |= steps >= time_limit
        last = terminal | (out_of_time & ~first)
        # A reset can fail too: its entry is blank, and the lane is reset again.
        failed = first & ~jax.vmap(sound)(state)
        obs = {name: _where(failed, jnp.zeros_like(x), x) for name, x in jax.vmap(env.observe)(state).items()}
        timestep = Timestep(obs, jnp.where(first, 0.0, reward), first, last, terminal)
        return LaneState(state, key, steps, frames, last | failed), timestep, broken | failed

    return Lanes(env.spec, count, init, step, env.frame_rate / action_repeat)


def _agent_step(env: FunctionalEnv, repeat: int, most_frames: int) -> Callable[..., tuple[PyTree, Array, Array, Array]]:
    """One agent step of one lane: (state, frames, action) -> (state, frames, reward, terminal)."""

    def advance(state: PyTree, frames: Array, action: Array) -> tuple[PyTree, Array, Array, Array]:
        def once(carry, _):
            state, frames, total, terminal = carry
            # A copy of the tree (not of its arrays): Brax's steps write into the dictionaries of the state they are given.
            new, reward, ended = env.step(jax.tree.map(lambda x: x, state), action)
            going = ~terminal & (frames < most_frames)
            state = jax.tree.map(lambda a, b: jnp.where(going, a, b), new, state)
            total = jnp.where(going, total + jnp.asarray(reward, jnp.float32), total)
            return (state, frames + going, total, terminal | (going & jnp.asarray(ended, bool))), None

        start = (state, frames, jnp.zeros(()), jnp.zeros((), bool))
        return lax.scan(once, start, None, length=repeat)[0]

    return advance


def in_full_precision(env: FunctionalEnv) -> FunctionalEnv:
    """The same environment, its matrix products in full float32 where GPUs and TPUs would round the factors first.

    A network takes that rounding (TF32 keeps 10 bits of a factor, bfloat16 7); the contact forces of a simulator do not.
    """

    def full(function: Callable) -> Callable:
        def inner(*args: Any) -> Any:
            with jax.default_matmul_precision("highest"):
                return function(*args)

        return inner

    return replace(env, reset=full(env.reset), step=full(env.step), observe=full(env.observe))


def strong_reset(env: FunctionalEnv) -> Callable[[Array], PyTree]:
    """``env.reset`` without weakly typed numbers, with which some simulators begin: a loop's carry must keep its types."""

    def reset(key: Array) -> PyTree:
        return jax.tree.map(lambda x: lax.convert_element_type(x, jnp.asarray(x).dtype), env.reset(key))

    return reset


def check_functional(env: FunctionalEnv) -> None:
    """ConfigError, naming the array, where the functions do not fit each other or the spec. Nothing is computed."""
    key, action = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((env.spec.action.size,), jnp.float32)
    state = jax.eval_shape(strong_reset(env), key)
    stepped, reward, terminal = jax.eval_shape(
        lambda state, action: env.step(jax.tree.map(lambda x: x, state), action), state, action
    )
    problems = _differences("step's state, against reset's", _described(state), _described(stepped))
    problems += [
        f"step's {name}: expected one number, found shape {x.shape}"
        for name, x in (("reward", reward), ("terminal", terminal))
        if getattr(x, "shape", ()) != ()
    ]
    wanted = {f"['{key}']": (spec.shape, spec.dtype) for key, spec in env.spec.obs.items()}
    problems += _differences("observe, against spec.obs", wanted, _described(jax.eval_shape(env.observe, state)))
    if problems:
        raise ConfigError("the environment's functions do not fit together:\n  " + "\n  ".join(problems))


def _described(tree: PyTree) -> dict[str, tuple[tuple[int, ...], str]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype)) for path, leaf in leaves}


def _differences(what: str, wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    def text(entry: Any) -> str:
        return "nothing" if entry is None else f"{entry[1]}{list(entry[0])}"

    return [
        f"{what}: {name or 'the array'}: expected {text(wanted.get(name))}, found {text(found.get(name))}"
        for name in {**wanted, **found}
        if wanted.get(name) != found.get(name)
    ]


def _where(mask: Array, new: Array, old: Array) -> Array:
    """Lane by lane: ``new`` where ``mask`` [B] holds. Typed keys are welcome."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - mask.ndim)), new, old)
