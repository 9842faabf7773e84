"""The tasks in plain JAX: Gymnasium's pendulum step by step, and counting by hand."""

from __future__ import annotations

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs.device import pure
from jaxdreamer.envs.registry import backends, is_functional, make_functional


@pytest.mark.parametrize(("seed", "scale"), [(0, 1.0), (1, 0.2), (2, 1.5)])
def test_the_pendulum_is_gymnasiums(seed, scale):
    """200 steps from one state with the same torques; 1.5 of the bound is clipped by both."""
    raw = gymnasium.make("Pendulum-v1").unwrapped
    raw.reset(seed=seed)
    env = pure.pendulum()
    step, observe = jax.jit(env.step), jax.jit(env.observe)
    actions = np.random.default_rng(seed).uniform(-scale, scale, (env.time_limit, 1)).astype(np.float32)
    state = pure.Pendulum(*jnp.float32(raw.state))
    for action in actions:
        expected, reward, terminal, _, _ = raw.step(2.0 * action)
        # Compared a step at a time: the pendulum doubles a rounding every few steps.
        state, mine, ended = step(state, action)
        np.testing.assert_allclose(observe(state)["state"], expected, rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(mine, reward, rtol=1e-4, atol=1e-4)
        assert bool(ended) is terminal is False
        state = pure.Pendulum(*jnp.float32(raw.state))


def test_the_pendulum_starts_where_gymnasiums_does():
    states = jax.vmap(pure.pendulum().reset)(jax.random.split(jax.random.key(0), 2000))
    for value, bound in zip(states, (np.pi, 1.0)):
        assert value.dtype == np.float32 and -bound <= value.min() < -0.98 * bound < 0.98 * bound < value.max() <= bound
        np.testing.assert_allclose(value.std(), bound / np.sqrt(3), rtol=0.05)
    assert abs(np.corrcoef(*states)[0, 1]) < 0.1
    assert gymnasium.spec("Pendulum-v1").max_episode_steps == pure.pendulum().time_limit


def test_counting_by_hand():
    env = pure.counting(terminate_at=3, break_at=2)
    state = env.reset(jax.random.key(0))
    origin = float(state[0])
    assert 0 <= origin < 1 and state[1:].tolist() == [0, -1]
    told = []
    for choice in (2, 0, 1):
        new, reward, terminal = env.step(state, jax.nn.one_hot(choice, 3))
        told.append((new.tolist(), float(reward), bool(terminal)))
        state = new.at[1].set(reward)  # past the nan
    assert told[0] == ([origin, 1, 2], 1, False)
    assert (
        np.isnan(told[1][0][1]) and told[1][1:] == (2, False) and not env.finite(env.step(state.at[1].set(1), state)[0])
    )
    assert told[2] == ([origin, 3, 1], 3, True)
    assert env.observe(state)["state"] is state and env.spec.action.size == 3


def test_the_backend_by_name():
    assert make_functional(EnvConfig(backend="pure", id="pendulum")).spec == pure.pendulum().spec
    assert {"pure", "brax"} <= set(backends())
    assert is_functional(EnvConfig(backend="pure")) and not is_functional(EnvConfig(backend="gym"))
    with pytest.raises(
        ConfigError, match=r"no pure task 'pendulun' \(did you mean pendulum\?\); there are: pendulum, cou"
    ):
        make_functional(EnvConfig(backend="pure", id="pendulun"))
    with pytest.raises(ConfigError, match=r"env.obs=pixels: the pure tasks have nothing to draw; use env.obs=state"):
        make_functional(EnvConfig(backend="pure", id="pendulum", obs="pixels"))
    with pytest.raises(
        ConfigError, match=r"env.backend=gym steps its environments on the host; on the device run: brax, .*pure"
    ):
        make_functional(EnvConfig(backend="gym"))
