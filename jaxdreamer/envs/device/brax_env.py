"""Brax's environments as functions, on each of its physics backends; pixels by the ray-caster, inside the program."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from jaxdreamer.config import CameraOptions, ConfigError, EnvConfig, nearest
from jaxdreamer.errors import import_extra
from jaxdreamer.families import Backend
from jaxdreamer.types import ActionPart, ActionSpec, Array, EnvSpec, PyTree

if TYPE_CHECKING:
    from jaxdreamer.envs.device.functional import FunctionalEnv

Physics = Literal["generalized", "spring", "positional", "mjx"]
TIME_LIMIT = 1000  # steps; the episode length that Brax's own training and the published returns use


@dataclass(frozen=True)
class BraxOptions(CameraOptions):
    """Brax."""

    brax_backend: Physics = "generalized"
    """Brax's physics."""


def import_brax() -> Any:
    """``brax.envs``, without the messages that its import prints about optional libraries.

    Raises:
        MissingExtra: Brax is not installed.
    """
    silent = io.StringIO()
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a library that Brax uses
        return import_extra("brax.envs", "brax", "env.backend=brax")


def names() -> list[str]:
    """The environments that the installed Brax registers."""
    return sorted(import_brax()._envs)


def make_functional(config: EnvConfig) -> FunctionalEnv:
    """The Brax environment ``config.id`` on the physics ``brax_backend``, as ``config.obs`` wants it seen.

    Observations: ``state``, Brax's own vector, and ``image``, uint8 at ``config.image_size`` from ``camera``, or
    else the model's tracking camera. Actions are Brax's own, [-1, 1]. Brax's environments know no time limit; theirs is
    1,000 steps.

    Raises:
        ConfigError: no such environment, or not on this physics. MissingExtra: Brax is not installed.
    """
    from jaxdreamer.envs.device.functional import FunctionalEnv
    from jaxdreamer.envs.device.raycast.cast import make_renderer
    from jaxdreamer.envs.device.views import camera_of, views

    options: BraxOptions = config.options
    envs = import_brax()
    if config.id not in envs._envs:
        raise ConfigError(
            f"env.id: Brax has no environment {config.id!r}{nearest(config.id, envs._envs)}; there are: {', '.join(names())}"
        )
    env = _make(envs, config.id, options.brax_backend)
    height, width = config.image_size
    has_physics = getattr(env, "sys", None) is not None  # Brax's `fast`, made for tests, has none
    drawable = has_physics and env.sys.ngeom > 0
    seconds = float(env.dt) if has_physics else None
    if config.obs in ("pixels", "both") and not drawable:
        raise ConfigError(f"env.obs={config.obs}: Brax's {config.id} has nothing to draw; use env.obs=state")
    camera = camera_of(config)
    draw = make_renderer(env.sys, height=height, width=width, camera=camera) if drawable else None

    specs, observe = views(config, env.reset, (lambda state: draw(state.pipeline_state.x)) if draw else None)

    def step(state: PyTree, action: Array) -> tuple[PyTree, Array, Array]:
        state = env.step(state, action)
        return state, state.reward, state.done > 0.5

    film = make_renderer(env.sys, height=max(height, 128), width=max(width, 128), camera=camera) if drawable else None
    return FunctionalEnv(
        spec=EnvSpec(specs, ActionSpec((ActionPart("continuous", env.action_size),)), seconds),
        reset=env.reset,
        step=step,
        observe=observe,
        time_limit=TIME_LIMIT,
        frame_rate=1.0 / seconds if seconds else 30.0,
        render=(lambda state: film(state.pipeline_state.x)) if film else None,
    )


def _make(envs: Any, name: str, physics: str) -> Any:
    try:
        return _quietly(envs.get_environment, name, backend=physics)
    except ValueError as error:
        working = [other for other in get_args(Physics) if other != physics and _works(envs, name, other)]
        if not working:
            raise
        raise ConfigError(
            f"env.brax_backend: Brax's {name} does not know {physics} ({error}); it works with: {', '.join(working)}"
        ) from error


def _works(envs: Any, name: str, physics: str) -> bool:
    try:
        _quietly(envs.get_environment, name, backend=physics)
    except ValueError:
        return False
    return True


def _quietly(make: Any, *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        # With every environment Brax warns that other libraries are maintained instead; who uses this adapter has decided.
        warnings.filterwarnings("ignore", message=".*not actively being maintained", category=UserWarning)
        return make(*args, **kwargs)


BACKEND = Backend(
    "brax",
    make_functional,
    kind="device",
    tasks=names,
    options=BraxOptions,
    extra="brax",
    libraries=("brax",),
    sample="fast",  # it has nothing to draw, but compiles at once
)
