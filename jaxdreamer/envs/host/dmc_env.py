"""dm_control's suite by ``domain-task``: ``walker-walk``, ``ball_in_cup-catch``, ``humanoid_CMU-run``.

How an episode's end is mapped: a last step with discount 0 is terminal, one with any other is not; suite tasks end by their
time limit, with discount 1. A simulation that blew up gives a reward that is not finite, which the library cuts away.
"""

from __future__ import annotations

import math
import re
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from jaxdreamer.config import ConfigError, DrawingOptions, EnvConfig, nearest
from jaxdreamer.envs.host import libraries
from jaxdreamer.envs.host.agent_env import AgentEnv
from jaxdreamer.envs.host.drawing import gl, render
from jaxdreamer.envs.host.instance import wrap
from jaxdreamer.families import Backend

DOMAIN_ALIASES = {"cup": "ball_in_cup"}
CAMERAS = {"quadruped": 2}
"""The published camera of each domain; 0 for all others."""


def make(config: EnvConfig) -> AgentEnv:
    """The suite's task named by ``config.id``; ConfigError for an unknown one, MissingExtra without dm_control."""
    options: DrawingOptions = config.options
    env = DMControlEnv(
        config.id,
        size=config.image_size,
        camera=options.camera,
        quality=options.render_quality,
        limited=config.time_limit == 0,
    )
    try:
        return wrap(env, config)
    except BaseException:
        env.close()
        raise


def tasks() -> list[str]:
    """Every task of the installed suite, as ``domain-task``."""
    return [f"{domain}-{task}" for domain, task in _suite().ALL_TASKS]


def resolve(name: str) -> tuple[str, str]:
    """Domain and task of a name however it is spelt: ``walker-walk``, ``dmc_walker_walk``, ``cup-catch``."""
    known = {_plain(f"{domain}{task}"): (domain, task) for domain, task in _suite().ALL_TASKS}
    for alias, domain in DOMAIN_ALIASES.items():
        known |= {_plain(f"{alias}{task}"): (found, task) for found, task in known.values() if found == domain}
    plain = _plain(re.sub(r"^(dm_control/|dmc[_:/-]|dm_control[_:/-])|-v0$", "", name, flags=re.IGNORECASE))
    plain = re.sub(r"v0$", "", plain)
    if plain not in known:
        listed = tasks()
        raise ConfigError(
            f"env.id: dm_control's suite has no task {name!r}{nearest(name, listed)}; `jaxdreamer envs --backend dmc` "
            "lists them"
        )
    return known[plain]


class DMControlEnv(render.Drawn, gymnasium.Env):
    """One task of the suite as a gymnasium environment; observations are its own vectors, float64, by name."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 gymnasium's own declaration
    render_mode = "rgb_array"

    def __init__(
        self,
        name: str,
        *,
        size: tuple[int, int] = (64, 64),
        camera: str = "",
        quality: str = "auto",
        limited: bool = True,
    ) -> None:
        """``limited=False`` takes away the task's time limit. ``size`` is the largest that :meth:`draw` shall draw."""
        suite = _suite()
        domain, task = resolve(name)
        # The seed here decides what a task is made of, where that is drawn (lqr's springs); resets have their own.
        options: dict[str, Any] = {"random": 0} if limited else {"random": 0, "time_limit": math.inf}
        with libraries.explained(f"dm_control's {domain}-{task}"):
            self._env = suite.load(domain, task, task_kwargs=options)
        self.name = f"{domain}-{task}"
        self.dt = float(self._env.control_timestep())
        self.metadata = {**self.metadata, "render_fps": 1.0 / self.dt}
        described = self._env.observation_spec().items()
        self.observation_space: spaces.Dict = spaces.Dict(
            {key: spaces.Box(-np.inf, np.inf, item.shape or (1,), np.float64) for key, item in described}
        )
        action = self._env.action_spec()
        low, high = (
            np.broadcast_to(bound, action.shape).astype(action.dtype) for bound in (action.minimum, action.maximum)
        )
        self.action_space = spaces.Box(low, high, dtype=action.dtype.type)
        self._quality, self._largest = quality, tuple(np.maximum(size, render.FILM_SIZE).tolist())
        self._camera = render.camera_number(self._scene()[0], camera, CAMERAS.get(domain, 0))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; a seed decides it."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.task.random.seed(seed)
        step = self._env.reset()
        render.close_at_exit(self)  # tasks with terrain make a context of dm_control's at a reset
        if self._renderer is not None:
            self._renderer.reload()
        return self._observation(step), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One control step."""
        from dm_control.rl.control import PhysicsError

        try:
            step = self._env.step(action)
        except PhysicsError:
            blown = {key: np.full(space.shape or (), np.nan) for key, space in self.observation_space.spaces.items()}
            return blown, math.nan, False, True, {}
        ended = bool(step.last()) and step.discount == 0
        return self._observation(step), float(step.reward or 0.0), ended, bool(step.last()) and not ended, {}

    @property
    def physics(self) -> Any:
        """dm_control's own physics object."""
        return self._env.physics

    def close(self) -> None:
        """Free the renderer and the physics."""
        super().close()
        self._env.close()
        self._env.physics.free()  # dm_control leaves its own context to the exit

    def _scene(self) -> tuple[Any, Any]:
        return self._env.physics.model.ptr, self._env.physics.data.ptr

    def _observation(self, step: Any) -> dict[str, np.ndarray]:
        shapes = self.observation_space.spaces
        return {key: np.array(value, np.float64).reshape(shapes[key].shape) for key, value in step.observation.items()}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _suite() -> Any:
    """dm_control's suite, imported when what draws is settled: it looks for that at import."""
    with gl.settled():
        return libraries.import_family("dm_control.suite", "dmc")


BACKEND = Backend(
    "dmc",
    make,
    tasks=tasks,
    aliases=("dm_control",),
    options=DrawingOptions,
    extra="dmc",
    libraries=("mujoco", "dm-control"),
    sample="walker-walk",
)
