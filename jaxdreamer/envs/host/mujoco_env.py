"""MuJoCo: Gymnasium's tasks by id, and models of your own from an MJCF or URDF file or text, or an MJB binary.

A model has no task: unless it is given functions for them, its reward is 0 and it never ends, except by the time limit,
which truncates.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.config.settings import setting
from jaxdreamer.envs.host import gymnasium_env
from jaxdreamer.envs.host.agent_env import AgentEnv
from jaxdreamer.envs.host.drawing import render
from jaxdreamer.envs.host.instance import wrap
from jaxdreamer.envs.host.mujoco_model import (
    check_actuators,
    keyframe_names,
    keyframe_number,
    load_model,
    model_source,
    warnings_caught,
)
from jaxdreamer.envs.host.outcome import flag_of, reporting, reward_of
from jaxdreamer.envs.named import imported
from jaxdreamer.families import Backend

_log = logging.getLogger(__name__)

RewardFn = Callable[[Any, Any, np.ndarray, dict[str, Any]], float]
"""(model, data, action, info) -> reward of the simulator step just done."""
TerminalFn = Callable[[Any, Any, dict[str, Any]], bool]
"""(model, data, info) -> whether the task ends here."""
DEFAULT_STEPS = 1000
"""Simulator steps of a native model's episode where no time limit is set."""


@dataclass(frozen=True)
class MuJoCoOptions(gymnasium_env.PhysicsOptions):
    """MuJoCo models of your own."""

    keyframe: str = ""
    """Keyframe of a MuJoCo model of your own that episodes begin from, by name or number. Empty: its default state."""
    reward_fn: str = setting("", runs="import and call")
    """Reward of a MuJoCo model of your own, as module:function of (model, data, action, info). Empty: always 0."""
    terminal_fn: str = setting("", runs="import and call")
    """Whether a MuJoCo model's episode ends, as module:function of (model, data, info). Empty: never."""


def make_mujoco_env_from_config(
    config: EnvConfig,
    *,
    reward_fn: RewardFn | None = None,
    terminal_fn: TerminalFn | None = None,
    assets: Mapping[str, bytes] | None = None,
) -> AgentEnv:
    """The environment that ``config.id`` describes, whatever it is.

    Text that begins with ``<`` is a model, MJCF or URDF, a path that ends in ``.xml``, ``.mjcf``, ``.urdf`` or ``.mjb`` is a
    model's file, and anything else is the id of a Gymnasium task. Functions, keyframes and assets are for models of one's
    own; the functions stand before the options ``reward_fn`` and ``terminal_fn``. Raises ConfigError for a model that
    cannot be loaded.
    """
    options = config.options
    if not isinstance(options, MuJoCoOptions):
        raise ConfigError(f"env.backend: expected mujoco, found {config.backend!r}")
    source = model_source(config.id)
    if source is None:
        given = {
            "env.reward_fn": reward_fn or options.reward_fn,
            "env.terminal_fn": terminal_fn or options.terminal_fn,
            "env.keyframe": options.keyframe,
            "assets": assets,
        }
        _check_task(config.id, [name for name, value in given.items() if value])
        return gymnasium_env.make(config)
    # Actuators without a range get [-1, 1]; with env.action_bound they stay unbounded, and it sets their range.
    limits = (-math.inf, math.inf) if config.action_bound > 0 else (-1.0, 1.0)
    env = MuJoCoEnv(
        **source,
        assets=assets,
        size=config.image_size,
        camera=options.camera,
        quality=options.render_quality,
        frame_skip=options.frame_skip or 1,
        reset_noise_scale=options.reset_noise,
        keyframe=options.keyframe,
        default_control_range=limits,
        reward_fn=reward_fn or _callback("env.reward_fn", options.reward_fn),
        terminal_fn=terminal_fn or _callback("env.terminal_fn", options.terminal_fn),
        max_episode_steps=0 if config.time_limit else DEFAULT_STEPS,
    )
    try:
        check_actuators(env.model, source)
        if not options.keyframe:
            _tell_of_keyframes(config.task, env.model)
        return wrap(env, config)
    except BaseException:
        env.close()
        raise


def _check_task(name: str, given: list[str]) -> None:
    """ConfigError for an id that cannot be a task's, and for what was ``given`` that a task has no use for."""
    path = Path(name)
    if name not in gymnasium.registry and path.exists():
        raise ConfigError(
            f"env.id: {name!r} is a {'folder' if path.is_dir() else 'file'}, and no model by its name: a model's file "
            f"ends in {', '.join(gymnasium_env.MODEL_SUFFIXES)}"
        )
    if given:
        raise ConfigError(
            f"env.reward_fn, env.terminal_fn, env.keyframe and assets are for models of your own, and {name!r} is a "
            f"task's id: leave out {', '.join(given)}"
        )


_told: set[str] = set()


def _tell_of_keyframes(task: str, model: Any) -> None:
    """Say, once in a process for each model, that its keyframes are not used."""
    names = keyframe_names(model)
    if not names or task in _told:
        return
    _told.add(task)
    first = names[0].strip("'")
    _log.warning(
        "the model has keyframes %s; episodes begin at its default state: set env.keyframe=%s to begin there",
        ", ".join(names),
        first,
    )


def tasks() -> list[str]:
    """Gymnasium's MuJoCo tasks; besides these, ``env.id`` is a model's file or text."""
    found = (name for name, spec in gymnasium.registry.items() if "gymnasium.envs.mujoco" in str(spec.entry_point))
    return sorted({*found, *filter(gymnasium_env.successor, gymnasium.registry)})


class MuJoCoEnv(render.Drawn, gymnasium.Env):
    """A MuJoCo model as a gymnasium environment whose observations are ``qpos``, ``qvel`` and ``sensordata``.

    Actions are the actuators' controls, in their own ranges. ``info`` has ``time`` in seconds, ``qpos``, ``qvel`` and the
    ``action`` that was applied. A simulation that blows up is truncated with reward nan.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 gymnasium's own declaration
    render_mode = "rgb_array"

    def __init__(
        self,
        xml_path: str | os.PathLike[str] | None = None,
        *,
        xml_string: str | None = None,
        binary_path: str | os.PathLike[str] | None = None,
        assets: Mapping[str, bytes] | None = None,
        size: tuple[int, int] = (64, 64),
        camera: str | int | None = "",
        quality: str = "auto",
        frame_skip: int = 1,
        reset_noise_scale: float = 0.0,
        keyframe: str | int | None = "",
        default_control_range: tuple[float, float] = (-1.0, 1.0),
        reward_fn: RewardFn | None = None,
        terminal_fn: TerminalFn | None = None,
        max_episode_steps: int = 0,
    ) -> None:
        """See :func:`load_model` for the sources.

        Args:
            size: height and width of pictures; :meth:`draw` draws up to this, or a film's size where that is larger.
            camera: name or number; empty, None or -1 for the free camera.
            quality: ``auto``, ``full`` or ``fast``.
            frame_skip: physics steps per step.
            reset_noise_scale: deviation of normal noise on the first positions (radians, metres) and velocities.
            keyframe: name or number of the one that episodes begin from; empty or None for the model's default state.
            default_control_range: of actuators that have none.
            max_episode_steps: 0 is none.
        """
        self.model = load_model(xml_path=xml_path, xml_string=xml_string, binary_path=binary_path, assets=assets)
        import mujoco

        if frame_skip < 1:
            raise ConfigError(f"env.frame_skip must be at least 1 for a model, found {frame_skip}")
        self._mujoco, self.data = mujoco, mujoco.MjData(self.model)
        self.size, self._quality = (int(size[0]), int(size[1])), quality
        self._largest = tuple(np.maximum(self.size, render.FILM_SIZE).tolist())
        self._camera = render.camera_number(self.model, "" if camera is None else str(camera))
        self._keyframe = keyframe_number(self.model, "" if keyframe is None else str(keyframe))
        self._skip, self._noise = frame_skip, reset_noise_scale
        self._reward_fn, self._terminal_fn = reward_fn, terminal_fn
        self._limit, self._steps = max_episode_steps, 0
        self.dt = float(self.model.opt.timestep * frame_skip)
        self.metadata = {**self.metadata, "render_fps": 1.0 / self.dt}
        self.observation_space = self._make_observation_space()
        limited = self.model.actuator_ctrllimited.astype(bool)
        low, high = (
            np.where(limited, self.model.actuator_ctrlrange[:, end], default_control_range[end]) for end in (0, 1)
        )
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin at the model's default state or a keyframe, with noise where that was asked for."""
        super().reset(seed=seed)
        mujoco, model, data = self._mujoco, self.model, self.data
        if self._keyframe is None:
            mujoco.mj_resetData(model, data)
        else:
            mujoco.mj_resetDataKeyframe(model, data, self._keyframe)
        if self._noise > 0:
            # Along the joints' directions, so that a quaternion stays one.
            mujoco.mj_integratePos(model, data.qpos, self.np_random.normal(0.0, self._noise, model.nv), 1.0)
            data.qvel[:] += self.np_random.normal(0.0, self._noise, model.nv)
        mujoco.mj_forward(model, data)
        self._steps = 0
        return self._observe(), self._info(np.zeros(model.nu, np.float32))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """``frame_skip`` steps of physics with one action, clipped to its range."""
        data, space = self.data, self.action_space
        action = np.clip(np.asarray(action, np.float32).reshape(space.shape), space.low, space.high)  # type: ignore[attr-defined]
        data.ctrl[:] = action
        with warnings_caught():
            self._mujoco.mj_step(self.model, data, nstep=self._skip)
        self._steps += 1
        if self._blown_up():
            return self._observe(), math.nan, False, True, self._info(action)
        reward, ended = 0.0, False
        # Each gets its own copies of action and info, which it may change.
        if self._reward_fn is not None:
            with reporting("reward_fn"):
                value = self._reward_fn(self.model, data, action.copy(), self._info(action))
            reward = reward_of(value, "reward_fn")
        if self._terminal_fn is not None:
            with reporting("terminal_fn"):
                flag = self._terminal_fn(self.model, data, self._info(action))
            ended = flag_of(flag, "the end", "terminal_fn")
        return self._observe(), reward, ended, 0 < self._limit <= self._steps, self._info(action)

    def _scene(self) -> tuple[Any, Any]:
        return self.model, self.data

    def _make_observation_space(self) -> spaces.Space:
        sizes = {"qpos": self.model.nq, "qvel": self.model.nv, "sensordata": self.model.nsensordata}
        found: dict[str, spaces.Space] = {
            key: spaces.Box(-np.inf, np.inf, (size,), np.float64) for key, size in sizes.items() if size
        }
        if not found:
            raise ConfigError("env.id: this model has no joints and no sensors: nothing in it moves or is measured")
        return spaces.Dict(found)

    def _observe(self) -> dict[str, np.ndarray]:
        return {key: np.array(getattr(self.data, key)) for key in self.observation_space.spaces}  # type: ignore[attr-defined]

    def _info(self, action: np.ndarray) -> dict[str, Any]:
        data = self.data
        return {"time": float(data.time), "qpos": data.qpos.copy(), "qvel": data.qvel.copy(), "action": action.copy()}

    def _blown_up(self) -> bool:
        """Whether MuJoCo found numbers that are not finite, or huge, after which it starts again from the first state."""
        kinds = self._mujoco.mjtWarning
        bad = (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)
        return any(self.data.warning[int(kind)].number for kind in bad)


class MuJoCoImageEnv(MuJoCoEnv):
    """A MuJoCo model seen: observations are ``{"image": uint8 [H, W, 3]}``, drawn at every step."""

    def _make_observation_space(self) -> spaces.Space:
        return spaces.Dict({"image": spaces.Box(0, 255, (*self.size, 3), np.uint8)})

    def _observe(self) -> dict[str, np.ndarray]:
        return {"image": self.draw(self.size)}


def _callback(setting: str, text: str) -> Callable[..., Any] | None:
    return imported(setting, text) if text else None


def label(config: EnvConfig) -> str:
    """What a run's folder is called after: a model's file, or a task's id."""
    if config.id.lstrip().startswith("<"):
        return "mjcf"
    return Path(config.id).stem if gymnasium_env.is_model(config.id) else config.id


def is_file(text: str) -> bool:
    """Whether an ``env.id`` is a model's file."""
    return gymnasium_env.is_model(text) and not text.lstrip().startswith("<")


def runs(text: str) -> str:
    """What making an ``env.id`` does that needs trust."""
    if not gymnasium_env.is_model(text):
        return gymnasium_env.runs(text)
    if text.lower().endswith(".mjb"):  # MuJoCo's reader trusts the numbers in it
        return f"load the binary model {text!r}"
    return "" if is_file(text) else "compile the model that is written in it"  # a few lines can ask for all memory


BACKEND = Backend(
    "mujoco",
    make_mujoco_env_from_config,
    tasks=tasks,
    aliases=("mjcf", "native_mujoco"),
    options=MuJoCoOptions,
    extra="mujoco",
    libraries=("mujoco", "gymnasium"),
    sample="HalfCheetah-v5",
    label=label,
    is_file=is_file,
    runs=runs,
)
