"""What becomes of each of torchwm's 96 fields: one table, and the jaxdreamer configuration that follows from it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxdreamer import Config, ConfigError, preset
from torchwm_compat.config import DreamerConfig, field_names, known_defaults
from torchwm_compat.values import mismatch

_log = logging.getLogger("torchwm_compat")

PRESETS = {"dreamerv1": "dreamer_v1", "dreamerv2": "dreamer_v2"}

# torchwm's names for backends, and jaxdreamer's.
BACKENDS = {
    "dmc": "dmc",
    "gym": "gym",
    "gymnasium": "gym",
    "generic": "gym",
    "mujoco": "mujoco",
    "mjcf": "mujoco",
    "native_mujoco": "mujoco",
    "robotics": "robotics",
    "gymnasium_robotics": "robotics",
    "brax": "brax",
    "jax_brax": "brax",
    "unity": "unity_mlagents",
    "unity_mlagents": "unity_mlagents",
    "mlagents": "unity_mlagents",
}
MODEL_SUFFIXES = (".xml", ".mjcf", ".urdf", ".mjb")
NOT_OFFERED = ("dmlab", "procgen", "bsuite")


class Row(NamedTuple):
    """The fate of one field."""

    kind: Literal["setting", "facade", "ignored"]
    what: str  # jaxdreamer's setting; what the facade does with it; why it has no meaning here
    convert: Callable[[DreamerConfig], Any] | None = None  # None: the field's own value


def setting(name: str, convert: Callable[[DreamerConfig], Any] | None = None) -> Row:
    """The field decides a setting of jaxdreamer."""
    return Row("setting", name, convert)


def facade(what: str) -> Row:
    """The field is obeyed by this package."""
    return Row("facade", what)


def ignored(why: str) -> Row:
    """The field is accepted, and warned about where it was changed."""
    return Row("ignored", why)


def _steps(name: str) -> Callable[[DreamerConfig], int]:
    """A field in environment frames, in agent steps."""
    return lambda args: -(-getattr(args, name) // _repeat(args))


def _repeat(args: DreamerConfig) -> int:
    return max(1, args.action_repeat)


_DMLAB = ignored("DeepMind Lab is not offered")
_PROCGEN = ignored("Procgen is not offered")

TABLE: dict[str, Row] = {
    # which environment
    "env_backend": setting("env.backend", lambda args: backend(args)),
    "env": setting("env.id", lambda args: task(args)),
    "env_instance": facade("a ready environment, instead of env; wrapped as it is"),
    "image_size": setting("env.image_size", lambda args: image_size(args)),
    "gym_render_mode": facade("handed to Gymnasium; training always draws frames as arrays"),
    "dmlab_action_repeat": _DMLAB,
    "dmlab_action_set": _DMLAB,
    "dmlab_observations": _DMLAB,
    "dmlab_config": _DMLAB,
    "dmlab_renderer": _DMLAB,
    "procgen_distribution_mode": _PROCGEN,
    "procgen_num_levels": _PROCGEN,
    "procgen_start_level": _PROCGEN,
    "mujoco_xml_path": setting("env.id", lambda args: task(args)),
    "mujoco_xml_string": setting("env.id", lambda args: task(args)),
    "mujoco_binary_path": setting("env.id", lambda args: task(args)),
    "mujoco_camera": setting(
        "env.camera", lambda args: "-1" if args.mujoco_camera is None else str(args.mujoco_camera)
    ),
    "mujoco_frame_skip": setting("env.frame_skip", lambda args: args.mujoco_frame_skip or 1),
    "mujoco_reset_noise_scale": setting("env.reset_noise"),
    "brax_backend": setting("env.brax_backend"),
    "brax_jit": ignored("Brax always runs compiled"),
    "brax_auto_reset": ignored("resets are jaxdreamer's own: fresh starts, and no final observation lost"),
    "brax_suppress_warp_warnings": ignored("Brax's import is always quiet"),
    "unity_file_name": setting("env.unity_file_name", lambda args: str(args.unity_file_name or "")),
    "unity_behavior_name": setting("env.unity_behavior_name", lambda args: args.unity_behavior_name or ""),
    "unity_worker_id": setting("env.unity_worker_id"),
    "unity_base_port": setting("env.unity_base_port"),
    "unity_no_graphics": setting("env.unity_no_graphics"),
    "unity_time_scale": setting("env.unity_time_scale"),
    "unity_quality_level": setting("env.unity_quality_level"),
    "time_limit": setting("env.time_limit", lambda args: time_limit(args)),
    "action_repeat": setting("env.action_repeat"),
    # the algorithm
    "algo": setting("preset", lambda args: PRESETS[algorithm(args)]),
    "seed": setting("seed"),
    "cnn_activation_function": setting("model.cnn_activation"),
    "dense_activation_function": setting("model.dense_activation"),
    "obs_embed_size": setting("model.embed_size"),
    "num_units": setting("model.units"),
    "deter_size": setting("model.deter_size"),  # and model.hidden_size, as in torchwm
    "stoch_size": setting("model.stoch_size"),
    "use_disc_model": setting("model.discount_head", lambda args: bool(args.use_disc_model) or is_v2(args)),
    "free_nats": setting("loss.free_nats"),
    "kl_loss_coeff": setting("loss.kl_loss_coeff"),
    "kl_alpha": setting("loss.kl_balance", lambda args: args.kl_alpha if is_v2(args) else None),
    "disc_loss_coeff": setting("loss.discount_loss_coeff"),
    "num_buckets": ignored("rewards and values are Normal, as in DreamerV2; torchwm's two-hot heads are V3's idea"),
    "symlog_range": ignored("rewards and values are Normal, as in DreamerV2; torchwm's two-hot heads are V3's idea"),
    "discount": setting("behavior.discount"),
    "td_lambda": setting("behavior.td_lambda"),
    "imagine_horizon": setting("behavior.imagine_horizon"),
    "action_noise": setting("behavior.exploration_noise"),  # and behavior.exploration_epsilon, for choices
    "model_learning_rate": setting("optimizer.model_learning_rate"),
    "actor_learning_rate": setting("optimizer.actor_learning_rate"),
    "value_learning_rate": setting("optimizer.critic_learning_rate"),
    "adam_epsilon": setting("optimizer.adam_epsilon"),
    "grad_clip_norm": setting("optimizer.grad_clip_norm"),
    "use_amp": ignored("arithmetic is float32; bfloat16 is an option of jaxdreamer"),
    "detect_anomaly": ignored("updates that are not finite are always skipped, counted, and stop the run in the end"),
    # the run
    "total_steps": setting("run.frames"),
    "seed_steps": setting("run.prefill", _steps("seed_steps")),
    "update_steps": setting("run.updates"),  # and run.pretrain: a round's updates come before its steps
    "collect_steps": setting("run.train_every", _steps("collect_steps")),
    "buffer_size": setting("replay.capacity", lambda args: capacity(args)),
    "batch_size": setting("replay.batch_size"),
    "train_seq_len": setting("replay.batch_length"),
    "test_interval": setting("run.eval_every", _steps("test_interval")),
    "test_episodes": setting("run.eval_episodes"),
    "checkpoint_interval": setting("run.checkpoint_every", _steps("checkpoint_interval")),
    "checkpoint_path": facade("read at the start where restore is set"),
    "restore": facade("begin with checkpoint_path's parameters and optimizers"),
    "no_gpu": facade("compute on the CPU"),
    "exp_name": facade("part of the run folder's name"),
    "log_dir": facade("where run folders are made"),
    "logdir": facade("the run's own folder"),
    "data_dir": facade("where run folders are made, before log_dir"),
    "log_level": facade("level of the loggers torchwm_compat and jaxdreamer"),
    "log_file": facade("their records go there too"),
    "log_video_freq": facade("above 0: every evaluation is filmed; else evaluate()'s are"),
    "max_videos_to_save": facade("videos of an evaluation"),
    "video_format": facade("gif or mp4"),
    "video_fps": facade("their frames in a second"),
    "enable_wandb": facade("log to Weights & Biases too"),
    "wandb_project": facade("its project"),
    "wandb_entity": facade("its entity"),
    "enable_tensorboard": facade("log to TensorBoard too"),
    "enable_console_metrics": facade("tell of the progress on standard error"),
    "enable_jsonl": facade("write the metrics as JSON lines"),
    "jsonl_filename": facade("their file"),
    "log_system_stats_freq": ignored("jaxdreamer logs rates and shares of time with every line instead"),
    # fields that torchwm reads nowhere either
    "train": ignored("call agent.train()"),
    "evaluate": ignored("call agent.evaluate()"),
    "max_episode_length": ignored("time_limit is the episode's length"),
    "test": ignored("call agent.evaluate()"),
    "scalar_freq": ignored("metrics are written once a round"),
    "experience_replay": ignored("a run's replay is saved and resumed with it"),
    "render": ignored("frames are never shown in a window"),
}

_warned: set[str] = set()


def warn_ignored(args: DreamerConfig) -> list[str]:
    """Warn, once in a process for each name, about changed fields without a meaning here; the names warned about."""
    defaults = field_names()
    names = [n for n, row in TABLE.items() if row.kind == "ignored" and getattr(args, n) != defaults[n]]
    new = [name for name in names if name not in _warned]
    for name in new:
        _warned.add(name)
        _log.warning("DreamerConfig.%s = %r has no effect: %s", name, getattr(args, name), TABLE[name].what)
    return new


def to_jaxdreamer(args: DreamerConfig) -> Config:
    """The configuration that a DreamerConfig asks for.

    Raises:
        ConfigError: a value that cannot be, by torchwm's name; or a backend or algorithm that is not offered.
    """
    _check_values(args)
    values: dict[str, Any] = {}
    named: dict[str, str] = {}
    for name, row in TABLE.items():
        if row.kind == "setting":
            values[row.what] = row.convert(args) if row.convert else getattr(args, name)
            named.setdefault(row.what, name)
    base = values.pop("preset")
    values["model.hidden_size"] = args.deter_size
    if base == "dreamer_v1":
        values["model.discount_layers"] = 2
    else:
        values["model.classes"] = args.num_categories
    values["behavior.exploration_epsilon"] = min(1.0, args.action_noise)
    values["env.obs"] = args.obs
    values["env.unity_python"] = args.unity_python
    if args.env_instance is not None or backend(args) != "mujoco" or not is_model(values["env.id"]):
        del values["env.camera"], values["env.frame_skip"]  # native models' only: a task has its own
    if args.env_instance is not None:
        values["env.backend"] = "custom"
    # torchwm's windows cross the ends of episodes; so do these, with the state reset there. Tasks whose episodes are
    # shorter than a window could not be learned otherwise.
    values["replay.cross_episodes"] = True
    values["run.pretrain"] = args.update_steps
    values["run.log_every"] = values["run.train_every"]
    values["run.video"] = wants_films(args)
    values |= _update_order(args)
    if args.actor_gradient != "auto":
        values["behavior.actor_gradient"] = args.actor_gradient
    elif base == "dreamer_v1":
        values["behavior.actor_gradient"] = "dynamics"
    try:
        return preset(base, **values)
    except ConfigError as error:
        key = str(error).split(" ", 1)[0].rstrip(":")
        prefix = f"DreamerConfig.{named[key]} -> " if key in named else ""
        raise ConfigError(f"{prefix}{error}") from None


# Fields without a default that would tell their type: text, or a path, or None.
_TEXTS = ("mujoco_xml_path", "mujoco_xml_string", "mujoco_binary_path", "unity_file_name", "unity_behavior_name", "logdir",
          "data_dir", "log_file")  # fmt: skip


def _check_values(args: DreamerConfig) -> None:
    """ConfigError for a value of another type than its field's, and for what this package itself cannot obey."""
    for name, default in known_defaults().items():
        value = getattr(args, name)
        wrong = mismatch(value, "" if name in _TEXTS and value is not None else default)
        if wrong is None and isinstance(value, str) and "\0" in value:
            wrong = f"text cannot hold a null character, found {value!r}"
        if wrong:
            row = TABLE.get(name)
            target = f" -> {row.what}" if row is not None and row.kind == "setting" else ""
            raise ConfigError(f"DreamerConfig.{name}{target}: {wrong}")
    if type(args.mujoco_camera) not in (type(None), int, str):
        raise ConfigError(f"DreamerConfig.mujoco_camera: expected a name or a number, found {args.mujoco_camera!r}")
    if args.video_format.lower() not in ("gif", "mp4"):
        raise ConfigError(f"DreamerConfig.video_format: expected gif or mp4, found {args.video_format!r}")
    if args.video_fps < 1:
        raise ConfigError(f"DreamerConfig.video_fps must be above 0, found {args.video_fps}")
    if args.max_videos_to_save < 0:
        raise ConfigError(f"DreamerConfig.max_videos_to_save must not be negative, found {args.max_videos_to_save}")
    if not args.jsonl_filename or Path(args.jsonl_filename).name != args.jsonl_filename:
        raise ConfigError(f"DreamerConfig.jsonl_filename: expected a file's name, found {args.jsonl_filename!r}")


def wants_films(args: DreamerConfig) -> bool:
    """Whether evaluations while training are filmed."""
    return args.log_video_freq > 0


def _update_order(args: DreamerConfig) -> dict[str, Any]:
    if args.update_order == "auto":
        return {}
    if args.update_order != "torchwm" or is_v2(args):
        raise ConfigError(
            f"DreamerConfig.update_order: expected 'auto', or 'torchwm' for Dreamerv1, found {args.update_order!r} "
            f"for {args.algo}"
        )
    return {
        "behavior.update_order": "sequential",
        "behavior.actor_input_gradient": True,
        "optimizer.adam_epsilon": 1e-8,
    }


def algorithm(args: DreamerConfig) -> str:
    """``dreamerv1`` or ``dreamerv2``. Raises ConfigError for anything else."""
    name = str(args.algo).lower().replace("-", "").replace("_", "")
    if name not in PRESETS:
        raise ConfigError(f"DreamerConfig.algo: expected Dreamerv1 or Dreamerv2, found {args.algo!r}")
    return name


def is_v2(args: DreamerConfig) -> bool:
    """Whether the algorithm is DreamerV2."""
    return algorithm(args) == "dreamerv2"


def backend(args: DreamerConfig) -> str:
    """jaxdreamer's name of the backend. Raises ConfigError for one that is not offered, or unknown."""
    name = str(args.env_backend).lower()
    if name in BACKENDS:
        return BACKENDS[name]
    found = "is not offered" if name in NOT_OFFERED else "is unknown"
    raise ConfigError(f"env_backend={args.env_backend!r} {found}. Use one of: {', '.join(BACKENDS)}.")


def is_unity(args: DreamerConfig) -> bool:
    """Whether a Unity player is the environment."""
    return args.env_instance is None and backend(args) == "unity_mlagents"


def task(args: DreamerConfig) -> str:
    """What jaxdreamer is to make: an id, or a MuJoCo model's source."""
    if args.env_instance is not None or backend(args) != "mujoco":
        return str(args.env)
    return str(next(iter(model_sources(args).values()), args.env))


def model_sources(args: Any) -> dict[str, Any]:
    """The MuJoCo model's source among the three fields for it, by ``MuJoCoImageEnv``'s name; empty where there is none.

    Raises:
        ConfigError: more than one.
    """
    fields = {"xml_string": "mujoco_xml_string", "binary_path": "mujoco_binary_path", "xml_path": "mujoco_xml_path"}
    given = {name: getattr(args, field) for name, field in fields.items() if getattr(args, field) is not None}
    if len(given) > 1:
        raise ConfigError(f"give one of {', '.join(fields[name] for name in given)}, not {len(given)}")
    return given


def is_model(source: Any) -> bool:
    """Whether a MuJoCo source is a model, an MJCF or URDF text or file or an MJB file, instead of a task's id."""
    text = str(source)
    return text.lstrip().startswith("<") or text.lower().endswith(MODEL_SUFFIXES)


def image_size(args: DreamerConfig) -> tuple[int, int]:
    """Height and width; one number stands for both."""
    size = args.image_size
    if isinstance(size, int) and not isinstance(size, bool):
        return size, size
    if isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(item, int) for item in size):
        return size[0], size[1]
    raise ConfigError(f"Invalid image_size={size}. Expected int or (H, W).")


def capacity(args: DreamerConfig) -> int:
    """Entries of the replay: buffer_size, and no fewer than a round of training needs to sample from."""
    if args.buffer_size < 1:
        return args.buffer_size  # refused by its name
    return max(args.buffer_size, 2 * args.train_seq_len, args.train_seq_len + 2 * (_steps("collect_steps")(args) + 1))


def time_limit(args: DreamerConfig) -> int:
    """Agent steps of the longest episode; 0 where the task's own limit is shorter.

    torchwm limits an environment that has its limit already, so that the shorter one holds; in jaxdreamer a limit
    replaces the one that an id is registered with.
    """
    if args.time_limit < 1:
        raise ConfigError(f"DreamerConfig.time_limit must be above 0, found {args.time_limit}")
    limit = max(1, args.time_limit // _repeat(args))
    if args.env_instance is not None or BACKENDS.get(str(args.env_backend).lower()) != "gym":
        return limit
    import gymnasium

    try:
        own = gymnasium.spec(str(args.env)).max_episode_steps
    except gymnasium.error.Error:
        return limit  # an id without a version, or unknown: making it says so
    return 0 if own is not None and own <= limit * _repeat(args) else limit
