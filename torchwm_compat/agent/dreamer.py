"""torchwm's ``models.dreamer``: ``DreamerAgent`` and ``make_env``.

What torchwm's callers patch by path (``make_env``, ``Logger``, the environment classes, ``env_wrapper``) is looked up in
this module when it is used.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdreamer import ConfigError, EnvSpec
from torchwm_compat.agent import training
from torchwm_compat.agent.core import Dreamer, DreamerV1, DreamerV2
from torchwm_compat.agent.logger import Logger
from torchwm_compat.aliases import public as __getattr__  # noqa: F401 - torchwm's scripts import any of its names here
from torchwm_compat.config import mapping
from torchwm_compat.config.settings import DreamerConfig, as_config, override
from torchwm_compat.envs import wrappers as env_wrapper
from torchwm_compat.envs.image_env import BraxImageEnv, DeepMindControlEnv, GymImageEnv, UnityMLAgentsEnv
from torchwm_compat.envs.mujoco import make_mujoco_env_from_config
from torchwm_compat.envs.robotics import make_robotics_env
from torchwm_compat.files import export as export_module
from torchwm_compat.files import pretrained

_log = logging.getLogger("torchwm_compat")

_EVALUATION_SEED = 1_000_003  # apart from the training environment's


_UNITY = ("file_name", "behavior_name", "worker_id", "base_port", "no_graphics", "time_scale", "quality_level")
_LOGGED = ("enable_wandb", "wandb_project", "wandb_entity", "video_format", "video_fps", "enable_tensorboard",
           "enable_jsonl", "jsonl_filename")  # fmt: skip


def make_env(args: Any) -> Any:
    """The environment of a configuration, with torchwm's wrappers: repeat, actions in [-1, 1], time limit in agent steps."""
    common: dict[str, Any] = {"seed": args.seed, "size": mapping.image_size(args)}
    name = "gym" if args.env_instance is not None else mapping.backend(args)
    env: Any
    if name == "gym":
        source = args.env if args.env_instance is None else args.env_instance
        env = GymImageEnv(source, render_mode=args.gym_render_mode, **common)
    elif name == "dmc":
        env = DeepMindControlEnv(args.env, args.seed, size=common["size"])
    elif name == "mujoco":
        env = make_mujoco_env_from_config(args, common["size"])
    elif name == "robotics":
        env = make_robotics_env(args.env, render_mode=args.gym_render_mode, **common)
    elif name == "brax":
        options = {name: getattr(args, f"brax_{name}") for name in ("backend", "auto_reset", "jit")}
        options["suppress_warp_warnings"] = args.brax_suppress_warp_warnings
        env = BraxImageEnv(args.env, episode_length=args.time_limit, **options, **common)
    else:
        if not args.unity_file_name:
            raise ConfigError("unity_file_name must be provided when env_backend='unity_mlagents'.")
        options = {name: getattr(args, f"unity_{name}") for name in _UNITY}
        if args.unity_python:
            options["python"] = args.unity_python
        env = UnityMLAgentsEnv(max_episode_steps=args.time_limit, **options, **common)
    repeat = max(1, int(args.action_repeat))
    env = env_wrapper.ActionRepeat(env, repeat)
    env = env_wrapper.NormalizeActions(env)
    return env_wrapper.TimeLimit(env, max(1, int(args.time_limit) // repeat))


class DreamerAgent:
    """An agent with its environments and its run's folder: build, ``train()``, ``evaluate()``, ``export()``.

    ``train()`` is one run of jaxdreamer's trainer; on Brax it stays on the device from end to end. Where the folder holds a
    run already, that run continues.
    """

    def __init__(self, config: Any = None, **kwargs: Any) -> None:
        """``config``: a DreamerConfig (kept as :attr:`args`), dictionary, YAML path or text, or None; keywords override it.

        Raises:
            ValueError: a keyword that is no field. ConfigError: invalid settings.
        """
        self.args = as_config(config)
        self.last_latents_ref = kwargs.pop("last_latents_ref", None)
        if "data_path" in kwargs:
            kwargs["data_dir"] = kwargs.pop("data_path")
        override(self.args, kwargs, "Invalid argument")
        mapping.to_jaxdreamer(self.args)  # refuses impossible settings before anything is made
        pretrained.remember(self.args)
        self.logdir = str(_run_folder(self.args))
        os.makedirs(self.logdir, exist_ok=True)
        _configure_logging(self.args)
        self.args.to_yaml(Path(self.logdir) / "config.yaml")
        random.seed(self.args.seed)
        np.random.seed(self.args.seed % 2**32)

        self.train_env, self.test_env = make_env(self.args), make_env(self.args)
        if callable(getattr(self.test_env, "seed", None)):
            self.test_env.seed(int(self.args.seed) + _EVALUATION_SEED)
        obs_shape = self._image_shape()
        action_size = self.train_env.action_space.shape[0]
        self.has_learned = bool(self.args.restore)  # a new run then begins with these parameters
        self.dreamer: Dreamer = (DreamerV2 if mapping.is_v2(self.args) else DreamerV1)(
            self.args, obs_shape, action_size, "cpu", self.has_learned, spec=_seen(self.train_env, self.args)
        )
        options = {name: getattr(self.args, name) for name in _LOGGED}
        self.logger = Logger(self.logdir, enable_console=self.args.enable_console_metrics, **options)

    def _image_shape(self) -> tuple[int, ...]:
        """Of the environment's images [C, H, W]; without any, the agent sees the state and a warning says so."""
        args, space = self.args, self.train_env.observation_space
        if "image" in list(space):  # of a gymnasium space `in` asks for elements, not for keys
            return space["image"].shape
        if args.obs == "pixels":
            cameras = [key for key, box in space.items() if box.dtype == np.uint8 and len(box.shape) == 3]
            why = f"shows several images ({', '.join(cameras)})" if cameras else "shows no images and cannot be drawn"
            task = args.unity_file_name if mapping.is_unity(args) else args.env
            _log.warning("%s %s: the agent sees its state (obs='state')", task, why)
            args.obs = "state"
        return (3, *mapping.image_size(args))

    @classmethod
    def from_config(cls, config: Any = None, **overrides: Any) -> DreamerAgent:
        """From a DreamerConfig, dictionary, YAML path or text; ValueError for an override that is no field."""
        return cls(override(as_config(config), overrides))

    @classmethod
    def from_pretrained(
        cls,
        path: Any,
        *,
        config: Any = None,
        checkpoint_filename: str | None = None,
        config_filename: str = "config.yaml",
        repo_type: str | None = None,
        revision: str | None = None,
        map_location: Any = None,
        trust: bool = False,
        **overrides: Any,
    ) -> DreamerAgent:
        """An agent from a folder, a file, or a Hugging Face repository ``owner/name`` where huggingface_hub is installed.

        The configuration is the checkpoint's own, else the YAML file's beside it. A folder is searched for ``model.pt``,
        ``pytorch_model.bin``, ``checkpoint.pt``, ``ckpt.pt``, then any ``*.pt``, ``*.pth``, ``*.bin``.

        Raises:
            FileNotFoundError: no checkpoint. CheckpointError: damaged, refused, or of other sizes.
            jaxdreamer's Untrusted: the stored configuration names a module or a program, and ``trust`` does not allow it.
        """
        found = pretrained.find(path, checkpoint_filename, config_filename, repo_type=repo_type, revision=revision)
        args, data = pretrained.load(found, config, {})
        if "logdir" not in overrides:
            args.logdir = None  # that run's folder is not this agent's
        if config is None and not trust:
            pretrained.refuse_untrusted(found, override(args, overrides), overrides)
        agent = cls.from_config(args, **overrides)
        agent.dreamer.take(data, found.checkpoint)
        agent.has_learned = True
        return agent

    def train(self, total_steps: int | None = None) -> None:
        """Train until ``total_steps`` environment frames (the configuration's by default), continuing the folder's run.

        Writes ``metrics.jsonl``, ``scalar_data.pkl`` and ``ckpts/FRAMES_ckpt.pt`` under torchwm's names; the trainer's own
        files, from which a killed run resumes, are in ``jaxdreamer/``. Ctrl-C saves, then raises KeyboardInterrupt.
        """
        training.train(self, total_steps)

    def evaluate(self) -> tuple[np.ndarray, np.ndarray, Any]:
        """(returns [test_episodes], videos, latents) without exploration; writes ``test_scalars.pkl`` and the videos."""
        episode_rews, videos, latents = self.dreamer.evaluate(self.test_env, self.args.test_episodes, render=True)
        if self.last_latents_ref is not None and latents is not None:
            self.last_latents_ref[0] = latents
        summaries: dict[str, Callable[[Any], Any]] = {"avg": np.mean, "max": np.max, "min": np.min, "std": np.std}
        logs = {f"test_{name}_reward": summary(episode_rews) for name, summary in summaries.items()}
        self.logger.dump_scalars_to_pickle(logs, 0, log_title="test_scalars.pkl")
        self.logger.log_videos(videos, 0, max_videos_to_save=self.args.max_videos_to_save)
        self.logger.flush()
        return episode_rews, videos, latents

    def summary(self) -> dict[str, Any]:
        """Numbers of parameters: ``total_parameters``, ``trainable_parameters``, and by module."""
        names = ["rssm", "actor", "reward_model", "obs_encoder", "obs_decoder", "value_model", "discount_model"]
        modules = {name: getattr(self.dreamer, name).parameter_count for name in names if hasattr(self.dreamer, name)}
        total = sum(modules.values())
        numbers = {"total_parameters": total, "trainable_parameters": total}
        return numbers | {"modules": modules, "trainable_modules": dict(modules)}

    def parameter_count(self, trainable_only: bool = False) -> int:
        """Number of parameters; all are trainable."""
        return self.summary()["trainable_parameters" if trainable_only else "total_parameters"]

    def export(
        self, path: Any, format: str = "onnx", *, target: str | None = None, example_inputs: Any = None, **kwargs: Any
    ) -> Path:
        """Write a network for use elsewhere, see :func:`torchwm_compat.files.export.export_any`; the actor by default."""
        options = {"format": format, "target": target, "example_inputs": example_inputs}
        return export_module.export_any(self, path, **options, **kwargs)


def _seen(env: Any, args: DreamerConfig) -> EnvSpec | None:
    """The agent's observations and actions; None where the environment is not one of this package's."""
    spec = getattr(env, "spec", None)
    if not isinstance(spec, EnvSpec):
        return None
    if args.obs not in ("pixels", "state", "both"):
        raise ConfigError(f"DreamerConfig.obs: expected pixels, state or both, found {args.obs!r}")
    kinds = {"pixels": ("image",), "state": ("vector", "discrete"), "both": ("image", "vector", "discrete")}[args.obs]
    obs = {key: item for key, item in spec.obs.items() if item.kind in kinds}
    if not obs:
        raise ConfigError(f"DreamerConfig.obs={args.obs!r}: the environment shows only {', '.join(spec.obs)}")
    return EnvSpec(obs, spec.action)


def _run_folder(args: DreamerConfig) -> Path:
    date = time.strftime("%d-%m-%Y-%H-%M-%S")
    named = "_".join(str(part).replace(os.sep, "-") for part in (_task_name(args), args.algo, args.exp_name, date))
    folder = Path(args.logdir if args.logdir is not None else named).expanduser()
    if folder.is_absolute():
        return folder
    return Path(args.data_dir or os.environ.get("TORCHWM_DATA_DIR") or args.log_dir).expanduser().absolute() / folder


def _task_name(args: DreamerConfig) -> str:
    if args.env.lstrip().startswith("<"):
        return "mjcf"
    return Path(args.env).stem if args.env.lower().endswith(mapping.MODEL_SUFFIXES) else args.env[:80]


def _configure_logging(args: DreamerConfig) -> None:
    level = logging.getLevelName(str(args.log_level).upper())
    if not isinstance(level, int):
        raise ConfigError(f"DreamerConfig.log_level: expected a level such as INFO, found {args.log_level!r}")
    for name in ("torchwm_compat", "jaxdreamer"):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        path = None if not args.log_file else os.path.abspath(os.path.expanduser(args.log_file))
        if path and path not in [getattr(handler, "baseFilename", None) for handler in logger.handlers]:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(path)
            handler.setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s"))
            logger.addHandler(handler)
