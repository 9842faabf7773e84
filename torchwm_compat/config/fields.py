"""torchwm's 96 fields with their defaults, and what becomes of each in this package: one table."""

# ruff: noqa: RUF009 - the calls return dataclasses.field()

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

# Names that torchwm's documentation uses for a field that its class calls otherwise.
ALIASES = {"embed_size": "obs_embed_size"}

# Settings beyond torchwm's fields. They are written to dictionaries and YAML only where they were changed, so that what
# torchwm reads stays what torchwm wrote.
EXTRAS: dict[str, Any] = {
    "obs": "pixels",  # what the agent sees: pixels, state or both
    "num_categories": 32,  # classes of each categorical latent of Dreamerv2
    "actor_gradient": "auto",  # auto, dynamics, reinforce or both
    "update_order": "auto",  # auto: as the algorithm has it; torchwm: torchwm's own order and gradients, for V1
    "unity_python": "",  # the interpreter that has mlagents-envs; empty: this one
}


class Row(NamedTuple):
    """What becomes of one field: it decides a setting of jaxdreamer, this package acts on it, or it has no effect."""

    kind: Literal["setting", "facade", "ignored"]
    what: str  # the setting's dotted name; what this package does; why the field has no effect here


def _field(kind: Literal["setting", "facade", "ignored"], default: Any, what: str) -> Any:
    return dataclasses.field(default=default, metadata={"row": Row(kind, what)})


_setting = functools.partial(_field, "setting")
_facade = functools.partial(_field, "facade")
_ignored = functools.partial(_field, "ignored")  # a warning says so where the field was changed

_DMLAB = "DeepMind Lab is not offered"
_PROCGEN = "Procgen is not offered"
_TWO_HOT = "rewards and values are Normal, as in DreamerV2; torchwm's two-hot heads are V3's idea"


@dataclass(eq=False)
class Fields:
    """torchwm's fields, in its order."""

    env_backend: str = _setting("dmc", "env.backend")
    env: str = _setting("walker-walk", "env.id")
    env_instance: Any = _facade(None, "a ready environment, instead of env; wrapped as it is")
    image_size: tuple[int, int] = _setting((64, 64), "env.image_size")
    gym_render_mode: str = _facade("rgb_array", "handed to Gymnasium; training always draws frames as arrays")
    dmlab_action_repeat: int = _ignored(4, _DMLAB)
    dmlab_action_set: Any = _ignored(None, _DMLAB)
    dmlab_observations: Any = _ignored(None, _DMLAB)
    dmlab_config: Any = _ignored(None, _DMLAB)
    dmlab_renderer: str = _ignored("hardware", _DMLAB)
    procgen_distribution_mode: str = _ignored("easy", _PROCGEN)
    procgen_num_levels: int = _ignored(0, _PROCGEN)
    procgen_start_level: Any = _ignored(None, _PROCGEN)
    mujoco_xml_path: Any = _setting(None, "env.id")
    mujoco_xml_string: Any = _setting(None, "env.id")
    mujoco_binary_path: Any = _setting(None, "env.id")
    mujoco_camera: Any = _setting(None, "env.camera")
    mujoco_frame_skip: int = _setting(1, "env.frame_skip")
    mujoco_reset_noise_scale: float = _setting(0.0, "env.reset_noise")
    brax_backend: str = _setting("generalized", "env.brax_backend")
    brax_jit: bool = _ignored(True, "Brax always runs compiled")
    brax_auto_reset: bool = _ignored(False, "jaxdreamer resets to a fresh start and keeps the final observation")
    brax_suppress_warp_warnings: bool = _ignored(True, "Brax's import is always quiet")
    unity_file_name: Any = _setting(None, "env.unity_file_name")
    unity_behavior_name: Any = _setting(None, "env.unity_behavior_name")
    unity_worker_id: int = _setting(0, "env.unity_worker_id")
    unity_base_port: int = _setting(5005, "env.unity_base_port")
    unity_no_graphics: bool = _setting(True, "env.unity_no_graphics")
    unity_time_scale: float = _setting(20.0, "env.unity_time_scale")
    unity_quality_level: int = _setting(1, "env.unity_quality_level")
    algo: str = _setting("Dreamerv1", "preset")
    exp_name: str = _facade("lr1e-3", "part of the run folder's name")
    train: bool = _ignored(True, "call agent.train()")
    evaluate: bool = _ignored(False, "call agent.evaluate()")
    seed: int = _setting(1, "seed")
    no_gpu: bool = _facade(False, "compute on the CPU")
    max_episode_length: int = _ignored(1000, "time_limit is the episode's length")
    buffer_size: int = _setting(800_000, "replay.capacity")
    time_limit: int = _setting(1000, "env.time_limit")
    cnn_activation_function: str = _setting("relu", "model.cnn_activation")
    dense_activation_function: str = _setting("elu", "model.dense_activation")
    obs_embed_size: int = _setting(1024, "model.embed_size")
    num_units: int = _setting(400, "model.units")
    deter_size: int = _setting(200, "model.deter_size")  # and model.hidden_size, as in torchwm
    stoch_size: int = _setting(30, "model.stoch_size")
    action_repeat: int = _setting(2, "env.action_repeat")
    action_noise: float = _setting(0.3, "behavior.exploration_noise")  # and exploration_epsilon, for discrete actions
    total_steps: int = _setting(5_000_000, "run.frames")
    seed_steps: int = _setting(5000, "run.prefill")
    update_steps: int = _setting(100, "run.updates")  # and run.pretrain: torchwm's round begins with its updates
    collect_steps: int = _setting(1000, "run.train_every")
    batch_size: int = _setting(50, "replay.batch_size")
    train_seq_len: int = _setting(50, "replay.batch_length")
    imagine_horizon: int = _setting(15, "behavior.imagine_horizon")
    use_disc_model: bool = _setting(False, "model.discount_head")
    free_nats: float = _setting(3.0, "loss.free_nats")
    discount: float = _setting(0.99, "behavior.discount")
    td_lambda: float = _setting(0.95, "behavior.td_lambda")
    kl_loss_coeff: float = _setting(1.0, "loss.kl_loss_coeff")
    kl_alpha: float = _setting(0.8, "loss.kl_balance")
    disc_loss_coeff: float = _setting(10.0, "loss.discount_loss_coeff")
    num_buckets: int = _ignored(255, _TWO_HOT)
    symlog_range: float = _ignored(10.0, _TWO_HOT)
    model_learning_rate: float = _setting(6e-4, "optimizer.model_learning_rate")
    actor_learning_rate: float = _setting(8e-5, "optimizer.actor_learning_rate")
    value_learning_rate: float = _setting(8e-5, "optimizer.critic_learning_rate")
    adam_epsilon: float = _setting(1e-7, "optimizer.adam_epsilon")
    grad_clip_norm: float = _setting(100.0, "optimizer.grad_clip_norm")
    use_amp: bool = _ignored(True, "arithmetic is float32; jaxdreamer offers bfloat16 as model.precision")
    test: bool = _ignored(False, "call agent.evaluate()")
    test_interval: int = _setting(10_000, "run.eval_every")
    test_episodes: int = _setting(10, "run.eval_episodes")
    scalar_freq: int = _ignored(1000, "metrics are written once a round")
    log_video_freq: int = _facade(-1, "above 0: evaluations while training are filmed, not only those of evaluate()")
    max_videos_to_save: int = _facade(2, "how many episodes of an evaluation are saved as videos")
    video_format: str = _facade("gif", "gif or mp4")
    video_fps: int = _facade(20, "frames a second of the videos")
    checkpoint_interval: int = _setting(10_000, "run.checkpoint_every")
    checkpoint_path: str = _facade("", "read at the start where restore is set")
    restore: bool = _facade(False, "begin with checkpoint_path's parameters and optimizers")
    experience_replay: str = _ignored("", "a run's replay is saved and resumed with it")
    render: bool = _ignored(False, "frames are never shown in a window")
    enable_wandb: bool = _facade(False, "log to Weights & Biases too")
    wandb_project: str = _facade("torchwm", "project on Weights & Biases")
    wandb_entity: str = _facade("", "entity on Weights & Biases")
    log_dir: str = _facade("runs", "where run folders are made")
    logdir: Any = _facade(None, "the run's own folder")
    data_dir: Any = _facade(None, "where run folders are made, before log_dir")
    log_level: str = _facade("INFO", "level of the loggers torchwm_compat and jaxdreamer")
    log_file: Any = _facade(None, "a file that these loggers also write to")
    enable_tensorboard: bool = _facade(False, "log to TensorBoard too")
    enable_console_metrics: bool = _facade(True, "show progress on standard error")
    enable_jsonl: bool = _facade(True, "write the metrics as JSON lines")
    jsonl_filename: str = _facade("metrics.jsonl", "name of that file")
    log_system_stats_freq: int = _ignored(1000, "jaxdreamer logs rates and shares of time with every line")
    detect_anomaly: bool = _ignored(False, "updates that are not finite are always skipped, counted, and stop a run")


TABLE: dict[str, Row] = {field.name: field.metadata["row"] for field in dataclasses.fields(Fields)}
DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Fields)}
KNOWN: dict[str, Any] = DEFAULTS | EXTRAS  # every name that can be set, with its default
