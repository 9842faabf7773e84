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

from jaxdreamer.envs.device.functional import make_lanes
from tests.envs.device.lane_oracle import rollout


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


@pytest.mark.parametrize("task", ["pendulum-swingup", "reacher-easy"])
def test_lanes_store_what_the_bare_environment_gives(task):
    """Two steps at a time, cut by a time limit; the picture is that of the state it is stored with."""
    env = make(task, obs="both", image_size=(16, 20))
    bare = playground_env.load(playground_env.canonical(task))
    size = env.spec.action.size
    lanes = make_lanes(env, 2, action_repeat=2, time_limit=3)
    actions = jax.random.uniform(jax.random.key(1), (6, 2, size), minval=-1, maxval=1)
    timestep, broken, states = rollout(lanes, jax.random.key(0), actions)
    assert not broken.any() and timestep.is_last[3].all() and not timestep.is_terminal.any()
    assert timestep.is_first[4].all() and (timestep.obs["state"][4] != timestep.obs["state"][0]).any()
    step = jax.jit(bare.step)
    state = jax.tree.map(lambda x: x[0, 0], states.env)
    for t in range(1, 4):
        reward = 0.0
        for _ in range(2):
            state = step(state, actions[t, 0])
            reward += float(state.reward)
        np.testing.assert_allclose(timestep.obs["state"][t, 0], state.obs, rtol=1e-3, atol=1e-4)
        assert timestep.reward[t, 0] == pytest.approx(reward, abs=1e-4)
    images = np.asarray(timestep.obs["image"])
    assert images.shape == (6, 2, 16, 20, 3) and images.dtype == np.uint8
    assert len(np.unique(images[1, 0].reshape(-1, 3), axis=0)) > 5 and (images[1, 0] != images[3, 0]).any()
    film = jax.jit(env.render)(jax.tree.map(lambda x: x[1, 0], states.env))
    assert film.shape == (128, 128, 3) and film.dtype == jnp.uint8
