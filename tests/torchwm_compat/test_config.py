"""DreamerConfig: torchwm's fields and defaults, and what becomes of each."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import fractions
import logging
import pathlib
import types

import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from jaxdreamer import ConfigError
from jaxdreamer import config as configs
from torchwm_compat.config import mapping
from torchwm_compat.config.fields import DEFAULTS as KEPT
from torchwm_compat.config.fields import EXTRAS, TABLE
from torchwm_compat.config.mapping import to_jaxdreamer, warn_ignored
from torchwm_compat.config.settings import DreamerConfig, as_config

# torchwm's own, as its 0.4.2 writes them.
DEFAULTS = """
env_backend: dmc
env: walker-walk
env_instance: null
image_size: [64, 64]
gym_render_mode: rgb_array
dmlab_action_repeat: 4
dmlab_action_set: null
dmlab_observations: null
dmlab_config: null
dmlab_renderer: hardware
procgen_distribution_mode: easy
procgen_num_levels: 0
procgen_start_level: null
mujoco_xml_path: null
mujoco_xml_string: null
mujoco_binary_path: null
mujoco_camera: null
mujoco_frame_skip: 1
mujoco_reset_noise_scale: 0.0
brax_backend: generalized
brax_jit: true
brax_auto_reset: false
brax_suppress_warp_warnings: true
unity_file_name: null
unity_behavior_name: null
unity_worker_id: 0
unity_base_port: 5005
unity_no_graphics: true
unity_time_scale: 20.0
unity_quality_level: 1
algo: Dreamerv1
exp_name: lr1e-3
train: true
evaluate: false
seed: 1
no_gpu: false
max_episode_length: 1000
buffer_size: 800000
time_limit: 1000
cnn_activation_function: relu
dense_activation_function: elu
obs_embed_size: 1024
num_units: 400
deter_size: 200
stoch_size: 30
action_repeat: 2
action_noise: 0.3
total_steps: 5000000
seed_steps: 5000
update_steps: 100
collect_steps: 1000
batch_size: 50
train_seq_len: 50
imagine_horizon: 15
use_disc_model: false
free_nats: 3.0
discount: 0.99
td_lambda: 0.95
kl_loss_coeff: 1.0
kl_alpha: 0.8
disc_loss_coeff: 10.0
num_buckets: 255
symlog_range: 10.0
model_learning_rate: 6.0e-04
actor_learning_rate: 8.0e-05
value_learning_rate: 8.0e-05
adam_epsilon: 1.0e-07
grad_clip_norm: 100.0
use_amp: true
test: false
test_interval: 10000
test_episodes: 10
scalar_freq: 1000
log_video_freq: -1
max_videos_to_save: 2
video_format: gif
video_fps: 20
checkpoint_interval: 10000
checkpoint_path: ''
restore: false
experience_replay: ''
render: false
enable_wandb: false
wandb_project: torchwm
wandb_entity: ''
log_dir: runs
logdir: null
data_dir: null
log_level: INFO
log_file: null
enable_tensorboard: false
enable_console_metrics: true
enable_jsonl: true
jsonl_filename: metrics.jsonl
log_system_stats_freq: 1000
detect_anomaly: false
"""


def test_the_96_fields_and_their_defaults():
    assert DreamerConfig().to_dict() == yaml.safe_load(DEFAULTS)
    names = [field.name for field in dataclasses.fields(DreamerConfig)]
    assert names == list(yaml.safe_load(DEFAULTS)) and len(names) == 96
    assert DreamerConfig().image_size == (64, 64)


def test_dictionaries_and_yaml_round_trip(tmp_path):
    config = DreamerConfig(env="cartpole_balance", seed=123, image_size=(32, 48), obs="both", num_categories=16)
    path = tmp_path / "deep" / "dreamer.yaml"
    text = config.to_yaml(path)
    assert path.read_text() == text
    for again in (DreamerConfig.from_yaml(path), DreamerConfig.from_yaml(str(path)), DreamerConfig.from_yaml(text)):
        assert again == config and again.image_size == (32, 48) and again.obs == "both" and again.num_categories == 16
    assert DreamerConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    config.save_yaml(tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == text
    assert DreamerConfig.from_yaml("env: cheetah-run").env == "cheetah-run"


def test_a_live_environment_is_not_written():
    config = DreamerConfig(env_instance=object())
    assert "env_instance: null" in config.to_yaml()
    assert config != DreamerConfig()


def test_unknown_fields():
    with pytest.raises(ValueError, match=r"^Invalid DreamerConfig field: nope$"):
        DreamerConfig.from_dict({"nope": 1})
    with pytest.raises(AttributeError, match=r"no field 'obs_embed_sizes'; did you mean 'obs_embed_size'\?"):
        DreamerConfig().obs_embed_sizes = 3
    with pytest.raises(TypeError, match="nope"):
        DreamerConfig(nope=1)


def test_names_of_the_documentation_are_aliases():
    config = DreamerConfig(embed_size=64)
    assert config.obs_embed_size == 64 == config.embed_size
    config.embed_size = 32
    assert config.obs_embed_size == 32
    assert DreamerConfig.from_dict({"embed_size": 5}).obs_embed_size == 5
    assert not set(config.to_dict()) & {"embed_size", *EXTRAS}


def test_what_an_agent_may_be_given(tmp_path):
    config = DreamerConfig(seed=9)
    config.to_yaml(tmp_path / "c.yaml")
    assert as_config(config) is config
    assert as_config(None) == DreamerConfig()
    for given in (config.to_dict(), tmp_path / "c.yaml", config.to_yaml()):
        assert as_config(given) == config
    with pytest.raises(TypeError, match="found int"):
        as_config(3)
    with pytest.raises(FileNotFoundError):
        as_config(tmp_path / "absent.yaml")
    with pytest.raises(ValueError, match="expected YAML settings"):
        as_config("- a\n- b\n")


# ---- the table ------------------------------------------------------------------------------------------------------


def test_the_table_says_what_becomes_of_every_field():
    assert set(TABLE) == set(KEPT)
    for name, row in TABLE.items():
        assert row.what
        if row.kind == "setting":
            assert row.what in configs.types(), f"{name} -> {row.what}"


def flatten(data, prefix=""):
    flat = {}
    for key, value in data.items():
        inner = prefix if key == "options" else f"{prefix}{key}."
        flat |= flatten(value, inner) if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


NATIVE = {"env_backend": "mujoco", "env": "cart.xml"}
CHANGES = {
    "mujoco_xml_path": ("cart.xml", "cart.xml"), "mujoco_xml_string": ("<mujoco/>", "<mujoco/>"),
    "mujoco_binary_path": ("cart.mjb", "cart.mjb"), "mujoco_camera": ("side", "side"), "mujoco_frame_skip": (4, 4),
    "mujoco_reset_noise_scale": (0.1, 0.1), "brax_backend": ("mjx", "mjx"), "unity_file_name": ("env.exe", "env.exe"),
    "unity_behavior_name": ("Walker", "Walker"), "unity_worker_id": (3, 3), "unity_base_port": (6000, 6000),
    "unity_no_graphics": (False, False), "unity_time_scale": (1.0, 1.0), "unity_quality_level": (2, 2),
    "env_backend": ("gym", "gym"), "env": ("Pendulum-v1", "Pendulum-v1"), "image_size": ((32, 48), (32, 48)),
    "time_limit": (300, 150), "action_repeat": (4, 4), "algo": ("Dreamerv2", "dreamer_v2"), "seed": (7, 7),
    "cnn_activation_function": ("elu", "elu"), "dense_activation_function": ("relu", "relu"), "obs_embed_size": (64, 64),
    "num_units": (9, 9), "deter_size": (8, 8), "stoch_size": (5, 5), "use_disc_model": (True, True), "free_nats": (1.5, 1.5),
    "kl_loss_coeff": (0.5, 0.5), "kl_alpha": (0.6, None), "disc_loss_coeff": (3.0, 3.0), "discount": (0.9, 0.9),
    "td_lambda": (0.8, 0.8), "imagine_horizon": (6, 6), "action_noise": (0.1, 0.1), "model_learning_rate": (1e-3, 1e-3),
    "actor_learning_rate": (1e-3, 1e-3), "value_learning_rate": (1e-3, 1e-3), "adam_epsilon": (1e-5, 1e-5),
    "grad_clip_norm": (10.0, 10.0), "total_steps": (4000, 4000), "seed_steps": (101, 51), "update_steps": (10, 10),
    "collect_steps": (500, 250), "buffer_size": (4000, 4000), "batch_size": (5, 5), "train_seq_len": (20, 20),
    "test_interval": (500, 250), "test_episodes": (3, 3), "checkpoint_interval": (700, 350),
}  # fmt: skip


def test_the_changes_below_cover_every_setting():
    assert set(CHANGES) == {name for name, row in TABLE.items() if row.kind == "setting"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_field_decides_its_setting(name):
    given, expected = CHANGES[name]
    base = dict(NATIVE, env="other.xml") if name.startswith("mujoco") else {}
    base |= {"env_backend": mapping.OWNERS[name]} if name in mapping.OWNERS else {}
    flat = flatten(dataclasses.asdict(to_jaxdreamer(DreamerConfig(**{**base, name: given}))))
    before = flatten(dataclasses.asdict(to_jaxdreamer(DreamerConfig(**base))))
    assert flat[TABLE[name].what] == expected
    if name != "kl_alpha":  # balancing is V2's
        assert before[TABLE[name].what] != expected


def test_a_models_settings_are_not_a_tasks():
    config = to_jaxdreamer(
        DreamerConfig(env_backend="mujoco", env="Humanoid-v4", mujoco_frame_skip=4, mujoco_camera="x")
    )
    assert (config.env.options.camera, config.env.options.frame_skip) == ("", 0)
    native = to_jaxdreamer(DreamerConfig(**NATIVE))
    assert (native.env.options.camera, native.env.options.frame_skip) == ("-1", 1)  # torchwm's: the free camera
    with pytest.raises(ConfigError, match="give one of mujoco_xml_string, mujoco_xml_path, not 2"):
        to_jaxdreamer(DreamerConfig(**NATIVE, mujoco_xml_path="a.xml", mujoco_xml_string="<mujoco/>"))


def test_settings_that_follow_from_others():
    config = to_jaxdreamer(DreamerConfig(deter_size=8, update_steps=7, collect_steps=100, action_noise=0.2))
    assert config.model.hidden_size == 8 and config.run.pretrain == 7
    assert config.run.train_every == config.run.log_every == 50
    assert config.behavior.exploration_epsilon == 0.2 and config.model.discount_layers == 2
    assert config.env.obs == "pixels" and not config.run.video and config.replay.cross_episodes


def test_v2_is_the_published_one():
    for name in ("Dreamerv2", "dreamerv2", "DREAMERV2", "dreamer-v2"):
        config = to_jaxdreamer(DreamerConfig(algo=name))
        assert config.preset == "dreamer_v2" and config.model.classes == 32 and config.model.cell == "layer_norm_gru"
        assert (
            config.model.discount_head and config.loss.kl_balance == 0.8 and config.behavior.target_critic_every == 100
        )
        assert config.behavior.actor_gradient == "auto" and config.model.actor_distribution == "truncated_normal"
    assert to_jaxdreamer(DreamerConfig(algo="Dreamerv2", num_categories=8)).model.classes == 8
    assert to_jaxdreamer(DreamerConfig(algo="Dreamerv2", kl_alpha=0.7)).loss.kl_balance == 0.7
    assert to_jaxdreamer(DreamerConfig(actor_gradient="reinforce")).behavior.actor_gradient == "reinforce"


def test_torchwms_order_of_an_update():
    config = to_jaxdreamer(DreamerConfig(update_order="torchwm"))
    assert config.behavior.update_order == "sequential" and config.behavior.actor_input_gradient
    assert config.optimizer.adam_epsilon == 1e-8
    plain = to_jaxdreamer(DreamerConfig())
    assert plain.behavior.update_order == "joint" and not plain.behavior.actor_input_gradient
    with pytest.raises(ConfigError, match="update_order: expected 'auto', or 'torchwm' for Dreamerv1"):
        to_jaxdreamer(DreamerConfig(update_order="torchwm", algo="Dreamerv2"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algo": "Dreamerv3"}, "algo: expected Dreamerv1 or Dreamerv2, found 'Dreamerv3'"),
        ({"env_backend": "dmlab"}, r"env_backend='dmlab' is not offered\. Use one of: dmc, gym, "),
        ({"env_backend": "procgen"}, "is not offered"),
        ({"env_backend": "bsuite"}, "is not offered"),
        ({"env_backend": "atari"}, r"env_backend='atari' is unknown\. Use one of: dmc"),
        ({"image_size": (64,)}, r"Invalid image_size=\(64,\)\. Expected int or \(H, W\)\."),
        ({"batch_size": -1}, "DreamerConfig.batch_size -> replay.batch_size must be above 0, found -1"),
        ({"discount": 1.5}, "DreamerConfig.discount -> behavior.discount must lie between 0 and 1"),
        ({"num_units": "many"}, "DreamerConfig.num_units -> model.units: expected int, found 'many'"),
    ],
)
def test_what_cannot_be_is_refused_by_torchwms_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        to_jaxdreamer(DreamerConfig(**changes))


@pytest.mark.parametrize("name", mapping.BACKENDS)
def test_every_spelling_of_a_backend(name):
    assert mapping.backend(DreamerConfig(env_backend=name.upper())) == mapping.BACKENDS[name]


def test_one_number_is_a_square():
    assert to_jaxdreamer(DreamerConfig(image_size=32)).env.image_size == (32, 32)


def test_the_shorter_time_limit_holds():
    """Pendulum-v1 ends after 200 frames by itself."""
    pendulum = {"env_backend": "gym", "env": "Pendulum-v1", "action_repeat": 2}
    assert to_jaxdreamer(DreamerConfig(**pendulum)).env.time_limit == 0
    assert to_jaxdreamer(DreamerConfig(**pendulum, time_limit=100)).env.time_limit == 50
    assert to_jaxdreamer(DreamerConfig()).env.time_limit == 500


def test_fields_without_a_meaning_are_warned_about_once_by_name(caplog, monkeypatch):
    monkeypatch.setattr(mapping, "_warned", set())
    changes = {"train": False, "evaluate": True, "max_episode_length": 5, "test": True, "scalar_freq": 3, "render": True,
               "experience_replay": "x", "num_buckets": 63, "symlog_range": 5.0, "use_amp": False, "brax_jit": False,
               "brax_auto_reset": True, "brax_suppress_warp_warnings": False, "detect_anomaly": True,
               "log_system_stats_freq": 5, "dmlab_renderer": "software", "dmlab_action_repeat": 1, "dmlab_action_set": 1,
               "dmlab_observations": 1, "dmlab_config": 1, "procgen_distribution_mode": "hard", "procgen_num_levels": 3,
               "procgen_start_level": 2}  # fmt: skip
    assert set(changes) == {name for name, row in TABLE.items() if row.kind == "ignored"}
    with caplog.at_level(logging.WARNING, "torchwm_compat"):
        assert sorted(warn_ignored(DreamerConfig(**changes))) == sorted(changes)
        assert warn_ignored(DreamerConfig(**changes)) == []
    assert len(caplog.records) == len(changes)
    assert "DreamerConfig.render = True has no effect: frames are never shown in a window" in caplog.text
    assert warn_ignored(DreamerConfig()) == []


# ---- values as they come ------------------------------------------------------------------------------------------------


class Kind(enum.Enum):
    V2 = "Dreamerv2"


class Task(str):
    """Text of a kind of its own."""


AS_THEY_COME = [
    ("batch_size", np.int64(3), 3), ("discount", np.float64(0.5), 0.5), ("no_gpu", np.bool_(True), True),
    ("seed", np.array(7), 7), ("train_seq_len", np.array([4]), 4), ("image_size", np.array([16, 32]), (16, 32)),
    ("env", np.str_("Pendulum-v1"), "Pendulum-v1"), ("env", Task("Ant-v5"), "Ant-v5"), ("algo", Kind.V2, "Dreamerv2"),
    ("logdir", pathlib.Path("runs/a"), "runs/a"), ("mujoco_xml_path", pathlib.PurePosixPath("a b.xml"), "a b.xml"),
    ("total_steps", "1e6", 1_000_000), ("total_steps", 1e6, 1_000_000), ("model_learning_rate", "6e-4", 6e-4),
    ("free_nats", fractions.Fraction(3, 2), 1.5), ("use_disc_model", "no", False), ("enable_wandb", 1, True),
    ("wandb_entity", None, ""), ("exp_name", 3, "3"), ("batch_size", 5.0, 5),
    ("dmlab_config", collections.OrderedDict(width=np.int32(8)), {"width": 8}),
    ("dmlab_config", argparse.Namespace(sizes=(np.float64(1.5), None)), {"sizes": (1.5, None)}),
    ("batch_size", jnp.asarray(3), 3), ("num_categories", np.uint8(9), 9),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "kept"), AS_THEY_COME, ids=str)
def test_values_become_plain_ones_and_survive_yaml(name, given, kept):
    assigned = DreamerConfig()
    setattr(assigned, name, given)
    for config in (assigned, DreamerConfig(**{name: given}), DreamerConfig.from_dict({name: given})):
        value = getattr(config, name)
        assert value == kept and type(value) is type(kept)
        text = config.to_yaml()
        assert "!!" not in text and DreamerConfig.from_yaml(text) == config


def test_yaml_written_by_hand_may_have_numbers_that_yaml_takes_for_text():
    config = DreamerConfig.from_yaml("model_learning_rate: 1e-3\ntotal_steps: 1e4\nuse_amp: 'off'\nwandb_entity:")
    assert (config.model_learning_rate, config.total_steps, config.use_amp) == (1e-3, 10_000, False)
    assert config.wandb_entity == ""


def test_a_namespace_is_a_configuration(tmp_path):
    given = argparse.Namespace(seed=np.int64(5), logdir=tmp_path)
    assert as_config(given) == as_config(types.SimpleNamespace(seed=5, logdir=str(tmp_path)))
    (tmp_path / "a.yaml").write_text("seed: 5")
    assert as_config(pathlib.PurePath(tmp_path, "a.yaml")).seed == 5


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("batch_size", 2.5, "int, found 2.5"),
        ("batch_size", True, "int, found True"),
        ("seed", None, "int, found None"),
        ("seed", -3, "must not be negative, found -3"),
        ("test_episodes", np.array([1, 2]), r"int, found \(1, 2\)"),
        ("no_gpu", "perhaps", "bool, found 'perhaps'"),
        ("video_fps", "fast", "int, found 'fast'"),
        ("env", None, "str, found None"),
        ("logdir", 3, "str, found 3"),
        ("mujoco_xml_path", ("a", "b"), "str, found"),
        ("log_file", "a\0b", "text cannot hold a null character"),
        ("mujoco_camera", 1.5, "a name or a number, found 1.5"),
        ("video_format", "avi", "gif or mp4, found 'avi'"),
        ("video_fps", 0, "above 0, found 0"),
        ("max_videos_to_save", -1, "must not be negative, found -1"),
        ("jsonl_filename", "a/b.jsonl", "a file's name, found 'a/b.jsonl'"),
        ("time_limit", 0, "must be above 0, found 0"),
        ("collect_steps", 0, "must be above 0, found 0"),
        ("seed_steps", -4, "must not be negative, found -2"),
        ("buffer_size", 0, "must be above 0, found 0"),
        ("action_repeat", 0, "must be above 0, found 0"),
        ("discount", float("nan"), "a finite number|must be a finite number, found nan"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_name(name, value, expected):
    with pytest.raises(ConfigError, match=rf"^DreamerConfig\.{name}.*{expected}"):
        to_jaxdreamer(DreamerConfig(**{name: value}))


def test_what_cannot_be_written_down_is_named():
    with pytest.raises(ConfigError, match=r"DreamerConfig\.dmlab_config: <object .*> cannot be written down"):
        DreamerConfig(dmlab_config={"a": [object()]}).to_yaml()
