"""Evaluation on the host: episodes that do not end, and such that break off."""

from __future__ import annotations

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import config as configs
from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.device import pure
from jaxdreamer.envs.host.gymnasium_env import wrap
from jaxdreamer.envs.host.vector import LocalVectorEnv
from jaxdreamer.envs.host.workers.pool import WorkerVectorEnv
from jaxdreamer.train.device import evaluate as on_device
from jaxdreamer.train.host import evaluate
from tests.envs.host.troubled import troubled
from tests.envs.toy import CountingEnv
from tests.train.test_program import looking_policy


class Broken(CountingEnv):
    """An observation that is not finite at the raw steps in ``bad``, and at the resets (from 1) in ``stillborn``."""

    bad: tuple[int, ...] = ()
    stillborn: tuple[int, ...] = ()

    def reset(self, **settings):
        observation, info = super().reset(**settings)
        return observation * (np.nan if self.resets in self.stillborn else 1), info

    def step(self, action):
        observation, *rest = super().step(action)
        return observation * (np.nan if self.raw_steps in self.bad else 1), *rest


@functools.cache
def prepared():
    """Configuration, a policy's evaluation and its parameters, for what all cases here observe."""
    config = configs.preset("dreamer_v1,tiny", action_repeat=1)
    spec = wrap(CountingEnv(), config.env).spec
    algorithm = make_algorithm(config, spec)
    state = algorithm.init(jax.random.key(0))
    return config, algorithm.policy, algorithm.acting(state.params, state.aux)


def play(episodes, lanes=2, film=False, **settings):
    """Evaluate a fresh policy; the reward of step t is t."""
    config, policy, params = prepared()
    names = {name: settings.pop(name) for name in ("bad", "stillborn", "step") if name in settings}
    kind = type("Case", (Broken,), names)

    def make_envs(count, seed):
        return LocalVectorEnv([wrap(kind(**settings), config.env) for _ in range(count)], seed=seed)

    return evaluate.make_evaluate(policy, make_envs, jax.random.key(1), lanes)(params, episodes, seed=0, film=film)


def test_an_episode_that_never_ends_is_cut_and_said_so(monkeypatch, caplog):
    monkeypatch.setattr(evaluate, "LONGEST_EPISODE", 7)
    with caplog.at_level(logging.WARNING, "jaxdreamer"):
        found = play(3, truncate_at=0)
    assert found.returns == [sum(range(8))] * 3 and found.lengths == [7] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "an evaluation episode was cut after 7 steps: it did not end; set env.time_limit"
    ] * 3


def test_one_that_ends_there_is_whole(monkeypatch, caplog):
    monkeypatch.setattr(evaluate, "LONGEST_EPISODE", 7)
    found = play(2, truncate_at=7)
    assert found.lengths == [7, 7] and not caplog.records


@pytest.mark.parametrize("bad", [3, 5])  # amid an episode, and at its end
def test_an_episode_that_breaks_ends_at_its_last_good_entry(caplog, bad):
    """Each lane's ``bad``-th raw step is: its first episode ends before that, the next is whole."""
    found = play(4, truncate_at=5, bad=(bad,))
    assert found.lengths == [bad - 1, 5, bad - 1, 5]
    assert found.returns == [sum(range(bad)), 15, sum(range(bad)), 15]
    assert [record.getMessage() for record in caplog.records] == [
        f"an evaluation episode was cut after {bad - 1} steps: what followed was not finite"
    ] * 2


BEGAN = "an evaluation episode began with numbers that are not finite; another one is played instead"


def test_an_episode_that_begins_broken_is_none_and_another_is_played(caplog):
    """Each lane's first and third reset fail, the third twice in a row."""
    found = play(4, truncate_at=5, stillborn=(1, 3, 4))
    assert found.lengths == [5] * 4 and found.returns == [15] * 4
    assert found.broken == 6 and found.metrics()["eval/broken_entries"] == 6
    assert [record.getMessage() for record in caplog.records] == [BEGAN] * 6


def test_a_first_step_that_breaks_makes_no_episode_either(caplog):
    found = play(2, truncate_at=5, bad=(1, 2, 8))
    assert found.lengths == [5, 5] and found.broken == 4
    assert [record.getMessage() for record in caplog.records] == [BEGAN] * 4


@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf])
def test_rewards_that_are_not_finite_count_alike(reward):
    def step(self, action):
        observation, value, *rest = super(Broken, self).step(action)
        return observation, reward if self.raw_steps in (1, 4) else value, *rest

    found = play(2, truncate_at=5, step=step)
    assert found.lengths == [2, 2] and found.returns == [3, 3] and found.broken == 4


def test_twenty_beginnings_in_a_row_that_are_broken_are_an_error():
    found = play(1, truncate_at=5, stillborn=range(1, 20))
    assert found.lengths == [5] and found.broken == 19
    message = r"in an evaluation environment 0 gave .* not finite 20 times in a row.*: state \[nan nan nan\]$"
    with pytest.raises(EnvError, match=message):
        play(1, truncate_at=5, stillborn=range(1, 21))


def test_what_breaks_after_a_lanes_last_episode_is_nobodys_business(caplog):
    """The second lane is through after one episode of two steps; the first plays three."""
    found = play(3, truncate_at=2, stillborn=range(3, 100))
    assert found.lengths == [2, 2, 2] and found.broken == 0 and not caplog.records


def test_the_film_is_of_the_first_episode_that_counts():
    found = play(2, truncate_at=5, stillborn=(1,), bad=(1,), film=True)
    assert found.lengths == [5, 5] and len(found.frames) == 6
    # A frame tells its time: reset, then five steps.
    steps = np.diff(found.frames[:, 0, 0, 0].astype(int)) % 256
    np.testing.assert_array_equal(steps, 7)


def test_in_worker_processes_too():
    _, policy, params = prepared()
    make = troubled(trouble="stillborn", at=2, truncate_at=5)

    def make_envs(count, seed):
        return WorkerVectorEnv([make] * count, seed, workers=1)

    found = evaluate.make_evaluate(policy, make_envs, jax.random.key(1))(params, 2, seed=0)
    assert found.lengths == [5, 5] and found.broken == 4


def test_on_the_device_alike(caplog):
    """Every reset's number is a draw: half of all episodes begins with nan."""
    env = pure.counting(terminate_at=4, break_at=0)
    begins = dataclasses.replace(
        env,
        observe=lambda state: {
            "state": jnp.where((state[1] == 0) & (state[0] < 0.5), jnp.nan, env.observe(state)["state"])
        },
    )
    config = configs.preset("dreamer_v1,tiny", action_repeat=1)
    policy = looking_policy(env.spec)
    params = {"actor": jnp.zeros(())}
    found = on_device.make_evaluate(config.env, begins, policy)(params, 16, seed=0)
    assert found.lengths == [4] * 16 and found.returns == [10.0] * 16 and found.broken > 4
    assert f"{found.broken} evaluation episodes began with numbers that are not finite" in caplog.text
    never = dataclasses.replace(env, observe=lambda state: {"state": env.observe(state)["state"] * jnp.nan})
    with pytest.raises(EnvError, match=r"in an evaluation an environment gave .* not finite 20 times in a row"):
        on_device.make_evaluate(config.env, never, policy)(params, 3, seed=0)
