"""torchwm's module paths as aliases of this package, in this process: what :func:`install` sets up.

A path that stands for one module here *is* that module, so that what is patched by torchwm's path takes effect. A path
that is a package there gets a package of its own, whose names lead to their homes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_HERE = "torchwm_compat"

# Aliased modules: a module of this package, or a package's names and their homes; the two at the top lead to this
# package's own names.
MODULES: dict[str, str | dict[str, str]] = {
    "torchwm": {},
    "torchwm.api": f"{_HERE}.api",
    "world_models": {},
    "world_models.api": f"{_HERE}.api",
    "world_models.models": {
        "Dreamer": "core",
        "DreamerAgent": "dreamer",
        "DreamerV1": "core",
        "DreamerV2": "core",
        "RSSM": "views",
    },
    "world_models.models.dreamer": f"{_HERE}.dreamer",
    "world_models.models.dreamer_v1": {"DreamerV1": "core"},
    "world_models.models.dreamer_v2": {"DreamerV2": "core"},
    "world_models.models.dreamer_rssm": {"RSSM": "views"},
    "world_models.configs": {"DreamerConfig": "config"},
    "world_models.configs.dreamer_config": {"DreamerConfig": "config"},
    "world_models.envs": {
        "ActionRepeat": "wrappers",
        "BraxImageEnv": "envs",
        "DeepMindControlEnv": "envs",
        "GymImageEnv": "envs",
        "MuJoCoImageEnv": "mujoco",
        "NormalizeActions": "wrappers",
        "TimeLimit": "wrappers",
        "UnityMLAgentsEnv": "envs",
        "list_gymnasium_robotics_envs": "robotics",
        "make_brax_env": "envs",
        "make_env": "api",
        "make_gym_env": "envs",
        "make_mujoco_env": "mujoco",
        "make_mujoco_env_from_config": "mujoco",
        "make_robotics_env": "robotics",
        "make_unity_mlagents_env": "envs",
        "register_gymnasium_robotics_envs": "robotics",
    },
    "world_models.envs.gym_env": {"GymImageEnv": "envs", "make_gym_env": "envs"},
    "world_models.envs.dmc": {"DeepMindControlEnv": "envs"},
    "world_models.envs.mujoco_env": f"{_HERE}.mujoco",
    "world_models.envs.robotics_env": f"{_HERE}.robotics",
    "world_models.envs.brax_env": {"BraxImageEnv": "envs", "make_brax_env": "envs"},
    "world_models.envs.unity_env": {"UnityMLAgentsEnv": "envs", "make_unity_mlagents_env": "envs"},
    "world_models.envs.wrappers": f"{_HERE}.wrappers",
    "world_models.memory": {"ReplayBuffer": "memory"},
    "world_models.memory.dreamer_memory": {"ReplayBuffer": "memory"},
    "world_models.vision": {
        "ActionDecoder": "views",
        "ConvDecoder": "views",
        "ConvEncoder": "views",
        "DenseDecoder": "views",
    },
    "world_models.vision.dreamer_encoder": {"ConvEncoder": "views"},
    "world_models.vision.dreamer_decoder": {"ActionDecoder": "views", "ConvDecoder": "views", "DenseDecoder": "views"},
    "world_models.utils": {
        "FreezeParameters": "dreamer_utils",
        "Logger": "logger",
        "compute_return": "dreamer_utils",
        "preprocess_obs": "core",
    },
    "world_models.utils.dreamer_utils": f"{_HERE}.dreamer_utils",
    "world_models.export": f"{_HERE}.export",
}
# The original answers to its package's modules under both of its names.
MODULES |= {
    name.replace("world_models", "torchwm", 1): target
    for name, target in list(MODULES.items())
    if name.startswith("world_models.") and name.replace("world_models", "torchwm", 1) not in MODULES
}


def install() -> bool:
    """Make torchwm's paths importable as this package's; False, and nothing done, where torchwm itself is imported already.

    Everything of torchwm outside Dreamer raises an ImportError that says so. Calling it again changes nothing.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return True
    if "torchwm" in sys.modules or "world_models" in sys.modules:
        return False
    sys.meta_path.insert(0, _Finder())
    return True


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in ("torchwm", "world_models"):
            return None
        if fullname not in MODULES:
            raise ImportError(
                f"{fullname} is not part of this project: torchwm_compat offers torchwm's Dreamer only (no JEPA, IRIS, "
                "Genie, DiT, DIAMOND or PlaNet); for those install torchwm itself",
                name=fullname,
            )
        return ModuleSpec(fullname, _Loader(), is_package=True)


class _Loader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        home = MODULES[name]
        if isinstance(home, str):
            # The import system hands out what is in sys.modules afterwards.
            sys.modules[name] = importlib.import_module(home)
            return
        if not home:
            package = importlib.import_module(_HERE)
            module.__dict__.update(__doc__=package.__doc__, __all__=package.__all__, __version__=package.__version__)
            module.__dict__.update(__getattr__=lambda attribute: getattr(package, attribute), __dir__=package.__dir__)
            return
        module.__doc__ = f"{name}, as {_HERE} offers it."
        module.__dict__["__getattr__"] = _lookup(name, home)
        module.__dict__["__all__"] = sorted(home)


def _lookup(name: str, homes: dict[str, str]) -> Any:
    def __getattr__(attribute: str) -> Any:
        if attribute not in homes:
            there = ", ".join(sorted(homes))
            hint = "" if attribute.startswith("_") else f"; it is not part of this project's Dreamer ({there})"
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}{hint}")
        return getattr(importlib.import_module(f"{_HERE}.{homes[attribute]}"), attribute)

    return __getattr__
