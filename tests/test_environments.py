"""The docs' table of environments, row by row: real episodes of each command, through workers, into replay.

Checked against the same episodes played alone: frames, rewards, flags, actions in the task's own units, final observations.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import cli
from jaxdreamer import config as configs
from jaxdreamer.agent.algorithm import Algorithm, Policy
from jaxdreamer.envs import episode_seed, make_env, make_vector
from jaxdreamer.ops.exploration import random_action
from jaxdreamer.replay.host import HostReplay
from jaxdreamer.train.host.collect import Collector
from tests.envs.host.test_mujoco_env import ASSETS, MODEL

TEXT = (Path(__file__).parents[1] / "docs" / "environments.md").read_text()
TABLE = TEXT.partition("\n\n`pip")[0]
ROWS = re.findall(r"^\| `.*\| `(jaxdreamer train [^`]*)` \|$", TABLE, re.M)
TASKS = """
def reward(model, data, action, info):
    return 1.0 + float(info["qvel"][0])

def ended(model, data, info):
    return info["time"] > 0.055
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Where the commands' files are."""
    mujoco = pytest.importorskip("mujoco")
    (tmp_path / "models").mkdir()
    for name, content in {**ASSETS, "cart.xml": MODEL.encode()}.items():
        (tmp_path / "models" / name).write_bytes(content)
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "tasks", raising=False)
    mujoco.mj_saveModel(mujoco.MjModel.from_xml_path("models/cart.xml"), "models/cart.mjb")


def test_the_table_has_every_kind():
    said = " ".join(ROWS)
    assert len(ROWS) == TABLE.count("| `jaxdreamer train") >= 12
    kinds = set(re.findall(r"backend \w+|cart\.\w+|HalfCheetah-v2", said))
    assert {"backend dmc", "backend mujoco", "backend robotics", "cart.xml", "cart.mjb", "HalfCheetah-v2"} <= kinds


@pytest.mark.parametrize("command", ROWS)
def test_episodes_through_workers_into_replay(command, models):
    config = cli.parse_train(shlex.split(command)[2:])[0]
    limit = 6
    # The row's own settings, but for how many, how long and how large.
    config = configs.replace(
        config, {"num_envs": 2, "workers": 2, "time_limit": limit, "image_size": (16, 24), "capacity": 1000}
    )
    envs = make_vector(config.env, 2, seed=7)
    replay = HostReplay(envs.spec, capacity=200, lanes=2, length=4, cross_episodes=True)
    policy = Policy(
        lambda count: jnp.zeros((count, 1)),
        lambda params, state, obs, first, key, mode: (random_action(key, envs.spec.action, len(first)), state),
    )
    collector = Collector(envs, Algorithm(None, None, policy, None), replay, jax.random.key(0))
    try:
        for _ in range(2 * (limit + 1)):
            collector.step(None, "random")
    finally:
        envs.close()
    rows = replay.read_rows(0, replay.total)
    assert (
        collector.broken.count == 0
        and envs.restarts == 0
        and collector.agent_steps == rows["is_first"].size - rows["is_first"].sum()
    )

    env = make_env(config.env)
    assert (env.spec, env.frame_rate) == (envs.spec, envs.frame_rate)
    for lane in range(2):
        ends = np.flatnonzero(rows["is_last"][:, lane])
        assert len(ends) >= 2 or ends[0] == limit
        entry = env.reset(episode_seed(7, lane, 0))
        for t in range(ends[0] + 1):
            if t:
                action = rows["action"][t, lane]
                native = env.simulator.to_env(action)
                assert env.simulator.spaces["action"].contains(native), native
                entry = env.step(action)
            for key, value in entry.obs.items():
                np.testing.assert_array_equal(value, rows[f"obs/{key}"][t, lane], err_msg=f"{key} at {t}")
            assert entry.reward == rows["reward"][t, lane]
            for flag in ("is_first", "is_last", "is_terminal"):
                assert bool(getattr(entry, flag)) == bool(rows[flag][t, lane]), (flag, t)
        # The final observation is the episode's, and the next entry another episode's first.
        assert entry.is_last and rows["is_first"][ends[0] + 1, lane]
        terminal = "ended" in command
        assert bool(entry.is_terminal) == terminal and ends[0] == (6 if not terminal else ends[0])
    if "image" in envs.spec.obs:
        assert (
            rows["obs/image"].shape[2:] == (16, 24, 1 if "ALE/" in command else 3)
            and len(np.unique(rows["obs/image"])) > 10
        )
        if not {"Pendulum-v1", "ALE/Pong-v5", "CrafterReward-v1"} & set(command.split()):
            assert any("render_quality" in note for note in envs.notes)
    if "reward_fn" in command:
        assert (rows["reward"][~rows["is_first"]] != 0).all()
    env.close()
