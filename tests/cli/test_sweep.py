"""Sweeps: what is tried, what a trial is, how one goes on."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from jaxdreamer import cli
from jaxdreamer import config as configs
from jaxdreamer.cli import sweeping, words
from jaxdreamer.config import ConfigError, MissingExtra
from jaxdreamer.envs.trust import Untrusted
from jaxdreamer.record.rundir import RunLocked
from jaxdreamer.train import api
from jaxdreamer.train.sweep import Axis, Sweep
from jaxdreamer.train.telemetry import Diverged

BASE = configs.preset("classic,tiny")
AXES = [Axis.read("actor_entropy=1e-5..1e-2:log"), Axis.read("batch_size=2..8"), Axis.read("actor_gradient=auto,both")]


def result(value):
    return [SimpleNamespace(evaluation=None if value is None else SimpleNamespace(mean_return=value))]


def test_what_is_tried_is_read_or_refused_by_name():
    assert AXES[0] == Axis("behavior.actor_entropy", "1e-5..1e-2:log", 1e-5, 1e-2, True)
    assert AXES[1][2:4] == (2, 8) and AXES[2].choices == ("auto", "both")
    assert Axis.read("image_size=16x16,32x32").ends() == [(16, 16), (32, 32)]
    for word, message in {
        "actor_entropy": "expected NAME=LOW..HIGH",
        "actor_entropi=1..2": "unknown setting 'actor_entropi'.*actor_entropy",
        "batch_size=2..x": "replay.batch_size: expected int, found 'x'",
        "batch_size=8..2": "must rise",
        "actor_entropy=0..1:log": "must begin above 0",
        "actor_entropy=0..1:lin": r"may end in :log, found :lin",
        "units=64": r"several values A,B,C",
        "actor_gradient=auto,bot": "did you mean both",
    }.items():
        with pytest.raises(ConfigError, match=message):
            Axis.read(word)


def test_words_of_several_settings(tmp_path):
    line = ["--vary", "units=8,16,32", "seed=3", "--vary=discount=0.9..0.99", "--preset", "tiny", "--trials", "3"]
    said = words.read(line, "sweep", sweeping.SweepOptions, settings=True)
    options = said.fill("sweep", sweeping.SweepOptions)
    config, folder, axes, seeds = sweeping._asked(options, said.settings)
    assert [axis.name for axis in axes] == ["model.units", "behavior.discount"] and axes[0].choices == ("8", "16", "32")
    assert (config.seed, seeds, options.trials) == (3, 0, 3) and folder.name.startswith("sweep-")


def test_trials_are_told_apart_and_an_interrupted_one_goes_on_first(tmp_path):
    tried, said = [], []

    def train(config, folder):
        tried.append((folder.name, config))
        if len(tried) == 3:
            raise KeyboardInterrupt
        if len(tried) == 2:
            raise Diverged("loss/model is not finite")
        return result(-abs(config.replay.batch_size - 5))

    with pytest.raises(KeyboardInterrupt):
        Sweep(tmp_path, BASE, AXES).run(5, train, said.append)
    sweep = Sweep(tmp_path, BASE, AXES)
    sweep.run(5, train, said.append)
    assert [name for name, _ in tried] == ["trial-000", "trial-001", "trial-002", "trial-002", "trial-003", "trial-004"]
    assert tried[2][1] == tried[3][1]  # with the settings that it had
    assert len({config for _, config in tried}) == 5
    assert all(2 <= one.replay.batch_size <= 8 and 1e-5 <= one.behavior.actor_entropy <= 1e-2 for _, one in tried)
    table = sweep.table()
    assert [one.state for one in table] == ["finished"] * 4 + ["failed"] and table[-1].number == 1
    returns = [one.value for one in table[:-1]]
    assert returns == sorted(returns, reverse=True) and returns[0] == sweep.study.best_value
    sweep.run(5, lambda *_: pytest.fail("there are five"), said.append)
    assert "trial 1 failed: loss/model is not finite" in said


def test_a_trial_of_another_process_is_left_to_it(tmp_path):
    sweep = Sweep(tmp_path, BASE, AXES)
    number = sweep.study.ask({axis.name: axis.distribution(sweep._optuna) for axis in AXES}).number

    def train(config, folder):
        if folder.name == f"trial-{number:03d}":
            raise RunLocked("it is being written")
        return result(1.0)

    sweep.run(2, train, lambda line: None)
    assert [(one.number, one.state) for one in sweep.table()] == [(1, "finished"), (0, "running")]


def test_another_sweep_or_another_folder_is_refused(tmp_path):
    Sweep(tmp_path / "sweep", BASE, AXES)
    with pytest.raises(ConfigError, match=r"another sweep .run.frames: .*asked for 77"):
        Sweep(tmp_path / "sweep", configs.replace(BASE, {"run.frames": 77}), AXES)
    with pytest.raises(ConfigError, match=r"another sweep .vary: "):
        Sweep(tmp_path / "sweep", BASE, AXES[:1])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="holds no sweep"):
        Sweep(tmp_path / "mine", BASE, AXES)
    with pytest.raises(ConfigError, match=r"behavior.discount must lie between 0 and 1, found 1.5"):
        Sweep(tmp_path / "new", BASE, [Axis.read("discount=0.5..1.5")])


def test_the_command_goes_on_without_its_words_and_prints_the_best(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api, "train_agent", lambda config, folder, **_: result(float(config.model.units))[0])
    folder = tmp_path / "sweep"
    line = ["sweep", "--preset", "classic,tiny", "--vary", "units=8,16,32", "--logdir", str(folder)]
    assert cli.main([*line, "--trials", "2"]) == 0
    assert cli.main(["sweep", "--logdir", str(folder), "--trials", "12"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-14].split() == ["trial", "state", "return", "model.units"] and len(out) == 18
    assert out[-13].split()[1:] == ["finished", "32.00", "32"]
    assert out[-1].startswith(f"the best: jaxdreamer evaluate {folder}/{out[-13].split()[0]};")
    monkeypatch.setattr(api, "train_agent", lambda *_, **__: result(None)[0])
    assert cli.main(["sweep", "--logdir", str(folder), "--trials", "13"]) == 130
    assert f"go on with: jaxdreamer sweep --logdir {folder} --trials 13" in capsys.readouterr().err


def test_a_strangers_sweep_asks_first(tmp_path):
    Sweep(tmp_path, BASE, AXES)
    data = json.loads((tmp_path / "sweep.json").read_text())
    data["config"]["env"]["id"] = "evil_sender:Foo-v0"
    (tmp_path / "sweep.json").write_text(json.dumps(data))
    with pytest.raises(Untrusted, match="evil_sender"):
        sweeping._asked(sweeping.SweepOptions(logdir=tmp_path), {})


def test_without_optuna_or_without_anything_to_try(without, tmp_path, capsys):
    assert cli.main(["sweep", "--logdir", str(tmp_path / "none")]) == 2
    assert "sweep needs --vary" in capsys.readouterr().err
    assert cli.main(["sweep", "--env", "none", "--data", "there", "--vary", "units=8,16"]) == 2
    assert "name an environment to evaluate in" in capsys.readouterr().err
    without("optuna")
    with pytest.raises(MissingExtra, match=r"pip install 'jaxdreamer\[sweep\]'"):
        Sweep(tmp_path, BASE, AXES)
