"""gymnax's environments as functions: what is stored is what the bare environment gives, and ends are told apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs.device import gymnax_env
from jaxdreamer.envs.device.functional import make_lanes

gymnax = pytest.importorskip("gymnax")
CHEAP = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile; steps are few
OFFLINE = [name for name in gymnax.registered_envs if not name.startswith("MNIST")]


def make(name, **settings):
    return gymnax_env.make_functional(configs.replace_env(EnvConfig(backend="gymnax", id=name), settings))


def walk(env, actions, policy=None, **settings):
    """Entries [T, ...] of one lane under the agent's flat actions [T, A], or those that a policy takes instead of them."""
    lanes = make_lanes(env, 1, **settings)

    def play(key):
        def step(carry, action):
            state, seen = carry
            state, timestep, broken = lanes.step(state, (action if policy is None else policy(seen))[None])
            timestep, broken = jax.tree.map(lambda x: x[0], timestep), broken[0]
            return (state, timestep.obs["state"]), (timestep, broken)

        spec = env.spec.obs["state"]
        return jax.lax.scan(step, (lanes.init(key), jnp.zeros(spec.shape, spec.dtype)), jnp.asarray(actions))[1]

    compiled = jax.jit(play).lower(jax.random.key(0)).compile(compiler_options=CHEAP)
    return jax.tree.map(np.asarray, compiled(jax.random.key(0)))


@pytest.mark.parametrize("name", OFFLINE)
def test_every_task_walks(name):
    env = make(name)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (25, env.spec.action.size)).astype(np.float32)
    entries, broken = walk(env, actions, time_limit=10)  # eleven entries an episode: at least two resets
    assert not broken.any() and entries.is_first.sum() >= 3 and entries.is_last.sum() >= 2
    assert env.time_limit > 0 and np.isfinite(entries.reward).all()
    seen, spec = entries.obs["state"], env.spec.obs["state"]
    assert seen.shape == (25, *spec.shape) and seen.dtype == spec.dtype and np.isfinite(seen).all()
    if env.render is not None:
        picture = jax.eval_shape(env.render, jax.eval_shape(env.reset, jax.eval_shape(lambda: jax.random.key(0))))
        assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8


def test_a_pole_that_falls_ends_the_task_and_one_that_stands_runs_out_of_time():
    env = make("CartPole-v1")
    left = np.tile(np.array([[1.0, 0.0]], np.float32), (20, 1))
    falls, _ = walk(env, left)
    end = int(np.argmax(falls.is_last))
    assert 5 < end < 15 and falls.is_terminal[end]
    assert env.time_limit == 500
    stands, _ = walk(env, left, time_limit=4)
    assert stands.is_last[4] and not stands.is_terminal[4]


LIMITS = {  # steps of an episode in which nothing happens, and whether its end belongs to the task
    "MountainCar-v0": (200, False),
    "Acrobot-v1": (500, False),
    "MountainCarContinuous-v0": (999, False),
    "Pendulum-v1": (200, False),
    "DiscountingChain-bsuite": (100, False),
    "FourRooms-misc": (500, False),
    "MemoryChain-bsuite": (6, True),
    "UmbrellaChain-bsuite": (10, True),
    "DeepSea-bsuite": (8, True),
    "Catch-bsuite": (9, True),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_in_time_is_told_from_an_end(name):
    steps, terminal = LIMITS[name]
    env = make(name)
    idle = np.zeros((steps + 2, env.spec.action.size), np.float32)
    if env.spec.action.parts[0].kind == "discrete":  # no push in MountainCar, no torque in Acrobot
        idle[:, 1 if name in ("MountainCar-v0", "Acrobot-v1") else 0] = 1.0
    entries, broken = walk(env, idle)
    assert not broken.any() and np.flatnonzero(entries.is_last).tolist() == [steps]
    assert entries.is_terminal[steps] == terminal and entries.is_first[[0, steps + 1]].all()


def test_a_pole_that_stands_for_500_steps_is_truncated():
    def balance(seen):
        right = seen @ jnp.array([0.05, 0.2, 1.0, 0.5]) > 0
        return jnp.where(right, jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]))

    entries, _ = walk(make("CartPole-v1"), np.zeros((502, 2), np.float32), balance)
    assert np.flatnonzero(entries.is_last).tolist() == [500] and not entries.is_terminal.any()


def test_steps_are_those_of_the_bare_environment():
    env, (bare, params) = make("Pendulum-v1"), gymnax.make("Pendulum-v1")
    state = env.reset(jax.random.key(3))
    moved, reward, terminal = env.step(state, jnp.array([0.5]))
    seen, theirs, paid, _, _ = bare.step_env(jax.random.key(4), state.env, jnp.array([0.5 * 2.0]), params)
    np.testing.assert_allclose(env.observe(moved)["state"], seen, rtol=1e-6)
    np.testing.assert_allclose(moved.env.theta, theirs.theta, rtol=1e-6)
    assert float(reward) == pytest.approx(float(np.squeeze(paid))) and not terminal


def test_a_board_is_drawn_plane_by_plane():
    env = make("Breakout-MinAtar", obs="both", image_size=(20, 30))
    state = env.reset(jax.random.key(0))
    seen = env.observe(state)
    picture, planes = np.asarray(seen["image"]), np.asarray(seen["state"])
    assert picture.shape == (20, 30, 3) and planes.shape == (10, 10, 4)
    lit = picture.any(-1)[::2, ::3]  # a field is 2 x 3 pixels
    np.testing.assert_array_equal(lit, planes.any(-1))
    with pytest.raises(ConfigError, match=r"CartPole-v1 is no board to draw; use env.obs=state"):
        make("CartPole-v1", obs="pixels")


def test_what_cannot_be_had_is_refused_by_name(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"no environment 'Breakout-MinAtra' \(did you mean Breakout-MinAtar"):
        make("Breakout-MinAtra")
    loader = pytest.importorskip("gymnax.utils.load_mnist")
    monkeypatch.setattr(loader, "load_mnist", lambda directory=str(tmp_path): pytest.fail("it would download"))
    with pytest.raises(ConfigError, match=r"would download MNIST.*train-images-idx3-ubyte.gz, .* into "):
        make("MNISTBandit-bsuite")
