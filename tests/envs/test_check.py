"""The environment checker finds each of the faults it looks for, and nothing in environments that are right."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from gymnasium import spaces

from jaxdreamer.config import EnvConfig
from jaxdreamer.envs import make_env, wrap
from jaxdreamer.envs.check import check_env
from jaxdreamer.envs.host.vector import episode_seed
from tests.envs.toy import CountingEnv


def good(**options):
    return wrap(CountingEnv(obs="dict", truncate_at=7, **options), EnvConfig(image_size=(16, 16)))


class Wrong:
    """A right environment, but for one method that is replaced."""

    def __init__(self, **methods):
        self._env = good()
        for name, method in methods.items():
            setattr(self, name, lambda *a, method=method: method(self._env, *a))

    def __getattr__(self, name):
        return getattr(self._env, name)


def texts(make, **options):
    report = check_env(make, steps=60, **options)
    return report, "\n".join(f"{finding.level}: {finding.text}" for finding in report.findings)


def changed(**fields):
    """A step whose entry differs from the right one."""
    return lambda env, action: env.step(action)._replace(**fields)


def changed_obs(key, value):
    return lambda env, action: (entry := env.step(action))._replace(obs={**entry.obs, key: value})


@pytest.mark.parametrize("backend", ["counting_dict", "Pendulum-v1"])
def test_nothing_is_found_in_what_is_right(backend):
    config = EnvConfig(backend="gym" if "-v" in backend else "toy", id=backend, time_limit=20)
    report, said = texts(lambda: make_env(config))
    assert report.ok and "error" not in said and report.steps == 60 and report.episodes == 3 and report.terminal == 0
    low, mean, high = report.reward
    assert low <= mean <= high and low != high


@pytest.mark.parametrize(
    ("methods", "says"),
    [
        ({"step": changed(is_first=True)}, "step returns is_first=True"),
        ({"step": changed(is_terminal=True)}, "is_terminal without is_last"),
        ({"step": changed(reward=np.float32(np.nan))}, "step returns the reward nan"),
        ({"step": changed(obs={})}, r"step returns the observations \[\], the spec has \['image', 'mode'"),
        (
            {"step": changed_obs("pos", np.zeros(4, np.float32))},
            r"'pos' is float32 \(4,\), the spec says float32 \(3,\)",
        ),
        ({"step": changed_obs("pos", np.zeros(3))}, "'pos' is float64"),
        ({"step": changed_obs("pos", np.full(3, np.inf, np.float32))}, "'pos' holds numbers that are not finite"),
        ({"step": changed_obs("mode", np.int32(9))}, "'mode' holds 9 to 9, the spec says 0 to 3"),
        ({"reset": lambda env, seed: env.reset(seed)._replace(is_first=False)}, "reset returns is_first=False"),
        ({"reset": lambda env, seed: env.reset(seed)._replace(reward=np.float32(1))}, "reset returns a reward"),
        ({"step": lambda env, action: env.step(action) if not env._ended else env.reset(0)}, "after the episode's end"),
    ],
)
def test_what_is_wrong_is_an_error(methods, says):
    import re

    report, said = texts(lambda: Wrong(**methods))
    assert not report.ok and re.search(f"error: .*{says}", said), said


def test_a_buffer_that_is_used_again():
    class Reusing(Wrong):
        def step(self, action):
            entry = self._env.step(action)
            self.buffer = getattr(self, "buffer", entry.obs["pos"].copy())
            self.buffer[:] = entry.obs["pos"]
            return entry._replace(obs={**entry.obs, "pos": self.buffer})

    assert "error: 'pos' is overwritten by the next step" in texts(Reusing)[1]


def test_what_may_be_meant_is_a_warning():
    class Wild(CountingEnv):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            return obs + np.random.default_rng().normal(0, 1e5, 3).astype(np.float32), reward * 1e4, *rest

    report, said = texts(lambda: wrap(Wild()))
    assert report.ok
    for text in ("one seed and the same actions give different", "choose loss.reward_scale", "model.symlog_inputs"):
        assert f"warning: {text}" in said or text in said

    class Dull(CountingEnv):
        def _observe(self):
            return np.ones(3, np.float32)

        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, 0.0, *rest

    _, said = texts(lambda: wrap(Dull(truncate_at=0)))
    for text in ("six seeds begin with one", "no episode ended within 60", "random actions brought no reward at all"):
        assert f"warning: {text}" in said
    assert "warning: 'state' never changed" in said

    class Stray(CountingEnv):
        def _observe(self):
            return super()._observe().astype(np.float64)

    assert "warning: observation 'state' is float64, its space says Box" in texts(lambda: wrap(Stray()))[1]


class Shown(CountingEnv):
    """Shows an image of ``kind``."""

    def __init__(self, space, value):
        super().__init__("image", truncate_at=7)
        self.observation_space, self._value = space, value

    def _observe(self):
        return self._value(self.time + self._origin)


def grid(time):
    return ((np.arange(100).reshape(10, 10) + int(time)) % 11).astype(np.uint8)


@pytest.mark.parametrize(
    ("space", "value", "says"),
    [
        (
            spaces.Box(0, 255, (10, 10), np.uint8),
            grid,
            "warning: 'image' is almost a single colour (black): it uses 10 of",
        ),
        (spaces.Box(0, 10, (10, 10), np.uint8), grid, ""),
        (
            spaces.Box(0, 7, (10, 10), np.uint8),
            grid,
            "warning: observation 'image' holds 0 to 10, its space says Box(0, 7",
        ),
        (spaces.Box(0, 10, (10, 10), np.uint8), lambda t: grid(t).astype(np.int64), ""),
        (
            spaces.Box(0, 10, (10, 10), np.uint8),
            lambda t: grid(t).astype(np.float32),
            "warning: observation 'image' is float32, its space says Box(0, 10",
        ),
        (
            spaces.Box(0, 1, (32, 32), np.float32),
            lambda t: np.full((32, 32), np.nan if t % 2 else 0.5, np.float32),
            "the reward nan, as its picture 'image' holds numbers that are not finite",
        ),
        (
            spaces.Box(-np.inf, np.inf, (10, 10, 3), np.float32),
            lambda t: np.full((10, 10, 3), t / 10, np.float32),
            "warning: 'state' [10, 10, 3] has the shape of a picture but no bounds",
        ),
    ],
)
def test_pictures_are_looked_at(space, value, says):
    _, said = texts(lambda: wrap(Shown(space, value), EnvConfig(image_size=(10, 10))))
    found = [line for line in said.splitlines() if "image" in line or "picture" in line]
    assert says in said if says else not found, said
    assert "reset returns a reward" not in said and "different episodes" not in said


@pytest.mark.parametrize(
    ("space", "largest", "says"),
    [
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), 10, "'state' stays within 0.039 of 0.*model.normalize_inputs=true"),
        (spaces.Box(0, 10_000, (4,), np.int32), 4, "'state' stays within 0.0004 of 0"),
        (spaces.Box(-np.inf, np.inf, (4,), np.float32), 0.05, "'state' stays within 0.05 of 0"),
        (spaces.Box(-np.inf, np.inf, (4,), np.float32), 5000, "'state' reaches 5e.03: set model.symlog_inputs"),
        (spaces.Box(0, 10, (7, 7, 3), np.uint8), 10, ""),
        (spaces.Box(0, 255, (128,), np.uint8), 255, ""),
    ],
)
def test_vectors_far_from_unit_scale_are_warned_of(space, largest, says):
    def value(time):
        return np.full(space.shape, largest if int(time) % 2 else 0, space.dtype)

    _, said = texts(lambda: wrap(Shown(space, value)))
    found = "\n".join(line for line in said.splitlines() if "'state'" in line)
    assert re.search(says, found) if says else not found, said


def test_rewards_that_are_not_finite_are_one_finding_and_no_advice_on_their_size():
    class Endless(CountingEnv):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, (np.inf, -np.inf, np.float64(1e300), 0.5)[self.time % 4], *rest

    report, said = texts(lambda: wrap(Endless(truncate_at=7)))
    assert not report.ok and "error: step returns the reward -inf, or one that float32 cannot hold" in said
    assert "reward_scale" not in said


def test_two_instances_that_differ():
    made = iter([good(), good(action="box")])
    report = check_env(lambda: next(made))
    assert not report.ok and "two instances differ" in report.findings[0].text and report.steps == 0


seeds = []


class Seeded(CountingEnv):
    """Notes its seeds."""

    def reset(self, seed=None, **options):
        seeds.append(seed)
        return super().reset(seed=seed, **options)


def dictionary():
    """A gymnasium environment for the command line."""
    return Seeded(obs="dict", truncate_at=5)


def broken():
    """One that gives rewards which are not finite."""
    env = CountingEnv(truncate_at=5)
    inner = env.step
    env.step = lambda action: (inner(action)[0], np.nan, *inner(action)[2:])
    return env


def raising():
    """One that cannot be made."""
    raise ValueError("no licence")


def test_the_command_line(capsys):
    from jaxdreamer import cli

    assert cli.main(["check-env", "--make", "tests.envs.test_check:dictionary"]) == 0
    assert "no problems found" in capsys.readouterr().out
    assert cli.main(["check-env", "--make=tests.envs.test_check:broken"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("checking tests.envs.test_check:broken\nobservation space: Box(")
    assert (
        "\naction space: Discrete(" in said and "\nobservation state: 3 float32 -> dense layers\naction: 1 of " in said
    )
    assert said.count("played with random actions, each for one step\n") == 1
    assert "error: step returns the reward nan" in said and "fix the errors listed above" in said
    assert cli.main(["check-env", "backend=toy", "--env", "chain"]) == 0
    assert cli.main(["check-env", "--make", "tests.envs.test_check:dictionary", "action_bound=3", "seed=7"]) == 0
    assert "\nnote: env.action_bound=3 is not used" in capsys.readouterr().out
    assert seeds[-1] == episode_seed(7, 0, 60)  # the sixtieth episode of five steps
    assert cli.main(["check-env", "--make", "tests.envs.test_check:gone"]) == 2
    assert cli.main(["check-env", "--make", "tests.envs.test_check:raising"]) == 2
    assert "tests.envs.test_check:raising raised ValueError: no licence (" in capsys.readouterr().err
    assert cli.main(["check-env", "--help"]) == 0 and "--make MODULE:FUNCTION" in capsys.readouterr().out


def test_environments_are_listed_by_backend(capsys, monkeypatch):
    from jaxdreamer import cli

    assert cli.main(["envs", "--backend", "robotics"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "--env.backend robotics" and "  --env FetchReach-v4" in lines and "  --env HalfCheetah-v2" in lines
    )
    assert "  --env FetchReach-v1" not in lines
    assert cli.main(["envs", "--backend", "robotic"]) == 2 and "did you mean robotics" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    assert cli.main(["envs"]) == 0
    shown = capsys.readouterr().out
    assert "--env.backend robotics: pip install 'jaxdreamer[robotics]'" in shown and "  --env walker-walk" in shown
    assert cli.main(["envs", "--backend", "robotics"]) == 2
    assert "pip install 'jaxdreamer[robotics]'" in capsys.readouterr().err


def test_one_fault_with_many_numbers_is_one_finding():
    rng = np.random.default_rng(0)
    wild = lambda env, action: changed_obs("mode", np.int32(rng.integers(4, 99)))(env, action)  # noqa: E731
    report, said = texts(lambda: Wrong(step=wild))
    assert said.count("'mode' holds") == 1 and not report.ok


def test_the_command_line_repeats_actions_only_where_it_is_told_to(capsys):
    from jaxdreamer import cli

    for words, says in (
        (["time_limit=10"], "300 steps, 30 episodes ended"),
        (["time_limit=10", "action_repeat=3"], "each repeated 3 times (env.action_repeat)"),
        (["time_limit=10", "--preset", "dreamer_v1"], "each repeated 2 times (env.action_repeat)"),
    ):
        assert cli.main(["check-env", "backend=toy", "--env", "counting", *words]) == 0
        said = capsys.readouterr().out
        assert said.startswith("checking 'counting' of backend toy\n") and says in said
