"""Random settings and words: each is taken, or refused by an error that names it; there is nothing in between."""

from __future__ import annotations

import random
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from jaxdreamer import cli, families
from jaxdreamer import config as configs
from jaxdreamer.cli import words
from jaxdreamer.config import ConfigError
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.train.size import make_trainable
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec

# fmt: off
NUMBERS = [
    "0", "1", "2", "3", "7", "64", "1e3", "1e6", "1e8", "2147483647", "2147483648", "4294967296", "1e15", "1e30",
    "9223372036854775807", "9223372036854775808", "9" * 5000, "1e300", "1e-300", "1e400", "-1", "-0.0", "0.5", ".5",
    "nan", "inf", "-inf", "1_000", "0x10", "1,000", "1e", "--1", "½", "٣", "true", "none", "", " ",
]
TEXTS = [
    "", "a", "-1", "--seed=3", "a=b", "../../x", "x" * 5000, "ü", "a b", "\n", "m:f", ":", "*", "[", "[]", "[a", "('a',",
    '["a,b"]', "[[1]]", "(" * 3000, "\udcff", "a\0b", "~", "~nobody-of-this-name", "<mujoco/>", "none", "tiny,", "\\d",
]
OBJECTS = [
    None, True, 3, 3.0, 2.5, 10**400, -1, float("nan"), float("inf"), "3", "", b"3", [], [64, 64], (64.0, 64), [1, 2, 3],
    ["a"], {"a": 1}, {1}, 1j, object(), np.int64(3), np.float32(0.5), np.bool_(True), np.str_("a"), np.array([64, 64]),
    np.array(3), np.array([[1]]), np.array(["a", "b"]), np.float64("nan"), Path("a/b"), Path("~/a"), range(2), int,
]
# fmt: on
TYPES = {key: kind for key, kind in configs.types().items() if key != "preset"}
STATE = EnvSpec({"state": ArraySpec((3,), "float32", "vector")}, ActionSpec((ActionPart("continuous", 1),)))


def owners(keys: list[str]) -> list[str]:
    """The word that chooses a backend with the first option among the settings, where there is one."""
    if "env.backend" in keys:
        return []
    found = [name for key in keys for name in families.records() if key[4:] in configs.hints(configs.options_of(name))]
    return [f"env.backend={found[0]}"] if found else []


def text_for(rng: random.Random, kind: object) -> str:
    said = str(kind)
    if rng.random() < 0.1:
        return rng.choice(TEXTS + NUMBERS)
    if "tuple[int" in said:
        return rng.choice(["x", ",", " ", ", "]).join(rng.choice(NUMBERS) for _ in range(rng.choice([1, 2, 2, 2, 3])))
    if "int" in said or "float" in said:
        return rng.choice(NUMBERS)
    if "Literal" in said:
        return rng.choice([*map(str, get_args(kind)), "x"])
    return rng.choice(["true", "no", "maybe"] if kind is bool else TEXTS)


def refused(make, keys: list[str]):
    """What ``make`` makes; None where it was refused by an error that names one of the settings."""
    try:
        return make()
    except ConfigError as error:
        named = [key for key in keys if key in str(error)]
        assert named or "replay.capacity" in str(error), f"{keys} were refused without their names: {error}"
        assert len(str(error)) < 1000
        return None


def test_random_settings_are_taken_or_refused_by_name():
    rng, taken = random.Random(0), 0
    for _ in range(1500):
        keys = rng.sample(list(TYPES), rng.choice([1, 1, 2, 3]))
        said = [*owners(keys), *(f"{key}={text_for(rng, TYPES[key])}" for key in keys)]
        made = refused(lambda said=said: configs.preset("tiny", *said), keys)
        assert made == refused(lambda said=said: cli.parse_train(["--preset", "tiny", *said])[0], keys)
        if made is not None:
            taken += 1
            assert configs.from_dict(configs.to_dict(made)) == made
            assert cli.parse_train(["--preset=tiny", *(f"--{word}" for word in said)])[0] == made
    assert 300 < taken < 1200


def test_random_objects_are_taken_or_refused_by_name():
    rng, taken = random.Random(1), 0
    for _ in range(1000):
        key, value = rng.choice(list(TYPES)), rng.choice(OBJECTS)
        made = refused(lambda key=key, value=value: configs.preset("tiny", *owners([key]), **{key: value}), [key])
        if made is not None:
            taken += 1
            plain = configs.fields(made)[key]
            assert type(plain) in (int, float, bool, str, tuple, type(None))
            assert configs.from_dict(configs.to_dict(made)) == made
    assert 50 < taken < 750


@pytest.mark.parametrize("key", [key for key, kind in TYPES.items() if "int" in str(kind) or "float" in str(kind)])
def test_a_number_past_its_limits_is_refused_by_name(key):
    negative = (-1e39,) if key == "run.stop_at_return" else (-1, -1e-300)
    for value in (2**63 if "float" not in str(TYPES[key]) else 1e39, 10**400, 1e300, np.inf, np.nan, *negative):
        value = [value, value] if "tuple" in str(TYPES[key]) else value
        assert refused(lambda value=value: configs.preset("tiny", *owners([key]), **{key: value}), [key]) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 1e8), ("batch_length", 1e8), ("deter_size", 2**20), ("units", 2**20)],
)
def test_what_memory_would_not_hold_is_refused_by_name(key, value):
    config = configs.preset("tiny", "capacity=1e12", "actor_layers=2", **{key: value})
    with pytest.raises(JaxdreamerError, match=rf"would take .* is available: lower .*{key}"):
        make_trainable(config, STATE)


def test_what_memory_holds_is_taken():
    make_trainable(configs.preset("tiny", batch_size=1000), STATE)


def test_random_words_are_read_or_refused():
    rng = random.Random(3)
    # fmt: off
    pool = [
        *TEXTS, *NUMBERS, "--", "-", "---", "=", "==", "-h=", "--help=1", "--=3", "key=", "=value", "--preset", "tiny",
        "--preset=tiny", "--seeds", "--seeds=2", "--wandb", "--logdir", "x/y", "--episodes", "--film=f.gif", "--make",
        "--out", "--y=", "--trust", "--env", "--obs=pixels", "--image-size", "seed=3", "frames=1e3", "Seed=3",
    ]
    # fmt: on
    read = 0
    for _ in range(2000):
        name, entry = rng.choice(list(cli.COMMANDS.items()))
        line = [rng.choice(pool) for _ in range(rng.randrange(5))]
        try:
            said = words.read(line, name, entry.options, entry.settings)
            assert said.help or isinstance(said.fill(name, entry.options), entry.options)
            read += 1
        except ConfigError as error:
            assert 0 < len(str(error)) < 2000
    assert 150 < read < 1850
