"""``train --config FILE`` and ``--print-config``: what is printed is what a file may hold, and the command line wins."""

from __future__ import annotations

import json

import pytest

from jaxdreamer import cli
from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError
from jaxdreamer.envs.trust import Untrusted


def settled(*words: str) -> configs.Config:
    return cli.parse_train([*words, "--logdir", "nowhere"])[0]


def write(path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--preset", "classic,small", "--env", "CartPole-v1", "frames=30_000", "adam_epsilon=1e-20", "kl_balance=0.5"],
        ["--preset", "dreamer_v3", "--env.backend", "brax", "brax_backend=spring", "action_repeat=1", "num_envs=8"],
        ["--preset", "tiny", "camera=1e6", "exclude=a,b*", "image_size=48x96", "stop_at_return=-1e3"],
        ["--preset", "tiny", "env=null", "camera=true", "env.backend=mujoco", 'exclude=["a,b", "- x: y", "#"]'],
        ["--preset", "tiny", "--env", '<mujoco model="a: b">\n  <worldbody/>\n</mujoco>', "env.backend=mujoco"],
    ],
)
def test_what_is_printed_is_read_again_as_it_was(words, tmp_path, capsys):
    assert cli.main(["train", *words, "--print-config"]) == 0
    path = write(tmp_path / "run.yaml", capsys.readouterr().out)
    # Of a model that is written out in a file it must be said that it may be compiled.
    assert settled("--config", path, "--trust") == settled(*words) == configs.load(path)
    assert cli.main(["train", "--config", path, "--print-config", "--trust"]) == 0
    assert capsys.readouterr().out == (tmp_path / "run.yaml").read_text()
    assert not list(tmp_path.glob("runs"))  # nothing was trained


def test_names_are_those_of_the_command_line_and_of_config_json(tmp_path):
    expected = configs.preset("dreamer_v2,small", env="CartPole-v1", deter_size=33, image_size=(32, 48), frames=10**6)
    nested = "preset: dreamer_v2,small\nenv: {id: CartPole-v1, image_size: [32, 48]}\nmodel: {deter_size: 33}\n"
    nested += "run: {frames: 1e6}"
    flat = "preset: dreamer_v2,small\nenv: CartPole-v1\nimage-size: 32x48\nmodel.deter_size: 33\nframes: 1_000_000"
    as_json = json.dumps(
        {"preset": "dreamer_v2,small", "env.id": "CartPole-v1", "image_size": [32, 48], "deter_size": 33}
    )
    assert settled("--config", write(tmp_path / "a.yaml", nested)) == expected
    assert settled("--config", write(tmp_path / "b.yml", flat)) == expected
    assert settled("--config", write(tmp_path / "c.json", as_json), "frames=1e6") == expected


def test_the_command_line_wins_over_the_file_in_any_order(tmp_path):
    path = write(tmp_path / "a.yaml", "preset: dreamer_v2\nframes: 50\nseed: 3\n")
    for words in (["frames=70", "--config", path], ["--config", path, "--run.frames", "70"]):
        assert settled(*words) == configs.preset("dreamer_v2", frames=70, seed=3)
    assert settled("--config", path, "--preset", "tiny") == configs.preset("tiny", frames=50, seed=3)


def test_a_run_that_is_there_goes_on_with_what_the_file_changes(tmp_path):
    stored = configs.preset("dreamer_v2,tiny", seed=5)
    (tmp_path / "run").mkdir()
    write(tmp_path / "run" / "config.json", json.dumps(configs.to_dict(stored)))
    path = write(tmp_path / "a.yaml", "frames: 77\nlog_every: 5")
    words = ["--config", path, "log_every=6", "--logdir", str(tmp_path / "run")]
    assert cli.parse_train(words)[0] == configs.replace(stored, {"frames": 77, "log_every": 6})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: {deter_sise: 4}", r"a\.yaml: unknown setting 'model.deter_sise' \(did you mean model.deter_size"),
        ("frame: 4", r"a\.yaml: unknown setting 'frame' \(did you mean frames"),
        ("logdri: 4", r"a\.yaml: unknown setting 'logdri' \(did you mean logdir"),
        ("logdir: runs/a", r"a\.yaml: logdir is no setting of a run: write it on the command line, as --logdir"),
        ("preset: dreamer_v4", r"a\.yaml: unknown preset 'dreamer_v4' \(did you mean dreamer_v"),
        ("preset: 3", r"a\.yaml: preset: expected a text, found 3"),
        ("deter_size: many", r"a\.yaml: model.deter_size: expected int, found 'many'"),
        ("video: 3", r"a\.yaml: run.video: expected true or false, found 3"),
        ("frames: 3\nrun: {frames: 4}", r"a\.yaml: run.frames is set twice"),
        ("frames: 3\nframes: 4", r"a\.yaml is not valid YAML \(it has 'frames' twice"),
        ("- frames", r"a\.yaml: expected settings by their names, found \['frames'\]"),
        ("", r"a\.yaml: expected settings by their names, found None"),
        ("a: [", r"a\.yaml is not valid YAML"),
        ("frames: !!python/object/apply:os.system ['true']", r"a\.yaml is not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_name(text, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        settled("--config", write(tmp_path / "a.yaml", text))


def test_a_file_that_is_not_there_is_told(tmp_path, capsys):
    assert cli.main(["train", "--config", str(tmp_path / "no.yaml"), "--print-config"]) == 2
    assert "no.yaml is missing" in capsys.readouterr().err


def test_a_module_that_only_the_file_names_needs_a_word(tmp_path):
    """Like a run, a file may come from somebody else."""
    path = write(tmp_path / "a.yaml", "preset: tiny\nenv: somebodys_module:Task-v0\n")
    with pytest.raises(Untrusted, match=r"a\.yaml would import .*somebodys_module"):
        settled("--config", path)
    assert settled("--config", path, "--trust").env.id == "somebodys_module:Task-v0"
    assert settled("--config", path, "--env", "my_module:Task-v0").env.id == "my_module:Task-v0"
