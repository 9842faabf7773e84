"""Numbers that environments say of their episodes: read at the end, through worker processes, logged as means, resumed."""

from __future__ import annotations

import dataclasses
import io
import logging
from decimal import Decimal

import numpy as np
import pytest
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer import evaluate_agent, families, train_agent
from jaxdreamer.config import EnvConfig
from jaxdreamer.envs import episode_seed, make_vector
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.check import check_env
from jaxdreamer.envs.host.instance import wrap
from jaxdreamer.record import metrics
from jaxdreamer.train.metrics import sentence
from jaxdreamer.train.scores import no_episodes
from jaxdreamer.train.tally import Tally
from tests.envs.toy import BACKEND, CountingEnv, Saying
from tests.train import toy

WORDS = ("env.backend=toy", "env=saying", "action_repeat=1", "num_envs=2", "prefill=20", "train_every=20", "updates=1",
         "pretrain=0", "batch_length=3", "log_every=20", "eval_every=20", "eval_episodes=3", "checkpoint_every=1000",
         "capacity=200")  # fmt: skip


def train(folder, *words, **more):
    config = configs.preset("dreamer_v2,tiny", *WORDS, *words)
    return train_agent(config, folder, console=Console(file=io.StringIO()), algorithm=toy.make, **more)


def numbers(seed, lane, count):
    """Those of a lane's first episodes."""
    env = Saying()
    return [float(env.reset(seed=episode_seed(seed, lane, episode))[0][0]) for episode in range(count)]


def ends(seed, lane, entries):
    """The numbers of the episodes that end within a lane's first entries, a reset being one."""
    found, used = [], 0
    for number in numbers(seed, lane, entries):
        used += 4 + int(number) % 2
        if used > entries:
            return found
        found.append(number)
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_every_lanes_ends_bring_their_numbers_once(workers):
    envs = make_vector(EnvConfig(backend="toy", id="saying", workers=workers), 3, seed=5)
    heard = {lane: [] for lane in range(3)}
    try:
        for _ in range(20):
            entry = envs.step(np.eye(5, dtype=np.float32)[[0, 1, 2]])
            assert set(envs.said) == set(np.flatnonzero(entry.is_last))
            for lane, said in envs.said.items():
                heard[lane].append(said)
    finally:
        envs.close()
    for lane, found in heard.items():
        assert len(found) >= 4
        assert found == [{"number": n, "even": 100.0 * (n % 2 == 0)} for n in numbers(5, lane, len(found))]
        assert all(type(value) is float for said in found for value in said.values())


def test_a_run_logs_means_since_the_last_line_and_of_each_evaluation(tmp_path, monkeypatch):
    summary = lambda means: {"odd": 100 - means["even"]}  # noqa: E731
    monkeypatch.setitem(families._registered, "toy", dataclasses.replace(BACKEND, summary=summary))
    result = train(tmp_path / "run", "frames=100")
    lines = metrics.read(tmp_path / "run" / "metrics.jsonl")
    trained = [line for line in lines if "train/episodes" in line]
    counts = [line["train/episodes"] for line in trained]
    assert len(trained) >= 4 and min(counts) >= 2
    heard = [number for lane in range(2) for number in ends(0, lane, 50)]
    assert sum(counts) == len(heard)
    total = sum(line["train/episode/number"] * line["train/episodes"] for line in trained)
    assert total == pytest.approx(sum(heard))
    for line in trained:
        assert line["train/episode/odd"] == pytest.approx(100 - line["train/episode/even"])
    evaluated = [line for line in lines if "eval/return" in line][-1]
    means = {name.removeprefix("eval/episode/"): value for name, value in evaluated.items() if "/episode/" in name}
    assert means == result.evaluation.said == evaluate_agent(tmp_path / "run", episodes=3, algorithm=toy.make).said
    assert set(means) == {"number", "even", "odd"} and means["even"] in (0, 100 / 3, pytest.approx(200 / 3), 100)
    assert all(sentence(name).startswith("what environments say") for name in evaluated if "/episode/" in name)


def test_a_resumed_run_logs_the_same(tmp_path):
    """It is stopped between two lines of the log, with episodes counted that no line has yet."""
    train(tmp_path / "straight", "frames=100", "log_every=50", "eval_every=0")
    train(tmp_path / "run", "frames=30", "log_every=50", "eval_every=0")
    train(tmp_path / "run", "frames=100", "log_every=50", "eval_every=0")
    last = [metrics.read(tmp_path / name / "metrics.jsonl")[-1] for name in ("straight", "run")]
    assert metrics.without_time(last[0]) == metrics.without_time(last[1])
    tally = Tally()
    tally.played(no_episodes(), [{"a": 1.0, "b": 5.0}, {"a": 4.0}])
    again = Tally()
    again.load(tally.state())
    again.played(no_episodes(), [{"a": 7.0}])
    found = again.take()
    assert (found["train/episode/a"], found["train/episode/b"]) == (4.0, 5.0)
    assert not any("/episode/" in name for name in again.take())


class Odd(CountingEnv):
    """Says what it was given, in every step."""

    def __init__(self, said, **more):
        super().__init__(truncate_at=4, **more)
        self.said = said

    def step(self, action):
        *entry, info = super().step(action)
        return *entry, info | {"episode_metrics": self.said}


def end(env):
    env.reset(0)
    action = np.eye(5, dtype=np.float32)[0]
    while not env.step(action).is_last:
        pass
    return env.episode_metrics


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([1.0], r"must be a dictionary of numbers by name, .*Odd.* gave \[1\.0\]"),
        ({3: 1.0}, "must be a dictionary of numbers by name"),
        ({"a": "high"}, r"info\['episode_metrics'\]\['a'\] must be one number, .* returned 'high'"),
        ({"a": np.zeros(2)}, r"\['a'\] must be one number"),
        ({"a": None}, r"\['a'\] must be one number"),
    ],
)
def test_what_is_no_number_is_an_error_that_names_it(said, found):
    with pytest.raises(EnvError, match=found):
        end(wrap(Odd(said)))
    assert any("episode_metrics" in finding.text for finding in check_env(lambda: Odd(said), steps=10).findings)


def test_what_is_not_finite_is_left_out_with_a_line(caplog):
    with caplog.at_level(logging.WARNING):
        said = end(
            wrap(Odd({"a": np.nan, "b": [np.float64(2)], "c": np.inf, "d": 1e39, "e": Decimal("0.5"), "f": True}))
        )
    assert said == {"b": 2.0, "e": 0.5, "f": 1.0}
    (line,) = caplog.messages
    assert "is not finite and left out: {'a': nan, 'c': inf, 'd': 1e+39}" in line


def test_a_limit_of_ours_and_repeated_actions_read_the_newest():
    assert end(wrap(Odd({"a": 1}), EnvConfig(time_limit=2))) == {"a": 1.0}
    env = wrap(Saying(), EnvConfig(time_limit=2))  # says nothing until its own end
    assert end(env) == {}
    env = wrap(Saying(), EnvConfig(action_repeat=3))
    assert set(end(env)) == {"number", "even"}
    assert env.reset(1).is_first and env.episode_metrics == {}  # those of the episode before are gone
