"""Ids that another package registers with gymnasium: the installed package is found and imported, and nothing else.

A module that merely lies somewhere on the path is never imported for an id: ids come from stored runs, too. Whoever means
such a module names it, as in ``module:Name-v0``.
"""

from __future__ import annotations

import re
from importlib import metadata

from jaxdreamer.config import ConfigError, MissingExtra
from jaxdreamer.envs.host.libraries import warnings_logged
from jaxdreamer.envs.named import imported_module

# Id, the module that registers it, and what pip is given: of packages in wide use, or whose ids do not contain their names.
_KNOWN = (
    (r"ALE/|\w+(NoFrameskip|Deterministic)-v\d", "ale_py", "jaxdreamer[atari]"),
    (r"(MiniGrid|BabyAI)-", "minigrid", "minigrid"),
    (r"MiniWorld-", "miniworld", "miniworld"),
    (r"(highway|merge|roundabout|parking|intersection|racetrack|exit|u-turn|two-way|lane-keeping)-", "highway_env",
     "highway-env"),
    (r"Panda", "panda_gym", "panda-gym"),
    (r"PyFlyt/", "PyFlyt.gym_envs", "PyFlyt"),
    (r"Meta-World/", "metaworld", "metaworld"),
    (r"Vizdoom", "vizdoom.gymnasium_wrapper", "vizdoom"),
    (r"FlappyBird-", "flappy_bird_gymnasium", "flappy-bird-gymnasium"),
)  # fmt: skip
# Ids of libraries that a backend of ours makes environments of.
_BACKENDS = (
    (r"dm_control/", "dmc"),
    (r"Fetch|HandManipulate|HandReach|Adroit|FrankaKitchen|PointMaze|AntMaze", "robotics"),
)
_FILLING = {"gym", "gymnasium", "env", "envs", "environments", "py", "python"}


def provide(name: str) -> None:
    """Import the installed package that registers ``name`` with gymnasium, where there is one.

    MissingExtra where it is known which package does, and it is not installed.
    """
    import gymnasium

    for pattern, backend in _BACKENDS:
        # Where such ids are registered the backend has been asked, and this is a slip of the pen.
        if re.match(pattern, name) and not any(re.match(pattern, key) for key in gymnasium.registry):
            raise ConfigError(f"env.id: {name} is made by another backend: set env.backend={backend}")
    installed = metadata.packages_distributions()
    for pattern, module, requirement in _KNOWN:
        if re.match(pattern, name):
            if module.partition(".")[0] not in installed:
                raise MissingExtra(requirement, f"{name} is registered by a package that is not installed")
            _import(module)
            return
    word = _core(name.partition("/")[0] if "/" in name else name.partition("-")[0])
    for module, distributions in installed.items():
        if word and _core(module) == word and any(_needs_gymnasium(item) for item in distributions):
            _import(module)


def _core(text: str) -> str:
    """``highway`` of ``highway_env``, ``ale`` of ``ALE``: what is left of a name without what many have in common."""
    return "".join(part for part in re.split(r"[^a-z0-9]+", text.lower()) if part not in _FILLING)


def _needs_gymnasium(distribution: str) -> bool:
    return any(re.match(r"gymnasium\b", item, re.IGNORECASE) for item in metadata.requires(distribution) or [])


def _import(module: str) -> None:
    """The one place that imports anything for an id; ConfigError where that fails."""
    with warnings_logged():
        imported_module("env.id", module)
