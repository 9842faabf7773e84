"""Lanes side by side: one entry a call, seeded episodes, and restoring them exactly."""

import json

import numpy as np
import pytest

from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs import EnvError, LocalVectorEnv, episode_seed, make_env, wrap
from jaxdreamer.envs.host.vector import stack
from tests.envs.toy import Chain, CountingEnv


def counting(lengths, **config):
    """Lanes whose episodes last ``lengths`` steps."""
    return LocalVectorEnv([wrap(CountingEnv(truncate_at=n), EnvConfig(**config)) for n in lengths], seed=3)


def lanes(count, seed=0, **config):
    return LocalVectorEnv([lambda: make_env(EnvConfig(**config))] * count, seed)


def assert_same(left, right):
    assert left.obs.keys() == right.obs.keys()
    for key in left.obs:
        np.testing.assert_array_equal(left.obs[key], right.obs[key], err_msg=key)
    for a, b in zip(left[1:], right[1:]):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shapes_and_types(count):
    env = lanes(count, obs="both", image_size=(16, 24))
    assert env.num_envs == count and env.spec.action.size == 1
    for _ in range(3):
        entry = env.step(np.zeros((count, 1)))
        assert entry.obs["image"].shape == (count, 16, 24, 3) and entry.obs["image"].dtype == np.uint8
        assert entry.obs["state"].shape == (count, 3) and entry.obs["state"].dtype == np.float32
        assert entry.reward.shape == (count,) and entry.reward.dtype == np.float32
        assert all(flag.shape == (count,) and flag.dtype == bool for flag in entry[2:])
    assert len(np.unique(entry.obs["state"], axis=0)) == count  # lanes differ
    env.close()


def test_an_end_and_the_reset_after_it_are_two_entries():
    env = counting([2, 3])
    actions = np.tile(np.eye(5)[1], (2, 1))
    assert env.reset_mask.tolist() == [True, True]
    rows = []
    for _ in range(7):
        mask = env.reset_mask
        entry = env.step(actions)
        np.testing.assert_array_equal(entry.is_first, mask)
        assert not entry.is_terminal.any()
        rows.append((entry.obs["state"][:, 1], entry.reward, entry.is_first, entry.is_last))
    time, reward, first, last = (np.stack(column, 1).tolist() for column in zip(*rows))
    assert time == [[0, 1, 2, 0, 1, 2, 0], [0, 1, 2, 3, 0, 1, 2]]
    assert reward == time  # CountingEnv pays its time, and a reset pays nothing
    assert [[i for i, x in enumerate(row) if x] for row in first] == [[0, 3, 6], [0, 4]]
    assert [[i for i, x in enumerate(row) if x] for row in last] == [[2, 5], [3]]
    assert env.agent_steps == 4 + 5
    assert [lane["episode"] for lane in env.state()["lanes"]] == [2, 1]


def test_the_action_of_a_reset_is_ignored():
    env = counting([4])
    env.step(np.full((1, 5), np.nan))
    with pytest.raises(EnvError, match="not finite"):
        env.step(np.full((1, 5), np.nan))


def test_steps_in_four_lanes_with_repeat_two():
    tasks = [CountingEnv(truncate_at=50) for _ in range(4)]
    env = LocalVectorEnv([wrap(task, EnvConfig(action_repeat=2)) for task in tasks], seed=0)
    calls = 0
    while env.agent_steps < 500:
        env.step(np.tile(np.eye(5)[0], (4, 1)))
        calls += 1
    assert env.agent_steps == 500 and sum(task.raw_steps for task in tasks) == 1000
    assert calls == 125 + 5 and [task.resets for task in tasks] == [5] * 4  # 25 agent steps an episode


def test_seeds():
    seeds = {episode_seed(seed, lane, episode) for seed in range(5) for lane in range(5) for episode in range(5)}
    assert len(seeds) == 125 and all(0 <= seed < 2**31 for seed in seeds)

    def trajectory(seed):
        env, rng = lanes(2, seed, time_limit=5), np.random.default_rng(0)
        return np.stack([env.step(rng.uniform(-1, 1, (2, 1))).obs["state"] for _ in range(15)])

    first = trajectory(7)
    np.testing.assert_array_equal(first, trajectory(7))
    assert (first != trajectory(8)).any()
    assert (first[:, 0] != first[:, 1]).any()
    assert (first[0] != first[6]).any(axis=1).all()  # two episodes of one lane
    alone = make_env(EnvConfig())
    np.testing.assert_array_equal(alone.reset(episode_seed(7, 1, 1)).obs["state"], first[6, 1])


@pytest.mark.parametrize("obs", ["state", "pixels"])
@pytest.mark.parametrize("entries", [1, 4, 9, 11, 12, 17])
def test_restored_lanes_go_on_exactly(obs, entries):
    """At a reset (1, 12), in mid-episode, at an end (11): eleven entries an episode."""
    config = {"obs": obs, "time_limit": 10, "image_size": (32, 32)}
    env, rng = lanes(2, 5, **config), np.random.default_rng(1)
    played = [[], []]
    for _ in range(entries):
        mask, actions = env.reset_mask, rng.uniform(-1, 1, (2, 1)).astype(np.float32)
        latest = env.step(actions)
        for lane in range(2):
            played[lane] = [] if mask[lane] else [*played[lane], actions[lane]]
    state = json.loads(json.dumps(env.state()))

    other = lanes(2, 99, **config)
    other.step(np.zeros((2, 1)))
    restored = other.restore(state, [np.array(actions).reshape(-1, 1) for actions in played])
    assert_same(stack(restored), latest)
    assert other.state() == env.state()
    np.testing.assert_array_equal(other.reset_mask, env.reset_mask)
    for _ in range(13):
        actions = rng.uniform(-1, 1, (2, 1))
        assert_same(other.step(actions), env.step(actions))


class Plain:
    """An environment of the protocol that is not an AgentEnv."""

    def __init__(self, env):
        self._env, self.spec, self.frame_rate, self.can_render = env, env.spec, env.frame_rate, True
        self.reset, self.step, self.close = env.reset, env.step, env.close


@pytest.mark.parametrize("plain", [False, True])
def test_restoring_draws_once_unless_it_must(plain):
    tasks = [CountingEnv(), CountingEnv()]
    env, other = (
        LocalVectorEnv([Plain(e) if plain else e], 1) for e in (wrap(task, EnvConfig(obs="pixels")) for task in tasks)
    )
    for _ in range(6):
        latest = env.step(np.eye(5)[:1])
    assert_same(stack(other.restore(env.state(), [np.tile(np.eye(5)[:1], (5, 1))])), latest)
    assert tasks[1].renders == (6 if plain else 1) and tasks[1].raw_steps == 5
    assert other.state() == env.state()


def test_a_task_without_determinism_shows():
    class Drifting(Chain):
        starts = iter([0, 3])

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.cell = next(self.starts)
            return self._observe(), {}

    env = LocalVectorEnv([wrap(Drifting())], 0)
    latest = env.step(np.eye(2)[:1])
    assert (env.restore(env.state(), [np.zeros((0, 2))])[0].obs["state"] != latest.obs["state"]).any()


def test_restoring_a_fresh_environment_and_wrong_arguments():
    env = counting([4, 4])
    fresh = env.state()
    env.step(np.zeros((2, 5)))
    env.step(np.eye(5)[:2])
    assert env.restore(fresh, [np.zeros((0, 5))] * 2) == [None, None]
    assert env.reset_mask.all() and env.step(np.zeros((2, 5))).is_first.all()
    env.step(np.eye(5)[:2])
    half = env.restore(env.state(), [None, np.eye(5)[:1]])
    assert half[0] is None and not half[1].is_first
    assert env.reset_mask.tolist() == [True, False]
    env.abandon(1)
    assert env.step(np.eye(5)[:2]).is_first.all()
    env.step(np.eye(5)[:2])
    with pytest.raises(EnvError, match="had done 1 steps in its episode, found 2 actions"):
        env.restore(env.state(), [np.eye(5)[:2]] * 2)
    with pytest.raises(EnvError, match="2 lanes"):
        env.restore(env.state(), [np.eye(5)[:1]])
    with pytest.raises(EnvError, match=r"\(2, 5\), found \(5,\)"):
        env.step(np.zeros(5))


def test_an_error_says_which_lane_it_came_from():
    class Breaking(CountingEnv):
        def step(self, action):
            if self.time == 3:
                raise ZeroDivisionError("the task's own")
            return super().step(action)

    env = LocalVectorEnv([wrap(CountingEnv()), wrap(Breaking())], 0)
    with pytest.raises(
        EnvError, match=r"step of <Breaking.*ZeroDivisionError: the task's own \(.*test_vector"
    ) as caught:
        for _ in range(9):
            env.step(np.eye(5)[:2])
    assert caught.value.__notes__ == ["in lane 1, episode 0, agent step 3"]
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_lanes_must_agree_and_are_closed_when_they_do_not():
    closed = []

    class Closing(CountingEnv):
        def close(self):
            closed.append(self)

    with pytest.raises(ConfigError, match="one spec"):
        LocalVectorEnv([wrap(Closing()), wrap(Closing("image"))])
    assert len(closed) == 2
    with pytest.raises(ConfigError, match="at least one"):
        LocalVectorEnv([])
