"""Configuration: presets are data over one algorithm, and say what the released code says."""

from __future__ import annotations

import dataclasses
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from jaxdreamer import config as configs
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.envs.device.brax_env import BraxOptions


def test_no_field_name_occurs_in_two_groups():
    leaves = [key.rpartition(".")[2] for key in configs.fields()]
    assert len(leaves) == len(set(leaves))
    assert all(configs.resolve_name(key.rpartition(".")[2]) == key for key in configs.fields() if key != "env.id")


def test_v1_defaults_carry_the_names_and_values_of_the_seed_document():
    named = {"stoch_size": 30, "deter_size": 200, "embed_size": 1024, "imagine_horizon": 15, "discount": 0.99,
             "td_lambda": 0.95, "kl_loss_coeff": 1.0}  # fmt: skip
    flat = configs.fields(configs.preset("dreamer_v1"))
    assert {name: flat[configs.resolve_name(name)] for name in named} == named


@pytest.mark.parametrize("name", [*configs.PRESETS, "dreamer_v2,small", "dreamer_v1,tiny"])
def test_round_trips(name, tmp_path):
    config = configs.preset(name, "image_size=48x64", "exclude=a,b")
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(config)))) == config
    (tmp_path / "config.json").write_text(json.dumps(configs.to_dict(config)))
    assert configs.load(tmp_path / "config.json") == config
    import yaml

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(configs.to_dict(config)))
    assert configs.load(tmp_path / "config.yaml") == config


def test_a_stored_configuration_may_lack_a_setting_but_not_have_a_strange_one():
    data = configs.to_dict(configs.preset("dreamer_v2"))
    del data["model"]["deter_size"]
    assert configs.from_dict(data) == configs.preset("dreamer_v2")
    data["model"]["depth_charge"] = 1
    with pytest.raises(ConfigError, match=r"unknown setting 'model\.depth_charge'"):
        configs.from_dict(data)


def test_later_presets_win_and_changes_last():
    config = configs.preset("dreamer_v2,small", "deter_size=77", units=33)
    assert (config.model.classes, config.model.stoch_size) == (32, 16)
    assert (config.model.deter_size, config.model.units, config.preset) == (77, 33, "dreamer_v2,small")


def test_configurations_are_frozen_and_hashable():
    config = configs.preset("dreamer_v1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 3
    same = Config(preset="dreamer_v1", env=config.env, optimizer=config.optimizer, replay=config.replay)
    assert hash(config) == hash(same)


def test_values_of_other_libraries_become_plain_ones_however_a_configuration_is_made():
    env = configs.EnvConfig(image_size=np.array([16, 24]), num_envs=np.int64(2), id=Path("a.xml"), exclude=["b"])
    config = dataclasses.replace(Config(seed=np.uint8(3), env=env), preset=np.str_("tiny"))
    assert config.env == configs.EnvConfig(image_size=(16, 24), num_envs=2, id="a.xml", exclude=("b",))
    assert type(config.seed) is int and type(config.preset) is str
    assert hash(config) == hash(configs.from_dict(json.loads(json.dumps(configs.to_dict(config)))))
    assert configs.LossConfig(kl_balance=Decimal("0.5")).kl_balance == 0.5
    assert configs.EnvConfig(image_size="48x64").image_size == (48, 64)
    with pytest.raises(ConfigError, match="image_size: expected 2 of int, as in 64x64, found 64"):
        configs.EnvConfig(image_size=64)
    with pytest.raises(ConfigError, match=r"env: expected EnvConfig, found \{'id': 'x'\}"):
        Config(env={"id": "x"})
    with pytest.raises(ConfigError, match=r"expected key=value, found \['frames=5'\]"):
        configs.preset("tiny", ["frames=5"])


def test_yaml_holds_what_json_holds(tmp_path):
    config = configs.preset("tiny", actor_learning_rate=8e-5, adam_epsilon=1e-20, frames=7)
    (tmp_path / "c.yaml").write_text(json.dumps(configs.to_dict(config)))
    assert configs.load(tmp_path / "c.yaml") == config
    (tmp_path / "c.yml").write_text("preset: tiny\nrun: {frames: 1e6}\noptimizer.adam_epsilon: 1e-3\nenv: 3e-5-v0")
    config = configs.load(tmp_path / "c.yml")
    assert (config.run.frames, config.optimizer.adam_epsilon, config.env.id) == (1_000_000, 1e-3, "3e-5-v0")


def test_differences_are_named():
    old, new = configs.preset("dreamer_v1"), configs.preset("dreamer_v1", "deter_size=10", "seed=4")
    assert configs.difference(old, new) == {"model.deter_size": (200, 10), "seed": (0, 4)}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("batch_length=0", "batch_length must be above 0"),
        ("classes=1", "classes must be 0"),
        ("imagine_horizon=0", "imagine_horizon must be above 0"),
        ("updates=0", "updates must be above 0"),
        ("free_nats=-1", "free_nats must not be negative"),
        ("kl_balance=2", "kl_balance must lie between 0 and 1"),
        ("discount=nan", "discount"),
        ("deter_size=2.5", "expected int"),
        ("video=perhaps", "expected true or false"),
        ("image_size=64", "expected"),
        ("deter_size", "expected key=value"),
    ],
)
def test_impossible_settings_are_refused_by_name(word, message):
    with pytest.raises(ConfigError, match=message):
        configs.preset("dreamer_v1", word)


def test_a_backends_options_are_written_in_any_of_their_ways():
    expected = configs.EnvConfig(backend="brax", options=BraxOptions(brax_backend="spring"))
    assert expected == configs.EnvConfig(backend="brax", options={"brax_backend": "spring"})
    for word in ("brax_backend=spring", "env.brax_backend=spring", "env.options.brax_backend=spring"):
        assert configs.preset("tiny", "env.backend=brax", word, "action_repeat=1").env == expected
    config = configs.preset("tiny", "env.backend=brax", brax_backend="spring", camera="side")
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(config)))) == config
    assert configs.replace(config, {"env.backend": "brax"}) == config
    assert configs.difference(configs.replace(config, {"camera": ""}), config) == {"env.camera": ("", "side")}
    # What was set is kept by another backend that has it, and refused by one that does not.
    assert dataclasses.replace(configs.preset("tiny", camera="side").env, backend="brax").options.camera == "side"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: configs.preset("tiny", "brax_backend=spring"),
            r"brax_backend is an option of env.backend=brax; 'gym' has",
        ),
        (
            lambda: configs.preset("tiny", "backend=pure", "camera=x"),
            r"camera is an option of .*brax or .*; 'pure' has no",
        ),
        (
            lambda: configs.EnvConfig(backend="b" * 5000, options={"brax_backend": "spring"}),
            r"^.{0,100}env.backend=brax; 'b{90,110}\.\.\.b{90,110}' has camera, render_quality$",
        ),
        (lambda: configs.EnvConfig(options={"camra": "x"}), r"no option 'camra' \(did you mean camera\?\)"),
        (lambda: configs.EnvConfig(options=[1]), "env.options: expected GymOptions or a mapping, found"),
        (lambda: configs.EnvConfig(options={"frame_skip": "two"}), "frame_skip: expected int, found 'two'"),
        (lambda: configs.preset("tiny", "frame_skip=-1"), "env.frame_skip must not be negative"),
        (lambda: configs.preset("tiny", "backend=unity", "unity_base_port=0"), "unity_base_port must be above 0"),
        (
            lambda: configs.preset("tiny", "backend=unity", "unity_worker_id=60535"),
            "base_port .* must be at most 65535",
        ),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
