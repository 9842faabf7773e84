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

# Where each name lives: a module of this package, and torchwm's names in it.
_HOMES = {
    "api": (
        "ENV_BACKEND_SPECS EnvBackendSpec MODEL_SPECS ModelSpec create_config create_model get_env_backend_spec "
        "get_model_spec list_env_backends list_envs list_models make_env"
    ),
    "config": "DreamerConfig",
    "core": "Dreamer DreamerV1 DreamerV2 preprocess_obs",
    "dreamer": "DreamerAgent",
    "dreamer_utils": "FreezeParameters compute_return",
    "envs": (
        "BraxImageEnv DeepMindControlEnv GymImageEnv UnityMLAgentsEnv make_brax_env make_gym_env make_unity_mlagents_env"
    ),
    "export": "export_any",
    "logger": "Logger",
    "memory": "ReplayBuffer",
    "mujoco": "MuJoCoImageEnv make_mujoco_env make_mujoco_env_from_config",
    "robotics": "list_gymnasium_robotics_envs make_robotics_env register_gymnasium_robotics_envs",
    "views": "ActionDecoder ConvDecoder ConvEncoder DenseDecoder RSSM",
    "wrappers": "ActionRepeat NormalizeActions TimeLimit",
}
HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

# torchwm's modules: one of this package's, or the names of a package; the two at the top lead to this package itself.
MODULES: dict[str, str] = {
    "torchwm": "",
    "torchwm.api": f"{_HERE}.api",
    "world_models": "",
    "world_models.api": f"{_HERE}.api",
    "world_models.models": "Dreamer DreamerAgent DreamerV1 DreamerV2 RSSM",
    "world_models.models.dreamer": f"{_HERE}.dreamer",
    "world_models.models.dreamer_v1": "DreamerV1",
    "world_models.models.dreamer_v2": "DreamerV2",
    "world_models.models.dreamer_rssm": "RSSM",
    "world_models.configs": "DreamerConfig",
    "world_models.configs.dreamer_config": "DreamerConfig",
    "world_models.envs": (
        "ActionRepeat BraxImageEnv DeepMindControlEnv GymImageEnv MuJoCoImageEnv NormalizeActions TimeLimit "
        "UnityMLAgentsEnv list_gymnasium_robotics_envs make_brax_env make_env make_gym_env make_mujoco_env "
        "make_mujoco_env_from_config make_robotics_env make_unity_mlagents_env register_gymnasium_robotics_envs"
    ),
    "world_models.envs.gym_env": "GymImageEnv make_gym_env",
    "world_models.envs.dmc": "DeepMindControlEnv",
    "world_models.envs.mujoco_env": f"{_HERE}.mujoco",
    "world_models.envs.robotics_env": f"{_HERE}.robotics",
    "world_models.envs.brax_env": "BraxImageEnv make_brax_env",
    "world_models.envs.unity_env": "UnityMLAgentsEnv make_unity_mlagents_env",
    "world_models.envs.wrappers": f"{_HERE}.wrappers",
    "world_models.memory": "ReplayBuffer",
    "world_models.memory.dreamer_memory": "ReplayBuffer",
    "world_models.vision": "ActionDecoder ConvDecoder ConvEncoder DenseDecoder",
    "world_models.vision.dreamer_encoder": "ConvEncoder",
    "world_models.vision.dreamer_decoder": "ActionDecoder ConvDecoder DenseDecoder",
    "world_models.utils": "FreezeParameters Logger compute_return preprocess_obs",
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
        target = MODULES[name]
        if target.startswith(_HERE):
            # The import system hands out what is in sys.modules afterwards.
            sys.modules[name] = importlib.import_module(target)
            return
        if not target:
            package = importlib.import_module(_HERE)
            module.__dict__.update(__doc__=package.__doc__, __all__=package.__all__, __version__=package.__version__)
            module.__dict__.update(__getattr__=lambda attribute: getattr(package, attribute), __dir__=package.__dir__)
            return
        module.__doc__ = f"{name}, as {_HERE} offers it."
        module.__dict__["__getattr__"] = _lookup(name, target.split())
        module.__dict__["__all__"] = target.split()


def _lookup(name: str, offered: Sequence[str]) -> Any:
    def __getattr__(attribute: str) -> Any:
        if attribute not in offered:
            hint = (
                ""
                if attribute.startswith("_")
                else f"; it is not part of this project's Dreamer ({', '.join(offered)})"
            )
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}{hint}")
        return getattr(importlib.import_module(f"{_HERE}.{HOME[attribute]}"), attribute)

    return __getattr__
