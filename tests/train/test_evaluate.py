"""Evaluation on the host: episodes that do not end, and such that break off."""

from __future__ import annotations

import logging

import jax
import numpy as np
import pytest

from jaxdreamer import config as configs
from jaxdreamer.agent.policy import make_policy
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.gymnasium_env import wrap
from jaxdreamer.envs.toy import CountingEnv
from jaxdreamer.envs.vector import VectorEnv
from jaxdreamer.nets.networks import make_networks
from jaxdreamer.train import evaluate


class Broken(CountingEnv):
    """An observation that is not finite at the raw steps in ``bad``, and at every reset where ``stillborn``."""

    bad: tuple[int, ...] = ()
    stillborn = False

    def reset(self, **settings):
        observation, info = super().reset(**settings)
        return observation * (np.nan if self.stillborn else 1), info

    def step(self, action):
        observation, *rest = super().step(action)
        return observation * (np.nan if self.raw_steps in self.bad else 1), *rest


def play(episodes, lanes=2, **settings):
    """Evaluate a fresh policy; the reward of step t is t."""
    config = configs.preset("dreamer_v1,tiny", action_repeat=1)
    bad, stillborn = settings.pop("bad", ()), settings.pop("stillborn", False)
    kind = type("Case", (Broken,), {"bad": bad, "stillborn": stillborn})

    def make_envs(count, seed):
        return VectorEnv([wrap(kind(**settings), config.env) for _ in range(count)], seed=seed)

    spec = make_envs(1, 0).spec
    networks = make_networks(config.model, spec)
    params = networks.init(jax.random.key(0))
    return evaluate.make_evaluate(make_policy(config, spec, networks))(
        params, make_envs, episodes, seed=0, key=jax.random.key(1), lanes=lanes
    )


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


def test_an_episode_that_begins_broken_is_an_error():
    with pytest.raises(EnvError, match="environment 0 begins an episode with observations that are not finite"):
        play(1, stillborn=True)
