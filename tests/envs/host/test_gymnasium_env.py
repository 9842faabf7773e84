"""Gymnasium ids and instances: what an end is, what a step is, what is seen, and what the errors say."""

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import jaxdreamer
from jaxdreamer import families
from jaxdreamer.config import ConfigError, EnvConfig, MissingExtra
from jaxdreamer.envs import AgentEnv, backends, make_env, register, wrap
from jaxdreamer.envs.base import EnvError, SpaceError
from tests.envs.toy import Chain, CountingEnv


def one_hot(index, size=5):
    return np.eye(size, dtype=np.float32)[index]


def play(env, seed=0, limit=50):
    """One episode of CountingEnv-like tasks, the reset entry included."""
    entries = [env.reset(seed)]
    while not entries[-1].is_last and len(entries) < limit:
        entries.append(env.step(one_hot(len(entries) % 5)))
    return entries


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right):
        assert a.obs.keys() == b.obs.keys()
        for key in a.obs:
            np.testing.assert_array_equal(a.obs[key], b.obs[key], err_msg=key)
        assert a[1:] == b[1:]


@pytest.mark.parametrize(
    ("terminate_at", "truncate_at", "time_limit", "length", "terminal"),
    [
        (7, 0, 0, 7, True),
        (0, 7, 0, 7, False),
        (7, 7, 0, 7, True),
        (0, 0, 7, 7, False),
        (7, 0, 7, 7, True),
        (9, 0, 7, 7, False),
        (7, 9, 8, 7, True),
    ],
)
def test_only_the_tasks_own_end_is_terminal(terminate_at, truncate_at, time_limit, length, terminal):
    env = wrap(CountingEnv(terminate_at=terminate_at, truncate_at=truncate_at), EnvConfig(time_limit=time_limit))
    entries = play(env)
    assert len(entries) == length + 1
    assert [entry.is_first for entry in entries] == [True] + [False] * length
    assert [entry.is_last for entry in entries] == [False] * length + [True]
    assert [entry.is_terminal for entry in entries] == [False] * length + [terminal]
    assert [entry.reward for entry in entries] == list(range(length + 1))
    assert entries[-1].obs["state"][1] == length  # the true final observation
    with pytest.raises(EnvError, match="after the episode's end; call reset"):
        env.step(one_hot(0))
    assert env.reset(1).is_first


def test_time_limit_counts_agent_steps():
    entries = play(wrap(CountingEnv(truncate_at=0), EnvConfig(time_limit=4, action_repeat=3)))
    assert len(entries) == 5 and entries[-1].obs["state"][1] == 12


@pytest.mark.parametrize("end", ["terminate_at", "truncate_at"])
def test_repeat_stops_at_the_end_and_sums_rewards(end):
    task = CountingEnv("vector", **{"truncate_at": 0, end: 7})
    env = wrap(task, EnvConfig(action_repeat=3, obs="both"))
    entries = play(env)
    assert task.raw_steps == 7
    assert [entry.reward for entry in entries] == [0, 1 + 2 + 3, 4 + 5 + 6, 7]
    assert entries[-1].is_last and entries[-1].is_terminal == (end == "terminate_at")
    assert task.renders == len(entries)  # once an agent step
    assert env.frame_rate == pytest.approx(10 / 3)


def test_frames_are_agent_steps_times_repeat():
    tasks = [CountingEnv(truncate_at=50) for _ in range(4)]
    lanes = [wrap(task, EnvConfig(action_repeat=2)) for task in tasks]
    agent_steps = 0
    for lane in lanes:
        lane.reset(0)
    while agent_steps * 2 < 1000:
        for lane in lanes:
            if lane.step(one_hot(0)).is_last:
                lane.reset(0)
            agent_steps += 1
    assert agent_steps == 500 and sum(task.raw_steps for task in tasks) == 1000


class OldStyle:
    """CountingEnv as old gym had it: 4-tuples, no info from reset, a seed method, render(mode)."""

    metadata = {"video.frames_per_second": 10}  # noqa: RUF012

    def __init__(self, limit_in_info=True, **options):
        self._new = CountingEnv(**options)
        self._limit_in_info = limit_in_info
        self.observation_space, self.action_space = self._new.observation_space, self._new.action_space
        self._seed = None

    def seed(self, seed=None):
        self._seed = seed

    def reset(self):
        observation, _ = self._new.reset(seed=self._seed)
        return observation

    def step(self, action):
        observation, reward, terminated, truncated, info = self._new.step(action)
        if truncated and self._limit_in_info:
            info["TimeLimit.truncated"] = not terminated
        return observation, reward, terminated or truncated, info

    def render(self, mode="human"):
        assert mode == "rgb_array"
        return self._new.render()

    def close(self):
        pass


class OldWithInfo(OldStyle):
    """Old gym 0.26: reset takes a seed and returns info, step returns 4 values still."""

    def reset(self, seed=None):
        return self._new.reset(seed=seed)

    seed = None


class ByRegistration(CountingEnv):
    pass


@pytest.mark.parametrize("options", [{"terminate_at": 6}, {"truncate_at": 6}, {"terminate_at": 6, "truncate_at": 6}])
@pytest.mark.parametrize("kind", ["vector", "image", "dict"])
def test_old_and_new_interfaces_give_the_same_timesteps(options, kind):
    config = EnvConfig(obs="auto" if kind != "vector" else "both")
    expected = play(wrap(CountingEnv(kind, **options), config), seed=5)
    assert len(expected) == 7
    assert_same(play(wrap(OldStyle(obs=kind, **options), config), seed=5), expected)
    assert_same(play(wrap(OldWithInfo(obs=kind, **options), config), seed=5), expected)
    gymnasium.register("Counting-v0", entry_point=ByRegistration, kwargs={"obs": kind, **options})
    try:
        config = EnvConfig(id="Counting-v0", obs=config.obs)
        assert_same(play(make_env(config), seed=5), expected)
        # Wrapped by gymnasium, its own automatic reset included: we reset ourselves, at the same moments.
        made = gymnasium.wrappers.Autoreset(gymnasium.make("Counting-v0", render_mode="rgb_array"))
        assert_same(play(wrap(made, config), seed=5), expected)
    finally:
        del gymnasium.registry["Counting-v0"]


def test_an_old_time_limit_that_is_not_told_counts_as_an_end():
    assert play(wrap(OldStyle(limit_in_info=False, truncate_at=6)))[-1].is_terminal
    assert not play(wrap(OldStyle(limit_in_info=True, truncate_at=6)))[-1].is_terminal


def test_a_pair_of_observations_is_not_taken_for_an_info():
    class Pair(gymnasium.Env):
        observation_space = spaces.Tuple((spaces.Discrete(3), spaces.Dict({"a": spaces.Discrete(4)})))
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return (2, {"a": 3})

        def step(self, action):
            return (1, {"a": 2}), 0.5, False, {}

    env = wrap(Pair())
    assert {key: int(value) for key, value in env.reset(0).obs.items()} == {"0": 2, "1.a": 3}
    assert {key: int(value) for key, value in env.step(one_hot(0, 2)).obs.items()} == {"0": 1, "1.a": 2}


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("obs", ["auto", "state", "pixels", "both"])
def test_classic_control(name, obs):
    env = make_env(EnvConfig(id=name, obs=obs, action_repeat=2))
    keys = {"auto": {"state"}, "state": {"state"}, "pixels": {"image"}, "both": {"state", "image"}}[obs]
    entries = [env.reset(3)]
    for _ in range(4):
        entries.append(env.step(np.eye(env.spec.action.size, dtype=np.float32)[0]))
    for entry in entries:
        assert set(entry.obs) == keys == set(env.spec.obs)
        for key, spec in env.spec.obs.items():
            assert (entry.obs[key].shape, str(entry.obs[key].dtype)) == (spec.shape, spec.dtype)
    if "image" in keys:
        assert env.spec.obs["image"].shape == (64, 64, 3)
        assert len(np.unique(entries[0].obs["image"])) > 1
        assert (entries[0].obs["image"] != entries[-1].obs["image"]).any()
    assert env.render().shape == {"Pendulum-v1": (500, 500, 3), "CartPole-v1": (400, 600, 3)}[name]
    env.close()


def test_pendulum_in_its_own_units():
    env, reference = make_env(EnvConfig()), gymnasium.make("Pendulum-v1").unwrapped
    expected, _ = reference.reset(seed=11)
    np.testing.assert_array_equal(env.reset(11).obs["state"], expected)
    for action in (-1.0, -0.25, 0.5, 1.0):
        expected, reward, *_ = reference.step(np.array([2 * action], np.float32))
        entry = env.step(np.array([action], np.float32))
        np.testing.assert_array_equal(entry.obs["state"], expected)
        assert entry.reward == np.float32(reward)


def test_limits_of_ids():
    def length(**settings):
        env = make_env(EnvConfig(**settings))
        env.reset(0)
        steps = 1
        while not env.step(np.zeros(1, np.float32)).is_last:
            steps += 1
        return steps

    assert length() == 200  # as registered
    assert length(action_repeat=8) == 25
    assert length(time_limit=30, action_repeat=2) == 30
    assert length(time_limit=300) == 300  # ours replaces the registered one


def test_pixels_of_any_size():
    frames = {}
    for size in ((64, 64), (48, 64), (96, 96)):
        env = wrap(CountingEnv(image_shape=(64, 64, 3)), EnvConfig(obs="pixels", image_size=size))
        frames[size] = env.reset(0).obs["image"]
        assert frames[size].shape == (*size, 3) == env.spec.obs["image"].shape
    np.testing.assert_array_equal(frames[64, 64], env.render())


def test_pixels_of_an_instance_that_cannot_render():
    task = CountingEnv(render_mode=None)
    with pytest.raises(ConfigError, match=r"env\.obs=pixels.*render_mode is None.*render_mode='rgb_array'"):
        wrap(task, EnvConfig(obs="pixels"))
    env = wrap(task)
    env.reset(0)
    with pytest.raises(EnvError, match="render_mode='rgb_array'"):
        env.render()
    with pytest.raises(SpaceError, match=r"env\.exclude=image"):
        wrap(CountingEnv("dict"), EnvConfig(obs="both"))
    both = wrap(CountingEnv("dict", image_shape=(16, 16, 1)), EnvConfig(obs="both", exclude=("image", "nested")))
    assert set(both.spec.obs) == {"image", "pos", "mode"} and both.spec.obs["image"].shape == (64, 64, 3)


def test_calls_in_the_wrong_order_and_bad_actions():
    task = CountingEnv(action="box")
    env = wrap(task)
    with pytest.raises(EnvError, match="before the first reset"):
        env.step(np.zeros(2))
    env.reset(0)
    for bad in (np.nan, np.inf):
        with pytest.raises(EnvError, match="not finite"):
            env.step(np.array([0.0, bad]))
    with pytest.raises(EnvError, match=r"shape \(2,\), found \(1, 2\)"):
        env.step(np.zeros((1, 2)))
    assert task.raw_steps == 0
    with pytest.raises(ConfigError, match=r"holds several environments.*set env.num_envs"):
        wrap(gymnasium.vector.SyncVectorEnv([CountingEnv]))


def test_every_action_space_reaches_its_environment():
    rng = np.random.default_rng(0)
    for name in ("discrete", "offset", "multi_discrete", "multi_binary", "box", "unbounded", "dict", "tuple"):
        env = wrap(CountingEnv(action=name, truncate_at=0), EnvConfig(action_bound=1.0))
        env.reset(0)
        for _ in range(20):
            env.step(rng.uniform(-1, 1, env.spec.action.size))  # CountingEnv raises for an action outside its space


@pytest.mark.parametrize("typo", ["Pendulum-v0", "Pendlum-v1", "pendulum-v1"])
def test_unknown_ids_name_the_nearest(typo):
    with pytest.raises(ConfigError, match=rf"{typo}.*did you mean Pendulum-v1"):
        make_env(EnvConfig(id=typo))


def test_ids_without_version_with_module_and_out_of_date(caplog):
    with caplog.at_level(logging.INFO):
        assert make_env(EnvConfig(id="Pendulum")).spec.obs["state"].shape == (3,)
        assert make_env(EnvConfig(id="gymnasium:CartPole-v0")).spec.obs["state"].shape == (4,)  # warns in gymnasium
    with pytest.raises(ConfigError, match="no_such_module"):
        make_env(EnvConfig(id="no_such_module:Pendulum-v1"))


def test_ids_are_made_without_checker_and_their_warnings_are_logged(caplog):
    def noisy(**_):
        warnings.warn("old code", DeprecationWarning, stacklevel=1)
        return CountingEnv()

    assert "PassiveEnvChecker" not in str(make_env(EnvConfig()).simulator._env)
    gymnasium.register("Noisy-v0", entry_point=noisy)
    try:
        with caplog.at_level(logging.INFO):
            make_env(EnvConfig(id="Noisy-v0"))
    finally:
        del gymnasium.registry["Noisy-v0"]
    assert "old code" in caplog.text


def test_dead_mujoco_versions_become_their_successor():
    def raise_mujoco_py_error(**_):
        raise ImportError("moved")

    gymnasium.register("Fake-v3", entry_point=raise_mujoco_py_error)
    gymnasium.register("Fake-v4", entry_point=lambda **_: Chain(length=6))
    gymnasium.register("Other-v3", entry_point=lambda **_: Chain(length=6))
    gymnasium.register("Other-v4", entry_point=lambda **_: Chain(length=7))
    try:
        assert make_env(EnvConfig(id="Fake-v3")).spec.obs["state"].shape == (6,)
        assert make_env(EnvConfig(id="Other-v3")).spec.obs["state"].shape == (6,)
    finally:
        for name in ("Fake-v3", "Fake-v4", "Other-v3", "Other-v4"):
            del gymnasium.registry[name]


def failing(error):
    def entry(**_):
        raise error

    return entry


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            gymnasium.error.DependencyNotInstalled('MuJoCo is not installed, run `pip install "gymnasium[mujoco]"`'),
            "mujoco",
        ),
        (ModuleNotFoundError("No module named 'mujoco'"), "mujoco"),
        (gymnasium.error.DependencyNotInstalled('pygame is not installed, run `pip install "x"`'), "classic"),
    ],
)
def test_missing_libraries_name_the_extra(error, line):
    gymnasium.register("Failing-v0", entry_point=failing(error))
    try:
        with pytest.raises(MissingExtra) as caught:
            make_env(EnvConfig(id="Failing-v0"))
    finally:
        del gymnasium.registry["Failing-v0"]
    assert str(caught.value).splitlines()[-1] == f"pip install 'jaxdreamer[{line}]'"
    assert isinstance(caught.value, ImportError) and "Failing-v0" in str(caught.value)


def test_a_library_missing_at_the_first_frame():
    class NoDrawing(CountingEnv):
        def render(self):
            raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    with pytest.raises(MissingExtra, match=r"jaxdreamer\[classic\]"):
        wrap(NoDrawing(), EnvConfig(obs="pixels")).reset(0)


def test_mujoco_without_mujoco_or_dead_versions():
    try:
        import mujoco  # noqa: F401
    except ImportError:
        for name in ("HalfCheetah-v4", "HalfCheetah-v2"):
            with pytest.raises(MissingExtra, match=r"pip install 'jaxdreamer\[mujoco\]'"):
                make_env(EnvConfig(id=name))
    else:
        assert make_env(EnvConfig(id="HalfCheetah-v2")).spec.obs["state"].shape == (17,)


def test_backends():
    assert {"gym", "toy"} <= set(backends())
    assert isinstance(make_env(EnvConfig(backend="gymnasium")), AgentEnv)
    with pytest.raises(ConfigError, match=r"'gmy' \(did you mean gym\?\).*dmc, gym,.*toy"):
        make_env(EnvConfig(backend="gmy"))
    register("mine", lambda config: wrap(Chain(length=int(config.id)), config))
    try:
        assert "mine" in backends()
        assert make_env(EnvConfig(backend="mine", id="6")).spec.obs["state"].shape == (6,)
    finally:
        del families._registered["mine"]


def test_toys_by_name():
    for name in ("chain", "counting", "counting_image", "counting_dict"):
        assert make_env(EnvConfig(backend="toy", id=name)).reset(0).is_first
    with pytest.raises(ConfigError, match="did you mean chain"):
        make_env(EnvConfig(backend="toy", id="chian"))
    chain = make_env(EnvConfig(backend="toy", id="chain"))
    chain.reset(0)
    entry = chain.step(one_hot(1, 2))
    while not entry.is_last:
        entry = chain.step(one_hot(1, 2))
    assert entry.is_terminal and entry.reward == 1


def test_no_jax_in_the_room():
    script = """
import sys
import jaxdreamer.envs.base
import jaxdreamer.envs
assert "gymnasium" not in sys.modules, "importing the room imports gymnasium"
from jaxdreamer.config import EnvConfig
env = jaxdreamer.envs.make_env(EnvConfig(obs="both"))
env.reset(0)
import jaxdreamer.envs.host.robotics_env
assert not {"jax", "jaxlib", "flax", "optax"} & set(sys.modules), "the room imports jax"
"""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", script], check=True, timeout=60, cwd=Path(jaxdreamer.__file__).parents[1]
    )
