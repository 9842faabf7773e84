"""The jaxdreamer configuration that a DreamerConfig asks for; :mod:`.fields` says what becomes of each field."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxdreamer import Config, ConfigError, preset
from torchwm_compat.config.fields import DEFAULTS, KNOWN, TABLE
from torchwm_compat.config.settings import DreamerConfig
from torchwm_compat.config.values import mismatch

_log = logging.getLogger("torchwm_compat")

PRESETS = {"dreamerv1": "dreamer_v1", "dreamerv2": "dreamer_v2"}
# jaxdreamer's backends, and torchwm's further names for each.
_SPELLINGS = {
    "dmc": "dm_control",
    "gym": "gymnasium generic",
    "mujoco": "mjcf native_mujoco",
    "robotics": "gymnasium_robotics",
    "brax": "jax_brax",
    "unity_mlagents": "unity mlagents",
}
BACKENDS = {name: own for own, more in _SPELLINGS.items() for name in (own, *more.split())}
# The only backend that has what a field decides.
OWNERS = {
    "brax_backend": "brax",
    **dict.fromkeys(("mujoco_camera", "mujoco_frame_skip", "mujoco_reset_noise_scale"), "mujoco"),
    **{name: "unity_mlagents" for name, row in TABLE.items() if row.what.startswith("env.unity_")},
}
NOT_OFFERED = ("dmlab", "procgen", "bsuite")
MODEL_SUFFIXES = (".xml", ".mjcf", ".urdf", ".mjb")

_warned: set[str] = set()


def warn_ignored(args: DreamerConfig) -> list[str]:
    """Warn, once in a process for each name, about changed fields that have no effect here; the names warned about."""
    ignored = [name for name, row in TABLE.items() if row.kind == "ignored" and name not in _warned]
    changed = [name for name in ignored if getattr(args, name) != DEFAULTS[name]]
    for name in changed:
        _warned.add(name)
        _log.warning("DreamerConfig.%s = %r has no effect: %s", name, getattr(args, name), TABLE[name].what)
    return changed


def to_jaxdreamer(args: DreamerConfig) -> Config:
    """The configuration that a DreamerConfig asks for.

    Raises:
        ConfigError: an invalid value, by torchwm's name; or a backend or algorithm that is not offered.
    """
    _check_values(args)
    values: dict[str, Any] = {}
    named: dict[str, str] = {}
    chosen = "custom" if args.env_instance is not None else backend(args)
    for name, row in TABLE.items():
        if row.kind == "setting" and OWNERS.get(name, chosen) == chosen:
            values[row.what] = _CONVERTED[name](args) if name in _CONVERTED else getattr(args, name)
            named.setdefault(row.what, name)
    base = values.pop("preset")
    values |= _derived(args) | {"env.backend": chosen}
    if chosen == "unity_mlagents":
        values["env.unity_python"] = args.unity_python
    if chosen == "mujoco" and not is_model(values["env.id"]):
        del values["env.camera"], values["env.frame_skip"]  # native models' only: a task has its own
    try:
        return preset(base, **values)
    except ConfigError as error:
        key = str(error).split(" ", 1)[0].rstrip(":")
        prefix = f"DreamerConfig.{named[key]} -> " if key in named else ""
        raise ConfigError(f"{prefix}{error}") from None


def _derived(args: DreamerConfig) -> dict[str, Any]:
    """Settings that no single field decides."""
    values: dict[str, Any] = {
        "model.hidden_size": args.deter_size,
        "behavior.exploration_epsilon": min(1.0, args.action_noise),
        "env.obs": args.obs,
        # torchwm's windows cross the ends of episodes; so do these, with the state reset there. Otherwise tasks whose
        # episodes are shorter than a window could not be learned.
        "replay.cross_episodes": True,
        "run.pretrain": args.update_steps,
        "run.log_every": _entries("collect_steps")(args),
        "run.video": wants_films(args),
        "behavior.actor_sample_gradient": "exact",
        "optimizer.kind": "adam",
    }
    if is_v2(args):
        values["model.classes"] = args.num_categories
    else:
        values["model.discount_layers"] = 2
        values["behavior.actor_gradient"] = "dynamics"
    if args.actor_gradient != "auto":
        values["behavior.actor_gradient"] = args.actor_gradient
    if args.update_order == "torchwm" and not is_v2(args):
        values["behavior.update_order"] = "sequential"
        values["behavior.actor_input_gradient"] = True
        values["optimizer.adam_epsilon"] = 1e-8
    elif args.update_order != "auto":
        raise ConfigError(
            f"DreamerConfig.update_order: expected 'auto', or 'torchwm' for Dreamerv1, found {args.update_order!r} "
            f"for {args.algo}"
        )
    return values


# Fields whose default does not show their type: text, a path, or None.
_TEXTS = ("mujoco_xml_path", "mujoco_xml_string", "mujoco_binary_path", "unity_file_name", "unity_behavior_name", "logdir",
          "data_dir", "log_file")  # fmt: skip


def _check_values(args: DreamerConfig) -> None:
    """ConfigError for a value of another type than its field's, and for what this package itself cannot obey."""
    for name, default in KNOWN.items():
        value = getattr(args, name)
        wrong = mismatch(value, "" if name in _TEXTS and value is not None else default)
        if wrong is None and isinstance(value, str) and "\0" in value:
            wrong = f"text cannot hold a null character, found {value!r}"
        if wrong:
            row = TABLE.get(name)
            target = f" -> {row.what}" if row is not None and row.kind == "setting" else ""
            raise ConfigError(f"DreamerConfig.{name}{target}: {wrong}")
    rules: tuple[tuple[str, bool, str], ...] = (
        ("mujoco_camera", type(args.mujoco_camera) in (type(None), int, str), ": expected a name or a number"),
        ("video_format", args.video_format.lower() in ("gif", "mp4"), ": expected gif or mp4"),
        ("video_fps", args.video_fps >= 1, " must be above 0"),
        ("max_videos_to_save", args.max_videos_to_save >= 0, " must not be negative"),
        ("jsonl_filename", Path(args.jsonl_filename).name == args.jsonl_filename != "", ": expected a file's name"),
        ("time_limit", args.time_limit >= 1, " must be above 0"),
    )
    for name, holds, expected in rules:
        if not holds:
            raise ConfigError(f"DreamerConfig.{name}{expected}, found {getattr(args, name)!r}")


def wants_films(args: DreamerConfig) -> bool:
    """Whether evaluations while training are filmed."""
    return args.log_video_freq > 0


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
    raise ConfigError(f"env_backend={args.env_backend!r} {found}. Use one of: {', '.join(_SPELLINGS)}.")


def is_unity(args: DreamerConfig) -> bool:
    """Whether a Unity player is the environment."""
    return args.env_instance is None and backend(args) == "unity_mlagents"


def task(args: DreamerConfig) -> str:
    """What jaxdreamer is to make: an id, or a MuJoCo model's source."""
    if args.env_instance is not None or backend(args) != "mujoco":
        return str(args.env)
    return str(next(iter(model_sources(args).values()), args.env))


def model_sources(args: Any) -> dict[str, Any]:
    """The MuJoCo model's source among the three fields for it, by ``MuJoCoImageEnv``'s name; empty without one.

    Raises:
        ConfigError: more than one.
    """
    fields = {"xml_string": "mujoco_xml_string", "binary_path": "mujoco_binary_path", "xml_path": "mujoco_xml_path"}
    given = {name: getattr(args, field) for name, field in fields.items() if getattr(args, field) is not None}
    if len(given) > 1:
        raise ConfigError(f"give one of {', '.join(fields[name] for name in given)}, not {len(given)}")
    return given


def is_model(source: Any) -> bool:
    """Whether a MuJoCo source is a model (an MJCF or URDF text or file, or an MJB file) instead of a task's id."""
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


def _repeat(args: DreamerConfig) -> int:
    return max(1, args.action_repeat)


def _entries(name: str) -> Callable[[DreamerConfig], int]:
    """A field in environment frames, in entries."""
    return lambda args: -(-getattr(args, name) // _repeat(args))


def _capacity(args: DreamerConfig) -> int:
    """Entries of the replay: buffer_size, and no fewer than a round of training needs to sample from."""
    if args.buffer_size < 1:
        return args.buffer_size  # refused by its name
    round_of_training = args.train_seq_len + 2 * (_entries("collect_steps")(args) + 1)
    return max(args.buffer_size, 2 * args.train_seq_len, round_of_training)


def _time_limit(args: DreamerConfig) -> int:
    """Agent steps of the longest episode; 0 where the task's own limit is shorter.

    torchwm limits an environment that has its limit already, so that the shorter one holds; in jaxdreamer a limit
    replaces the one that an id is registered with.
    """
    limit = max(1, args.time_limit // _repeat(args))
    if args.env_instance is not None or backend(args) != "gym":
        return limit
    import gymnasium

    try:
        own = gymnasium.spec(str(args.env)).max_episode_steps
    except gymnasium.error.Error:
        return limit  # an id without a version, or unknown: making it says so
    return 0 if own is not None and own <= limit * _repeat(args) else limit


# Settings that are not the field's own value.
_CONVERTED: dict[str, Callable[[DreamerConfig], Any]] = {
    "env_backend": backend,
    "env": task,
    "image_size": image_size,
    "mujoco_xml_path": task,
    "mujoco_xml_string": task,
    "mujoco_binary_path": task,
    "mujoco_camera": lambda args: "-1" if args.mujoco_camera is None else str(args.mujoco_camera),
    "mujoco_frame_skip": lambda args: args.mujoco_frame_skip or 1,
    "unity_file_name": lambda args: str(args.unity_file_name or ""),
    "unity_behavior_name": lambda args: args.unity_behavior_name or "",
    "time_limit": _time_limit,
    "algo": lambda args: PRESETS[algorithm(args)],
    "use_disc_model": lambda args: bool(args.use_disc_model) or is_v2(args),
    "kl_alpha": lambda args: args.kl_alpha if is_v2(args) else None,
    "seed_steps": _entries("seed_steps"),
    "collect_steps": _entries("collect_steps"),
    "buffer_size": _capacity,
    "test_interval": _entries("test_interval"),
    "checkpoint_interval": _entries("checkpoint_interval"),
}
