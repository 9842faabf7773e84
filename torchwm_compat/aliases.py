"""torchwm's module paths as aliases of this package, in this process: what :func:`install` sets up.

A path that is a module there *is* the module here that offers its names, so that what is patched by torchwm's path takes
effect. A path that is a package there offers every public name of this package.
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
    "config.settings": "DreamerConfig",
    "agent.core": "Dreamer DreamerV1 DreamerV2 preprocess_obs",
    "agent.dreamer": "DreamerAgent",
    "agent.dreamer_utils": "FreezeParameters compute_return",
    "envs.image_env": (
        "BraxImageEnv DeepMindControlEnv GymImageEnv UnityMLAgentsEnv make_brax_env make_gym_env make_unity_mlagents_env"
    ),
    "files.export": "export_any",
    "agent.logger": "Logger",
    "agent.memory": "ReplayBuffer",
    "envs.mujoco": "MuJoCoImageEnv make_mujoco_env make_mujoco_env_from_config",
    "envs.robotics": "list_gymnasium_robotics_envs make_robotics_env register_gymnasium_robotics_envs",
    "networks.views": "ActionDecoder ConvDecoder ConvEncoder DenseDecoder RSSM",
    "envs.world_model_env": "WorldModelEnv make_world_model_env",
    "envs.wrappers": "ActionRepeat NormalizeActions TimeLimit",
    "training.train_dreamer": "train_dreamer",
}
HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

_PACKAGES = ("", "models", "configs", "envs", "memory", "training", "vision", "utils")
_MODULES = {
    "api": "api",
    "models.dreamer": "agent.dreamer",
    "models.dreamer_v1": "agent.core",
    "models.dreamer_v2": "agent.core",
    "models.dreamer_rssm": "networks.views",
    "configs.dreamer_config": "config.settings",
    "envs.gym_env": "envs.image_env",
    "envs.dmc": "envs.image_env",
    "envs.mujoco_env": "envs.mujoco",
    "envs.robotics_env": "envs.robotics",
    "envs.brax_env": "envs.image_env",
    "envs.unity_env": "envs.image_env",
    "envs.world_model_env": "envs.world_model_env",
    "envs.wrappers": "envs.wrappers",
    "training.train_dreamer": "training.train_dreamer",
    "memory.dreamer_memory": "agent.memory",
    "vision.dreamer_encoder": "networks.views",
    "vision.dreamer_decoder": "networks.views",
    "utils.dreamer_utils": "agent.dreamer_utils",
    "export": "files.export",
}
# torchwm's paths, each under both of its package's names, and the modules here that they stand for; "" for packages.
MODULES: dict[str, str] = {
    f"{root}.{path}".rstrip("."): home and f"{_HERE}.{home}"
    for root in ("torchwm", "world_models")
    for path, home in (dict.fromkeys(_PACKAGES, "") | _MODULES).items()
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
        if MODULES[name]:
            # The import system hands out what is in sys.modules afterwards.
            sys.modules[name] = importlib.import_module(MODULES[name])
            return
        package = importlib.import_module(_HERE)
        module.__dict__.update(
            __doc__=package.__doc__,
            __version__=package.__version__,
            __all__=sorted(HOME),
            __getattr__=public,
            __dir__=lambda: sorted(HOME),
        )


def public(name: str) -> Any:
    """A public name, imported when it is first asked for; AttributeError for any other."""
    if name not in HOME:
        raise AttributeError(f"{_HERE} has no attribute {name!r}: it offers torchwm's Dreamer, see dir({_HERE})")
    return getattr(importlib.import_module(f"{_HERE}.{HOME[name]}"), name)
