"""torchwm's command line, and its environment of a world model."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env

from jaxdreamer import ConfigError
from tests.torchwm_compat import cases
from torchwm_compat import DreamerAgent, WorldModelEnv, __main__, make_world_model_env
from torchwm_compat.training import train_dreamer as module
from torchwm_compat.training.train_dreamer import train_dreamer


@pytest.fixture
def trained(monkeypatch):
    """The configurations that would be trained."""
    found = []
    monkeypatch.setattr(module, "train_dreamer", lambda config: found.append(config))
    return found


def test_the_documented_commands_mean_what_they_say(trained, capsys, tmp_path):
    main = __main__.main
    assert main(["train", "dreamer", "--env", "dmc/walker-walk", "--algo", "Dreamerv2", "--device", "cpu"]) == 0
    words = ["env_backend=gym", "env=Pendulum-v1", "total_steps=5_000_000", "kl_alpha=1e-1", "image_size=[32, 48]"]
    assert main(["-m", "world_models.training.train_dreamer", *words, "--use-amp", "false"]) == 0
    one, two = trained
    assert (one.env_backend, one.env, one.algo, one.no_gpu) == ("dmc", "walker-walk", "Dreamerv2", True)
    assert (two.env_backend, two.env, two.total_steps, two.kl_alpha) == ("gym", "Pendulum-v1", 5_000_000, 0.1)
    assert (two.image_size, two.use_amp, two.no_gpu) == ((32, 48), False, False)
    (tmp_path / "mine.yaml").write_text("env: ALE/Pong-v5\nseed: 3\n")
    capsys.readouterr()
    assert main(["train", "dreamer", "--config", str(tmp_path / "mine.yaml"), "seed=4", "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["env"], printed["seed"], len(trained)) == ("ALE/Pong-v5", 4, 2)


def test_the_commands_of_the_page_run(capsys):
    page = (Path(__file__).resolve().parents[2] / "docs" / "torchwm.md").read_text()
    commands = re.findall(r"^python -m torchwm_compat (.+ --print-config)$", page, re.M)
    assert len(commands) == 2
    for command in commands:
        assert __main__.main(command.split()) == 0
    assert "algo: Dreamerv2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "jepa"], "expected the model dreamer.*found 'jepa'"),
        (["train"], "found none"),
        (["train", "dreamer", "total_step=3"], "has no field 'total_step'; did you mean 'total_steps'"),
        (["train", "dreamer", "--alg", "Dreamerv2"], "'--alg': .*did you mean 'algo'"),
        (["train", "dreamer", "walker-walk"], "unexpected word 'walker-walk'"),
        (["train", "dreamer", "--env"], "--env needs a value"),
        (["train", "dreamer", "--device", "tpu"], "expected cpu or cuda, found 'tpu'"),
        (["train", "dreamer", "--device", "cuda:0"], "jax finds no GPU here"),
    ],
)
def test_other_words_are_refused(words, message, trained, capsys):
    assert __main__.main(words) == 2
    assert re.search(message, capsys.readouterr().err) and not trained


def test_train_dreamer_returns_the_agent_and_knows_its_fields(monkeypatch, tmp_path):
    monkeypatch.setattr(DreamerAgent, "train", lambda self: None)
    agent = train_dreamer(cases.config(obs="state", logdir=str(tmp_path)), seed=5)
    assert isinstance(agent, DreamerAgent) and agent.args.seed == 5
    with pytest.raises(ValueError, match="Invalid DreamerConfig override: sead"):
        train_dreamer(cases.config(), sead=5)
    agent.train_env.close(), agent.test_env.close()


@pytest.mark.parametrize("obs", ["state", "pixels", "both"])
def test_an_agents_world_model_is_an_environment(obs, tmp_path):
    agent = DreamerAgent(cases.config(obs=obs, logdir=str(tmp_path)))
    drawn = "rgb_array" if obs != "state" else None
    env = WorldModelEnv(
        agent,
        agent.train_env.observation_space,
        agent.train_env.action_space,
        max_episode_steps=3,
        seed=1,
        render_mode=drawn,
    )
    first, _ = env.reset()
    keys = {"state": {"state"}, "pixels": {"image"}, "both": {"image", "state"}}[obs]
    assert set(first) == keys and env.observation_space.contains(first)
    if obs != "state":
        assert first["image"].shape == (3, 16, 16) and first["image"].dtype == np.uint8
        assert env.render().shape == (16, 16, 3)
    ends = [env.step(np.zeros(1))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    if obs == "state":
        real = agent.test_env.reset()
        given = make_world_model_env(agent.dreamer, initial_observation=real, max_episode_steps=3)
        np.testing.assert_array_equal(given.reset(seed=2)[0]["state"], given.reset(seed=2)[0]["state"])
        with warnings.catch_warnings():  # the state has no bounds
            warnings.simplefilter("ignore")
            check_env(given, skip_render_check=True)
    agent.train_env.close(), agent.test_env.close()


def test_what_is_no_dreamers_is_refused(tmp_path):
    dreamer = cases.dreamer()
    with pytest.raises(ConfigError, match="give initial_observation"):
        WorldModelEnv(dreamer)
    with pytest.raises(ConfigError, match="expected a DreamerAgent or its dreamer, found object"):
        WorldModelEnv(object())
    with pytest.raises(ConfigError, match="transition_fn, reward_fn are for models of other kinds"):
        WorldModelEnv(dreamer, transition_fn=print, reward_fn=print)
    with pytest.raises(TypeError, match="unexpected keyword argument 'horizont'"):
        WorldModelEnv(dreamer, horizont=3)
