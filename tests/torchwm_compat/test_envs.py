"""Environments in torchwm's old shape."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from unittest.mock import Mock

import gymnasium
import numpy as np
import pytest

from jaxdreamer import ConfigError, EnvError
from tests.envs.toy import CountingEnv
from tests.torchwm_compat import cases
from torchwm_compat import api
from torchwm_compat.agent import dreamer
from torchwm_compat.config.settings import DreamerConfig
from torchwm_compat.envs import image_env as envs
from torchwm_compat.envs import mujoco, robotics, wrappers
from torchwm_compat.envs.image_env import GymImageEnv


def test_pendulum_is_seen_and_told():
    """T12: rendered pixels, and the vector itself."""
    env = GymImageEnv("Pendulum-v1", seed=3, size=(32, 48))
    obs = env.reset()
    assert obs["image"].shape == (3, 32, 48) == env.observation_space["image"].shape and obs["image"].dtype == np.uint8
    assert len(np.unique(obs["image"].reshape(3, -1), axis=1).T) > 3 and obs["state"].shape == (3,)
    assert env.action_space.low == -2 and env.action_space.high == 2
    obs, reward, done, info = env.step(np.array([5.0]))
    assert isinstance(reward, float) and done is False
    assert info["action"] == 2.0 and info["discount"] == 1.0
    assert env.render().ndim == 3
    with pytest.raises(ValueError, match="Only render mode 'rgb_array' is supported"):
        env.render(mode="human")
    env.close()


def test_the_same_seed_gives_the_same_episode_and_the_same_random_actions():
    """T28: seeding has an effect."""

    def play(seed):
        env = wrappers.NormalizeActions(GymImageEnv("Pendulum-v1", seed=seed, size=(16, 16)))
        states, actions = [env.reset()["state"]], []
        for _ in range(3):
            actions.append(env.action_space.sample())
            states.append(env.step(actions[-1])[0]["state"])
        env.close()
        return np.concatenate(states), np.concatenate(actions)

    for one, two, other in zip(play(1), play(1), play(2)):
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(one, other)


def test_choices_are_numbers_of_which_the_largest_counts():
    env = GymImageEnv(CountingEnv(action="discrete"), seed=1, size=(16, 16))
    obs = env.reset()
    assert env.action_space.shape == (5,) and env.action_space.low.min() == -1
    obs, reward, done, info = env.step(np.array([-0.2, 0.7, 0.1, 0, 0], np.float32))
    assert (reward, done) == (1.0, False) and obs["image"].shape == (3, 16, 16)
    np.testing.assert_array_equal(info["action"], [-1, 1, -1, -1, -1])


def test_ends_by_time_and_by_the_task():
    """T15."""
    for ends, expected in (({"truncate_at": 2}, (1.0, True)), ({"terminate_at": 2, "truncate_at": 0}, (0.0, None))):
        env = GymImageEnv(CountingEnv(action="box", **ends), size=(16, 16))
        env.reset()
        env.step([0.0, 0.0])
        _, _, done, info = env.step([0.0, 0.0])
        assert done and (float(info["discount"]), info.get("TimeLimit.truncated")) == expected
        with pytest.raises(RuntimeError, match="Must call reset"):
            env.step([0.0, 0.0])


def test_images_of_the_tasks_own_are_its_image():
    env = GymImageEnv(CountingEnv("dict", action="box"), size=(16, 16))
    obs = env.reset()
    assert env.shows_images and obs["image"].shape == (3, 16, 16)
    assert obs["state"].shape == (9,)  # all vectors together


def test_an_instance_is_used_and_never_closed():
    class Mine(CountingEnv):
        closed = False

        def close(self):
            self.closed = True

    mine = Mine(action="box")
    env = GymImageEnv(mine, size=(16, 16))
    env.reset()
    env.close()
    env.reset()
    assert mine.resets == 2 and not mine.closed


# ---- wrappers -----------------------------------------------------------------------------------------------------------


class Plain:
    """Counts what it is given."""

    def __init__(self, low=-2.0, high=2.0, length=100):
        self.action_space = gymnasium.spaces.Box(np.float32(low), np.float32(high), (2,))
        self.length, self.time, self.seen = length, 0, []

    def reset(self):
        self.time = 0
        return {"image": np.zeros((3, 8, 8), np.uint8)}

    def step(self, action):
        self.time, self.seen = self.time + 1, [*self.seen, np.array(action)]
        return self.reset_obs(), 1.5, self.time == self.length, {"action": np.array(action)}

    def reset_obs(self):
        return {"image": np.full((3, 8, 8), self.time, np.uint8)}


def test_action_repeat_adds_up_and_stops_at_the_end():
    env = wrappers.ActionRepeat(Plain(length=5), 3)
    env.reset()
    assert env.step([0, 0])[1:3] == (4.5, False) and env.step([0, 0])[1:3] == (3.0, True)


def test_normalized_actions():
    """T11."""
    plain = Plain(low=0.0, high=4.0)
    env = wrappers.NormalizeActions(plain)
    assert env.action_space.low.min() == -1 and env.action_space.high.max() == 1
    assert env.action_space is env.action_space
    env.reset()
    info = env.step([-1.0, 0.5])[3]
    np.testing.assert_allclose(plain.seen[0], [0.0, 3.0])
    np.testing.assert_allclose(info["action"], [-1.0, 0.5])


def test_a_time_limit_says_that_it_is_one():
    env = wrappers.TimeLimit(Plain(), 2)
    with pytest.raises(RuntimeError, match="Must reset environment"):
        env.step([0, 0])
    env.reset()
    assert not env.step([0, 0])[2]
    _, _, done, info = env.step([0, 0])
    assert done and info["TimeLimit.truncated"] and info["discount"] == 1
    ends = wrappers.TimeLimit(Plain(length=2), 2)
    ends.reset()
    ends.step([0, 0])
    assert "TimeLimit.truncated" not in ends.step([0, 0])[3]


# ---- make_env: torchwm's calls, by torchwm's paths -------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    made = {}
    for name in ("DeepMindControlEnv", "GymImageEnv", "BraxImageEnv", "UnityMLAgentsEnv", "make_mujoco_env_from_config",
                 "make_robotics_env"):  # fmt: skip
        made[name] = Mock(name=name)
        monkeypatch.setattr(dreamer, name, made[name])
    for name in ("ActionRepeat", "NormalizeActions", "TimeLimit"):
        made[name] = Mock(name=name, side_effect=lambda env, *args: env)
        monkeypatch.setattr(dreamer.env_wrapper, name, made[name])
    return SimpleNamespace(**made)


def config(**changes):
    return DreamerConfig(
        **{"env": "task", "seed": 7, "image_size": (32, 48), "time_limit": 301, "action_repeat": 2, **changes}
    )


def test_the_wrapper_stack(calls):
    env = dreamer.make_env(config(env_backend="gym"))
    made = calls.GymImageEnv.return_value
    assert env is made
    calls.ActionRepeat.assert_called_once_with(made, 2)
    calls.NormalizeActions.assert_called_once_with(made)
    calls.TimeLimit.assert_called_once_with(made, 150)


def test_the_backends_calls(calls):
    dreamer.make_env(config())
    calls.DeepMindControlEnv.assert_called_once_with("task", 7, size=(32, 48))
    for name in ("gym", "gymnasium", "generic"):
        calls.GymImageEnv.reset_mock()
        dreamer.make_env(config(env_backend=name))
        calls.GymImageEnv.assert_called_once_with("task", seed=7, size=(32, 48), render_mode="rgb_array")
    given = config(env_backend="mujoco")
    dreamer.make_env(given)
    calls.make_mujoco_env_from_config.assert_called_once_with(given, (32, 48))
    dreamer.make_env(config(env_backend="robotics"))
    calls.make_robotics_env.assert_called_once_with("task", seed=7, size=(32, 48), render_mode="rgb_array")
    dreamer.make_env(config(env_backend="brax", brax_backend="mjx"))
    calls.BraxImageEnv.assert_called_once_with("task", seed=7, size=(32, 48), backend="mjx", episode_length=301,
                                               auto_reset=False, jit=True, suppress_warp_warnings=True)  # fmt: skip
    dreamer.make_env(config(env_backend="unity_mlagents", unity_file_name="env.exe", unity_behavior_name="B"))
    calls.UnityMLAgentsEnv.assert_called_once_with(
        file_name="env.exe", behavior_name="B", seed=7, size=(32, 48), worker_id=0, base_port=5005, no_graphics=True,
        time_scale=20.0, quality_level=1, max_episode_steps=301)  # fmt: skip
    with pytest.raises(ConfigError, match="unity_file_name must be provided when env_backend='unity_mlagents'"):
        dreamer.make_env(config(env_backend="unity"))
    instance = object()
    calls.GymImageEnv.reset_mock()
    dreamer.make_env(config(env_instance=instance))
    assert calls.GymImageEnv.call_args.args == (instance,)


def test_signatures():
    def names(function):
        return list(inspect.signature(function).parameters)

    assert names(envs.DeepMindControlEnv) == ["name", "seed", "size", "camera"]
    assert names(GymImageEnv) == ["env", "seed", "size", "render_mode"]
    assert names(envs.BraxImageEnv) == ["env", "seed", "size", "backend", "episode_length", "auto_reset", "jit",
                                        "suppress_warp_warnings"]  # fmt: skip
    assert names(envs.UnityMLAgentsEnv) == ["file_name", "behavior_name", "seed", "size", "worker_id", "base_port",
                                            "no_graphics", "time_scale", "quality_level", "max_episode_steps",
                                            "python"]  # fmt: skip
    assert names(mujoco.MuJoCoImageEnv) == ["xml_path", "xml_string", "binary_path", "assets", "seed", "size", "camera",
                                            "reward_fn", "terminal_fn", "frame_skip", "reset_noise_scale",
                                            "default_control_range"]  # fmt: skip
    assert names(mujoco.make_mujoco_env) == ["model", "backend", "seed", "size", "render_mode", "gym_kwargs", "kwargs"]
    assert names(dreamer.make_env) == ["args"] and names(mujoco.make_mujoco_env_from_config) == ["args", "size"]
    assert names(api.make_env) == ["env_id", "backend", "kwargs"]


# ---- MuJoCo -------------------------------------------------------------------------------------------------------------

CART = """<mujoco><worldbody><camera name="side" pos="0 -3 1" xyaxes="1 0 0 0 0 1"/><light pos="0 0 3"/>
<body><joint name="slide" type="slide" axis="1 0 0"/><geom type="box" size=".2 .1 .1" rgba="1 0 0 1"/></body></worldbody>
<actuator><motor joint="slide" ctrlrange="-2 2" ctrllimited="true"/></actuator></mujoco>"""


@pytest.fixture
def native():
    pytest.importorskip("mujoco")


def test_a_native_model_with_callbacks(native):
    env = mujoco.MuJoCoImageEnv(
        xml_string=CART,
        size=(32, 40),
        camera="side",
        frame_skip=3,
        reward_fn=lambda model, data, action, info: float(action.sum()),
        terminal_fn=lambda model, data, info: info["time"] > 0.008,
    )
    assert env.reset(seed=123)["image"].shape == (3, 32, 40) == env.observation_space["image"].shape
    assert env.action_space.shape == (1,) and env.render().shape == (32, 40, 3)
    obs, reward, done, info = env.step(np.array([3.0], np.float32))
    assert reward == 2.0 and info["action"] == 2.0 and info["qpos"].shape == (1,) and not done
    assert env.step([0.0])[2] and obs["image"].max() > 0
    env.close()
    with pytest.raises(ValueError, match="Provide exactly one of xml_path, xml_string, or binary_path"):
        mujoco.MuJoCoImageEnv()


def test_a_model_without_callbacks_has_no_task(native, tmp_path):
    path = tmp_path / "cart.xml"
    path.write_text(CART)
    made = mujoco.make_mujoco_env_from_config(
        DreamerConfig(env_backend="mujoco", env=str(path), mujoco_camera="side", mujoco_frame_skip=2), (16, 24)
    )
    assert isinstance(made, mujoco.MuJoCoImageEnv) and (made._camera, made._frame_skip) == ("side", 2)
    made.reset()
    assert made.step([1.0])[1:3] == (0.0, False)
    made.close()
    with pytest.raises(ValueError, match=r"Unknown MuJoCo backend='x'\. Use 'auto', 'native', or 'gymnasium'\."):
        mujoco.make_mujoco_env("Humanoid-v4", backend="x")
    with pytest.raises(ValueError, match="A Gymnasium MuJoCo environment id, XML path/string, or MJB path is required"):
        mujoco.make_mujoco_env()


def test_a_urdf_is_a_model_and_has_nothing_to_decide(native, tmp_path):
    path = tmp_path / "Arm.URDF"
    path.write_text('<robot name="arm"><link name="base"/></robot>')
    for changes in ({"env": str(path)}, {"mujoco_xml_path": path}, {"env": path.read_text()}):
        with pytest.raises(ConfigError, match=r"no actuators.*a URDF can have none"):
            mujoco.make_mujoco_env_from_config(DreamerConfig(env_backend="mujoco", **changes), (16, 24))


def test_robotics_ids_are_those_of_the_installed_package():
    pytest.importorskip("gymnasium_robotics")
    robotics.register_gymnasium_robotics_envs()
    found = robotics.list_gymnasium_robotics_envs()
    assert "FetchReach-v4" in found and "HalfCheetah-v2" in found and found == sorted(found)


def test_the_other_entry():
    env = api.make_env("Pendulum-v1", size=(16, 16))
    assert isinstance(env, GymImageEnv)
    assert isinstance(api.make_env("walker-walk"), envs.DeepMindControlEnv)
    assert isinstance(api.make_env("ant", backend="brax"), envs.BraxImageEnv)
    assert isinstance(api.make_env("FetchReach-v4", backend="gymnasium_robotics"), robotics.RoboticsEnv)
    assert cases.config().env == "Pendulum-v1"


def test_a_picture_that_is_not_finite_begins_no_episode():
    class Blind(CountingEnv):
        always = False

        def __init__(self):
            super().__init__("image")
            self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (16, 16, 3), np.float32)

        def _observe(self):
            return np.full((16, 16, 3), np.nan if self.always or self.resets % 2 else 0.6, np.float32)

    env = GymImageEnv(Blind(), size=(16, 16))
    assert env.reset()["image"].min() == 153
    env._env.always = True
    with pytest.raises(EnvError, match="pictures were not finite after 20 resets in a row"):
        env.reset()


def test_stacked_frames_are_one_image():
    env = GymImageEnv(gymnasium.wrappers.FrameStackObservation(CountingEnv("image"), 4), size=(16, 16))
    assert env.observation_space["image"].shape == (12, 16, 16) == env.reset()["image"].shape
