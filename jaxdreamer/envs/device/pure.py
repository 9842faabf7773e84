"""Small tasks in plain JAX, which need no simulator: backend ``pure``.

``pendulum`` is the swing-up of Gymnasium's Pendulum-v1; ``counting`` is for tests. A file like this is all that another
library of functional environments takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jaxdreamer.config import ConfigError, EnvConfig, nearest
from jaxdreamer.families import Backend
from jaxdreamer.types import ActionPart, ActionSpec, Array, ArraySpec, EnvSpec, PyTree

if TYPE_CHECKING:  # it imports jax, which the record below must not
    from jaxdreamer.envs.device.functional import FunctionalEnv


def make_functional(config: EnvConfig) -> FunctionalEnv:
    """The task ``config.id``; ConfigError for an unknown one, or where pixels are asked for."""
    if config.id not in _TASKS:
        raise ConfigError(
            f"env.id: no pure task {config.id!r}{nearest(config.id, _TASKS)}; there are: {', '.join(_TASKS)}"
        )
    if config.obs in ("pixels", "both"):
        raise ConfigError(f"env.obs={config.obs}: the pure tasks have nothing to draw; use env.obs=state")
    return _TASKS[config.id]()


def tasks() -> list[str]:
    """What ``env.id`` can be."""
    return list(_TASKS)


class Pendulum(NamedTuple):
    """A rod on a hinge."""

    angle: Array  # float32 [], radians from upright
    velocity: Array  # float32 [], radians per second, within 8


def pendulum() -> FunctionalEnv:
    """Swing a rod up and hold it: Gymnasium's Pendulum-v1, step by step.

    Observation (cos angle, sin angle, velocity); action: torque, 2 Nm at 1. With the torque u, ``velocity += (15 sin(angle)
    + 3 u) dt``, ``angle += velocity dt``, dt = 0.05 s. Reward before the step: ``-(angle^2 + 0.1 velocity^2 + 0.001 u^2)``.
    """
    import jax
    import jax.numpy as jnp

    from jaxdreamer.envs.device.functional import FunctionalEnv

    def reset(key: Array) -> Pendulum:
        angle, velocity = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0) * jnp.array([jnp.pi, 1.0])
        return Pendulum(angle, velocity)

    def step(state: Pendulum, action: Array) -> tuple[Pendulum, Array, Array]:
        torque = 2.0 * jnp.clip(action[0], -1.0, 1.0)
        wrapped = (state.angle + jnp.pi) % (2.0 * jnp.pi) - jnp.pi
        reward = -(wrapped**2 + 0.1 * state.velocity**2 + 0.001 * torque**2)
        velocity = jnp.clip(state.velocity + (15.0 * jnp.sin(state.angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
        return Pendulum(state.angle + velocity * 0.05, velocity), reward, jnp.zeros((), bool)

    def observe(state: Pendulum) -> dict[str, Array]:
        return {"state": jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.velocity])}

    spec = EnvSpec({"state": ArraySpec((3,), "float32", "vector")}, ActionSpec((ActionPart("continuous", 1),)), 0.05)
    return FunctionalEnv(spec, reset, step, observe, time_limit=200, frame_rate=20.0)


def counting(terminate_at: int = 0, break_at: int = 0, time_limit: int = 20, actions: int = 3) -> FunctionalEnv:
    """Counts its steps: the observation is (a number drawn at the reset, the time, the latest choice).

    The reward of step t (from 1) is t; step ``terminate_at`` ends the task, step ``break_at`` gives a nan (0: never).
    """
    import jax
    import jax.numpy as jnp

    from jaxdreamer.envs.device.functional import FunctionalEnv

    def reset(key: Array) -> Array:
        return jnp.stack([jax.random.uniform(key), 0.0, -1.0])

    def step(state: Array, action: Array) -> tuple[PyTree, Array, Array]:
        time = state[1] + 1.0
        shown = jnp.where(time == break_at, jnp.nan, time)
        return jnp.stack([state[0], shown, jnp.argmax(action) * 1.0]), time, time == terminate_at

    spec = EnvSpec({"state": ArraySpec((3,), "float32", "vector")}, ActionSpec((ActionPart("discrete", actions),)))
    return FunctionalEnv(spec, reset, step, lambda state: {"state": state}, time_limit=time_limit)


_TASKS = {"pendulum": pendulum, "counting": counting}

BACKEND = Backend("pure", make_functional, kind="device", tasks=tasks)
