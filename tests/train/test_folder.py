"""A run's folder with something missing, damaged or edited: a sentence with a way on, or nothing is lost but history."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import zlib

import pytest
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError
from jaxdreamer.deploy.agent import load_agent
from jaxdreamer.envs import make_vector
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.record import checkpoint, metrics
from jaxdreamer.record.checkpoint import CheckpointDamaged
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.stored import read_config
from jaxdreamer.saving import StorageError
from jaxdreamer.train.api import train_agent
from tests.record.test_checkpoint import garbled, resealed
from tests.train.test_run import tiny


def quiet() -> Console:
    return Console(file=io.StringIO(), width=10_000)


def settings(frames: int):
    return tiny(f"frames={frames}", "time_limit=20", "eval_episodes=1", "checkpoint_every=60", "eval_every=60")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with two checkpoints, in a folder whose name is a pattern or markup to those who parse it."""
    logdir = tmp_path_factory.mktemp("trained") / "team[1]" / "a\\b {x,y} 100% $HOME :smile: [red]"
    console = quiet()
    assert train_agent(settings(120), logdir, console=console).finished
    assert checkpoint.steps(logdir / "checkpoints") == [60, 120]
    assert {path.name for path in logdir.parent.iterdir()} == {logdir.name}
    return logdir


@pytest.fixture
def run(trained, tmp_path):
    copy = tmp_path / trained.name
    shutil.copytree(trained, copy)
    return copy


def go_on(logdir, frames=120, **more) -> str:
    console = quiet()
    assert train_agent(settings(frames), logdir, console=console, **more).finished
    return console.file.getvalue()


def spoil(path, damage):
    if damage == "delete":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        os.truncate(path, path.stat().st_size // 2 if damage == "half" else 0)


DAMAGES = ["delete", "half", "empty", "folder"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["config.json", "spec.json", "metrics.jsonl", "saved", "lock", "videos", "replay"])
def test_an_agent_is_loaded_or_the_file_named(run, name, damage, caplog):
    path = run / name
    if path.is_dir() and damage != "delete":
        return
    spoil(path, damage)
    try:
        assert load_agent(run).step == 120
        assert name not in ("config.json", "spec.json") or "is missing" in caplog.text
    except JaxdreamerError as error:
        assert name in ("config.json", "spec.json") and str(path) in str(error)
        # The way on that the message names.
        if name == "config.json":
            assert "if you delete it, the newest checkpoint's settings are used" in str(error)
            spoil(path, "delete")
            assert load_agent(run).step == 120 and "is missing" in caplog.text
        else:
            assert "rewritten by: jaxdreamer train --logdir" in str(error)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("metrics.jsonl", "delete", "it has 0 bytes instead of"),
        ("metrics.jsonl", "half", "missing part of the curve is lost"),
        ("spec.json", "half", "spec.json is rewritten"),
        ("videos", "delete", "resumed at 120 entries"),
        ("config.json", "delete", "resumed at 120 entries"),
    ],
)
def test_a_run_goes_on_without_a_file_that_only_tells(run, name, damage, told):
    spoil(run / name, damage)
    assert told in go_on(run)
    assert (run / name).exists() and load_agent(run).step == 120


def test_a_folder_in_a_files_place_is_a_sentence(run):
    spoil(run / "metrics.jsonl", "folder")
    with pytest.raises(
        StorageError, match=r"metrics\.jsonl cannot be written: there is a folder where a file is needed"
    ):
        go_on(run)
    (run / "metrics.jsonl").rename(run / "moved-away")  # as it says
    go_on(run)


def test_deleted_checkpoints_ask_before_the_run_is_begun_anew(run):
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"holds a run whose checkpoints are missing.*--start-over"):
        go_on(run)
    assert (run / "metrics.jsonl").read_bytes() == before
    go_on(run, frames=60, start_over=True)
    assert checkpoint.steps(run / "checkpoints") == [60]
    assert max(record["env_frames"] for record in metrics.read(run / "metrics.jsonl")) == 57


def test_a_start_over_that_is_refused_deletes_nothing(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    with pytest.raises(ConfigError, match=r"metrics sink .tensorbord.*tensorboard"):
        go_on(run, start_over=True, sinks=["tensorbord"])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"} == before


def test_a_damaged_chunk_can_be_gone_on_without(run):
    oldest = min((run / "replay").iterdir())
    oldest.write_bytes(oldest.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointDamaged, match=rf"{oldest.name} was altered.*--drop-damaged-replay.*--start-over"):
        go_on(run, frames=150)
    told = go_on(run, frames=150, drop_damaged_replay=True)
    assert "the run continues without part of its replay" in told and oldest.name in told
    assert "resumed at 150 entries" in go_on(run, frames=150)  # and needs no such word again


def test_a_replay_that_is_gone_is_filled_again(run):
    shutil.rmtree(run / "replay")
    with pytest.raises(CheckpointDamaged, match="--drop-damaged-replay"):
        go_on(run, frames=150)
    told = go_on(run, frames=150, drop_damaged_replay=True)
    assert "learning waits until there is enough experience again" in told
    assert checkpoint.steps(run / "checkpoints")[-1] == 150


def test_settings_edited_by_hand_are_shown_or_refused(run, caplog):
    data = json.loads((run / "config.json").read_text())
    data["run"]["log_every"] = 55
    (run / "config.json").write_text(json.dumps(data))
    load_agent(run)
    assert "run.log_every=55, but the checkpoint was trained with 50" in caplog.text
    console = quiet()
    train_agent(read_config(RunDir(run)), run, console=console)
    assert "changed since the run began: run.log_every 50 -> 55" in console.file.getvalue()
    data["env"]["time_limit"] = 30
    (run / "config.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=r"env\.time_limit: the run has 20, asked for 30"):
        train_agent(read_config(RunDir(run)), run, console=quiet())


def test_a_film_that_cannot_be_written_does_not_cost_the_run(tmp_path, monkeypatch, caplog):
    def refuse(image, path, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("PIL.Image.Image.save", refuse)
    config = configs.replace(settings(60), {"run.video": True})
    assert train_agent(config, tmp_path / "run", console=quiet()).finished
    assert "the run continues without a picture" in caplog.text and "the disk is full" in caplog.text
    assert not list((tmp_path / "run" / "videos").iterdir())


def test_100_garbled_host_files_are_told_or_leave_the_older_checkpoint(run, start_host, tmp_path):
    """With checksums that fit, as whoever means harm would write them; never anything that a user cannot read."""
    newest, rng = run / "checkpoints" / f"{120:012d}", random.Random(0)
    config = read_config(RunDir(run))
    shutil.copytree(run, tmp_path / "fuzzed")
    trainer = start_host(config, make_vector(config.env, 1, 0), lambda lanes, seed: None, name="fuzzed")
    newest = tmp_path / "fuzzed" / "checkpoints" / newest.name
    original, manifest = (
        json.loads((newest / "host.json").read_text()),
        json.loads((newest / "manifest.json").read_text()),
    )
    told = 0
    for _ in range(100):
        data = json.dumps(garbled(rng, original)).encode()
        (newest / "host.json").write_bytes(data)
        manifest["files"]["host.json"] = {"bytes": len(data), "crc32": zlib.crc32(data)}
        (newest / "manifest.json").write_text(resealed(manifest))
        try:
            trainer.restore()
        except JaxdreamerError:
            told += 1
        else:
            told += trainer.position == 60
    assert told > 60
