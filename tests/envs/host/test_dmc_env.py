"""dm_control's suite: every task by many spellings, its own pictures, its ends, its seeds."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs import SpaceError, make_env, wrap

pytest.importorskip("dm_control")

from dm_control import suite

from jaxdreamer.envs.host import dmc_env
from jaxdreamer.envs.host.dmc_env import DMControlEnv, resolve, tasks


def dmc(name, **options):
    return make_env(EnvConfig(backend="dmc", id=name, **options))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("walker-walk", ("walker", "walk")),
        ("walker_walk", ("walker", "walk")),
        ("dmc_walker_walk", ("walker", "walk")),
        ("dm_control/walker-walk-v0", ("walker", "walk")),
        ("cup-catch", ("ball_in_cup", "catch")),
        ("ball_in_cup-catch", ("ball_in_cup", "catch")),
        ("dmc_cup_catch", ("ball_in_cup", "catch")),
        ("pointmass-easy", ("point_mass", "easy")),
        ("finger-turn_hard", ("finger", "turn_hard")),
        ("humanoid_CMU-run", ("humanoid_CMU", "run")),
        ("humanoid-run_pure_state", ("humanoid", "run_pure_state")),
        ("lqr-lqr_2_1", ("lqr", "lqr_2_1")),
    ],
)
def test_spellings(name, found):
    assert resolve(name) == found


def test_every_task_is_found_by_its_own_name_and_no_two_are_confused():
    assert [resolve(name) for name in tasks()] == list(suite.ALL_TASKS) and len(tasks()) > 40
    with pytest.raises(ConfigError, match=r"no task 'walker-wakl' \(did you mean walker-walk"):
        dmc("walker-wakl")


@pytest.mark.parametrize("name", [name for name in tasks() if not name.startswith("dog-")] + ["dog-walk"])
def test_every_task_makes_resets_and_steps(name):
    """Of the dog's tasks, which take seconds each to load, one stands for all."""
    env = dmc(name, action_bound=float(name.startswith("lqr")))  # whose bounds are 1e10
    first, rng = env.reset(1), np.random.default_rng(0)
    actions = [rng.uniform(-1, 1, env.spec.action.size) for _ in range(3)]
    entries = [env.step(action) for action in actions]
    assert first.is_first and all(np.isfinite(entry.reward) and not entry.is_last for entry in entries)
    env.reset(2)
    again = env.replay(1, np.array(actions))  # a seed is an episode
    for key, value in entries[-1].obs.items():
        np.testing.assert_array_equal(again.obs[key], value, err_msg=key)
    env.close()


@pytest.mark.parametrize(("name", "camera"), [("walker-walk", 0), ("quadruped-walk", 2), ("cartpole-balance", 0)])
def test_pictures_are_dm_controls_own(name, camera):
    env = DMControlEnv(name, quality="full")
    env.reset(seed=0)
    theirs = env.physics.render(64, 64, camera_id=camera)
    ours = env.draw((64, 64))
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(env.render(), env.physics.render(240, 320, camera_id=camera))
    fast = DMControlEnv(name, quality="fast")
    fast.reset(seed=0)
    difference = np.abs(fast.draw((64, 64)).astype(int) - ours).mean()
    assert 0 < difference < 12  # the same scene, without its shadows
    env.close(), fast.close()


def test_a_camera_may_be_chosen():
    env, other = (dmc("walker-walk", obs="pixels", options={"camera": camera}) for camera in ("back", "side"))
    assert (env.reset(0).obs["image"] != other.reset(0).obs["image"]).any()
    with pytest.raises(ConfigError, match=r"no camera 'sid' \(did you mean side\?\)"):
        dmc("walker-walk", options={"camera": "sid"})


def test_terrain_is_drawn_as_it_is_after_a_reset():
    env, fresh = (DMControlEnv("quadruped-escape", quality="fast", camera="-1") for _ in range(2))
    env.reset(seed=0)
    first = env.draw(None)
    env.reset(seed=1)
    fresh.reset(seed=1)
    np.testing.assert_array_equal(env.draw(None), fresh.draw(None))
    assert (first != env.draw(None)).mean() > 0.1
    env.close(), fresh.close()


def test_state_pixels_and_both():
    state = {"orientations": (14,), "height": (1,), "velocity": (9,)}
    both = {**state, "image": (32, 48, 3)}
    for obs, shapes in [("auto", state), ("pixels", {"image": (32, 48, 3)}), ("both", both)]:
        env = dmc("walker-walk", obs=obs, image_size=(32, 48))
        entry = env.reset(0)
        assert {key: value.shape for key, value in entry.obs.items()} == shapes
        if "image" in shapes:
            assert len(np.unique(entry.obs["image"])) > 20 and "render_quality" in env.notes[0]
        else:
            assert env.notes == []  # nothing was drawn
        env.close()


def test_the_time_limit_is_last_and_not_terminal():
    env = dmc("cartpole-balance", action_repeat=100)
    env.reset(0)
    entries = [env.step(np.zeros(1)) for _ in range(10)]
    assert [entry.is_last for entry in entries] == [False] * 9 + [True] and not entries[-1].is_terminal
    assert sum(entry.reward for entry in entries) > 100  # rewards of a hundred steps each
    assert env.frame_rate == pytest.approx(1.0)
    longer = dmc("cartpole-balance", action_repeat=100, time_limit=12)
    longer.reset(0)
    assert [longer.step(np.zeros(1)).is_last for _ in range(12)] == [False] * 11 + [True]


def test_discount_zero_is_terminal():
    """No task of the suite ends by itself but those that are solved: the linear one, brought to rest."""
    env = dmc("lqr-lqr_2_1", action_bound=1.0)
    env.reset(0)
    physics = env.simulator._env.physics
    physics.data.qpos[:] = physics.data.qvel[:] = 0
    physics.forward()
    entry = env.step(np.zeros(1))
    assert entry.is_last and entry.is_terminal


def test_a_physics_error_cuts_the_episode_before_it():
    env = dmc("walker-walk")
    env.reset(0)
    env.simulator._env.physics.data.qvel[0] = 1e12
    entry = env.step(np.zeros(6))
    assert entry.is_last and not entry.is_terminal and np.isnan(entry.reward)
    assert np.isfinite(env.reset(0).obs["velocity"]).all()


def test_actions_reach_both_ends_of_the_tasks_own_range():
    for name in ("walker-walk", "fish-swim", "humanoid_CMU-stand"):
        env = dmc(name)
        spec = env.simulator._env._env.action_spec()
        for end, bound in ((-1.0, spec.minimum), (1.0, spec.maximum)):
            if np.isfinite(bound).all():
                native = env.simulator.to_env(np.full(env.spec.action.size, end))
                np.testing.assert_array_equal(native, np.broadcast_to(bound, spec.shape))


def test_bounds_of_ten_thousand_millions_are_none():
    with pytest.raises(SpaceError, match=r"-1e\+10 to 1e\+10.*set env\.action_bound"):
        dmc("lqr-lqr_2_1")
    env = dmc("lqr-lqr_2_1", action_bound=1.0)
    assert env.simulator.to_env(np.array([0.5])) == 0.5
    env.reset(0)
    assert any("half-width 1" in note for note in env.notes)


def test_versions_that_do_not_fit_are_named(monkeypatch):
    def load(*_, **__):
        raise AttributeError("'mujoco._structs.MjModel' object has no attribute 'flex_vertedge'")

    monkeypatch.setattr(suite, "load", load)
    with pytest.raises(
        RuntimeError, match=r"(?s)walker-walk failed.*flex_vertedge.*installed are mujoco 3.*known to work"
    ):
        dmc("walker-walk")


def test_without_dm_control_the_extra_is_named(without):
    without("dm_control")
    with pytest.raises(ConfigError, match=r"pip install 'jaxdreamer\[dmc\]'$"):
        dmc("walker-walk")


@pytest.mark.filterwarnings("ignore:.*Box observation space")
def test_it_is_a_gymnasium_environment():
    from gymnasium.utils.env_checker import check_env

    env = DMControlEnv("cheetah-run")
    check_env(env, skip_render_check=True)
    assert dmc_env.CAMERAS == {"quadruped": 2}
    assert wrap(DMControlEnv("cheetah-run"), EnvConfig(obs="pixels")).reset(0).obs["image"].shape == (64, 64, 3)
