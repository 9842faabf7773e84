"""Dreamer V1 and V2 in JAX.

The public names load what they need when they are first used: importing the package imports neither jax nor anything
else that is heavy, starts no device and prints nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxdreamer.agent.learner import Learner, make_learner, update_many
    from jaxdreamer.agent.policy import Policy, make_policy
    from jaxdreamer.agent.rssm import imagine, observe
    from jaxdreamer.config import Config, ConfigError, preset
    from jaxdreamer.deploy.pretrained import Agent, load_agent
    from jaxdreamer.envs.gymnasium_env import wrap
    from jaxdreamer.envs.registry import make_env, register
    from jaxdreamer.envs.vector import VectorEnv
    from jaxdreamer.nets.networks import Networks, features, make_networks
    from jaxdreamer.ops.returns import lambda_return
    from jaxdreamer.train.run import evaluate_agent, train_agent
    from jaxdreamer.types import (
        ActionPart,
        ActionSpec,
        ArraySpec,
        Batch,
        EnvSpec,
        Latent,
        PolicyState,
        Timestep,
        TrainState,
    )

__all__ = [
    "ActionPart",
    "ActionSpec",
    "Agent",
    "ArraySpec",
    "Batch",
    "Config",
    "ConfigError",
    "EnvSpec",
    "Latent",
    "Learner",
    "Networks",
    "Policy",
    "PolicyState",
    "Timestep",
    "TrainState",
    "VectorEnv",
    "evaluate_agent",
    "features",
    "imagine",
    "lambda_return",
    "load_agent",
    "make_env",
    "make_learner",
    "make_networks",
    "make_policy",
    "observe",
    "preset",
    "register",
    "train_agent",
    "update_many",
    "wrap",
]

# Where each name lives.
_HOMES = {
    "agent.learner": ("Learner", "make_learner", "update_many"),
    "agent.policy": ("Policy", "make_policy"),
    "agent.rssm": ("imagine", "observe"),
    "config": ("Config", "ConfigError", "preset"),
    "deploy.pretrained": ("Agent", "load_agent"),
    "envs.gymnasium_env": ("wrap",),
    "envs.registry": ("make_env", "register"),
    "envs.vector": ("VectorEnv",),
    "nets.networks": ("Networks", "features", "make_networks"),
    "ops.returns": ("lambda_return",),
    "train.run": ("evaluate_agent", "train_agent"),
    "types": (
        "ActionPart",
        "ActionSpec",
        "ArraySpec",
        "Batch",
        "EnvSpec",
        "Latent",
        "PolicyState",
        "Timestep",
        "TrainState",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for."""
    from importlib import import_module

    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"jaxdreamer.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The names there are, those not imported yet included."""
    return sorted({*globals(), *__all__})
