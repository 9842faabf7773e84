"""Atari's games: the standard protocol is gymnasium's, bit for bit, and no frame is counted twice."""

from __future__ import annotations

import io
import logging

import gymnasium
import numpy as np
import pytest
from rich.console import Console

from jaxdreamer import train_agent
from jaxdreamer.config import ConfigError, EnvConfig, MissingExtra, preset, replace_env
from jaxdreamer.envs import episode_seed, make_env, make_vector
from jaxdreamer.envs.registry import tasks

ale_py = pytest.importorskip("ale_py")
pytest.importorskip("cv2")
gymnasium.register_envs(ale_py)

PONG = EnvConfig(id="ALE/Pong-v5", action_repeat=4, image_size=(64, 64))


def game(**changes):
    return make_env(replace_env(PONG, changes))


def by_hand(id="ALE/Pong-v5", *, sticky, full=False, **options):
    env = gymnasium.make(id, frameskip=1, repeat_action_probability=sticky, full_action_space=full)
    return gymnasium.wrappers.AtariPreprocessing(env, frame_skip=4, screen_size=64, grayscale_newaxis=True, **options)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"sticky": 0.25}),
        ({"repeat_action_probability": 0.0, "grayscale": False}, {"sticky": 0.0, "grayscale_obs": False}),
        ({"noop_max": 0, "full_action_space": True}, {"sticky": 0.25, "noop_max": 0, "full": True}),
        (
            {"id": "ALE/Breakout-v5", "terminal_on_life_loss": True},
            {"id": "ALE/Breakout-v5", "sticky": 0.25, "terminal_on_life_loss": True},
        ),
    ],
)
def test_two_hundred_actions_are_gymnasiums_own_wrapper_bit_for_bit(ours, theirs):
    env, reference = game(**ours), by_hand(**theirs)
    count = env.spec.action.size
    actions, episodes, rewards, terminals = np.random.default_rng(0).integers(0, count, 200), 0, 0.0, 0
    assert reference.action_space.n == count
    fresh = True
    for action in actions:
        if fresh:
            entry, (obs, _) = env.reset(100 + episodes), reference.reset(seed=100 + episodes)
            np.testing.assert_array_equal(entry.obs["image"], obs)
            episodes += 1
        entry = env.step(np.eye(count, dtype=np.float32)[action])
        obs, reward, terminated, truncated, _ = reference.step(int(action))
        np.testing.assert_array_equal(entry.obs["image"], obs)
        assert (entry.reward, entry.is_terminal, entry.is_last) == (reward, terminated, terminated or truncated)
        rewards, terminals, fresh = rewards + abs(reward), terminals + terminated, entry.is_last
    assert rewards > 0  # something happened
    assert terminals >= (2 if ours.get("terminal_on_life_loss") else 0)
    channels = 1 if ours.get("grayscale", True) else 3
    assert entry.obs["image"].shape == (64, 64, channels) and entry.obs["image"].dtype == np.uint8
    env.close(), reference.close()


def test_a_step_is_action_repeat_frames_and_limits_count_steps():
    env = game(time_limit=5)
    env.reset(0)
    ale = env.simulator.instance.ale
    before, noop = ale.getEpisodeFrameNumber(), np.eye(env.spec.action.size, dtype=np.float32)[0]
    entries = [env.step(noop) for _ in range(5)]
    assert ale.getEpisodeFrameNumber() - before == 5 * 4 and 1 <= before <= 30
    assert [(entry.is_last, entry.is_terminal) for entry in entries] == [(False, False)] * 4 + [(True, False)]
    assert ale.getInt("max_num_frames_per_episode") == 0  # the limit is ours alone
    assert env.frame_rate == 15 and env.render().shape == (210, 160, 3)
    env.close()


def test_without_a_limit_of_ours_ales_own_truncates():
    env = game()
    ale = env.simulator.instance.ale
    assert ale.getInt("max_num_frames_per_episode") == 108_000
    ale.setInt("max_num_frames_per_episode", 60)
    ale.loadROM(ale_py.roms.get_rom_path("pong"))  # limits are read there
    env.reset(0)
    noop = np.eye(env.spec.action.size, dtype=np.float32)[0]
    entries = [env.step(noop)]
    while not entries[-1].is_last:
        entries.append(env.step(noop))
    assert len(entries) <= 15 and not entries[-1].is_terminal
    env.close()


def test_an_atari_agent_trains(tmp_path):
    words = ("env=ALE/Pong-v5", "image_size=16x16", "time_limit=20", "frames=400", "prefill=60", "train_every=40",
             "batch_length=5", "capacity=400", "eval_every=0", "eval_episodes=1", "video=false")  # fmt: skip
    result = train_agent(preset("dreamer_v2_atari,tiny", *words), tmp_path / "run", console=Console(file=io.StringIO()))
    assert result.finished and int(result.state.updates) >= 2 and int(result.state.skipped) == 0
    assert result.evaluation.lengths == [20]


def test_games_are_listed_and_play_in_workers():
    assert {"ALE/Pong-v5", "ALE/Breakout-v5", "Pendulum-v1"} <= set(tasks("gym"))
    config = replace_env(PONG, {"workers": 1, "image_size": (16, 16)})
    envs = make_vector(config, 1, seed=3)
    alone = make_env(config)
    action = np.eye(6, dtype=np.float32)[2]
    for entry in (alone.reset(episode_seed(3, 0, 0)), alone.step(action), alone.step(action)):
        np.testing.assert_array_equal(envs.step(action[None]).obs["image"][0], entry.obs["image"])
    envs.close(), alone.close()


def test_the_picture_is_the_observation_whichever_way_it_is_asked_for():
    small = game(obs="pixels", image_size=(32, 48))
    assert {key: item.shape for key, item in small.spec.obs.items()} == {"image": (32, 48, 1)}
    assert small.reset(0).obs["image"].shape == (32, 48, 1)
    with pytest.raises(ConfigError, match="has that key already"):
        game(obs="both")
    small.close()


def test_other_tasks_know_no_such_settings_and_an_action_of_one_frame_is_told(caplog):
    with pytest.raises(ConfigError, match=r"env\.grayscale is a setting of Atari's games.*found env\.id=Pendulum-v1"):
        make_env(EnvConfig(options={"grayscale": False}))
    with pytest.raises(ConfigError, match=r"one of Atari's games: set env\.backend=gym"):
        make_env(EnvConfig(id="ALE/Pong-v5", backend="mujoco"))
    with caplog.at_level(logging.WARNING):
        game(action_repeat=1).close()
    assert "would hold an action for 4 frames by itself, here it is env.action_repeat=1" in caplog.text


def test_without_opencv_the_extra_is_named(without):
    without("cv2")
    with pytest.raises(MissingExtra, match=r"pip install 'jaxdreamer\[atari\]'$"):
        game()


@pytest.mark.parametrize(
    ("name", "sticky", "shape", "actions"),
    [
        ("dreamer_v2_atari", 0.25, (64, 64, 1), 6),
        ("dreamer_v3_atari", 0.25, (96, 96, 1), 18),
        ("dreamer_v3_atari100k", 0.0, (64, 64, 3), 6),
    ],
)
def test_the_presets_play_as_published(name, sticky, shape, actions):
    config = preset(name, env="ALE/Pong-v5").env
    env = make_env(config)
    game = env.simulator.instance
    assert (env.spec.obs["image"].shape, env.spec.action.size) == (shape, actions)
    assert game.ale.getFloat("repeat_action_probability") == sticky
    assert (game.noop_max, game.frame_skip, game.terminal_on_life_loss) == (30, 4, False)
    assert config.time_limit == 27_000
    env.close()
