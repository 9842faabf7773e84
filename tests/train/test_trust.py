"""A stored run that names programs: nothing of them runs before it was allowed."""

import json
import sys
from types import SimpleNamespace

import pytest

from jaxdreamer import cli
from jaxdreamer import config as configs
from jaxdreamer.deploy.agent import load_agent
from jaxdreamer.envs.trust import Untrusted, foreign
from jaxdreamer.record import checkpoint
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.train import run
from jaxdreamer.train.api import evaluate_agent
from jaxdreamer.train.folder import write_spec
from jaxdreamer.train.placement import one_device
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec

SPEC = EnvSpec({"state": ArraySpec((3,), "float32", "vector")}, ActionSpec((ActionPart("continuous", 1),)))
MODEL = "<mujoco><worldbody><body><joint/><geom size='1'/></body></worldbody></mujoco>"
HOSTILE = {
    "gym id": {"id": "evil_sender:Foo-v0"},
    "reward": {"backend": "mujoco", "id": MODEL, "reward_fn": "evil_sender:reward"},
    "end": {"backend": "mujoco", "id": MODEL, "terminal_fn": "evil_sender:reward"},
    "player": {"backend": "unity", "unity_file_name": "evil_player"},
    "python": {"backend": "unity", "unity_python": "evil_player"},
    "interpreter": {"python": "evil_player"},
}


@pytest.fixture(params=HOSTILE)
def downloaded(request, tmp_path, monkeypatch):
    """A run's folder as a stranger may send it, and a file that appears where anything of it runs."""
    ran = tmp_path / "ran"
    (tmp_path / "evil_sender.py").write_text(f"open({str(ran)!r}, 'w')\ndef reward(*_): return 0.0\n")
    player = tmp_path / "evil_player"
    player.write_text(f"#!/bin/sh\ntouch {ran}\n")
    player.chmod(0o755)
    monkeypatch.syspath_prepend(tmp_path)
    settings = {key: value.replace("evil_player", str(player)) for key, value in HOSTILE[request.param].items()}
    rundir = RunDir(tmp_path / "run").create()
    data = configs.to_dict(configs.preset("classic,tiny"))
    own = {key: settings[key] for key in settings if key in ("id", "backend")}
    data["env"] |= {**own, "options": {key: value for key, value in settings.items() if key not in own}}
    rundir.config.write_text(json.dumps(data))
    write_spec(rundir, SPEC, None)
    yield rundir, ran, [key for key in settings if key not in ("backend",) and "evil" in settings[key]]
    sys.modules.pop("evil_sender", None)


def test_evaluating_asks_first_and_runs_nothing(downloaded):
    rundir, ran, named = downloaded
    with pytest.raises(Untrusted) as raised:
        evaluate_agent(rundir.path)
    assert str(rundir.config) in str(raised.value) and all(f"(env.{name})" in str(raised.value) for name in named)
    with pytest.raises(checkpoint.CheckpointMissing):  # it goes on, and there is none
        evaluate_agent(rundir.path, trust=True)
    assert not ran.exists() and "evil_sender" not in sys.modules


def test_a_loaded_agent_runs_nothing_and_needs_no_trust(downloaded):
    rundir, ran, _ = downloaded
    with pytest.raises(checkpoint.CheckpointMissing):
        load_agent(rundir.path)
    assert not ran.exists() and "evil_sender" not in sys.modules


def test_the_command_line_asks_first_unless_the_words_are_given_again(downloaded, capsys):
    rundir, ran, named = downloaded
    assert cli.main(["evaluate", str(rundir.path)]) == 2 and cli.main(["train", "--logdir", str(rundir.path)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all(f"(env.{name})" in line and "--trust" in line for line in told for name in named)
    config = configs.load(rundir.config)
    values = configs.fields(config)
    again = [f"--{name.replace('_', '-')}={values[name]}" for name in foreign(config.env)]
    for words in (again, ["--trust"]):
        assert cli.parse_train(["--logdir", str(rundir.path), *words])[0] == config
    with pytest.raises(Untrusted):  # of one more, nothing was said
        cli.parse_train(["--logdir", str(rundir.path), "seed=3"])
    assert not ran.exists() and "evil_sender" not in sys.modules


def test_modules_of_the_working_folder_are_seen_only_where_one_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    cli.parse_train(["--env=CartPole-v1"])
    assert str(tmp_path) not in sys.path
    cli.parse_train(["--env=mine:Foo-v0"])
    assert sys.path[-1] == str(tmp_path)


def test_a_stopped_run_says_the_word_that_it_goes_on_with():
    lines = []
    runs = [SimpleNamespace(rundir=RunDir("runs/x"))]
    for config in (configs.preset("classic", env="mine:Foo-v0"), configs.preset("classic")):
        place = one_device()
        loop = SimpleNamespace(config=config, counted=7, runs=runs, placement=place, crew=place.crew)
        lines.append(run._how_to_resume(loop))
    assert [line.rpartition("runs/x")[2] for line in lines] == [" --trust", ""]
