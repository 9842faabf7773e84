"""Dreamer V1 and V2 in JAX.

The public names load what they need when they are first used: importing the package imports neither jax nor anything
else that is heavy, starts no device and prints nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxdreamer.agent.algorithm import Algorithm, Policy
    from jaxdreamer.agent.algorithms import make_algorithm
    from jaxdreamer.agent.learner import Learner, make_learner, update_many
    from jaxdreamer.agent.policy import make_policy
    from jaxdreamer.agent.rssm import imagine, observe
    from jaxdreamer.agent.world_model import world_model_loss
    from jaxdreamer.config import Config, ConfigError, EnvConfig, MissingExtra, preset
    from jaxdreamer.deploy.pretrained import Agent, load_agent
    from jaxdreamer.envs.base import EnvError, SpaceError
    from jaxdreamer.envs.device.functional import FunctionalEnv
    from jaxdreamer.envs.host.agent_env import AgentEnv
    from jaxdreamer.envs.host.instance import wrap
    from jaxdreamer.envs.host.mujoco_env import MuJoCoImageEnv
    from jaxdreamer.envs.host.robotics_env import register_robotics, robotics_tasks
    from jaxdreamer.envs.host.vector import VectorEnv
    from jaxdreamer.envs.registry import make_env, make_vector, register
    from jaxdreamer.envs.trust import Untrusted, refuse_untrusted
    from jaxdreamer.memory import available_memory
    from jaxdreamer.nets.networks import Networks, features, make_networks
    from jaxdreamer.ops.distributions import Bernoulli, Normal, UnitNormal, policy_mode
    from jaxdreamer.ops.exploration import explore
    from jaxdreamer.ops.returns import discount_weights, lambda_return
    from jaxdreamer.ops.transforms import symexp, symlog, two_hot
    from jaxdreamer.record.metrics import make_sinks
    from jaxdreamer.record.video import save_video
    from jaxdreamer.replay.host import HostReplay
    from jaxdreamer.train.folder import load_run
    from jaxdreamer.train.run import evaluate_agent, train_agent, train_seeds
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
    "AgentEnv",
    "Algorithm",
    "ArraySpec",
    "Batch",
    "Bernoulli",
    "Config",
    "ConfigError",
    "EnvConfig",
    "EnvError",
    "EnvSpec",
    "FunctionalEnv",
    "HostReplay",
    "Latent",
    "Learner",
    "MissingExtra",
    "MuJoCoImageEnv",
    "Networks",
    "Normal",
    "Policy",
    "PolicyState",
    "SpaceError",
    "Timestep",
    "TrainState",
    "UnitNormal",
    "Untrusted",
    "VectorEnv",
    "available_memory",
    "discount_weights",
    "evaluate_agent",
    "explore",
    "features",
    "imagine",
    "lambda_return",
    "load_agent",
    "load_run",
    "make_algorithm",
    "make_env",
    "make_learner",
    "make_networks",
    "make_policy",
    "make_sinks",
    "make_vector",
    "observe",
    "policy_mode",
    "preset",
    "refuse_untrusted",
    "register",
    "register_robotics",
    "robotics_tasks",
    "save_video",
    "symexp",
    "symlog",
    "train_agent",
    "train_seeds",
    "two_hot",
    "update_many",
    "world_model_loss",
    "wrap",
]

# Where each name lives.
_HOMES = {
    "agent.algorithm": ("Algorithm", "Policy"),
    "agent.algorithms": ("make_algorithm",),
    "agent.learner": ("Learner", "make_learner", "update_many"),
    "agent.policy": ("make_policy",),
    "agent.rssm": ("imagine", "observe"),
    "config": ("Config", "ConfigError", "EnvConfig", "MissingExtra", "preset"),
    "deploy.pretrained": ("Agent", "load_agent"),
    "envs.device.functional": ("FunctionalEnv",),
    "envs.base": ("EnvError", "SpaceError"),
    "envs.host.instance": ("wrap",),
    "envs.host.mujoco_env": ("MuJoCoImageEnv",),
    "envs.host.robotics_env": ("register_robotics", "robotics_tasks"),
    "envs.registry": ("make_env", "make_vector", "register"),
    "envs.trust": ("Untrusted", "refuse_untrusted"),
    "envs.host.vector": ("VectorEnv",),
    "envs.host.agent_env": ("AgentEnv",),
    "nets.networks": ("Networks", "features", "make_networks"),
    "agent.world_model": ("world_model_loss",),
    "ops.distributions": ("Bernoulli", "Normal", "UnitNormal", "policy_mode"),
    "ops.exploration": ("explore",),
    "ops.returns": ("discount_weights", "lambda_return"),
    "ops.transforms": ("symexp", "symlog", "two_hot"),
    "record.metrics": ("make_sinks",),
    "record.video": ("save_video",),
    "memory": ("available_memory",),
    "replay.host": ("HostReplay",),
    "train.folder": ("load_run",),
    "train.run": ("evaluate_agent", "train_agent", "train_seeds"),
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
