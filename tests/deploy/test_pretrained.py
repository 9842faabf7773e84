"""A saved agent: small, complete, safe to read, on the hub and off it."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from rich.console import Console

import jaxdreamer
from jaxdreamer import cli
from jaxdreamer.config import ConfigError, MissingExtra
from jaxdreamer.deploy.agent import Agent, load_agent
from jaxdreamer.deploy.pretrained import HubError
from jaxdreamer.envs.trust import Untrusted
from jaxdreamer.record import checkpoint, metrics
from jaxdreamer.record.listing import look
from jaxdreamer.train.api import evaluate_agent, train_agent
from jaxdreamer.train.folder import load_run

OBS = np.array([0.98, 0.17, 0.1], np.float32)


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory):
    return load_agent(run).save_pretrained(tmp_path_factory.mktemp("saved") / "agent")


def test_it_acts_and_scores_as_its_run_and_is_small(run, saved):
    np.testing.assert_array_equal(load_agent(saved).act(OBS), load_agent(run).act(OBS))
    assert evaluate_agent(saved).returns == evaluate_agent(run).returns
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "checkpoints", "config.json", "spec.json"]
    sizes = [sum(path.stat().st_size for path in (place / "checkpoints").rglob("*")) for place in (run, saved)]
    assert sizes[1] < 0.6 * sizes[0]  # these networks are so small that their names count
    assert "optimizers" not in next(saved.rglob("manifest.json")).read_text()
    assert Agent.from_pretrained(saved, lanes=2).act(np.stack([OBS, OBS])).shape == (2, 1)


def test_the_card_has_the_runs_figures(run, saved):
    text = (saved / "README.md").read_text()
    said = metrics.read(run / "metrics.jsonl")[-1]
    assert f"| return | {said['eval/return']:.1f} over 1 episodes without exploration |" in text.replace(" +- 0.0", "")
    assert f"{said['env_frames']:,} frames, {said['updates']:,} updates" in text and "jaxlib" in text
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["library_name"] == "jaxdreamer" and "Pendulum-v1" in head["tags"]
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"].startswith(f"{said['eval/return']:.2f}")
    # Saved again from there it says the same.
    assert load_agent(saved).save_pretrained(saved.parent / "again").joinpath("README.md").read_text() == text


def test_a_run_begins_with_it_but_does_not_go_on_in_it(run, saved, tmp_path, capsys):
    config, spec = load_run(saved)
    assert spec == load_run(run)[1] and config == load_run(run)[0]
    with pytest.raises(ConfigError, match=r"holds a saved agent.*--start"):
        train_agent(config, saved, console=Console(file=io.StringIO()))
    with pytest.raises(ConfigError, match="holds a saved agent"):
        train_agent(config, saved, start_over=True, console=Console(file=io.StringIO()))
    words = ["frames=60", "prefill=59", "pretrain=0", "train_every=500", "eval_episodes=1"]
    assert cli.main(["train", "--start", str(saved), "--logdir", str(tmp_path / "run"), *words]) == 0
    assert f"world model, actor and critic of {saved}" in capsys.readouterr().err
    np.testing.assert_array_equal(load_agent(tmp_path / "run").act(OBS), load_agent(run).act(OBS))
    assert look(saved).state == "agent"


def test_it_replaces_an_agent_and_nothing_else(run, saved, tmp_path):
    agent = load_agent(run)
    for _ in range(2):
        agent.save_pretrained(tmp_path / "agent")
    assert checkpoint.steps(tmp_path / "agent" / "checkpoints") == [agent.step]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    for place in (tmp_path / "mine", run, tmp_path / "mine" / "thesis.tex"):
        with pytest.raises(ConfigError, match="holds something else than a saved agent"):
            agent.save_pretrained(place)
    at_hand = Agent(agent.config, agent.spec, agent.params)
    with pytest.raises(ConfigError, match="made of parameters at hand"):
        at_hand.save_pretrained(tmp_path / "hand")


def test_a_strangers_agent_runs_nothing(saved, tmp_path):
    stranger = shutil.copytree(saved, tmp_path / "stranger")
    data = json.loads((stranger / "config.json").read_text())
    data["env"]["id"] = "evil_sender:Foo-v0"
    (stranger / "config.json").write_text(json.dumps(data))
    load_agent(stranger).act(OBS)  # it makes no environment
    with pytest.raises(Untrusted, match="evil_sender"):
        evaluate_agent(stranger)


class Hub:
    """Stands in for the hub: repositories are folders."""

    def __init__(self, root: Path):
        from huggingface_hub import errors

        self.root, self.errors, self.asked = root, errors, []

    def snapshot_download(self, name, revision=None, allow_patterns=None):
        self.asked.append((name, revision))
        if not (self.root / name).exists():
            raise self.errors.LocalEntryNotFoundError("no connection\nand no copy")
        return str(self.root / name)

    def HfApi(self, token=None):
        def upload_folder(repo_id, folder_path, allow_patterns, delete_patterns, commit_message):
            if token == "wrong":
                raise self.errors.LocalTokenNotFoundError("no token")
            shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

        return SimpleNamespace(create_repo=lambda *_, **__: None, upload_folder=upload_folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    real = pytest.importorskip("huggingface_hub")
    stand_in = Hub(tmp_path / "hub")
    for name in ("snapshot_download", "HfApi"):
        monkeypatch.setattr(real, name, getattr(stand_in, name))
    monkeypatch.chdir(tmp_path)
    return stand_in


def test_up_to_the_hub_and_down_again(run, hub):
    agent = load_agent(run)
    assert agent.push_to_hub("someone/pendulum") == "https://hub/someone/pendulum/commit/1"
    back = load_agent("someone/pendulum")
    np.testing.assert_array_equal(back.act(OBS), load_agent(run).act(OBS))
    assert hub.asked == [("someone/pendulum", None)]
    jaxdreamer.load_agent("someone/pendulum", revision="v2")
    assert hub.asked[1:] == [("someone/pendulum", "v2")]


def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(hub, tmp_path):
    (tmp_path / "runs").mkdir()
    for place in ("runs/pendulm", "pendulm", "./some/run", tmp_path / "owner" / "name", "a/b/c"):
        with pytest.raises(ConfigError, match="holds no run: there is no such folder"):
            load_agent(place)
    assert not hub.asked


def test_a_hub_that_cannot_be_reached_or_refuses(run, hub):
    with pytest.raises(
        HubError, match=r"hub gave no owner/name .LocalEntryNotFoundError: no connection and no copy.: look"
    ):
        load_agent("owner/name")
    with pytest.raises(HubError, match=r"did not take owner/name .*hf auth login"):
        load_agent(run).push_to_hub("owner/name", token="wrong")
    with pytest.raises(ConfigError, match="is named owner/name, found 'pendulum'"):
        load_agent(run).push_to_hub("pendulum")


def test_without_the_hubs_library(run, without, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without("huggingface_hub")
    with pytest.raises(MissingExtra, match=r"owner/name is no folder here.*\npip install 'jaxdreamer\[hub\]'"):
        load_agent("owner/name")
    with pytest.raises(MissingExtra, match="uploading owner/name needs"):
        load_agent(run).push_to_hub("owner/name")
