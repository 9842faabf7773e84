"""Functional environments stepped from the host: the same entries that the lanes make, and the ways to name them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import families
from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs import make_env, make_vector, register, registry
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.device import pure
from jaxdreamer.envs.device.functional import make_lanes
from jaxdreamer.envs.device.hosted import host


@pytest.mark.parametrize(
    "case", [{"terminate_at": 5}, {"time_limit": 7}, {"terminate_at": 6, "time_limit": 6}, {"terminate_at": 8}]
)
def test_entries_are_those_of_the_lanes(case):
    settings = EnvConfig(action_repeat=2, time_limit=4)
    env = pure.counting(**case)
    hosted, lanes = host(env, settings), make_lanes(env, 1, action_repeat=2, time_limit=4)
    step, state = jax.jit(lanes.step), lanes.init(jax.random.key(0))
    due, seed = True, 0
    for choice in [2, 1, 0, 1, 1, 2, 0, 0, 1]:
        action = np.eye(3, dtype=np.float32)[choice]
        state, expected, _ = step(state, action[None])
        entry = hosted.reset(seed) if due else hosted.step(action)
        due, seed = entry.is_last, seed + due
        np.testing.assert_array_equal(entry.obs["state"][1:], expected.obs["state"][0, 1:])
        assert [*map(float, entry[1:])] == [float(value[0]) for value in expected[1:]]
        assert entry.obs["state"].flags.writeable and entry.obs["state"].dtype == np.float32
    assert hosted.frame_rate == lanes.frame_rate == 15.0


def test_seeds_name_episodes():
    env = host(pure.pendulum(), EnvConfig())
    start = env.reset(3).obs["state"]
    np.testing.assert_array_equal(env.reset(3).obs["state"], start)
    assert (env.reset(2**31 - 1).obs["state"] != start).any()  # the largest that lanes draw
    fresh = [tuple(env.reset().obs["state"].tolist()) for _ in range(5)]
    assert len(set(fresh)) == 5
    lanes = make_vector(EnvConfig(backend="pure", id="pendulum"), 4, seed=0)
    assert len({tuple(row) for row in lanes.step(np.zeros((4, 1))).obs["state"].tolist()}) == 4


def test_a_broken_state_is_told_by_the_reward():
    env = host(pure.counting(break_at=2), EnvConfig())
    env.reset(0)
    assert env.step(np.eye(3)[0]).reward == 1 and np.isnan(env.step(np.eye(3)[0]).reward)


def test_drawing():
    plain = host(pure.counting(), EnvConfig())
    plain.reset(0)
    assert not plain.can_render
    with pytest.raises(EnvError, match="cannot be drawn: its FunctionalEnv has no render"):
        plain.render()
    drawn = dataclasses.replace(
        pure.counting(), render=lambda state: jnp.full((4, 5, 3), state[1] * 10).astype(jnp.uint8)
    )
    env = host(drawn, EnvConfig())
    env.reset(0)
    env.step(np.eye(3)[0])
    assert (
        env.can_render
        and env.render().shape == (4, 5, 3)
        and env.render().dtype == np.uint8
        and env.render().max() == 10
    )
    env.close()


def test_backends_of_functions_are_registered_by_name():
    made = []

    def make(config):
        made.append(config)
        return pure.counting(time_limit=config.num_envs)

    register("mine", make, kind="device")
    try:
        settings = EnvConfig(backend="mine", num_envs=5)
        assert registry.is_functional(settings) and "mine" in registry.backends()
        assert registry.make_functional(settings).time_limit == 5 and made == [settings]
        assert make_env(settings).reset(0).is_first
        register("mine", lambda config: host(pure.pendulum(), config))  # replaced by one that the host steps
        assert not registry.is_functional(settings) and make_env(settings).spec.action.size == 1
        with pytest.raises(ConfigError, match=r"kind is host, lanes or device, found .* and 'functional'"):
            register("mine", make, kind="functional")
    finally:
        families._registered.pop("mine")
