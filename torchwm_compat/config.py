"""torchwm's configuration object: its 96 fields with its defaults, in dictionaries and YAML and back."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torchwm_compat.values import NAMESPACES, fitted, writable

# Names that torchwm's documentation uses for a field its class calls otherwise.
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


@dataclass(eq=False)
class _Fields:
    """torchwm's fields, in its order."""

    env_backend: str = "dmc"
    env: str = "walker-walk"
    env_instance: Any = None
    image_size: tuple[int, int] = (64, 64)
    gym_render_mode: str = "rgb_array"
    dmlab_action_repeat: int = 4
    dmlab_action_set: Any = None
    dmlab_observations: Any = None
    dmlab_config: Any = None
    dmlab_renderer: str = "hardware"
    procgen_distribution_mode: str = "easy"
    procgen_num_levels: int = 0
    procgen_start_level: Any = None
    mujoco_xml_path: Any = None
    mujoco_xml_string: Any = None
    mujoco_binary_path: Any = None
    mujoco_camera: Any = None
    mujoco_frame_skip: int = 1
    mujoco_reset_noise_scale: float = 0.0
    brax_backend: str = "generalized"
    brax_jit: bool = True
    brax_auto_reset: bool = False
    brax_suppress_warp_warnings: bool = True
    unity_file_name: Any = None
    unity_behavior_name: Any = None
    unity_worker_id: int = 0
    unity_base_port: int = 5005
    unity_no_graphics: bool = True
    unity_time_scale: float = 20.0
    unity_quality_level: int = 1
    algo: str = "Dreamerv1"
    exp_name: str = "lr1e-3"
    train: bool = True
    evaluate: bool = False
    seed: int = 1
    no_gpu: bool = False
    max_episode_length: int = 1000
    buffer_size: int = 800000
    time_limit: int = 1000
    cnn_activation_function: str = "relu"
    dense_activation_function: str = "elu"
    obs_embed_size: int = 1024
    num_units: int = 400
    deter_size: int = 200
    stoch_size: int = 30
    action_repeat: int = 2
    action_noise: float = 0.3
    total_steps: int = 5000000
    seed_steps: int = 5000
    update_steps: int = 100
    collect_steps: int = 1000
    batch_size: int = 50
    train_seq_len: int = 50
    imagine_horizon: int = 15
    use_disc_model: bool = False
    free_nats: float = 3.0
    discount: float = 0.99
    td_lambda: float = 0.95
    kl_loss_coeff: float = 1.0
    kl_alpha: float = 0.8
    disc_loss_coeff: float = 10.0
    num_buckets: int = 255
    symlog_range: float = 10.0
    model_learning_rate: float = 0.0006
    actor_learning_rate: float = 8e-05
    value_learning_rate: float = 8e-05
    adam_epsilon: float = 1e-07
    grad_clip_norm: float = 100.0
    use_amp: bool = True
    test: bool = False
    test_interval: int = 10000
    test_episodes: int = 10
    scalar_freq: int = 1000
    log_video_freq: int = -1
    max_videos_to_save: int = 2
    video_format: str = "gif"
    video_fps: int = 20
    checkpoint_interval: int = 10000
    checkpoint_path: str = ""
    restore: bool = False
    experience_replay: str = ""
    render: bool = False
    enable_wandb: bool = False
    wandb_project: str = "torchwm"
    wandb_entity: str = ""
    log_dir: str = "runs"
    logdir: Any = None
    data_dir: Any = None
    log_level: str = "INFO"
    log_file: Any = None
    enable_tensorboard: bool = False
    enable_console_metrics: bool = True
    enable_jsonl: bool = True
    jsonl_filename: str = "metrics.jsonl"
    log_system_stats_freq: int = 1000
    detect_anomaly: bool = False


class DreamerConfig(_Fields):
    """Mutable settings: set as attributes, or by keyword. Values become plain ones of the field's type where they can:
    numpy's numbers, paths, ``"1e6"``.

    ``embed_size`` is another name of ``obs_embed_size``. Beyond torchwm there are ``obs`` ("pixels", "state" or "both"),
    ``num_categories``, ``actor_gradient``, ``update_order`` and ``unity_python``. Setting any other attribute raises
    AttributeError with the nearest name: torchwm takes it silently, and trains with something else.
    """

    obs: str
    num_categories: int
    actor_gradient: str
    update_order: str
    unity_python: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        extras = {name: kwargs.pop(name) for name in [*EXTRAS, *ALIASES] if name in kwargs}
        super().__init__(*args, **kwargs)
        for name, value in {**EXTRAS, **extras}.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        name = ALIASES.get(name, name)
        known = known_defaults()
        if name not in known:
            near = get_close_matches(name, [*known, *ALIASES], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"DreamerConfig has no field {name!r}{hint}")
        if name != "env_instance":
            value = fitted(value, known_defaults()[name])
        super().__setattr__(name, value)

    @property
    def embed_size(self) -> int:
        """The same as ``obs_embed_size``."""
        return self.obs_embed_size

    def __eq__(self, other: object) -> bool:
        """Equal settings; ``env_instance`` must be the same object."""
        if not isinstance(other, DreamerConfig):
            return NotImplemented
        return self.to_dict() == other.to_dict() and self.env_instance is other.env_instance

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field name, tuples as lists. A live ``env_instance`` is left out: it is no setting.

        Raises:
            ConfigError: a value that is no number, text, list or dictionary.
        """
        changed = [name for name, default in EXTRAS.items() if getattr(self, name) != default]
        names = [*field_names(), *changed]
        return {name: None if name == "env_instance" else writable(name, getattr(self, name)) for name in names}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DreamerConfig:
        """Read what :meth:`to_dict` wrote; fields left out have their defaults.

        Raises:
            ValueError: a key that is no field.
        """
        config = cls()
        for key, value in data.items():
            if ALIASES.get(key, key) not in known_defaults():
                raise ValueError(f"Invalid DreamerConfig field: {key}")
            setattr(config, key, value)
        return config

    def to_yaml(self, path: Any = None) -> str:
        """The settings as YAML text; also written to ``path`` where one is given, whose folder is made."""
        import yaml

        text = yaml.safe_dump(self.to_dict(), sort_keys=True)
        if path is not None:
            file = Path(path).expanduser()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return text

    def save_yaml(self, path: Any) -> None:
        """Write the settings to ``path`` as YAML."""
        self.to_yaml(path)

    @classmethod
    def from_yaml(cls, source: Any) -> DreamerConfig:
        """Read a YAML file, or YAML text.

        Raises:
            FileNotFoundError: ``source`` reads as a file's name, and there is none. ValueError: it holds no settings, or
            a key that is no field.
        """
        import yaml

        data = yaml.safe_load(read_source(source)) or {}
        if not isinstance(data, dict):
            raise ValueError(f"expected YAML settings, NAME: VALUE on each line, found {type(data).__name__}")
        return cls.from_dict(data)


@functools.cache
def field_names() -> dict[str, Any]:
    """torchwm's field names with their defaults, in its order."""
    return {field.name: field.default for field in dataclasses.fields(_Fields)}


@functools.cache
def known_defaults() -> dict[str, Any]:
    """Every name that can be set, torchwm's fields and those beyond, with its default."""
    return field_names() | EXTRAS


def read_source(source: Any) -> str:
    """The text of a file, given by its path; or ``source`` itself where it is several lines or reads ``key: value``."""
    if isinstance(source, str) and ("\n" in source or ": " in source):
        return source
    return Path(source).expanduser().read_text(encoding="utf-8")


def as_config(config: Any = None) -> DreamerConfig:
    """A DreamerConfig of what an agent may be given: one (the very object), a mapping or namespace, YAML text or a path."""
    if config is None:
        return DreamerConfig()
    if isinstance(config, DreamerConfig):
        return config
    if isinstance(config, Mapping):
        return DreamerConfig.from_dict(config)
    if isinstance(config, NAMESPACES):
        return DreamerConfig.from_dict(vars(config))
    if isinstance(config, str | os.PathLike):
        return DreamerConfig.from_yaml(config)
    raise TypeError(
        f"config: expected a DreamerConfig, a dictionary or namespace, a YAML path or text, found {type(config).__name__}"
    )
