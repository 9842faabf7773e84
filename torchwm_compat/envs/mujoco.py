"""torchwm's ``envs.mujoco_env``: Gymnasium's MuJoCo tasks, and models of your own with callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import jaxdreamer
from jaxdreamer import ActionPart, ActionSpec, ArraySpec, ConfigError, EnvSpec
from torchwm_compat.config.mapping import is_model, model_sources
from torchwm_compat.envs.image_env import GymImageEnv, ImageEnv, env_config, image_space, outcome

RewardFn = Callable[[Any, Any, np.ndarray, dict[str, Any]], float]
TerminalFn = Callable[[Any, Any, dict[str, Any]], bool]

DEFAULT_STEPS = 1000  # of a model's episodes, which never end by themselves


class MuJoCoImageEnv:
    """A native MuJoCo model, seen through a camera.

    Rewards are 0 without ``reward_fn(model, data, action, info)``, and episodes never end without
    ``terminal_fn(model, data, info)``. ``info`` has ``action``, ``time``, ``qpos``, ``qvel`` and ``discount``.
    """

    def __init__(
        self,
        xml_path: str | Path | None = None,
        *,
        xml_string: str | None = None,
        binary_path: str | Path | None = None,
        assets: Mapping[str, bytes] | None = None,
        seed: int = 0,
        size: tuple[int, int] = (64, 64),
        camera: str | int | None = None,
        reward_fn: RewardFn | None = None,
        terminal_fn: TerminalFn | None = None,
        frame_skip: int = 1,
        reset_noise_scale: float = 0.0,
        default_control_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        """From exactly one source; ValueError otherwise."""
        if sum(source is not None for source in (xml_path, xml_string, binary_path)) != 1:
            raise ValueError("Provide exactly one of xml_path, xml_string, or binary_path for MuJoCoImageEnv.")
        self._camera, self._frame_skip = camera, max(1, int(frame_skip))
        self._env = jaxdreamer.MuJoCoImageEnv(
            xml_path,
            xml_string=xml_string,
            binary_path=binary_path,
            assets=assets,
            size=(int(size[0]), int(size[1])),
            camera=camera,
            frame_skip=self._frame_skip,
            reset_noise_scale=float(reset_noise_scale),
            default_control_range=default_control_range,
            reward_fn=reward_fn,
            terminal_fn=terminal_fn,
        )
        self.model, self.data = self._env.model, self._env.data
        self.initial_seed = self._seed = int(seed)
        self._first = True
        shape = (*self._env.size, 3)
        self.observation_space = gymnasium.spaces.Dict({"image": image_space(shape)})
        self.action_space = self._env.action_space
        self.action_space.seed(self._seed)
        self.max_episode_steps = DEFAULT_STEPS
        action = ActionSpec((ActionPart("continuous", int(self.model.nu)),))
        self.spec = EnvSpec({"image": ArraySpec(shape, "uint8", "image")}, action)

    def seed(self, seed: int) -> None:
        """The next reset begins with this seed."""
        self._seed, self._first = int(seed), True

    def reset(self, seed: int | None = None) -> dict[str, np.ndarray]:
        """Begin an episode; without a seed the generator continues."""
        fresh = self._seed if self._first else None
        self._first = False
        obs, _ = self._env.reset(seed=fresh if seed is None else int(seed))
        return {"image": np.moveaxis(obs["image"], -1, 0).copy()}

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, dict[str, Any]]:
        """``frame_skip`` steps of physics with controls, clipped to their ranges."""
        obs, reward, terminated, truncated, info = self._env.step(action)
        done = bool(terminated or truncated)
        info = outcome(info, done, bool(terminated))
        return {"image": np.moveaxis(obs["image"], -1, 0).copy()}, float(reward), done, info

    def render(self) -> np.ndarray:
        """The present moment, uint8 [H, W, 3]."""
        return self._env.draw(self._env.size)

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()


def make_mujoco_env(
    model: str | Path | None = None,
    *,
    backend: str = "auto",
    seed: int = 0,
    size: tuple[int, int] = (64, 64),
    render_mode: str = "rgb_array",
    gym_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """A Gymnasium task by id, or a model from an MJCF or URDF file or text or an MJB file.

    ``backend`` is ``auto``, ``native`` (or mjcf, mjb), or ``gymnasium`` (or gym, task). Further keywords are
    :class:`MuJoCoImageEnv`'s for a model, and Gymnasium's for a task.

    Raises:
        ValueError: another backend, or no model.
    """
    backend = backend.lower()
    given = {"xml_path", "xml_string", "binary_path"} & kwargs.keys()
    named = model is not None and is_model(model)
    if backend in ("native", "mjcf", "mjb") or (backend == "auto" and (given or named)):
        if model is not None and not given:
            text = str(model)
            kind = "binary_path" if text.lower().endswith(".mjb") else "xml_path"
            kwargs["xml_string" if text.lstrip().startswith("<") else kind] = model
        return MuJoCoImageEnv(seed=seed, size=size, **kwargs)
    if backend not in ("auto", "gym", "gymnasium", "task"):
        raise ValueError(f"Unknown MuJoCo backend={backend!r}. Use 'auto', 'native', or 'gymnasium'.")
    if model is None:
        raise ValueError("A Gymnasium MuJoCo environment id, XML path/string, or MJB path is required.")
    options = {**(gym_kwargs or {}), **kwargs}
    if not options:
        return ImageEnv(env_config(id=str(model), backend="mujoco", image_size=size), seed)
    made = gymnasium.make(str(model), render_mode=render_mode, **options)
    return GymImageEnv(made, seed=seed, size=size, render_mode=render_mode)


def make_mujoco_env_from_config(args: Any, size: tuple[int, int]) -> Any:
    """The environment of a DreamerConfig: its MJCF text, MJB file or MJCF file, or else what ``env`` names, id or model."""
    native = {name: getattr(args, f"mujoco_{name}") for name in ("camera", "frame_skip", "reset_noise_scale")}
    sources = model_sources(args) or ({"model": args.env} if is_model(args.env) else {})
    if sources:
        env = make_mujoco_env(seed=args.seed, size=size, **sources, **native)
        if not env.model.nu:
            raise ConfigError(
                "the model has no actuators, so there is nothing to decide; a URDF can have none: write an MJCF that "
                "attaches it and adds motors, and give that"
            )
        return env
    noise = {"reset_noise_scale": native["reset_noise_scale"]} if native["reset_noise_scale"] else {}
    return make_mujoco_env(args.env, seed=args.seed, size=size, gym_kwargs=noise)
