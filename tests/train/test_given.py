"""Runs that learn from recorded experience: alone, before they collect their own, and beside it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from jaxdreamer.config import ConfigError
from jaxdreamer.data.episodes import DataError
from jaxdreamer.data.export import export_data
from jaxdreamer.deploy.agent import load_agent
from jaxdreamer.record import metrics
from jaxdreamer.train.api import evaluate_agent
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec
from tests.train import toy
from tests.train.test_contract import World, agent_steps, lines

WORLD = World("host")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve episodes of ten entries."""
    folder = tmp_path_factory.mktemp("recorded")
    WORLD.toy(folder / "run", "eval_every=0", "frames=240")
    return str(export_data(folder / "run", "npz", folder / "data").folder)


def test_offline_then_online_is_the_same_stopped_and_resumed_at_any_time(data, tmp_path):
    words = (f"data={data}", "offline=60", "data_fraction=0.5", "batch_size=4")
    straight = WORLD.toy(tmp_path / "straight", *words, "frames=280")
    for frames in (60, 180, 240, 280):  # offline, in the prefill, learning online
        resumed = WORLD.toy(tmp_path / "run", *words, f"frames={frames}")
    assert float(resumed.state.aux["rewards"]) == float(straight.state.aux["rewards"]) < 0
    # 12 updates for 60 entries that were not collected; then 80 are, and learning begins after 40 of these.
    assert int(resumed.state.updates) == 12 + 2 + 2 * 4
    logged = [line for line in lines(tmp_path / "straight") if "train_ratio" in line]
    assert [line["updates"] for line in logged] == [6, 12, 12, 18, 22]
    assert [line["agent_steps"] for line in logged] == [0, 0, agent_steps(30), agent_steps(60), agent_steps(80)]
    assert [line["replay/entries"] for line in logged] == [120, 120, 150, 180, 200]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["replay"]["data"] == data


def test_without_an_environment_a_run_learns_resumes_and_its_agent_acts(data, tmp_path):
    words = (f"data={data}", "env=none", "backend=gym", "loop=auto", "held_out=3", "batch_length=5", "action_repeat=1")
    WORLD.toy(tmp_path / "run", *words, "frames=50")
    result = WORLD.toy(tmp_path / "run", *words, "frames=100")
    straight = WORLD.toy(tmp_path / "straight", *words, "frames=100")
    assert result.finished and result.evaluation is None and int(result.state.updates) == 20
    assert float(result.state.aux["rewards"]) == float(straight.state.aux["rewards"])
    assert {line["replay/entries"] for line in lines(tmp_path / "run") if "train_ratio" in line} == {90}
    assert load_agent(tmp_path / "run", algorithm=toy.make).act(np.float32([1, 0, 0]), first=True).shape == (1,)
    with pytest.raises(ConfigError, match="has no environment to be evaluated in"):
        evaluate_agent(tmp_path / "run", algorithm=toy.make)


def test_what_it_was_given_must_be_the_same_when_it_goes_on_wherever_it_lies(data, tmp_path):
    moved = tmp_path / "data"
    shutil.copytree(data, moved)
    WORLD.toy(tmp_path / "run", f"data={moved}", "frames=100")
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is neither a folder of episodes nor a Minari dataset"):
        WORLD.toy(tmp_path / "run", f"data={moved}", "frames=120")
    WORLD.toy(tmp_path / "run", f"data={tmp_path / 'elsewhere'}", "frames=120")
    (tmp_path / "elsewhere" / "episode-000003.npz").unlink()
    with pytest.raises(
        ConfigError, match=r"is not what the run was given: it had 12 episodes of 120 entries .* are 11 of 110"
    ):
        WORLD.toy(tmp_path / "run", f"data={tmp_path / 'elsewhere'}", "frames=140")


def test_other_spaces_are_refused_with_what_was_found_and_expected(data, tmp_path):
    with pytest.raises(DataError) as refused:
        WORLD.toy(tmp_path / "run", f"data={data}", "backend=gym", "env=CartPole-v1", "loop=auto")
    text = str(refused.value)
    assert "observation state: found {'shape': [3]" in text and "expected {'shape': [4]" in text
    assert "action: found [{'kind': 'continuous', 'size': 1}], expected [{'kind': 'discrete', 'size': 2}]" in text
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=", "offline=10"], "run.offline=10 needs experience to learn from: set replay.data"),
        (["data=", "data_fraction=0.5"], "replay.data_fraction=0.5 needs experience"),
        (["data=", "env=none"], "env.id=none learns from data alone: set replay.data"),
        (["held_out=12"], "replay.held_out=12 leaves nothing of the 12 episodes"),
        (["batch_length=61"], "has 120 entries to learn from, sequences of replay.batch_length=61 need at least 122"),
        (["held_out=1", "batch_length=11"], "none of the episodes kept apart by replay.held_out has the 11 entries"),
        (["data=", "on_disk=true", "loop=device"], "replay.on_disk=True is for the loop on the host"),
        (["loop=device"], "is for the loop on the host, but this environment is trained on the device"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(data, tmp_path, words, message):
    with pytest.raises((ConfigError, DataError), match=message):
        WORLD.toy(tmp_path / "run", f"data={data}", *words)


def test_what_is_learned_from_data_predicts_episodes_that_were_kept_apart(tmp_path):
    """By half of the error before learning: four entries are seen, six are predicted from the actions alone.

    The recording is one that somebody else made, with the arrays that are needed and no more.
    """
    folder, rng = tmp_path / "recorded", np.random.default_rng(0)
    folder.mkdir()
    for number in range(40):
        state = 2.0 * rng.choice([-1, 1], (1, 3)) + 0.1 * rng.normal(size=(20, 3))
        arrays = {"obs/state": state, "action": rng.uniform(-1, 1, (20, 1)), "reward": np.zeros(20)}
        np.savez(folder / f"{number:02d}.npz", **arrays, is_terminal=np.zeros(20, bool))
    spec = EnvSpec({"state": ArraySpec((3,), "float32", "vector")}, ActionSpec((ActionPart("continuous", 1),)))
    (folder / "spec.json").write_text(json.dumps(spec.to_dict()))
    words = ("held_out=4", "batch_length=10", "batch_size=8", "model_learning_rate=0.01", "eval_every=0", "frames=1500")
    alone = ("env=none", "backend=gym", "loop=auto", "action_repeat=1")
    WORLD.train(tmp_path / "run", f"data={folder}", *alone, *words)
    errors = [error for _, error in metrics.curve(lines(tmp_path / "run"), "held_out/state")]
    assert len(errors) == 2 and errors[1] < 0.5 * errors[0], errors
