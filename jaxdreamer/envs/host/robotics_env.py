"""Gymnasium-Robotics: Fetch, Shadow hand, Adroit, Franka kitchen, mazes; and the old MuJoCo ids of papers and tutorials.

Goal dictionaries become the keys ``observation``, ``achieved_goal`` and ``desired_goal``. What is registered is asked of the
installed version, never listed here.
"""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs.host import gymnasium_env, libraries
from jaxdreamer.envs.host.agent_env import AgentEnv
from jaxdreamer.envs.host.drawing import gl
from jaxdreamer.families import Backend

_WRONG_START = "its episodes began from a wrong state of the arm"
_DEAD = "it needs mujoco-py, which is no longer maintained"


def make(config: EnvConfig) -> AgentEnv:
    """The environment registered as ``config.id``.

    MuJoCo's ``-v2`` and ``-v3`` ids become ``-v4``, the same task, with one line in the log. ConfigError for an id that
    is not available, naming the one to use instead; MissingExtra without gymnasium-robotics.
    """
    import gymnasium

    register()
    base, _, number = config.id.rpartition("-v")
    others = libraries.registered_versions(base)
    if base and number.isdigit() and int(number) not in others and others:
        why = f": {_WRONG_START}" if base.startswith("Fetch") and int(number) > 1 else ""
        raise ConfigError(f"env.id: {config.id} is gone{why}; use {base}-v{max(others)}")
    if config.id in gymnasium.registry and _needs_mujoco_py(config.id):
        raise ConfigError(f"env.id: {config.id} is not available, {_DEAD}; use {base}-v{max(others)}")
    with libraries.explained(f"gymnasium-robotics' {config.id}"):
        return gymnasium_env.make(config)


def tasks() -> list[str]:
    """Every id that the installed gymnasium-robotics registers and that can be had, MuJoCo's old ids among them."""
    import gymnasium

    register()
    found = [name for name, spec in gymnasium.registry.items() if "robotics" in str(spec.entry_point)]
    old = [name for name in gymnasium.registry if gymnasium_env.successor(name)]
    return sorted({*(name for name in found if not _needs_mujoco_py(name)), *old})


def register() -> None:
    """Make gymnasium know gymnasium-robotics' ids."""
    import gymnasium

    # What it prints is about tasks that nobody asked for.
    with gl.settled(), libraries.warnings_logged(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        gymnasium.register_envs(libraries.import_family("gymnasium_robotics", "robotics"))


def _needs_mujoco_py(name: str) -> bool:
    """Whether an id of gymnasium-robotics is one of those written for the dead bindings."""
    import gymnasium

    entry = str(gymnasium.registry[name].entry_point)
    return "robotics" in entry and "MujocoPy" in entry


# Under these names they are public.
robotics_tasks, register_robotics = tasks, register

BACKEND = Backend(
    "robotics",
    make,
    tasks=tasks,
    aliases=("gymnasium_robotics",),
    options=gymnasium_env.PhysicsOptions,
    extra="robotics",
    libraries=("mujoco", "gymnasium-robotics"),
    sample="FetchReach-v4",
    runs=gymnasium_env.runs,
)
