"""torchwm's Dreamer API on jaxdreamer: a torchwm script runs unchanged.

``from torchwm_compat import DreamerAgent, DreamerConfig``; or ``python -m torchwm_compat script.py``; or :func:`install`,
after which ``import torchwm`` leads here. Importing this package imports neither torch nor jax.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torchwm_compat.aliases import install

__version__ = "0.4.2"  # torchwm's, whose API this is

# Where each name lives.
_HOMES = {
    "ActionDecoder": "views",
    "BraxImageEnv": "envs",
    "ConvDecoder": "views",
    "ConvEncoder": "views",
    "DeepMindControlEnv": "envs",
    "DenseDecoder": "views",
    "Dreamer": "core",
    "DreamerAgent": "dreamer",
    "DreamerConfig": "config",
    "DreamerV1": "core",
    "DreamerV2": "core",
    "EnvBackendSpec": "api",
    "ENV_BACKEND_SPECS": "api",
    "GymImageEnv": "envs",
    "MODEL_SPECS": "api",
    "ModelSpec": "api",
    "MuJoCoImageEnv": "mujoco",
    "RSSM": "views",
    "ReplayBuffer": "memory",
    "UnityMLAgentsEnv": "envs",
    "create_config": "api",
    "create_model": "api",
    "export_any": "export",
    "get_env_backend_spec": "api",
    "get_model_spec": "api",
    "list_env_backends": "api",
    "list_envs": "api",
    "list_gymnasium_robotics_envs": "robotics",
    "list_models": "api",
    "make_brax_env": "envs",
    "make_env": "api",
    "make_gym_env": "envs",
    "make_mujoco_env": "mujoco",
    "make_mujoco_env_from_config": "mujoco",
    "make_robotics_env": "robotics",
    "make_unity_mlagents_env": "envs",
    "register_gymnasium_robotics_envs": "robotics",
}

__all__ = ["__version__", "install", *_HOMES]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}: it offers torchwm's Dreamer, see dir({__name__})"
        )
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The names there are."""
    return sorted({*globals(), *__all__})
