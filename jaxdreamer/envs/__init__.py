"""The outside world: one adapter a file, each seen as :class:`~jaxdreamer.envs.base.Env`.

Importing it imports neither jax nor gymnasium, and no module of it ever imports jax.
"""

from jaxdreamer.config import MissingExtra
from jaxdreamer.envs.base import Env, EnvError, SpaceError
from jaxdreamer.envs.instance import wrap
from jaxdreamer.envs.registry import backends, make_env, make_vector, register
from jaxdreamer.envs.vector import VectorEnv, episode_seed
from jaxdreamer.envs.workers import WorkerVectorEnv
from jaxdreamer.envs.wrappers import AgentEnv, Simulator

__all__ = [
    "AgentEnv",
    "Env",
    "EnvError",
    "MissingExtra",
    "Simulator",
    "SpaceError",
    "VectorEnv",
    "WorkerVectorEnv",
    "backends",
    "episode_seed",
    "make_env",
    "make_vector",
    "register",
    "wrap",
]
