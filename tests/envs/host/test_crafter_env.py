"""Crafter: death told from the end of time, achievements as rates, the score by hand, and seeds that mean one episode."""

from __future__ import annotations

import io
import math

import gymnasium
import numpy as np
import pytest
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer import evaluate_agent, train_agent
from jaxdreamer.config import ConfigError, EnvConfig, MissingExtra
from jaxdreamer.envs import make_env
from jaxdreamer.envs.host.crafter_env import score
from jaxdreamer.envs.host.instance import wrap
from jaxdreamer.envs.registry import tasks
from jaxdreamer.record import metrics
from tests.train import toy

CRAFTER = EnvConfig(backend="crafter", id="CrafterReward-v1")


def test_the_score_of_rates_worked_out_by_hand():
    rates = dict.fromkeys((f"achievement_{index}" for index in range(22)), 0.0)
    assert score(rates) == {"score": 0.0} and score({"other": 3.0}) == {}
    # One of 22 in every episode: the 22nd root of 101, less 1.
    assert score(rates | {"achievement_0": 100.0})["score"] == pytest.approx(101 ** (1 / 22) - 1, rel=1e-12)
    # Three of 22, in all, half and a tenth of the episodes: (101 * 51 * 11)^(1/22) - 1 = 0.6444.
    some = rates | {"achievement_0": 100.0, "achievement_1": 50.0, "achievement_2": 10.0, "other": 7.0}
    assert score(some)["score"] == pytest.approx(math.exp((math.log(101) + math.log(51) + math.log(11)) / 22) - 1)
    assert score(some)["score"] == pytest.approx(0.6444, abs=1e-3)
    assert score(dict.fromkeys(rates, 100.0))["score"] == pytest.approx(100)


@pytest.fixture(scope="module")
def env():
    pytest.importorskip("crafter")
    env = make_env(configs.replace_env(CRAFTER, {"obs": "pixels", "image_size": (48, 64)}))
    yield env
    env.close()


def play(env, seed, actions, draw=False):
    entries = [env.reset(seed)]
    for action in actions:
        entries.append(env.step(np.eye(17, dtype=np.float32)[action]))
        if draw:
            assert env.render().shape == (288, 288, 3)
        if entries[-1].is_last:
            break
    return entries


def test_a_seed_is_one_episode_whoever_draws_it_and_wherever_its_creatures_lie_in_memory(env, monkeypatch):
    from crafter.objects import Object

    actions = np.random.default_rng(0).integers(0, 17, 200)
    drawn = play(env, 3, actions, draw=True)
    monkeypatch.setattr(Object, "__hash__", lambda self: -(id(self) >> 4))
    alone = play(env, 3, actions)
    assert len(drawn) == len(alone) > 60
    for one, other in zip(drawn, alone):
        np.testing.assert_array_equal(one.obs["image"], other.obs["image"])
        assert one[1:] == other[1:]
    assert drawn[0].obs["image"].shape == (48, 64, 3) and drawn[0].obs["image"].max() > 100
    assert sum(entry.reward for entry in drawn) > 0  # something was unlocked
    said = env.episode_metrics
    assert len(said) == 22 and set(said.values()) == {0.0, 100.0}


def test_death_is_terminal_the_last_step_is_not_and_nothing_is_said_of_the_episode_before(env):
    game, noop = env.simulator.instance.game, np.eye(17, dtype=np.float32)[0]
    env.reset(0)
    assert env.episode_metrics == {}
    game._step = 9_999
    entry = env.step(noop)
    assert entry.is_last and not entry.is_terminal
    assert set(env.episode_metrics.values()) == {0.0}
    env.reset(0)
    game._player.achievements["collect_coal"] = 3
    game._player.health = 0
    entry = env.step(noop)
    assert entry.is_last and entry.is_terminal
    assert {name for name, value in env.episode_metrics.items() if value == 100} == {"achievement_collect_coal"}


def test_rates_and_score_are_logged_and_evaluated(tmp_path):
    pytest.importorskip("crafter")
    words = ("env.backend=crafter", "env=CrafterReward-v1", "image_size=16x16", "time_limit=10", "action_repeat=1",
             "frames=44", "prefill=22", "train_every=22", "updates=1", "pretrain=0", "batch_length=3", "log_every=22",
             "eval_every=0", "eval_episodes=1", "capacity=200", "video=false")  # fmt: skip
    config = configs.preset("dreamer_v2,tiny", *words)
    result = train_agent(config, tmp_path / "run", console=Console(file=io.StringIO()), algorithm=toy.make)
    lines = metrics.read(tmp_path / "run" / "metrics.jsonl")
    for group in ("train", "eval"):
        line = next(line for line in lines if f"{group}/return" in line)
        found = {key.removeprefix(f"{group}/episode/"): v for key, v in line.items() if f"{group}/episode/" in key}
        rates = {name: value for name, value in found.items() if name.startswith("achievement_")}
        assert len(rates) == 22 and "achievement_defeat_zombie" in rates and found == rates | score(rates)
    assert found == result.evaluation.said
    assert evaluate_agent(tmp_path / "run", episodes=1, algorithm=toy.make).said.keys() == found.keys()


def test_the_package_alone_is_wrapped_and_what_it_lacks_is_told(without):
    crafter = pytest.importorskip("crafter")
    env = wrap(crafter.Env())  # its spaces are named tuples where old gym is not installed
    assert env.spec.obs["image"].shape == (64, 64, 3) and env.spec.action.size == 17
    assert type(env.spaces["observation"]) is gymnasium.spaces.Box
    assert tasks("crafter") == ["CrafterNoReward-v1", "CrafterReward-v1"]
    with pytest.raises(ConfigError, match=r"no task 'CrafterRevard-v1' \(did you mean CrafterReward-v1"):
        make_env(EnvConfig(backend="crafter", id="CrafterRevard-v1"))
    with pytest.raises(ConfigError, match="has that key already"):
        make_env(configs.replace_env(CRAFTER, {"obs": "both"}))
    without("crafter")
    with pytest.raises(MissingExtra, match=r"env\.backend=crafter needs .*\npip install 'jaxdreamer\[crafter\]'$"):
        make_env(CRAFTER)
