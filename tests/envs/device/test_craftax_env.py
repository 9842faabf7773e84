"""Craftax as functions: symbols and pixels of one game; death told from running out of time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs.device import craftax_env
from jaxdreamer.envs.device.functional import make_lanes

pytest.importorskip("craftax")
CHEAP = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile; steps are few


def make(name, **settings):
    return craftax_env.make_functional(configs.replace_env(EnvConfig(backend="craftax", id=name), settings))


def test_classic_walks_a_thousand_steps_from_pixels_and_symbols():
    env = make("Craftax-Classic-Pixels-v1", obs="both")
    lanes = make_lanes(env, 1, time_limit=300)

    def play(key):
        def step(state, key):
            action = jax.nn.one_hot(jax.random.randint(key, (1,), 0, 17), 17)
            state, timestep, broken = lanes.step(state, action)
            return state, (timestep, broken)

        return jax.lax.scan(step, lanes.init(key), jax.random.split(key, 1000))[1]

    compiled = jax.jit(play).lower(jax.random.key(0)).compile(compiler_options=CHEAP)
    entries, broken = jax.tree.map(np.asarray, compiled(jax.random.key(0)))
    lengths = np.diff(np.flatnonzero(entries.is_first))
    assert not broken.any() and len(lengths) >= 3 and (lengths <= 301).all()
    assert (entries.is_terminal <= entries.is_last).all() and entries.is_terminal.any()  # it starves, or is killed
    pictures = entries.obs["image"]
    assert pictures.shape == (1000, 1, 64, 64, 3) and pictures.dtype == np.uint8 and pictures[0].max() > 100
    assert (pictures[0] != pictures[10]).any() and entries.obs["state"].shape == (1000, 1, 1345)
    assert env.time_limit == 10_000 and env.spec.action.size == 17


def test_death_is_terminal_and_time_is_not():
    env = make("Craftax-Classic-Symbolic-v1")
    state = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    nothing = jnp.eye(17)[0]
    late = state._replace(game=state.game.replace(timestep=jnp.asarray(10_000, state.game.timestep.dtype)))
    assert not step(late, nothing)[2]
    dead = state._replace(game=state.game.replace(player_health=jnp.asarray(0, state.game.player_health.dtype)))
    assert step(dead, nothing)[2]


def test_the_full_game_fits_and_other_names_are_refused():
    env = make("Craftax-Symbolic-v1")
    state = jax.eval_shape(env.reset, jax.eval_shape(lambda: jax.random.key(0)))
    assert jax.eval_shape(env.observe, state)["state"].shape == env.spec.obs["state"].shape == (8268,)
    assert env.spec.action.size == 43
    with pytest.raises(ConfigError, match=r"no environment 'Craftax-Clasic-Pixels-v1' \(did you mean Craftax-Classic"):
        make("Craftax-Clasic-Pixels-v1")


def test_a_picture_is_shrunk_or_framed():
    picture = np.arange(4 * 6 * 3, dtype=np.float32).reshape(4, 6, 3)
    same = np.asarray(craftax_env.fit(picture, (5, 7)))
    np.testing.assert_array_equal(same[:4, :6], picture)
    assert same.shape == (5, 7, 3) and not same[4].any() and not same[:, 6].any()
    assert craftax_env.fit(picture, (2, 3)).shape == (2, 3, 3)
