"""The outside world, in rooms by where it runs: ``host``, ``device``, ``interpreter`` (another Python) and ``unity``.

Importing it imports neither jax nor gymnasium; no module outside of ``device`` ever imports jax.
"""

from jaxdreamer.envs.base import Env, EnvError, SpaceError, VectorEnv
from jaxdreamer.envs.host.agent_env import AgentEnv, Simulator
from jaxdreamer.envs.host.instance import wrap
from jaxdreamer.envs.host.vector import LocalVectorEnv, episode_seed
from jaxdreamer.envs.host.workers.pool import WorkerVectorEnv
from jaxdreamer.envs.registry import backends, make_env, make_vector, register
from jaxdreamer.errors import MissingExtra

__all__ = [
    "AgentEnv",
    "Env",
    "EnvError",
    "LocalVectorEnv",
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
