"""MuJoCo Playground's tasks as functions: what is stored is what the bare environment gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs.device import playground_env

pytest.importorskip("mujoco_playground")


def make(name, **settings):
    return playground_env.make_functional(configs.replace_env(EnvConfig(backend="playground", id=name), settings))


def test_a_task_has_one_name_however_it_is_spelt():
    suite = playground_env.import_playground().dm_control_suite.ALL_ENVS
    assert len(suite) >= 25 and {playground_env.canonical(name) for name in suite} == set(suite) <= {
        *playground_env.names()
    }
    dm_control = pytest.importorskip("dm_control.suite")
    theirs = {f"{domain}-{task}" for domain, task in dm_control.ALL_TASKS}
    assert {playground_env.canonical(name) for name in theirs} >= set(suite)
    for name in ("cup-catch", "dmc_ball_in_cup_catch", "BallInCup"):
        assert EnvConfig(backend="playground", id=name).task == "BallInCup"


def test_every_suite_task_loads_with_unit_actions_and_its_limit():
    """Nothing is traced: actions reach the actuators as they are, so these must take [-1, 1]."""
    import mujoco

    for task in playground_env.import_playground().dm_control_suite.ALL_ENVS:
        env = playground_env.load(task)
        model = env.mj_model
        assert (model.actuator_ctrlrange == [-1, 1]).all() and model.actuator_ctrllimited.all(), task
        assert env._config.episode_length == 1000 and env._config.action_repeat == 1 and model.ncam, task
        assert env.mjx_model.impl.value == "jax"
        assert playground_env._renderer(model, EnvConfig(backend="playground", id=task), True, 16, 16)
    assert not hasattr(mujoco.MjSpec, "find_body")  # lent to the Reachers while they were made


def test_what_playground_does_not_have_is_refused_by_name(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"no task 'WalkerWlak' \(did you mean WalkerWalk"):
        make("walker-wlak")
    with pytest.raises(ConfigError, match=r"unknown camera 'front'"):
        make("PendulumSwingup", camera="front")
    mjx_env = pytest.importorskip("mujoco_playground._src.mjx_env")
    monkeypatch.setattr(mjx_env, "MENAGERIE_PATH", mjx_env.epath.Path(tmp_path / "robots"))
    monkeypatch.setattr(mjx_env, "ensure_menagerie_exists", lambda: pytest.fail("it would fetch"))
    assert "Go1Getup" not in playground_env.names()
    for name in ("Go1Getup", "PandaPickCube"):
        with pytest.raises(ConfigError, match=rf"{name} needs the robot models .* clone that repository to .*robots"):
            make(name)
    (tmp_path / "robots").mkdir()
    assert "Go1Getup" in playground_env.names()


CHEAP = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile; steps are few


def test_pendulum_moves_and_pays_as_dm_controls_own():
    """dm_control's task from the same state with Playground's time step and damping, 60 random actions; and its picture."""
    mujoco, suite = pytest.importorskip("mujoco"), pytest.importorskip("dm_control.suite")
    env = make("pendulum-swingup", obs="both", image_size=(16, 20))

    def play(key, actions):
        def advance(state, action):
            state, reward, terminal = env.step(state, action)
            return state, (env.observe(state)["state"], reward, terminal)

        first = env.reset(key)
        state, said = jax.lax.scan(advance, first, actions)
        return first.data.qpos, said, [env.observe(first)["image"], env.observe(state)["image"], env.render(state)]

    actions = np.random.default_rng(0).uniform(-1, 1, (60, 1)).astype(np.float32)
    compiled = jax.jit(play).lower(jax.random.key(1), actions).compile(compiler_options=CHEAP)
    qpos, (obs, reward, terminal), pictures = jax.tree.map(np.asarray, compiled(jax.random.key(1), actions))

    theirs = suite.load("pendulum", "swingup", {"random": 0})
    theirs.reset()
    theirs.physics.model.opt.timestep = 0.01  # dm_control's is 0.02, one a control step
    theirs.physics.model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_EULERDAMP)
    with theirs.physics.reset_context():
        theirs.physics.data.qpos[:] = qpos
    expected, rewards = [], []
    for action in actions:
        # MJX leaves poses where they were before its last physics step, dm_control brings them up to date.
        before, after = theirs.step(action), theirs.step(action)
        expected.append([*before.observation["orientation"][::-1], *after.observation["velocity"]])
        rewards.append(before.reward)
    np.testing.assert_allclose(obs, expected, atol=1e-3)
    np.testing.assert_allclose(reward, rewards, atol=1e-3)
    assert not terminal.any() and env.time_limit == 1000 and env.frame_rate == pytest.approx(50)
    first, last, film = pictures
    assert first.shape == (16, 20, 3) and first.dtype == np.uint8 and (first != last).any()
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 5 and film.shape == (128, 128, 3)


def test_the_reachers_step():
    env = make("reacher-hard")

    def play(key):
        state = env.reset(key)
        moved, reward, terminal = env.step(state, jnp.ones(2))
        return env.observe(state)["state"], env.observe(moved)["state"], reward, terminal

    compiled = jax.jit(play).lower(jax.random.key(0)).compile(compiler_options=CHEAP)
    before, after, reward, terminal = compiled(jax.random.key(0))
    assert before.shape == env.spec.obs["state"].shape == (6,) and jnp.isfinite(after).all() and (before != after).any()
    assert 0 <= reward <= 1 and not terminal
