"""Gymnasium-Robotics: every registered id either works or says what to use instead."""

from __future__ import annotations

import re

import gymnasium
import numpy as np
import pytest

from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs import make_env

pytest.importorskip("gymnasium_robotics")

from jaxdreamer.envs.host import robotics_env

robotics_env.register()
ALL = sorted(name for name, spec in gymnasium.registry.items() if "gymnasium_robotics" in str(spec.entry_point))
DEAD = [name for name in ALL if "MujocoPy" in str(gymnasium.registry[name].entry_point)]


def family(name):
    """Ids that differ only in reward, layout or which object's pose is asked for share an entry point and a model."""
    spec = gymnasium.registry[name]
    return str(spec.entry_point), re.sub(r"Dense|Sparse", "", name.rpartition("-v")[0]).split("_")[0], name[-1]


FAMILIES = {family(name): name for name in ALL if name not in DEAD}


def robotics(name, **options):
    return make_env(EnvConfig(backend="robotics", id=name, **options))


def test_there_are_ids_to_walk():
    assert len(ALL) > 100 and len(DEAD) > 10 and len(FAMILIES) > 15
    assert {"FetchReach-v4", "AdroitHandDoor-v1", "HalfCheetah-v2", "Hopper-v3"} <= set(robotics_env.tasks())
    assert not set(DEAD) & set(robotics_env.tasks())


@pytest.mark.parametrize("name", FAMILIES.values())
def test_ids_make_reset_and_step(name):
    """One of each family; the others are walked below."""
    walk(name)


def walk(name):
    if name == "Pusher-v2":  # its model is not the same in MuJoCo 3
        with pytest.raises(ConfigError, match=r"Pusher-v2 is not available.*use Pusher-v5"):
            robotics(name)
        return
    env = robotics(name)
    assert env.reset(0).is_first and np.isfinite(env.step(np.zeros(env.spec.action.size)).reward)
    env.close()


def test_every_other_id_makes_resets_and_steps():
    for name in ALL:
        if name not in DEAD and name not in FAMILIES.values():
            walk(name)


@pytest.mark.parametrize("name", DEAD)
def test_ids_for_dead_bindings_name_their_successor(name):
    with pytest.raises(ConfigError, match=rf"{name} is not available.*mujoco-py.*; use (\S+)$") as caught:
        robotics(name)
    successor = str(caught.value).rpartition(" ")[2]
    assert successor in robotics_env.tasks() and successor.rpartition("-v")[0] == name.rpartition("-v")[0]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("FetchReach-v3", "FetchReach-v3 is gone: its episodes began from a wrong state of the arm; use FetchReach-v4"),
        ("FetchPush-v2", "use FetchPush-v4"),
        ("HandReach-v1", "HandReach-v1 is gone; use HandReach-v3"),
        ("AdroitHandDoor-v0", "use AdroitHandDoor-v1"),
        ("HalfCheetah-v1", "HalfCheetah-v1 is gone; use HalfCheetah-v5"),
        ("FetchReech-v4", r"did you mean FetchReach"),
    ],
)
def test_ids_that_are_gone_name_what_to_use(name, says):
    with pytest.raises(ConfigError, match=says):
        robotics(name)


def test_the_old_ids_of_tutorials_run_with_one_line_in_the_log(caplog):
    from jaxdreamer.envs.host import gymnasium_env

    gymnasium_env._told.clear()
    for _ in range(2):
        env = robotics("HalfCheetah-v2")
        assert env.simulator._env.spec.id == "HalfCheetah-v4"
        env.reset(0)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert lines == [
        "HalfCheetah-v2 needs mujoco-py, which is no longer maintained; making HalfCheetah-v4, the same task"
    ]


def test_goal_dictionaries_are_flattened_and_drawn():
    env = robotics("FetchReach-v4", obs="both", image_size=(48, 64))
    entry = env.reset(0)
    assert {key: value.shape for key, value in entry.obs.items()} == {
        "observation": (10,), "achieved_goal": (3,), "desired_goal": (3,), "image": (48, 64, 3),
    }  # fmt: skip
    assert len(np.unique(entry.obs["image"])) > 50
    np.testing.assert_allclose(entry.obs["achieved_goal"], entry.obs["observation"][:3], atol=1e-3)
    for _ in range(50):
        entry = env.step(np.zeros(4))
    assert entry.is_last and not entry.is_terminal  # 50 steps is its limit
    env.close()


def test_fetch_begins_within_its_range():
    """The wrong initial state of v3 put the gripper far from where goals are."""
    env = robotics("FetchReach-v4")
    distances = []
    for seed in range(50):
        obs = env.reset(seed).obs
        distances.append(np.linalg.norm(obs["achieved_goal"] - obs["desired_goal"]))
    assert max(distances) < 0.15 * np.sqrt(3) + 0.01 and np.std(distances) > 0.01
    env.close()


def test_two_environments_do_not_draw_into_each_other():
    one, two = robotics("FetchReach-v4", obs="pixels"), robotics("PointMaze_UMaze-v3", obs="pixels")
    arm, maze = one.reset(0).obs["image"], two.reset(0).obs["image"]
    np.testing.assert_array_equal(one.simulator.observe()["image"], arm)
    np.testing.assert_array_equal(two.simulator.observe()["image"], maze)
    one.close()
    np.testing.assert_array_equal(two.simulator.observe()["image"], maze)
    two.close()


def test_without_the_library_the_extra_is_named(without):
    without("gymnasium_robotics")
    with pytest.raises(ConfigError, match=r"pip install 'jaxdreamer\[robotics\]'$"):
        robotics("FetchReach-v4")
