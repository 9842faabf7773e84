"""MuJoCo Playground's tasks as functions, on MJX in plain JAX; pixels by the ray-caster, inside the program."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxdreamer.config import CameraOptions, ConfigError, EnvConfig, nearest
from jaxdreamer.errors import import_extra
from jaxdreamer.families import Backend
from jaxdreamer.types import ActionPart, ActionSpec, Array, EnvSpec, PyTree

if TYPE_CHECKING:
    from jaxdreamer.envs.device.functional import FunctionalEnv

ALIASES = {"BallInCupCatch": "BallInCup", "CupCatch": "BallInCup", "PointMassEasy": "PointMass"}
"""Where Playground's name leaves out dm_control's task."""


class Links(NamedTuple):
    """Poses of a model's bodies but the world, as the ray-caster takes them."""

    pos: Array
    rot: Array


def import_playground() -> Any:
    """``mujoco_playground``, without the messages that its import prints about optional libraries.

    Raises:
        MissingExtra: Playground is not installed.
    """
    silent = io.StringIO()
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that Playground uses
        return import_extra("mujoco_playground", "playground", "env.backend=playground")


def names() -> list[str]:
    """The tasks of Playground's suite, and those of its robots where their models are installed."""
    playground = import_playground()
    return sorted(playground.registry.ALL_ENVS if _menagerie().exists() else playground.dm_control_suite.ALL_ENVS)


def canonical(name: str) -> str:
    """Playground's spelling of a task: ``walker-walk``, ``dmc_walker_walk`` and ``WalkerWalk`` are ``WalkerWalk``.

    Only spelling is looked at, so that a run's folder can be named without Playground.
    """
    plain = re.sub(r"^(dm_control|dmc)[_:/-]", "", name)
    joined = "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", plain))
    return ALIASES.get(joined, joined)


def make_functional(config: EnvConfig) -> FunctionalEnv:
    """Playground's task ``config.id``, in its or dm_control's spelling, as ``config.obs`` wants it seen.

    Observations: ``state``, Playground's own vector (or its own keys), and ``image``, uint8 at ``config.image_size`` from
    ``camera``, or else the suite's camera 0 or a robot's tracking camera. Actions are Playground's own, [-1, 1]; so is the
    time limit, 1,000 control steps in the suite. Poses, and rewards made of them, are MJX's: of the moment before the last
    physics step; the walkers see how upright the torso is where dm_control's see its height. A state that is not finite
    ends an episode in Playground; here the lanes cut it away, as in every family.

    Raises:
        ConfigError: no such task, or its robot is not installed. MissingExtra: Playground is not installed.
    """
    from jaxdreamer.envs.device.functional import FunctionalEnv
    from jaxdreamer.envs.device.views import views

    task = canonical(config.id)
    env = load(task)
    suite = task in import_playground().dm_control_suite.ALL_ENVS
    height, width = config.image_size
    draw = _renderer(env.mj_model, config, suite, height, width)
    film = _renderer(env.mj_model, config, suite, max(height, 128), max(width, 128))

    def step(state: PyTree, action: Array) -> tuple[PyTree, Array, Array]:
        # Playground writes a step's metrics into the dictionaries of the state before it.
        state = env.step(state.replace(info=dict(state.info), metrics=dict(state.metrics)), action)
        return state, state.reward, state.done > 0.5

    def links(state: PyTree) -> Links:
        return Links(state.data.xpos[1:], state.data.xquat[1:])

    specs, observe = views(config, env.reset, (lambda state: draw(links(state))) if draw else None)

    return FunctionalEnv(
        spec=EnvSpec(specs, ActionSpec((ActionPart("continuous", env.action_size),)), float(env.dt)),
        reset=env.reset,
        step=step,
        observe=observe,
        time_limit=int(env._config.episode_length),
        frame_rate=1.0 / float(env.dt),
        render=(lambda state: film(links(state))) if film else None,
    )


def load(task: str) -> Any:
    """Playground's own environment of that name, on MJX in plain JAX; fetches nothing. Raises as :func:`make_functional`."""
    playground = import_playground()
    every = playground.registry.ALL_ENVS
    if task not in every:
        raise ConfigError(
            f"env.id: Playground has no task {task!r}{nearest(task, every)}; `jaxdreamer envs --backend playground` lists "
            "them"
        )
    if task not in playground.dm_control_suite.ALL_ENVS and not (robots := _menagerie()).exists():
        raise ConfigError(  # Playground would clone it now
            f"env.id: {task} needs the robot models of https://github.com/google-deepmind/mujoco_menagerie, and nothing is "
            f"fetched while training: clone that repository to {robots} first, or take a task of the suite"
        )
    with warnings.catch_warnings(), _find_body():
        warnings.simplefilter("ignore", DeprecationWarning)  # of MuJoCo's, which Playground and MJX use
        return playground.registry.load(task, config_overrides={"impl": "jax"})


def _menagerie() -> Any:
    return import_extra("mujoco_playground._src.mjx_env", "playground", "env.backend=playground").MENAGERIE_PATH


@contextlib.contextmanager
def _find_body() -> Iterator[None]:
    """MuJoCo renamed ``MjSpec.find_body`` to ``body`` in 3.3; Playground takes 3.10 for older than that and calls it."""
    import mujoco

    if hasattr(mujoco.MjSpec, "find_body"):
        yield
        return
    mujoco.MjSpec.find_body = mujoco.MjSpec.body
    try:
        yield
    finally:
        del mujoco.MjSpec.find_body


def _renderer(model: Any, config: EnvConfig, suite: bool, height: int, width: int) -> Any:
    """None for a robot of meshes, which cannot be drawn, where nobody asked for its picture."""
    from jaxdreamer.envs.device.raycast.cast import make_renderer
    from jaxdreamer.envs.device.views import camera_of

    camera = camera_of(config)
    if camera is None and suite:
        camera = 0
    try:
        return make_renderer(model, height=height, width=width, camera=camera)
    except ConfigError:
        if suite or config.options.camera or config.obs in ("pixels", "both"):
            raise
        return None


BACKEND = Backend(  # without a sample for doctor: compiling MJX takes minutes on a CPU
    "playground",
    make_functional,
    kind="device",
    tasks=names,
    options=CameraOptions,
    extra="playground",
    libraries=("playground",),
    label=lambda config: canonical(config.id),
)
