"""Dreamer V1, V2 and V3 in JAX.

The public names load what they need when they are first used: importing the package imports neither jax nor anything
else that is heavy, starts no device and prints nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where the public names live. Type checkers read the imports below; a test holds both equal.
_NAMES = {
    "agent.algorithm": "Algorithm Policy",
    "agent.algorithms": "make_algorithm",
    "agent.learner": "Learner make_learner update_many",
    "agent.policy": "make_policy",
    "agent.rssm": "imagine observe",
    "agent.world_model": "world_model_loss",
    "config.environment": "EnvConfig Options",
    "config.parse": "preset",
    "config.schema": "Config",
    "config.settings": "setting",
    "deploy.agent": "Agent load_agent",
    "deploy.dream": "make_dream",
    "deploy.dream_env": "DreamEnv DreamVectorEnv",
    "deploy.export": "export_policy",
    "envs.base": "EnvError SpaceError VectorEnv",
    "envs.device.functional": "FunctionalEnv",
    "envs.host.agent_env": "AgentEnv",
    "envs.host.instance": "wrap",
    "envs.host.mujoco_env": "MuJoCoImageEnv",
    "envs.host.robotics_env": "register_robotics robotics_tasks",
    "envs.registry": "make_env make_vector register",
    "envs.trust": "Untrusted refuse_untrusted",
    "errors": "ConfigError MissingExtra",
    "families": "Backend",
    "memory": "available_memory",
    "nets.networks": "Networks features make_networks",
    "ops.across": "Across",
    "ops.distributions": "Bernoulli Normal UnitNormal policy_mode",
    "ops.exploration": "explore",
    "ops.returns": "discount_weights lambda_return",
    "ops.transforms": "symexp symlog two_hot",
    "record.sinks": "make_sinks",
    "record.video": "save_video",
    "replay.host": "HostReplay",
    "train.api": "evaluate_agent train_agent train_seeds",
    "train.crew": "Crew start_crew",
    "train.folder": "load_run",
    "train.hooks": "Hooks Moment",
    "types": "ActionPart ActionSpec ArraySpec Batch EnvSpec Latent PolicyState Timestep TrainState",
    "values": "TRUTH",
}
_HOME_OF = {name: home for home, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOME_OF)

if TYPE_CHECKING:  # isort: off
    from jaxdreamer.agent.algorithm import Algorithm as Algorithm, Policy as Policy
    from jaxdreamer.agent.algorithms import make_algorithm as make_algorithm
    from jaxdreamer.agent.learner import Learner as Learner, make_learner as make_learner, update_many as update_many
    from jaxdreamer.agent.policy import make_policy as make_policy
    from jaxdreamer.agent.rssm import imagine as imagine, observe as observe
    from jaxdreamer.agent.world_model import world_model_loss as world_model_loss
    from jaxdreamer.config.environment import EnvConfig as EnvConfig, Options as Options
    from jaxdreamer.config.parse import preset as preset
    from jaxdreamer.config.schema import Config as Config
    from jaxdreamer.config.settings import setting as setting
    from jaxdreamer.deploy.agent import Agent as Agent, load_agent as load_agent
    from jaxdreamer.deploy.dream import make_dream as make_dream
    from jaxdreamer.deploy.dream_env import DreamEnv as DreamEnv, DreamVectorEnv as DreamVectorEnv
    from jaxdreamer.deploy.export import export_policy as export_policy
    from jaxdreamer.envs.base import EnvError as EnvError, SpaceError as SpaceError, VectorEnv as VectorEnv
    from jaxdreamer.envs.device.functional import FunctionalEnv as FunctionalEnv
    from jaxdreamer.envs.host.agent_env import AgentEnv as AgentEnv
    from jaxdreamer.envs.host.instance import wrap as wrap
    from jaxdreamer.envs.host.mujoco_env import MuJoCoImageEnv as MuJoCoImageEnv
    from jaxdreamer.envs.host.robotics_env import (
        register_robotics as register_robotics,
        robotics_tasks as robotics_tasks,
    )
    from jaxdreamer.envs.registry import make_env as make_env, make_vector as make_vector, register as register
    from jaxdreamer.envs.trust import Untrusted as Untrusted, refuse_untrusted as refuse_untrusted
    from jaxdreamer.errors import ConfigError as ConfigError, MissingExtra as MissingExtra
    from jaxdreamer.families import Backend as Backend
    from jaxdreamer.memory import available_memory as available_memory
    from jaxdreamer.nets.networks import Networks as Networks, features as features, make_networks as make_networks
    from jaxdreamer.ops.across import Across as Across
    from jaxdreamer.ops.distributions import (
        Bernoulli as Bernoulli,
        Normal as Normal,
        UnitNormal as UnitNormal,
        policy_mode as policy_mode,
    )
    from jaxdreamer.ops.exploration import explore as explore
    from jaxdreamer.ops.returns import discount_weights as discount_weights, lambda_return as lambda_return
    from jaxdreamer.ops.transforms import symexp as symexp, symlog as symlog, two_hot as two_hot
    from jaxdreamer.record.sinks import make_sinks as make_sinks
    from jaxdreamer.record.video import save_video as save_video
    from jaxdreamer.replay.host import HostReplay as HostReplay
    from jaxdreamer.train.api import (
        evaluate_agent as evaluate_agent,
        train_agent as train_agent,
        train_seeds as train_seeds,
    )
    from jaxdreamer.train.crew import Crew as Crew, start_crew as start_crew
    from jaxdreamer.train.folder import load_run as load_run
    from jaxdreamer.train.hooks import Hooks as Hooks, Moment as Moment
    from jaxdreamer.types import (
        ActionPart as ActionPart,
        ActionSpec as ActionSpec,
        ArraySpec as ArraySpec,
        Batch as Batch,
        EnvSpec as EnvSpec,
        Latent as Latent,
        PolicyState as PolicyState,
        Timestep as Timestep,
        TrainState as TrainState,
    )
    from jaxdreamer.values import TRUTH as TRUTH


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
