"""One parser: any order and spelling, any value; what Python accepts, the command line accepts."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jaxdreamer import cli
from jaxdreamer import config as configs
from jaxdreamer.cli import training, words
from jaxdreamer.config import ConfigError


def setting(key: str, *line: str):
    """The value of a setting that the words after ``jaxdreamer train`` give."""
    return configs.fields(cli.parse_train([*line, "--logdir", "nowhere"])[0])[key]


XML = '<mujoco model="a=b">\n  <worldbody/>\n</mujoco>'
TEXTS = ["-force-vulkan", "a=b", "models/a=b.xml", "deter_size=3", "", "a b", "x,y", "-1", "null", XML]


@pytest.mark.parametrize("text", [*TEXTS, "--seed=3", "--seed", "--help", "--"])
def test_a_value_behind_an_equals_sign_may_be_anything(text):
    for word in (f"--env={text}", f"--env.id={text}", f"env={text}", f"env.id={text}", f"id={text}"):
        assert setting("env.id", word, "seed=4") == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_value_in_a_word_of_its_own_may_be_anything_but_a_flag(text):
    assert setting("env.id", "--env", text, "seed=4") == setting("env.id", "--env.id", text, "--seed", "4") == text


@pytest.mark.parametrize("line", ["--preset=", "--preset ''", "preset=", "--logdir=", "--seeds ' '", "--wandb="])
def test_an_option_that_says_nothing_is_not_taken_for_none(line):
    with pytest.raises(ConfigError, match=r"--\w+ needs a value: (a text|a path|int|true or false)$"):
        cli.parse_train(shlex.split(line))


def test_two_dashes_alone_are_no_flag():
    assert setting("run.frames", "--preset", "tiny", "--", "frames=5") == 5


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--log-dir a", "unknown setting 'log_dir' .did you mean logdir"),
        ("--LOGDIR a", "did you mean logdir"),
        ("Frames=5", "did you mean frames, run.frames"),
        ("tensorbord=true", "did you mean tensorboard"),
    ],
)
def test_names_that_are_nearly_right_are_told_the_options_and_the_settings_in_any_case(line, expected):
    with pytest.raises(ConfigError, match=expected):
        cli.parse_train(shlex.split(line))


@pytest.mark.parametrize("line", ["run --frames 5", "run --env.id=x", "run frames=5", "--episodes 1 run obs=pixels"])
def test_a_command_that_takes_no_settings_says_so(line):
    with pytest.raises(ConfigError, match=r"takes no settings(, found --| such as )"):
        words.read(shlex.split(line), "evaluate", training.EvaluateOptions)


@pytest.mark.parametrize("text", ["(('a',),'b')", "[[1, 2]]", '["a", 1]', '["a", {}]'])
def test_a_list_of_texts_holds_nothing_else(text):
    with pytest.raises(ConfigError, match=r"env\.exclude: expected a list of texts"):
        cli.parse_train([f"exclude={text}"])


def test_a_flag_is_not_taken_for_a_value():
    for line in ("--env --preset tiny", "--logdir --wandb", "--logdir --seed=3", "--env.exclude --preset tiny"):
        with pytest.raises(ConfigError, match="needs a value, found the flag --"):
            cli.parse_train(shlex.split(line))
    with pytest.raises(ConfigError, match="--env needs a value: a text"):
        cli.parse_train(["--env"])


@pytest.mark.parametrize(
    "line",
    ["--env.unity-additional-args=--seed=3", "--env.unity-additional-args --seed=3", "unity_additional_args=--seed=3"],
)
def test_a_players_words_are_not_the_runs(line):
    config = cli.parse_train(["backend=unity", *shlex.split(line)])[0]
    assert config.env.options.unity_additional_args == ("--seed=3",) and config.seed == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("unity_additional_args=-force-vulkan,-batchmode", ("-force-vulkan", "-batchmode")),
        ("--env.unity-additional-args -force-vulkan -batchmode seed=0", ("-force-vulkan", "-batchmode")),
        ("--env.unity-additional-args -force-vulkan --seed 0", ("-force-vulkan",)),
        ("""unity_additional_args='["--a=1,2", "b c", "-d"]'""", ("--a=1,2", "b c", "-d")),
        ("""--unity_additional_args "('--a=1,2', 'b')" """, ("--a=1,2", "b")),
        ("--env.unity-additional-args=", ()),
        ("unity_additional_args=[]", ()),
        ("unity_additional_args=[a,b]", ("a", "b")),
        ("unity_additional_args='[ab]*,[cd]'", ("[ab]*", "[cd]")),
        ("unity_additional_args=1,2", ("1", "2")),
    ],
)
def test_lists_of_texts(line, expected):
    assert setting("env.unity_additional_args", "backend=unity", *shlex.split(line)) == expected


@pytest.mark.parametrize(
    "line",
    ["image_size=48x64", "image_size=48,64", "image_size='(48, 64)'", "image_size=[48,64]", "image_size='48 64'",
     "--env.image-size 48 64", "--env.image_size 48x64", "--image-size '[48, 64]'", "--image-size (48, 64)",
     "env.image-size=48X64", "image_size=48.0x64"],
)  # fmt: skip
def test_sizes(line):
    assert setting("env.image_size", *(line.split() if "(48" in line and "'" not in line else shlex.split(line))) == (
        48,
        64,
    )


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("run.frames", "1e6", 1_000_000), ("run.frames", "1_000_000", 1_000_000), ("run.frames", " 5000 ", 5000),
        ("run.frames", "2.0", 2), ("behavior.discount", ".5", 0.5), ("behavior.discount", "1", 1.0),
        ("loss.kl_balance", "None", None), ("loss.kl_balance", "null", None), ("loss.kl_balance", "0.8", 0.8),
        ("model.dense_norm", "none", "none"), ("run.video", "True", True), ("run.video", "no", False),
        ("run.video", "OFF", False), ("run.video", "1", True),
    ],
)  # fmt: skip
def test_numbers_truths_and_none(key, text, value):
    flag, leaf = f"--{key.replace('_', '-')}", key.partition(".")[2]
    for line in ([f"{key}={text}"], [flag, text], [f"{flag}={text}"], [f"{leaf}={text}"], [f"--{leaf}", text]):
        found = setting(key, *line)
        assert found == value and type(found) is type(value)


def test_a_truth_alone_is_true():
    assert setting("run.video", "video=false", "--run.video") is True
    assert setting("model.symlog_inputs", "--model.symlog-inputs", "--seed", "3") is True
    assert setting("model.symlog_inputs", "--model.symlog-inputs", "no") is False


def test_words_are_validated_together_at_the_end():
    assert cli.parse_train(shlex.split("--preset tiny capacity=64"))[0].replay.capacity == 64
    assert cli.parse_train(shlex.split("capacity=64 --preset tiny"))[0] == configs.preset("tiny", "capacity=64")
    many = configs.preset("tiny", "num_envs=20000", "capacity=4000000")
    assert cli.parse_train(shlex.split("--preset=tiny num_envs=20000 capacity=4000000"))[0] == many
    assert configs.preset("tiny", "num_envs=20000", capacity=4_000_000) == many
    with pytest.raises(ConfigError, match="leaves 0 entries for each of 20000"):
        configs.preset("tiny", num_envs=20_000)


def test_options_in_any_place_and_spelling(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    for line in (
        "--preset tiny --logdir ~/x seed=3 --wandb",
        "seed=3 logdir=~/x --wandb preset=tiny",
        "--wandb=true --seed=3 --logdir=~/x --preset=tiny",
        "wandb=yes --preset tiny --logdir ~/x --seed 3",
    ):
        config, logdir, options = cli.parse_train(shlex.split(line))
        assert config == configs.preset("tiny", seed=3) and logdir == Path("/home/somebody/x")
        assert options.sinks == ("wandb",)


@dataclass(frozen=True)
class Options:
    """A command."""

    runs: tuple[Path, ...] = field(metadata=words.BARE)
    """Runs."""
    episodes: int | None = None
    """Episodes."""
    trust: bool = False
    """Trust them."""


@pytest.mark.parametrize(
    "line", ["a b --episodes 2", "--episodes 2 a b", "a --episodes=2 b", "episodes=2 a b", "--episodes 2 -- a b",
             "--runs a b --episodes 2", "--trust a b --episodes 2"]
)  # fmt: skip
def test_words_without_a_flag_stand_anywhere(line):
    said = words.read(line.split(), "play", Options).fill("play", Options)
    assert said == Options((Path("a"), Path("b")), 2, "--trust" in line)


def test_folders_with_an_equals_sign_are_folders():
    said = words.read(["lr=3e-4/a", "./x=1"], "play", Options)
    assert said.options["runs"] == (Path("lr=3e-4/a"), Path("x=1"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --modle.deter-size 3", r"unknown setting.*model\.deter_size"),
        ("train -env CartPole-v1", "unknown flag '-env' .did you mean --env"),
        ("train 3", "unexpected word '3'; settings are written key=value"),
        ("train --seeds many", "--seeds: expected int, found 'many'"),
        ("train --env.exclude a --modle.deter-size 3", "unknown setting"),
        ("evaluate a b", "evaluate takes one LOGDIR, found 2: .a., .b."),
        ("evaluate a --episode 2", "unknown flag '--episode' .did you mean --episodes"),
        ("evaluate a --episodes 2.5", "--episodes: expected int or none, found '2.5'"),
        ("evaluate", "evaluate needs LOGDIR: the run's folder"),
        ("evaluate ~nobody-of-this-name/a", "names a user whose home folder is not known"),
        ("evaluate --logdir=", "--logdir needs a value: a path"),
        ("doctor now", "doctor: unexpected word 'now'"),
        ("presets tiyn", "unknown preset 'tiyn' .did you mean tiny"),
        ("envs gmy", "unknown backend 'gmy' .did you mean gym"),
        ("help trian", "unknown command 'trian' .did you mean train"),
        ("train image_size=64", "env.image_size: expected 2 of int, as in 64x64, found '64'"),
        ("train frames=1e400", "run.frames: expected int, found '1e400'"),
        ("train preset=tyni", "unknown preset 'tyni'"),
    ],
)
def test_what_means_nothing_is_told(line, message, capsys):
    import re

    assert cli.main(shlex.split(line)) == 2
    assert re.search(message, capsys.readouterr().err)


def test_help_lists_every_option_and_setting_with_its_text_and_default(capsys):
    assert cli.main(["help", "train"]) == 0
    said = capsys.readouterr().out
    for key, value in configs.fields(configs.preset("dreamer_v1")).items():
        assert f"  --{key.replace('_', '-')} " in said
        assert (
            key == "preset"
            or isinstance(value, tuple)
            or f"(default: {words._written(value)})" in " ".join(said.split())
        )
    assert (
        "Adam's, or LaProp's, epsilon." in said
        and "--wandb\n" in said
        and "Gaussian dimensions, or groups" in " ".join(said.split())
    )
    for command, entry in cli.COMMANDS.items():
        assert cli.main(["help", command]) == 0
        said = capsys.readouterr().out
        assert f"usage: jaxdreamer {command}" in said
        for name in words.documentation(entry.options):
            assert f"--{name.replace('_', '-')}" in said or name.upper() in said
    assert cli.main(["train", "--preset", "classic", "--help"]) == 0
    assert "(default: 1000)" in capsys.readouterr().out.split("--run.prefill")[1].split("--run.")[0]


def test_one_preset_or_backend_is_listed(capsys):
    assert cli.main(["presets", "small"]) == 0
    assert capsys.readouterr().out.startswith("small\n  model.deter_size = 64\n")
    assert cli.main(["envs", "toy"]) == 0
    assert capsys.readouterr().out.startswith("--env.backend toy\n")
